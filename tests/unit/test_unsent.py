"""Rows that a stopped `send` is not sure of."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.aws.clock import ImaginedClock
from deploy.unsent import UnsentRow, missing, read_unsent, write_unsent
from tests.unit.test_stream_reader import NOW, Scripted, page


class Kept(Scripted):
    def describe_stream_summary(self, **_: Any) -> Any:
        return {"StreamDescriptionSummary": {"RetentionPeriodHours": 24}}


def row(number: int, payload: bytes = b"1") -> UnsentRow:
    return UnsentRow(
        row=number,
        tried_at=(NOW - timedelta(minutes=number)).isoformat(),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        partition_key="k",
        review_id="R\u2028é",
    )


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [row(1), row(2)]
    write_unsent(tmp_path / "unsent.jsonl", rows)
    assert read_unsent(tmp_path / "unsent.jsonl") == rows


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"row": 1}', "1"])
def test_another_file_is_not_taken_for_a_list(text: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(text)
    with pytest.raises(ValueError, match="is not a list of unsent rows"):
        read_unsent(tmp_path / "other")


def test_each_record_of_the_stream_stands_for_one_row() -> None:
    clock = ImaginedClock(NOW)
    stream: Any = Kept(clock, {"a": [page(behind_ms=9), page(1, 7, behind_ms=5), page(2)]})
    rows = [row(1), row(2), row(3, b"2"), row(4, b"3"), row(5, b"2")]
    assert [left.row for left in missing(stream, "reviews", rows, clock)] == [2, 4, 5]
    stream.assert_read()
    # From the first call on, and a few minutes more: clocks differ.
    assert stream.starts[0]["Timestamp"] == NOW - timedelta(minutes=10)


def test_a_list_without_rows_needs_no_reading() -> None:
    assert missing(object(), "reviews", [], ImaginedClock(NOW)) == []  # type: ignore[arg-type]


def test_what_the_stream_no_longer_keeps_is_an_error() -> None:
    clock = ImaginedClock(NOW + timedelta(hours=24))
    stream: Any = Kept(clock, {"a": []})
    with pytest.raises(ValueError, match="keeps 24 h"):
        missing(stream, "reviews", [row(1)], clock)
