"""Dead letters on AWS: which there are, what is in them, and sending again what has been mended.

What a dead letter holds: docs/architecture.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from deploy.aws.clock import Clock
from deploy.aws.errors import DeployError
from deploy.aws.session import Aws
from deploy.local.records import partition_key
from flink_jobs.config import ReviewScoringConfig
from udfs.core.codec import CODECS, BadAnswerError
from udfs.core.failures import EndpointError
from udfs.core.invocations import checked_ratings
from udfs.core.parsing import Review, parse

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef
    from mypy_boto3_s3 import S3Client

_MAX_BATCH = 500
_LEDGER = "redriven/"
_RETRY_S = 0.5
# A minute without a record that gets in: the stream has too few shards, or is being written to.
_MAX_TRIES = 120


@dataclass(frozen=True)
class DeadLetter:
    """A record of the stream `dead-letters`.

    Attributes
    ----------
    sequence_number, arrived
        Of the dead letter itself.
    fields
        Its columns; those of an unreadable one are empty.
    """

    sequence_number: str
    arrived: datetime
    fields: dict[str, Any]

    @property
    def stage(self) -> str:
        """Where the record failed."""
        return str(self.fields.get("stage", ""))

    @property
    def reason(self) -> str:
        """The code of the reason."""
        return str(self.fields.get("reason", ""))

    @property
    def source_id(self) -> tuple[str, str, str]:
        """Stream, shard and sequence number of the record that it stands for."""
        return (
            str(self.fields.get("source_stream", "")),
            str(self.fields.get("source_shard", "")),
            str(self.fields.get("source_sequence_number", "")),
        )

    @property
    def payload(self) -> bytes:
        """The first bytes of the record, at most 64 KiB."""
        try:
            return base64.b64decode(self.fields.get("payload") or "", validate=True)
        except (ValueError, TypeError):
            return b""

    @property
    def is_whole(self) -> bool:
        """Whether the payload is all of the record."""
        return int(self.fields.get("payload_bytes") or 0) == len(self.payload)


@dataclass(frozen=True)
class Redrive:
    """What became of dead letters that were to be sent again.

    Attributes
    ----------
    sent
        Those that are in the stream `reviews` again.
    again
        Those that had been sent again before.
    not_mended
        Those that would fail again, or cannot be sent, with the reason.
    """

    sent: tuple[DeadLetter, ...]
    again: tuple[DeadLetter, ...]
    not_mended: tuple[tuple[DeadLetter, str], ...]


def read_dead_letters(aws: Aws, stream: str, since: datetime) -> Iterator[DeadLetter]:
    """Yield the dead letters that have arrived since a time, shard by shard, oldest first."""
    client: KinesisClient = aws.client("kinesis")
    for shard in _shards(client, stream):
        iterator: str | None = client.get_shard_iterator(
            StreamName=stream,
            ShardId=shard,
            ShardIteratorType="AT_TIMESTAMP",
            Timestamp=since,
        )["ShardIterator"]
        while iterator is not None:
            page = client.get_records(ShardIterator=iterator, Limit=1000)
            for record in page["Records"]:
                yield _letter(record)
            iterator = page.get("NextShardIterator")
            if not page["Records"] and page.get("MillisBehindLatest", 0) == 0:
                break


def _shards(client: KinesisClient, stream: str) -> Iterator[str]:
    for page in client.get_paginator("list_shards").paginate(StreamName=stream):
        for shard in page["Shards"]:
            yield shard["ShardId"]


def _letter(record: Any) -> DeadLetter:
    try:
        fields = json.loads(record["Data"])
    except ValueError:
        fields = None
    return DeadLetter(
        record["SequenceNumber"],
        record["ApproximateArrivalTimestamp"].astimezone(UTC),
        fields if isinstance(fields, dict) else {},
    )


class Redriver:
    """Sends dead letters again as the reviews that they were, once they would get through.

    What would fail again is left where it is: of stage `parse` what the parser still turns down, of
    stage `score` what the endpoint still does not rate. Late reviews and what could not be
    published stay too: their window is closed, and no stream leads there.

    Each is sent once: the bucket keeps a record. Where that cannot be written after a batch was
    sent, a later run sends the batch again: at least once.

    Parameters
    ----------
    aws, clock
        Where, and how to wait.
    config
        Of the job `review_scoring`, as it runs.
    bucket
        The stack's.
    """

    def __init__(self, aws: Aws, clock: Clock, config: ReviewScoringConfig, bucket: str) -> None:
        self._aws = aws
        self._clock = clock
        self._config = config
        self._bucket = bucket
        self._kinesis: KinesisClient = aws.client("kinesis")
        self._s3: S3Client = aws.client("s3")

    def redrive(
        self,
        letters: Iterable[DeadLetter],
        progress: Callable[[int], None] = lambda count: None,
    ) -> Redrive:
        """Send again what has been mended.

        Parameters
        ----------
        letters
            Any dead letters; repeats among them are sent once.
        progress
            Called with the number of letters that were dealt with.

        Raises
        ------
        DeployError
            The stream takes no more; what it has taken is on record and is not sent again.
        """
        done = self._done()
        sent: list[DeadLetter] = []
        again: list[DeadLetter] = []
        not_mended: list[tuple[DeadLetter, str]] = []
        batch: list[tuple[DeadLetter, bytes]] = []
        for number, letter in enumerate(letters, start=1):
            if letter.source_id in done:
                again.append(letter)
            else:
                found = self._mended(letter)
                if isinstance(found, str):
                    not_mended.append((letter, found))
                else:
                    done.add(letter.source_id)
                    batch.append((letter, found))
            if len(batch) == _MAX_BATCH:
                sent += self._send(batch)
                batch = []
            progress(number)
        sent += self._send(batch)
        return Redrive(tuple(sent), tuple(again), tuple(not_mended))

    def _mended(self, letter: DeadLetter) -> bytes | str:
        """Return the record to send, or why it is not sent."""
        if letter.stage not in ("parse", "score"):
            return f"stage {letter.stage or 'unknown'} cannot be sent again"
        if letter.source_id[0] != self._config.reviews.stream:
            return f"it is no record of {self._config.reviews.stream}"
        payload = letter.payload if letter.is_whole else self._original(letter)
        if isinstance(payload, str):
            return payload
        now_ms = int(self._clock.now().timestamp() * 1000)
        review = parse(payload, now_ms, self._config.reviews.parsing_options())
        if not isinstance(review, Review):
            return f"still {review.reason}: {review.message}"
        if letter.stage == "score":
            failure = self._not_scored(review)
            if failure is not None:
                return failure
        return payload

    def _original(self, letter: DeadLetter) -> bytes | str:
        """Return all bytes of a record, of which the letter has the first ones only."""
        stream, shard, sequence_number = letter.source_id
        try:
            iterator = self._kinesis.get_shard_iterator(
                StreamName=stream,
                ShardId=shard,
                ShardIteratorType="AT_SEQUENCE_NUMBER",
                StartingSequenceNumber=sequence_number,
            )["ShardIterator"]
            records = self._kinesis.get_records(ShardIterator=iterator, Limit=1)["Records"]
        except ClientError as error:
            return f"its original cannot be read: {error}"
        for record in records:
            digest = hashlib.sha256(record["Data"]).hexdigest()
            if digest == letter.fields.get("payload_sha256"):
                return record["Data"]
        return f"its original is in {stream} no longer"

    def _not_scored(self, review: Review) -> str | None:
        client: Any = self._aws.client("sagemaker-runtime")
        endpoint = self._config.endpoint
        codec = CODECS[endpoint.content_type]
        variant = (
            {} if endpoint.target_variant is None else {"TargetVariant": endpoint.target_variant}
        )
        try:
            answer = client.invoke_endpoint(
                EndpointName=endpoint.name,
                ContentType=codec.content_type,
                Accept=codec.content_type,
                Body=codec.encode([review.review_body]),
                **variant,
            )
            checked_ratings(codec.decode(answer["Body"].read()), 1)
        except (ClientError, BotoCoreError, EndpointError, BadAnswerError) as error:
            return f"still not scored: {error}"
        return None

    def _send(self, batch: list[tuple[DeadLetter, bytes]]) -> list[DeadLetter]:
        left, tries = list(batch), 0
        while left:
            entries: list[PutRecordsRequestEntryTypeDef] = [
                {
                    "Data": data,
                    "PartitionKey": partition_key(letter.fields.get("review_id"), data),
                }
                for letter, data in left
            ]
            try:
                answer = self._kinesis.put_records(
                    StreamName=self._config.reviews.stream, Records=entries
                )
            except (ClientError, BotoCoreError) as error:
                raise self._broken_off(str(error), batch, left) from error
            results = list(zip(left, answer["Records"], strict=True))
            refused = [item for item, result in results if result.get("ErrorCode")]
            tries = tries + 1 if len(refused) == len(left) else 0
            if tries == _MAX_TRIES:
                code = answer["Records"][0].get("ErrorCode", "")
                raise self._broken_off(f"{code} for a minute", batch, left)
            left = refused
            if left:
                self._clock.sleep(_RETRY_S)
        if batch:
            self._note([letter.source_id for letter, _ in batch])
        return [letter for letter, _ in batch]

    def _broken_off(
        self,
        problem: str,
        batch: list[tuple[DeadLetter, bytes]],
        left: list[tuple[DeadLetter, bytes]],
    ) -> DeployError:
        """Put on record what has got in of a batch, and say how far it came."""
        not_sent = {letter.source_id for letter, _ in left}
        sent = [item.source_id for item, _ in batch if item.source_id not in not_sent]
        if sent:
            self._note(sent)
        return DeployError(
            f"the stream {self._config.reviews.stream} takes no more: {problem}",
            state=[
                "what it has taken is on record in the bucket and will not be sent again;"
                f" {len(left):,} of the last {len(batch):,} dead letters were not sent"
            ],
            steps=["mend it (more shards: python -m deploy scale --shards reviews=N), then again"],
        )

    def _done(self) -> set[tuple[str, str, str]]:
        found: set[tuple[str, str, str]] = set()
        pages = self._s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=_LEDGER):
            for item in page.get("Contents", []):
                body = self._s3.get_object(Bucket=self._bucket, Key=item["Key"])["Body"]
                found |= {(stream, shard, number) for stream, shard, number in json.load(body)}
        return found

    def _note(self, source_ids: list[tuple[str, str, str]]) -> None:
        digest = hashlib.sha256(json.dumps(source_ids).encode()).hexdigest()[:16]
        self._s3.put_object(
            Bucket=self._bucket,
            Key=f"{_LEDGER}{self._clock.now():%Y%m%dT%H%M%S}-{digest}.json",
            Body=json.dumps(source_ids).encode(),
        )
