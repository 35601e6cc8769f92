"""Read a Kinesis stream to its end.

An empty answer of GetRecords does not mean that a shard has no further records: Kinesis answers
with empty pages on the way. Only `MillisBehindLatest` says where a read stands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ParamValidationError

from deploy.aws.clock import Clock
from deploy.throttling import backoff_s, error_code, is_throttled

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

# All readers of a shard together have five reads and 2 MB a second.
_PAUSE_S = 0.5
_EMPTY_PAUSE_S = 1.0
_THROTTLED_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0
# Five minutes of throttling, and no page between.
_MAX_THROTTLED = 35
_LIMIT = 1000

# The last one: of ids that cannot be ids at all.
_NO_SUCH_PLACE = frozenset(
    {"ResourceNotFoundException", "InvalidArgumentException", "ValidationException"}
)

FROM_THE_BEGINNING = {"ShardIteratorType": "TRIM_HORIZON"}


class ShardCursor:
    """A place in a shard, from which page after page is read.

    Parameters
    ----------
    kinesis, stream, shard
        What to read.
    start
        Parameters of GetShardIterator that say where to begin.
    limit
        Most records of a page.

    Attributes
    ----------
    shard
        Id of the shard.
    behind_ms
        How far the last page was behind the end of the shard, in milliseconds; None before it.
    is_caught_up
        Whether the last read returned a page, and it reached the end of the shard.
    is_closed
        Whether it reached the last record of a shard that takes no more.
    children
        Ids of the shards that have taken the place of a closed one.
    """

    def __init__(
        self,
        kinesis: KinesisClient,
        stream: str,
        shard: str,
        start: dict[str, Any],
        limit: int = _LIMIT,
    ) -> None:
        self._kinesis = kinesis
        self._stream = stream
        self._start = start
        self._limit = limit
        self._iterator: str | None = None
        self._throttled = 0
        self._is_empty = False
        self.shard = shard
        self.behind_ms: int | None = None
        self.is_caught_up = False
        self.is_closed = False
        self.children: list[str] = []

    def read(self) -> list[RecordTypeDef]:
        """Return the next page; empty too where the read was throttled or the iterator expired.

        Raises
        ------
        ClientError
            The service refuses to read, or has throttled every read for minutes.
        """
        self.is_caught_up = False
        try:
            if self._iterator is None:
                self._iterator = self._kinesis.get_shard_iterator(
                    StreamName=self._stream, ShardId=self.shard, **self._start
                )["ShardIterator"]
            page = self._kinesis.get_records(ShardIterator=self._iterator, Limit=self._limit)
        except ClientError as error:
            if error_code(error) == "ExpiredIteratorException":
                self._iterator = None
            elif is_throttled(error) and self._throttled < _MAX_THROTTLED:
                self._throttled += 1
            else:
                raise
            return []
        records = page["Records"]
        if records:
            # An iterator expires after five minutes.
            self._start = {
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                "StartingSequenceNumber": records[-1]["SequenceNumber"],
            }
        self._throttled = 0
        self._is_empty = not records
        self._iterator = page.get("NextShardIterator")
        self.behind_ms = page.get("MillisBehindLatest", 0)
        self.is_closed = self._iterator is None
        # The emulator reports 0 for a page that its limit cut off within a millisecond.
        is_cut_off = len(records) == self._limit
        self.is_caught_up = self.is_closed or (self.behind_ms == 0 and not is_cut_off)
        self.children = [child["ShardId"] for child in page.get("ChildShards", [])]
        return records

    @property
    def is_throttled(self) -> bool:
        """Whether the last page is still to come, because the reads for it were throttled."""
        return self._throttled > 0

    def pause_s(self, rng: random.Random) -> float:
        """Return how long to wait before the next page, in seconds."""
        if self._throttled:
            return backoff_s(self._throttled, _THROTTLED_PAUSE_S, _LONGEST_PAUSE_S, rng)
        return _EMPTY_PAUSE_S if self._is_empty else _PAUSE_S


def shard_ids(kinesis: KinesisClient, stream: str) -> list[str]:
    """Return the ids of all shards of a stream, closed ones too."""
    pages = kinesis.get_paginator("list_shards").paginate(StreamName=stream)
    return [shard["ShardId"] for page in pages for shard in page["Shards"]]


def read_since(
    kinesis: KinesisClient,
    stream: str,
    since: datetime,
    clock: Clock,
    progress: Callable[[str], None] = lambda line: None,
    rng: random.Random | None = None,
) -> Iterator[RecordTypeDef]:
    """Yield the records of a stream that have arrived since a time, until it has caught up.

    Each shard's records come in order; shards are read in turn, each at most twice a second,
    because the jobs share the reads of a shard.

    Parameters
    ----------
    kinesis, stream
        What to read.
    since
        Time of the first record; older than the stream keeps: all records.
    clock
        Paces the reads.
    progress
        Called after each page with a line that says how far the read has come.
    rng
        Jitter of the pauses after throttling.
    """
    rng = rng or random.Random()
    start = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": since}
    known = set(shard_ids(kinesis, stream))
    due = {ShardCursor(kinesis, stream, shard, start): clock.now() for shard in sorted(known)}
    count = 0
    while due:
        cursor = min(due, key=due.__getitem__)
        wait_s = (due[cursor] - clock.now()).total_seconds()
        if wait_s > 0:
            clock.sleep(wait_s)
        # Before its records: the caller may take longer with them than the pause.
        records = cursor.read()
        due[cursor] = clock.now() + timedelta(seconds=cursor.pause_s(rng))
        count += len(records)
        behind_s = max(other.behind_ms or 0 for other in due) / 1000
        progress(f"{count:,} records of {stream} read, {behind_s:,.0f} s behind its end")
        yield from records
        for shard in cursor.children:
            if shard not in known:
                known.add(shard)
                due[ShardCursor(kinesis, stream, shard, FROM_THE_BEGINNING)] = clock.now()
        if cursor.is_caught_up:
            del due[cursor]


def record_at(
    kinesis: KinesisClient, stream: str, shard: str, sequence_number: str, clock: Clock
) -> RecordTypeDef | None:
    """Return the record with a sequence number, None where the stream has it no longer."""
    start = {
        "ShardIteratorType": "AT_SEQUENCE_NUMBER",
        "StartingSequenceNumber": sequence_number,
    }
    cursor = ShardCursor(kinesis, stream, shard, start, limit=1)
    rng = random.Random()
    while True:
        try:
            records = cursor.read()
        except ParamValidationError:
            return None
        except ClientError as error:
            # The shard was closed and has expired, or never had such a record.
            if error_code(error) in _NO_SUCH_PLACE:
                return None
            raise
        for record in records:
            return record if record["SequenceNumber"] == sequence_number else None
        if cursor.is_caught_up:
            return None
        clock.sleep(cursor.pause_s(rng))
