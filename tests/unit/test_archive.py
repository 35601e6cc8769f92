import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws
from typer.testing import CliRunner

from deploy.archive import ArchiveError, Merged, Span, merge, read_folder, windows_within
from deploy.windows import app
from udfs.core.summaries import Reviews, Summary

BEGIN = datetime(2026, 9, 14, tzinfo=UTC)
EVER = Span(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def merged_of(lines: Sequence[str], span: Span = EVER, **grouping: Any) -> list[Merged]:
    return merge(lambda: windows_within(lines, span), **grouping)


def at(seconds: int) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def summary_of(numbers: Sequence[int], *, is_plain: bool = False) -> Summary:
    bodies = [f"gift {'card' if number % 2 else 'book'}" for number in numbers]
    reviews = Reviews(
        [f"R{number}" for number in numbers],
        [number % 5 + 1 for number in numbers],
        None if is_plain else [10] * len(numbers),
        None if is_plain else [json.dumps({"review_body": body}).encode() for body in bodies],
    )
    return Summary.of(reviews, lg_k=12)


def line(
    start_s: int,
    length_s: int,
    numbers: Sequence[int],
    category: str = "All",
    kind: str = "tumbling",
    is_plain: bool = False,
) -> str:
    summary = summary_of(numbers, is_plain=is_plain)
    lengths, terms = summary.lengths, summary.terms
    record: dict[str, Any] = {
        "window": f"{length_s} s",
        "window_kind": kind,
        "window_start": at(start_s).isoformat().replace("+00:00", "Z"),
        "window_end": at(start_s + length_s).isoformat().replace("+00:00", "Z"),
        "product_category": category,
        "rating_counts": summary.counts,
        "sketch": base64.b64encode(summary.review_ids.to_bytes()).decode(),
        "body_length_sketch": lengths and base64.b64encode(lengths.to_bytes()).decode(),
        "terms_sketch": terms and base64.b64encode(terms.to_bytes()).decode(),
    }
    return json.dumps(record)


# A review each second; windows of 5 s, of a minute, and hopping ones.
ARCHIVE = [
    *(line(s, 5, range(s, s + 5)) for s in range(0, 180, 5)),
    *(line(s, 5, range(s, s + 5), "Toys") for s in range(0, 180, 5)),
    *(line(s, 60, range(s, s + 60)) for s in (0, 60)),
    *(line(s, 60, range(s, s + 60), kind="hopping") for s in range(0, 120, 5)),
]


@pytest.mark.parametrize(
    "halves",
    [
        # As of a job that began without its state in the middle of the minute,
        [range(30, 60)],
        # that was drained there,
        [range(30)],
        # or drained and started anew.
        [range(30), range(30, 60)],
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_longer_window_that_is_not_whole_displaces_nothing(
    halves: list[range], is_first: bool
) -> None:
    parts = [line(s, 5, range(s, s + 5)) for s in range(0, 60, 5)]
    longer = [line(0, 60, half) for half in halves]
    (merged,) = merged_of([*longer, *parts] if is_first else [*parts, *longer])
    assert (merged.windows, merged.summary.reviews) == (12, 60)
    assert merged.summary.review_ids.estimate == pytest.approx(60, rel=0.001)


def test_of_the_versions_of_a_window_the_fullest_is_taken() -> None:
    lines = [line(0, 5, range(n)) for n in (2, 5, 3, 5)]
    (merged,) = merged_of(lines)
    assert (merged.windows, merged.summary.reviews) == (1, 5)


@pytest.mark.parametrize(
    ("start_s", "end_s", "windows"),
    [
        (0, 180, 2 + 12),  # two minutes, and the third by its parts
        (55, 70, 3),
        (0, 60, 1),
        (3, 12, 1),  # what lies in it only in part is left out
        (0, 5, 1),
    ],
)
def test_every_review_of_a_range_counts_once(start_s: int, end_s: int, windows: int) -> None:
    (row,) = merged_of(ARCHIVE, Span(at(start_s), at(end_s)))
    inside = [n for n in range(180) if start_s <= n // 5 * 5 and n // 5 * 5 + 5 <= end_s]
    assert row.windows == windows
    assert row.summary.reviews == len(inside)
    assert row.summary.review_ids.estimate == pytest.approx(len(inside), rel=0.001)
    assert row.span == Span(at(min(inside)), at(max(inside) + 1))
    assert row.summary.terms is not None
    assert row.summary.terms.top(1)[0][1:] == (len(inside), len(inside))


def test_by_category_and_by_period() -> None:
    rows = merged_of(ARCHIVE, by_category=True, period=timedelta(minutes=1))
    assert [(row.category, (row.span.start - BEGIN).seconds, row.windows) for row in rows] == [
        ("All", 0, 1),
        ("Toys", 0, 12),
        ("All", 60, 1),
        ("Toys", 60, 12),
        ("All", 120, 12),
        ("Toys", 120, 12),
    ]
    # A minute does not fit into half a one.
    rows = merged_of(ARCHIVE, period=timedelta(seconds=30))
    assert [(row.windows, row.summary.reviews) for row in rows] == [(6, 30)] * 6


@given(st.data())
def test_whatever_the_order_and_the_lengths_nothing_counts_twice(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.sampled_from([5, 10, 15, 30, 60]), min_size=1, max_size=3))
    made = [line(s, n, range(s, s + n)) for n in set(lengths) for s in range(0, 60, n)]
    # Some were delivered twice.
    lines = data.draw(st.permutations([*made, *made[: len(made) // 2]]))
    (row,) = merged_of(lines)
    assert (row.summary.reviews, row.span) == (60, Span(at(0), at(60)))
    assert row.windows == 60 / max(lengths)


@pytest.mark.parametrize("text", ["no json", "{}", '{"window_start": 1}', "[]"])
def test_what_is_no_window_is_named(text: str) -> None:
    with pytest.raises(ArchiveError, match="not a window"):
        list(windows_within([text], EVER))


def test_a_line_ends_where_json_lines_do(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('"\u2028 \x85"\n2\n', encoding="utf-8")
    assert list(read_folder(tmp_path, lambda: None)) == ['"\u2028 \x85"', "2"]
    (tmp_path / "b").write_bytes(b"\xff\n")
    with pytest.raises(ArchiveError, match="not a window"):
        list(read_folder(tmp_path, lambda: None))


def test_files_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "2026").mkdir()
    (tmp_path / "2026" / "a").write_text("1\n2\n")
    (tmp_path / "2026" / "b.gz").write_bytes(gzip.compress(b"3\n"))
    assert list(read_folder(tmp_path, lambda: None)) == ["1", "2", "3"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket="archive")
        yield s3


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


def test_the_command_reads_s3_from_the_hour_of_the_range_on(bucket: Any) -> None:
    for key, lines in (
        ("metrics/2026/09/13/22/old", ["no window: must not be read"]),
        ("metrics/2026/09/14/00/a", ARCHIVE[:30]),
        ("metrics/2026/09/20/00/b", ARCHIVE[20:]),
        ("raw/2026/09/14/00/c", ["of another archive"]),
    ):
        bucket.put_object(Bucket="archive", Key=key, Body="\n".join(lines).encode())
    result = run(
        "s3://archive/metrics", "--from", "2026-09-14", "--to", "2026-09-15", "--by", "category",
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [json.loads(text) for text in result.stdout.splitlines()]
    assert [(row["product_category"], row["reviews"]) for row in rows] == [
        ("All", 180),
        ("Toys", 180),
    ]
    assert rows[0]["from"] == BEGIN.isoformat()
    assert rows[0]["distinct_lower"] <= rows[0]["distinct_reviews"] <= rows[0]["distinct_upper"]
    assert rows[0]["body_length"] == {"p50": 10, "p90": 10, "p99": 10}


def test_the_command_shows_a_folder_as_a_table(tmp_path: Path) -> None:
    plain = [line(0, 5, range(5), is_plain=True)]
    (tmp_path / "a").write_text("\n".join(plain))
    result = run(str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "2026-09-14 00:00:05" in result.stdout
    assert "3.000" in result.stdout


def test_a_table_that_is_not_read_in_a_terminal_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    category = "Category_with_a_long_name_" * 4
    lines = [json.loads(text) for text in ARCHIVE[:30]]
    renamed = [json.dumps(record | {"product_category": category}) for record in lines]
    (tmp_path / "a").write_text("\n".join(renamed))
    result = run(str(tmp_path), "--by", "category")
    assert result.exit_code == 0, result.output
    header, *rows = result.stdout.splitlines()
    assert "distinct reviews" in header
    assert len(rows) == 1
    assert category in rows[0]
    assert "2026-09-14 00:00:00" in rows[0]
    assert "…" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--from", "2027-01-01"], 1, "no window of"),
        (["--from", "2026-09-15", "--to", "2026-09-14"], 2, "--from is not before --to"),
        (["--by", "week"], 2, "takes 'category' or a length"),
        (["--by", "1 h", "--by", "1 d"], 2, "takes one length"),
        (["--by", "1 h every 30 min"], 2, "takes 'category' or a length"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "a").write_text("\n".join(ARCHIVE[:3]))
    result = run(str(tmp_path), *arguments)
    assert result.exit_code == code
    assert words in " ".join(result.output.split())


def test_the_command_names_a_folder_that_is_missing(tmp_path: Path) -> None:
    result = run(str(tmp_path / "none"))
    assert (result.exit_code, "is no folder" in result.output) == (1, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"window_end": "9999-12-31T23:59:59-23:59"},
        {"window_end": "2026-09-14T00:00:00"},
        {"window_end": "2026-09-14T00:00:00Z"},
        {"window_start": "0001-01-01T00:00:00+23:59"},
        {"window_start": 1_790_000_000},
        {"rating_counts": [1, 2]},
        {"rating_counts": [0, 0, 0, 0, -1]},
        {"rating_counts": [0, 0, 0, 0, 10**30]},
        {"rating_counts": ["1", 0, 0, 0, 0]},
        {"rating_counts": None},
        {"product_category": ["All"]},
        {"sketch": None},
        {"sketch": "#"},
        {"sketch": "AAAA"},
        {"terms_sketch": "AAAA"},
        {"body_length_sketch": 7},
    ],
)
def test_no_line_ends_in_a_traceback(tmp_path: Path, changes: dict[str, object]) -> None:
    record = json.loads(line(0, 5, range(5))) | changes
    (tmp_path / "a").write_text(json.dumps(record) + "\n")
    found = CliRunner().invoke(app, [str(tmp_path), "--by", "1 h"])
    assert found.exit_code == 1
    assert isinstance(found.exception, SystemExit)
    with pytest.raises(ArchiveError, match="not a window"):
        merged_of([json.dumps(record)], period=timedelta(hours=1))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{}"])
def test_a_line_of_another_shape_is_named(text: str) -> None:
    with pytest.raises(ArchiveError, match="not a window"):
        merged_of([text])


@pytest.mark.parametrize("cut", [5, 20, -1])
def test_a_truncated_object_is_an_error_in_words(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(line(0, 5, range(5)).encode())[:cut])
    with pytest.raises(ArchiveError, match="not a window"):
        list(read_folder(tmp_path, lambda: None))


def test_a_category_is_not_markup(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(line(0, 5, range(5), "[/bold]") + "\n")
    found = CliRunner().invoke(app, [str(tmp_path), "--by", "category"])
    assert found.exit_code == 0, found.output
    assert "[/b" in found.output
