"""Dead letters on AWS: list them, look into them, and send records again that are now valid.

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
from udfs.core.lookalikes import KPL_MAGIC
from udfs.core.parsing import Review, parse
from udfs.core.source_ids import source_part
from udfs.core.splitting import split

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

_LEDGER = "redriven/"


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
            # A record arrives before its letter.
            return min(arrived.astimezone(UTC), self.arrived) if arrived.tzinfo else None
        except (ValueError, OverflowError):
            return None

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
    WOULD_FAIL = "would fail again"


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
    """A record on its way into `reviews` once more.

    `ids` are the identities under which the job may know it: that of the letter, and those of the
    reviews that the record holds.
    """

    ids: tuple[RecordId, ...]
    data: bytes
    partition_key: str


@dataclass(frozen=True)
class _Known:
    """Records of the letters to examine, and what is known of their reviews."""

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

    What would fail again is left where it is: of stage `parse` what the parser still rejects, of
    stage `score` what the endpoint still does not rate. A record of several reviews is sent again
    whole as soon as one of them gets through: the job separates it, and writes a letter for each
    of the others. Late reviews and what could not be
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
        """Send again the records that now get through.

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
            # Whole records: of which reviews this one consists is not known yet.
            wanted.add(letter.source_id._replace(part=""))
            if arrived is not None and arrived >= self._scored.known_since:
                first = arrived if first is None else min(first, arrived)
        scored = RecordIds() if first is None else self._scored.among(wanted, first, progress)
        known = _Known(wanted, sent, doubtful, scored)
        result = Redrive()

        def again() -> Iterator[_Again]:
            for number, letter in enumerate(read(), start=1):
                progress(f"{number:,} dead letters examined, {result.counts[Outcome.SENT]:,} sent")
                found = self._examined(letter, known, is_unchecked)
                if isinstance(found, _Again):
                    for record_id in found.ids:
                        known.sent.add(record_id)
                    yield found
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
    ) -> _Again | tuple[Outcome, str] | None:
        """Return the record to send, or its outcome and why; None to leave it for the next run."""
        ids: tuple[RecordId, ...] = (letter.source_id,)
        if letter.source_id in known.sent:
            return Outcome.SENT_BEFORE, ""
        if (wrong := self._wrong_place(letter)) is not None:
            return wrong
        if letter.source_id not in known.wanted:
            return None
        if (outcome := self._handled(letter, ids, known, is_unchecked)) is not None:
            return outcome
        payload = letter.payload if letter.is_whole else self._original(letter)
        if not isinstance(payload, bytes):
            return payload
        # After a failure the job may have read the record again, with other properties.
        parts = self._config.reviews.separate(payload)
        if len(parts) > 1:
            ids += tuple(
                letter.source_id._replace(part=source_part(data, place)) for data, place in parts
            )
            if (outcome := self._handled(letter, ids, known, is_unchecked)) is not None:
                return outcome
        return self._checked(letter, ids, payload, [data for data, _ in parts])

    def _wrong_place(self, letter: DeadLetter) -> tuple[Outcome, str] | None:
        """Return why a letter does not stand for a review that can be sent."""
        if letter.stage not in ("parse", "score"):
            return Outcome.WOULD_FAIL, f"stage {letter.stage or 'unknown'} cannot be sent again"
        if letter.source_id.stream != self._config.reviews.stream:
            return Outcome.WOULD_FAIL, f"not a record of {self._config.reviews.stream}"
        return None

    def _handled(
        self, letter: DeadLetter, ids: tuple[RecordId, ...], known: _Known, is_unchecked: bool
    ) -> tuple[Outcome, str] | None:
        """Return the outcome of a record that was sent or scored, or may have been."""
        if any(record_id in known.sent for record_id in ids):
            return Outcome.SENT_BEFORE, ""
        if any(record_id in known.scored for record_id in ids):
            return Outcome.SCORED, ""
        if is_unchecked:
            return None
        if any(record_id in known.doubtful for record_id in ids):
            return Outcome.NOT_KNOWN, "an earlier redrive did not learn whether it was sent"
        arrived = letter.source_arrived
        if arrived is None:
            return Outcome.NOT_KNOWN, "the letter does not say when the record arrived"
        if arrived < self._scored.known_since:
            return Outcome.NOT_KNOWN, "older than the scored reviews that are kept"
        return None

    def _checked(
        self, letter: DeadLetter, ids: tuple[RecordId, ...], payload: bytes, parts: list[bytes]
    ) -> _Again | tuple[Outcome, str]:
        """Return the record to send if one of its reviews gets through, or why none does."""
        now_ms = int(self._clock.now().timestamp() * 1000)
        failures: list[str] = []
        for part in parts:
            review = parse(part, now_ms, self._config.reviews.parsing_options())
            if not isinstance(review, Review):
                failures.append(f"still {review.reason}")
            elif letter.stage == "score" and (failure := self._not_scored(review)) is not None:
                failures.append(failure)
            else:
                return _Again(ids, payload, partition_key(review.review_id, payload))
        return Outcome.WOULD_FAIL, failures[0]

    def _original(self, letter: DeadLetter) -> bytes | tuple[Outcome, str]:
        """Return all bytes that a letter stands for, of which it has the first ones only."""
        stream, shard, sequence_number, _ = letter.source_id
        record = record_at(self._kinesis, stream, shard, sequence_number, self._clock)
        if record is None:
            return Outcome.GONE, f"{stream} no longer keeps it"
        data = bytes(record["Data"])
        for found in (data, *split(data, self._config.reviews.parsing_options())):
            if letter.is_of(found):
                return found
        if data.startswith(KPL_MAGIC):
            return Outcome.WOULD_FAIL, (
                "part of an aggregated (KPL) record, which cannot be split here, and the letter"
                " keeps only its first bytes"
            )
        return Outcome.GONE, "the record with its sequence number does not hold it"

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
        ids = _ids(batch)
        digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
        key = f"{_LEDGER}{self._clock.now():%Y%m%dT%H%M%S}-{digest}.json"
        self._record(key, [], ids)
        sent: list[RecordId] = []
        try:
            for taken in self._writer.put(batch):
                sent.extend(taken.record.ids)
                result.counts[Outcome.SENT] += 1
        except PutError as error:
            lost = isinstance(error, UnknownOutcomeError)
            self._record(key, sent, _ids(error.records) if lost else [])
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


def _ids(records: Iterable[_Again]) -> list[RecordId]:
    return [record_id for record in records for record_id in record.ids]
