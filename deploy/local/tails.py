"""Threads that follow what arrives: a Kinesis stream's records, a bucket's JSON lines."""

import json
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client


class Arrived(NamedTuple):
    """A record of a Kinesis stream."""

    shard: str
    sequence_number: str
    data: bytes
    arrival_time: datetime


class Tail(threading.Thread):
    """Polls until it is told to finish, then once more until nothing is left.

    Attributes
    ----------
    error
        What ended the thread before its time, else None.
    """

    def __init__(self, name: str, interval_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._interval_s = interval_s
        self._finish_event = threading.Event()
        self.error: BaseException | None = None

    def poll(self) -> bool:
        """Take what has come since the last call; True where there may be more at once."""
        raise NotImplementedError

    def run(self) -> None:
        """Follow; called by `start`."""
        try:
            while not self._finish_event.is_set():
                if not self.poll():
                    self._finish_event.wait(self._interval_s)
            while self.poll():
                pass
        except Exception as error:  # whatever it is, the run must hear of it
            self.error = error

    def finish(self, timeout_s: float = 60.0) -> None:
        """Take what is left, end the thread, and raise what went wrong in it."""
        self._finish_event.set()
        self.join(timeout_s)
        if self.error is not None:
            raise self.error
        if self.is_alive():
            raise TimeoutError(f"{self.name} was not read to its end within {timeout_s} s")


class StreamTail(Tail):
    """Hands over every record of a Kinesis stream, from its beginning, shard by shard in order."""

    def __init__(
        self,
        kinesis: "KinesisClient",
        stream: str,
        take: Callable[[Arrived], None],
        interval_s: float = 0.5,
    ) -> None:
        super().__init__(f"stream {stream}", interval_s)
        self._kinesis = kinesis
        self._take = take
        shards = kinesis.list_shards(StreamName=stream)["Shards"]
        self._iterators = {
            shard["ShardId"]: kinesis.get_shard_iterator(
                StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            for shard in shards
        }

    def poll(self) -> bool:
        """Read each shard once."""
        has_more = False
        for shard, iterator in self._iterators.items():
            response = self._kinesis.get_records(ShardIterator=iterator, Limit=10_000)
            self._iterators[shard] = response["NextShardIterator"]
            for record in response["Records"]:
                self._take(
                    Arrived(
                        shard,
                        record["SequenceNumber"],
                        record["Data"],
                        record["ApproximateArrivalTimestamp"],
                    )
                )
            has_more = has_more or bool(response["Records"])
        return has_more


class ArchiveTail(Tail):
    """Hands over every line of JSON that Firehose puts under a prefix of a bucket."""

    def __init__(
        self,
        s3: "S3Client",
        bucket: str,
        prefix: str,
        take: Callable[[Mapping[str, Any]], None],
        interval_s: float = 2.0,
    ) -> None:
        super().__init__(f"s3://{bucket}/{prefix}", interval_s)
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._take = take
        self._seen: set[str] = set()

    def poll(self) -> bool:
        """Read the objects that are new."""
        has_more = False
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        for page in pages:
            for entry in page.get("Contents", []):
                key = entry["Key"]
                if key in self._seen:
                    continue
                body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
                for line in body.splitlines():
                    self._take(json.loads(line))
                self._seen.add(key)
                has_more = True
        return has_more
