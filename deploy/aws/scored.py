"""Which records of `reviews` were scored, by the stream and the archive of scored reviews."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from deploy.aws.clock import Clock
from deploy.aws.session import Aws
from deploy.aws.sources import RecordId, RecordIds, source_id
from deploy.stream_reader import read_since

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

_PREFIX = "scored/"
_HOUR = "%Y/%m/%d/%H/"
# By how much clocks differ, and the hour in the name of an object from the times of its records.
_CLOCKS = timedelta(minutes=5)
_HOURS = timedelta(hours=1)


class ScoredReviews:
    """The scored reviews of a stack: what the stream keeps, and before that the archive in S3.

    Parameters
    ----------
    aws, clock
        Where, and how to wait.
    stream
        Name of the stream `scored-reviews`.
    bucket, archive_days
        The stack's bucket, and for how long it keeps scored reviews.

    Attributes
    ----------
    known_since
        What was scored before this time can no longer be read anywhere.
    """

    def __init__(self, aws: Aws, clock: Clock, stream: str, bucket: str, archive_days: int) -> None:
        self._kinesis: KinesisClient = aws.client("kinesis")
        self._s3: S3Client = aws.client("s3")
        self._clock = clock
        self._stream = stream
        self._bucket = bucket
        summary = self._kinesis.describe_stream_summary(StreamName=stream)
        kept = timedelta(hours=summary["StreamDescriptionSummary"]["RetentionPeriodHours"])
        self._in_stream_since = clock.now() - kept
        self.known_since = min(self._in_stream_since, clock.now() - timedelta(days=archive_days))

    def among(
        self,
        wanted: RecordIds,
        since: datetime,
        progress: Callable[[str], None] = lambda line: None,
    ) -> RecordIds:
        """Return those of some records that were scored at or after a time.

        Parameters
        ----------
        wanted
            Source ids.
        since
            When the first of the records arrived in `reviews`: none was scored before.
        progress
            Called with a line that says how far it has come.
        """
        scored = RecordIds()
        if since < self._in_stream_since:
            until = self._in_stream_since + _HOURS
            for found in self._archived(since - _HOURS, until, progress):
                if found in wanted:
                    scored.add(found)
        start = max(since, self._in_stream_since) - _CLOCKS
        for record in read_since(self._kinesis, self._stream, start, self._clock, progress):
            for found in _ids([record["Data"]]):
                if found in wanted:
                    scored.add(found)
        return scored

    def _archived(
        self, since: datetime, until: datetime, progress: Callable[[str], None]
    ) -> Iterator[RecordId]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=_PREFIX, StartAfter=f"{_PREFIX}{since.strftime(_HOUR)}"
        )
        last = f"{_PREFIX}{until.strftime(_HOUR)}~"
        for page in pages:
            for entry in page.get("Contents", []):
                key = entry["Key"]
                if key > last:
                    return
                progress(f"reading s3://{self._bucket}/{key}")
                data = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
                plain = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
                yield from _ids(plain.split(b"\n"))


def _ids(lines: Any) -> Iterator[RecordId]:
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # not written by the job
        if isinstance(record, dict):
            yield source_id(record)
