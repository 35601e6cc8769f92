"""Threads that follow what arrives: a stream's records, a bucket's lines, a topic's messages."""

import bisect
import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy.local.outputs import json_object
from deploy.stream_reader import FROM_THE_BEGINNING, ShardCursor, shard_ids

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


_LISTED_AGAIN = 500
"""So many of the newest keys are listed again: minutes of Firehose's deliveries, in one page."""


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
        self._stop_event = threading.Event()
        self.error: BaseException | None = None

    @property
    def is_finishing(self) -> bool:
        """Whether `finish` was called: what is read now must be all there is."""
        return self._finish_event.is_set()

    def poll(self) -> bool:
        """Take what has come since the last call; True where there may be more at once."""
        raise NotImplementedError

    def run(self) -> None:
        """Follow; called by `start`."""
        try:
            while not self.is_finishing:
                if not self.poll():
                    self._finish_event.wait(self._interval_s)
            while not self._stop_event.is_set() and self.poll():
                pass
        except Exception as error:  # whatever it is, the run must hear of it
            self.error = error

    def stop(self) -> None:
        """End the thread soon, whatever is left."""
        self._stop_event.set()
        self._finish_event.set()

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
        self._stream = stream
        self._take = take
        self._rng = random.Random()
        self._cursors = {shard: self._cursor(shard) for shard in shard_ids(kinesis, stream)}

    def _cursor(self, shard: str) -> ShardCursor:
        return ShardCursor(self._kinesis, self._stream, shard, FROM_THE_BEGINNING, limit=10_000)

    def poll(self) -> bool:
        """Read each shard once."""
        has_records, has_more, pause_s = False, False, 0.0
        for shard, cursor in list(self._cursors.items()):
            if cursor.is_closed:
                continue
            for record in cursor.read():
                has_records = True
                self._take(
                    Arrived(
                        shard,
                        record["SequenceNumber"],
                        record["Data"],
                        record["ApproximateArrivalTimestamp"],
                    )
                )
            for child in cursor.children:
                has_more |= child not in self._cursors
                self._cursors.setdefault(child, self._cursor(child))
            has_more |= not cursor.is_caught_up
            if cursor.is_throttled:
                pause_s = max(pause_s, cursor.pause_s(self._rng))
        if has_more and not has_records:
            pause_s = max(pause_s, self._interval_s)
        self._stop_event.wait(pause_s)
        return has_records or has_more


class ArchiveTail(Tail):
    """Hands over every line of JSON that Firehose puts under a prefix of a bucket.

    Firehose's keys begin with the time, so new ones come last, or nearly so where they are of the
    same second: while it follows, it lists only from a while back. At the end it lists all.
    """

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
        self._keys: list[str] = []  # those that were read, in order

    def poll(self) -> bool:
        """Read the objects that are new."""
        is_partial = not self.is_finishing and len(self._keys) > _LISTED_AGAIN
        start_after = self._keys[-_LISTED_AGAIN - 1] if is_partial else ""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, StartAfter=start_after
        )
        seen = set(self._keys)
        new = [
            entry["Key"]
            for page in pages
            for entry in page.get("Contents", [])
            if entry["Key"] not in seen
        ]
        for key in new:
            body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            for line in body.splitlines():
                self._take(json_object(line))
            bisect.insort(self._keys, key)
        return bool(new)


class QueueTail(Tail):
    """Hands over every message of an SNS topic that a queue is subscribed to, and deletes it there.

    At least once: a message whose deletion fails comes again. `take` gets what was published,
    without the envelope that SNS puts around it; what is not JSON, as `json_object` returns it.
    """

    def __init__(
        self,
        sqs: "SQSClient",
        queue: str,
        take: Callable[[Mapping[str, Any]], None],
        interval_s: float = 0.5,
    ) -> None:
        super().__init__(f"queue {queue}", interval_s)
        self._sqs = sqs
        self._take = take
        self._queue_url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]

    def poll(self) -> bool:
        """Take up to ten messages."""
        # Without waiting for messages: the emulator would answer nobody else meanwhile.
        response = self._sqs.receive_message(QueueUrl=self._queue_url, MaxNumberOfMessages=10)
        messages = response.get("Messages", [])
        for message in messages:
            self._take(json_object(json_object(message["Body"]).get("Message", "")))
        if messages:
            self._sqs.delete_message_batch(
                QueueUrl=self._queue_url,
                Entries=[
                    {"Id": str(position), "ReceiptHandle": message["ReceiptHandle"]}
                    for position, message in enumerate(messages)
                ],
            )
        return bool(messages)
