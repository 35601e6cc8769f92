"""Dead letters on AWS: which there are, what is in them, and sending again what has been mended.

What a dead letter holds: docs/architecture.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from deploy.aws.clock import Clock
from deploy.aws.errors import DeployError
from deploy.aws.scored import ScoredReviews
from deploy.aws.session import Aws
from deploy.aws.sources import RecordId, RecordIds, source_id
from deploy.local.records import partition_key
from deploy.stream_reader import read_since, record_at
from deploy.stream_writer import PutError, StreamWriter, UnknownOutcomeError, batches
from flink_jobs.config import ReviewScoringConfig
from udfs.core.codec import CODECS, BadAnswerError
from udfs.core.failures import EndpointError
from udfs.core.invocations import checked_ratings
from udfs.core.parsing import Review, parse

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

_LEDGER = "redriven/"
# Of a record that the Kinesis Producer Library has made out of several.
_AGGREGATE_MAGIC = b"\xf3\x89\x9a\xc2"


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
    def source_id(self) -> RecordId:
        """Identity of the record that it stands for."""
        return source_id(self.fields)

    @property
    def source_arrived(self) -> datetime | None:
        """When the record that it stands for arrived; None where the letter does not say."""
        try:
            arrived = datetime.fromisoformat(str(self.fields.get("arrival_time")))
        except ValueError:
            return None
        return arrived if arrived.tzinfo else None

    @property
    def payload(self) -> bytes:
        """The first bytes of the record, at most 64 KiB."""
        try:
            return base64.b64decode(self.fields.get("payload") or "", validate=True)
        except (ValueError, TypeError):
            return b""

    @property
    def is_whole(self) -> bool:
        """Whether the payload is all of the record, and undamaged."""
        payload = self.payload
        return self.fields.get("payload_bytes") == len(payload) and self.is_of(payload)

    def is_of(self, data: bytes) -> bool:
        """Return whether the letter stands for a record with these bytes."""
        return self.fields.get("payload_sha256") == hashlib.sha256(data).hexdigest()


class Outcome(StrEnum):
    """What became of a dead letter that was to be sent again."""

    SENT = "sent again"
    SENT_BEFORE = "sent again before"
    SCORED = "already scored"
    GONE = "original gone from the stream"
    NOT_KNOWN = "not known whether it was scored or sent"
    NOT_MENDED = "would fail again"


@dataclass
class Redrive:
    """What became of dead letters that were to be sent again.

    Attributes
    ----------
    counts
        Dead letters by their outcome.
    reasons
        Dead letters that were not sent, by outcome and reason.
    """

    counts: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[tuple[Outcome, str]] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Again:
    """A record on its way into `reviews` once more."""

    source: RecordId
    data: bytes
    partition_key: str


@dataclass(frozen=True)
class _Known:
    """Source ids of the letters to examine, and what is known of them."""

    wanted: RecordIds
    sent: RecordIds
    doubtful: RecordIds
    scored: RecordIds


def read_dead_letters(
    aws: Aws,
    stream: str,
    since: datetime,
    clock: Clock,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[DeadLetter]:
    """Yield the dead letters that have arrived since a time, in the order of each shard."""
    for record in read_since(aws.client("kinesis"), stream, since, clock, progress):
        yield _letter(record)


def _letter(record: Any) -> DeadLetter:
    try:
        fields = json.loads(record["Data"])
    except (ValueError, RecursionError):
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

    A record that was scored all the same is not sent: after a failure the job reads records again,
    and the second time one can get through. Each letter is sent once: the bucket lists each batch
    before it is sent, and what became of it afterwards. A batch whose outcome was lost is reported
    as not known.

    Parameters
    ----------
    aws, clock
        Where, and how to wait.
    config
        Of the job `review_scoring`, as it runs.
    bucket
        The stack's.
    archive_days
        For how long the bucket keeps scored reviews.
    """

    def __init__(
        self,
        aws: Aws,
        clock: Clock,
        config: ReviewScoringConfig,
        bucket: str,
        archive_days: int,
    ) -> None:
        self._aws = aws
        self._clock = clock
        self._config = config
        self._bucket = bucket
        self._kinesis: KinesisClient = aws.client("kinesis")
        self._s3: S3Client = aws.client("s3")
        self._writer: StreamWriter[_Again] = StreamWriter(
            aws.single_attempt_client("kinesis"), config.reviews.stream, self._wait
        )
        self._scored = ScoredReviews(aws, clock, config.scored_reviews.stream, bucket, archive_days)

    def _wait(self, seconds: float) -> bool:
        self._clock.sleep(seconds)
        return False

    def redrive(
        self,
        read: Callable[[], Iterable[DeadLetter]],
        progress: Callable[[str], None] = lambda line: None,
        *,
        is_unchecked: bool = False,
    ) -> Redrive:
        """Send again what has been mended.

        Only the identities of the letters are held in memory.

        Parameters
        ----------
        read
            Returns the dead letters from the first one on; called twice. Repeats are sent once;
            those that arrive between the two calls are left for the next run.
        progress
            Called with a line that says how far it has come.
        is_unchecked
            Send those too of which it is not known whether they were scored or sent.

        Raises
        ------
        DeployError
            The stream takes no more, or an answer was lost; the bucket lists what was sent.
        """
        sent, doubtful = self._recorded()
        wanted, first = RecordIds(), None
        for letter in read():
            arrived = letter.source_arrived
            if self._wrong_place(letter) or letter.source_id in sent:
                continue
            wanted.add(letter.source_id)
            if arrived is not None and arrived >= self._scored.known_since:
                first = arrived if first is None else min(first, arrived)
        scored = RecordIds() if first is None else self._scored.among(wanted, first, progress)
        known = _Known(wanted, sent, doubtful, scored)
        result = Redrive()

        def again() -> Iterator[_Again]:
            for number, letter in enumerate(read(), start=1):
                progress(f"{number:,} dead letters examined, {result.counts[Outcome.SENT]:,} sent")
                found = self._examined(letter, known, is_unchecked)
                if isinstance(found, bytes):
                    known.sent.add(letter.source_id)
                    key = partition_key(letter.fields.get("review_id"), found)
                    yield _Again(letter.source_id, found, key)
                elif found is not None:
                    outcome, reason = found
                    result.counts[outcome] += 1
                    if reason:
                        result.reasons[outcome, reason] += 1

        for batch in batches(again()):
            self._send(batch, result)
        return result

    def _examined(
        self, letter: DeadLetter, known: _Known, is_unchecked: bool
    ) -> bytes | tuple[Outcome, str] | None:
        """Return the record to send, or its outcome and why; None to leave it for the next run."""
        record = letter.source_id
        if record in known.sent:
            return Outcome.SENT_BEFORE, ""
        if (wrong := self._wrong_place(letter)) is not None:
            return wrong
        if record not in known.wanted:
            return None
        if record in known.scored:
            return Outcome.SCORED, ""
        doubt = None if is_unchecked else self._doubt(letter, known.doubtful)
        return doubt or self._mended(letter)

    def _wrong_place(self, letter: DeadLetter) -> tuple[Outcome, str] | None:
        """Return why a letter does not stand for a review that can be sent."""
        if letter.stage not in ("parse", "score"):
            return Outcome.NOT_MENDED, f"stage {letter.stage or 'unknown'} cannot be sent again"
        if letter.source_id.stream != self._config.reviews.stream:
            return Outcome.NOT_MENDED, f"not a record of {self._config.reviews.stream}"
        return None

    def _doubt(self, letter: DeadLetter, doubtful: RecordIds) -> tuple[Outcome, str] | None:
        """Return why it is not known whether a record was scored or sent."""
        if letter.source_id in doubtful:
            return Outcome.NOT_KNOWN, "an earlier redrive did not learn whether it was sent"
        arrived = letter.source_arrived
        if arrived is None:
            return Outcome.NOT_KNOWN, "the letter does not say when the record arrived"
        if arrived < self._scored.known_since:
            return Outcome.NOT_KNOWN, "older than the scored reviews that are kept"
        return None

    def _mended(self, letter: DeadLetter) -> bytes | tuple[Outcome, str]:
        """Return the record to send, or why it is not sent."""
        payload = letter.payload if letter.is_whole else self._original(letter)
        if not isinstance(payload, bytes):
            return payload
        now_ms = int(self._clock.now().timestamp() * 1000)
        review = parse(payload, now_ms, self._config.reviews.parsing_options())
        if not isinstance(review, Review):
            return Outcome.NOT_MENDED, f"still {review.reason}"
        failure = self._not_scored(review) if letter.stage == "score" else None
        return payload if failure is None else (Outcome.NOT_MENDED, failure)

    def _original(self, letter: DeadLetter) -> bytes | tuple[Outcome, str]:
        """Return all bytes of a record, of which the letter has the first ones only."""
        stream, shard, sequence_number, _ = letter.source_id
        record = record_at(self._kinesis, stream, shard, sequence_number, self._clock)
        if record is None:
            return Outcome.GONE, f"{stream} no longer keeps it"
        data = bytes(record["Data"])
        if letter.is_of(data):
            return data
        if data.startswith(_AGGREGATE_MAGIC):
            return Outcome.NOT_MENDED, (
                "part of an aggregated (KPL) record, which cannot be split here, and the letter"
                " keeps only its first bytes"
            )
        return Outcome.GONE, "the record with its sequence number is another one"

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
            return f"still not scored ({type(error).__name__})"
        return None

    def _send(self, batch: list[_Again], result: Redrive) -> None:
        stream = self._config.reviews.stream
        ids = [item.source for item in batch]
        digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
        key = f"{_LEDGER}{self._clock.now():%Y%m%dT%H%M%S}-{digest}.json"
        self._record(key, [], ids)
        sent: list[RecordId] = []
        try:
            for taken in self._writer.put(batch):
                sent.append(taken.record.source)
                result.counts[Outcome.SENT] += 1
        except PutError as error:
            lost = isinstance(error, UnknownOutcomeError)
            self._record(key, sent, [item.source for item in error.records] if lost else [])
            before = f"{result.counts[Outcome.SENT]:,} dead letters were sent; none is sent again"
            count = f"{len(error.records):,} of the last {len(batch):,} dead letters"
            if lost:
                raise DeployError(
                    f"no answer from the stream {stream}: {error}",
                    state=[
                        f"{count} may have been sent or not; s3://{self._bucket}/{key} lists them"
                        ' under "unknown"',
                        before,
                    ],
                    steps=[
                        "run it again: the others are sent, these are reported as not known",
                        "send these too, at the risk of scoring them twice: --redrive --unchecked",
                    ],
                ) from error
            raise DeployError(
                f"the stream {stream} takes no more: {error}",
                state=[f"{count} were not sent", before],
                steps=[
                    "fix the cause (throttled: python -m deploy scale --shards reviews=N), then run"
                    " it again"
                ],
            ) from error
        self._record(key, sent, [])

    def _recorded(self) -> tuple[RecordIds, RecordIds]:
        """Return what was sent before, and what may have been."""
        sent, unknown = RecordIds(), RecordIds()
        pages = self._s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=_LEDGER):
            for item in page.get("Contents", []):
                body = json.load(self._s3.get_object(Bucket=self._bucket, Key=item["Key"])["Body"])
                # Older releases wrote a list of what was sent.
                batch = {"sent": body, "unknown": []} if isinstance(body, list) else body
                for ids, found in ((sent, batch["sent"]), (unknown, batch["unknown"])):
                    for parts in found:
                        ids.add(RecordId(*parts))
        return sent, unknown

    def _record(self, key: str, sent: list[RecordId], unknown: list[RecordId]) -> None:
        self._s3.put_object(
            Bucket=self._bucket,
            Key=key,
            Body=json.dumps({"sent": sent, "unknown": unknown}).encode(),
        )
