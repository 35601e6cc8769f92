"""Reading a stream to its end: empty pages, throttling, expired iterators, resharding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from deploy.aws.clock import ImaginedClock
from deploy.stream_reader import read_since, record_at

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SINCE = NOW - timedelta(hours=1)


def error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "why"}}, "GetRecords")


THROTTLED = error("ProvisionedThroughputExceededException")
EXPIRED = error("ExpiredIteratorException")


def page(
    *numbers: int, behind_ms: int = 0, children: Sequence[str] = (), closed: bool = False
) -> Any:
    return {
        "Records": [
            {"SequenceNumber": str(number), "Data": b"%d" % number, "PartitionKey": "k"}
            for number in numbers
        ],
        "MillisBehindLatest": behind_ms,
        **({} if closed else {"NextShardIterator": "next"}),
        **({"ChildShards": [{"ShardId": child} for child in children]} if children else {}),
    }


class Scripted:
    """Shards whose reads are answered with pages or errors, one after the other."""

    def __init__(self, clock: ImaginedClock, shards: Mapping[str, Sequence[Any]]) -> None:
        self._clock = clock
        self._answers = {shard: list(answers) for shard, answers in shards.items()}
        self.listed = list(shards)
        self.starts: list[dict[str, Any]] = []
        self.reads: dict[str, list[datetime]] = {shard: [] for shard in shards}

    def get_paginator(self, name: str) -> Any:
        assert name == "list_shards"
        return self

    def paginate(self, **_: Any) -> Any:
        # Two pages, as of a stream with many shards.
        for shards in (self.listed[:1], self.listed[1:]):
            yield {"Shards": [{"ShardId": shard} for shard in shards]}

    def get_shard_iterator(self, *, ShardId: str, **start: Any) -> Any:  # noqa: N803
        self.starts.append({"ShardId": ShardId, **start})
        self._shard = ShardId
        return {"ShardIterator": ShardId}

    def get_records(self, *, ShardIterator: str, Limit: int) -> Any:  # noqa: N803
        shard = ShardIterator.partition(" ")[0]
        self.reads[shard].append(self._clock.now())
        answer = self._answers[shard].pop(0)
        if isinstance(answer, Exception):
            raise answer
        if "NextShardIterator" in answer:
            answer = answer | {"NextShardIterator": f"{shard} next"}
        return answer

    def assert_read(self) -> None:
        assert not any(self._answers.values())


def read(stream: Scripted, clock: ImaginedClock) -> list[int]:
    client: Any = stream
    found = [int(record["Data"]) for record in read_since(client, "letters", SINCE, clock)]
    stream.assert_read()
    return found


@pytest.fixture
def clock() -> ImaginedClock:
    return ImaginedClock(NOW)


def test_empty_pages_are_passed_until_the_read_has_caught_up(clock: ImaginedClock) -> None:
    behind = [page(behind_ms=3_600_000 - number) for number in range(3)]
    stream = Scripted(clock, {"a": [*behind, page(1, behind_ms=50), page(behind_ms=10), page(2)]})
    assert read(stream, clock) == [1, 2]
    times = stream.reads["a"]
    pauses_s = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert pauses_s == [1.0, 1.0, 1.0, 0.5, 1.0]


def test_all_shards_are_read_in_turn(clock: ImaginedClock) -> None:
    stream = Scripted(
        clock,
        {
            "a": [page(1, behind_ms=9), page(2)],
            "b": [
                page(),
            ],
            "c": [page(3, behind_ms=9), page(behind_ms=5), page(4)],
        },
    )
    assert read(stream, clock) == [1, 3, 2, 4]
    assert {start["ShardIteratorType"] for start in stream.starts} == {"AT_TIMESTAMP"}
    assert {start["Timestamp"] for start in stream.starts} == {SINCE}
    # 0.5 s after c's first page, 1 s after its empty one.
    assert clock.now() == NOW + timedelta(seconds=1.5)


def test_a_full_page_is_not_the_end(clock: ImaginedClock) -> None:
    assert read(Scripted(clock, {"a": [page(*range(1000)), page(1000)]}), clock)[-1] == 1000


def test_throttled_reads_are_repeated_with_growing_pauses(clock: ImaginedClock) -> None:
    stream = Scripted(clock, {"a": [page(1, behind_ms=9), *[THROTTLED] * 8, page(2)]})
    assert read(stream, clock) == [1, 2]
    times = stream.reads["a"][1:]
    pauses_s = [(after - before).total_seconds() for before, after in pairwise(times)]
    for pause_s, longest_s in zip(pauses_s, [1, 2, 4, 8, 10, 10, 10, 10], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s


def test_throttling_without_end_is_an_error(clock: ImaginedClock) -> None:
    with pytest.raises(ClientError, match="ProvisionedThroughputExceeded"):
        read(Scripted(clock, {"a": [THROTTLED] * 99}), clock)
    assert timedelta(minutes=2) < clock.now() - NOW < timedelta(minutes=6)


def test_an_expired_iterator_is_renewed_where_the_read_stood(clock: ImaginedClock) -> None:
    stream = Scripted(
        clock, {"a": [EXPIRED, page(1, behind_ms=9), page(behind_ms=5), EXPIRED, page(2)]}
    )
    assert read(stream, clock) == [1, 2]
    kinds = [
        (start["ShardIteratorType"], start.get("StartingSequenceNumber")) for start in stream.starts
    ]
    assert kinds == [("AT_TIMESTAMP", None)] * 2 + [("AFTER_SEQUENCE_NUMBER", "1")]


def test_another_error_ends_the_read(clock: ImaginedClock) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        read(Scripted(clock, {"a": [error("AccessDeniedException")]}), clock)


def test_the_children_of_a_closed_shard_are_read_once(clock: ImaginedClock) -> None:
    # b is merged with a into d while they are read; c was there from the beginning.
    stream = Scripted(
        clock,
        {
            "a": [page(1, behind_ms=9, children=["d"], closed=True)],
            "b": [page(2, behind_ms=9), page(3, children=["d"], closed=True)],
            "c": [page(4)],
            "d": [page(5)],
        },
    )
    stream.listed.remove("d")
    assert sorted(read(stream, clock)) == [1, 2, 3, 4, 5]
    (child,) = [start for start in stream.starts if start["ShardId"] == "d"]
    assert child["ShardIteratorType"] == "TRIM_HORIZON"


def test_progress_says_how_far_it_has_come(clock: ImaginedClock) -> None:
    stream: Any = Scripted(clock, {"a": [page(1, 2, behind_ms=90_000), page(3)]})
    lines: list[str] = []
    list(read_since(stream, "letters", SINCE, clock, lines.append))
    assert lines == [
        "2 records of letters read, 90 s behind its end",
        "3 records of letters read, 0 s behind its end",
    ]


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([page(behind_ms=9), page(behind_ms=8), page(7, behind_ms=5)], True),
        ([page(behind_ms=9), THROTTLED, EXPIRED, page(7)], True),
        ([page(8, behind_ms=5)], False),
        ([page(behind_ms=9), page()], False),
        ([page(closed=True)], False),
        ([error("ResourceNotFoundException")], False),
        ([error("InvalidArgumentException")], False),
        ([error("ValidationException")], False),
        ([ParamValidationError(report="no such shard id")], False),
    ],
)
def test_a_record_is_looked_for_behind_empty_pages(
    answers: list[Any], found: bool, clock: ImaginedClock
) -> None:
    stream: Any = Scripted(clock, {"a": answers})
    record = record_at(stream, "reviews", "a", "7", clock)
    assert (record is not None) == found
    stream.assert_read()
