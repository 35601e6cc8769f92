"""Send one request, time and validate it, and update the state of its variant."""

import asyncio
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from udfs.core.concurrency import REJECTED, TIMED_OUT, ConcurrencyLimit, Slot
from udfs.core.failures import EndpointError, EndpointUnavailableError, FailureKind
from udfs.core.packing import RequestSize, first_request
from udfs.core.predictions import Predictions, ScoreReason

MAX_REQUEST_BYTES = 6_291_456
"""Largest InvokeEndpoint body that SageMaker takes."""

CONTROL_TEXT = "It works."
"""Text of the control request that a variant must answer before a row is given up."""

_MIN_RATING, _MAX_RATING = 1, 5
_RATINGS = frozenset(range(_MIN_RATING, _MAX_RATING + 1))

# A request whose variant takes less than this share of an attempt's time in the mean, and which
# still timed out, did not wait in a queue.
_QUICK_SHARE = 1 / 3
# A request may take this share of an attempt's time: it has to wait for others, too.
_SIZE_SHARE = 1 / 4
_LATENCY_WEIGHT = 0.3
# Of the time that it took to recover, so that the time that is waited for does not only grow.
_RECOVERY_SHARE = 0.9
# Errors of its own code in answer to controls, after which a variant counts as broken.
_MODEL_FAILURES = 3
# Upper bound of the answers of earlier batches that still count.
_REMEMBERED_ANSWERS = 50
# Fewer failures are the remainder of earlier ones, which no longer count.
_LEAST_FAILURES = 0.5
# A variant that the endpoint has not chosen for this many requests may be gone.
_RECENT_ANSWERS = 200
# Between two controls of a variant that is broken or does not exist.
_FIRST_RECHECK_PAUSE_S, _MOST_RECHECK_PAUSE_S = 0.5, 60.0


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How requests are made.

    Attributes
    ----------
    max_request_rows, max_request_bytes
        A request is closed before it exceeds either.
    request_time_s
        Requests of more than 64 rows are made only as long as they are answered within this.
    max_in_flight
        Requests in flight at once to one variant, at most: see `ConcurrencyLimit`.
    attempt_timeout_s
        One attempt, from sending to the last byte. SageMaker gives the container 60 s.
    max_attempts
        Failures for which load may be the cause, before a request is asked alone; and failures
        alone, before a row is given up.
    deadline_s
        From the call to the last answer: an outage that lasts longer is raised. A batch in flight
        holds the checkpoint barrier back, so this must be well below the checkpoint timeout; and
        at least `udfs.core.scoring.isolation_s`.
    backoff_base_s, backoff_cap_s
        The k-th failure in a row is followed by a pause drawn evenly from 0 to
        min(cap, base * 2**k): "full jitter" of the AWS Architecture Blog, Exponential Backoff And
        Jitter.
    """

    max_request_rows: int = 512
    max_request_bytes: int = MAX_REQUEST_BYTES
    request_time_s: float = 0.1
    max_in_flight: int = 32
    attempt_timeout_s: float = 10.0
    max_attempts: int = 3
    deadline_s: float = 150.0
    backoff_base_s: float = 0.05
    backoff_cap_s: float = 5.0


@dataclass(slots=True)
class ScoringStats:
    """Counters since the scorer was made; an embedding reads them between batches.

    Attributes
    ----------
    requests, retries, throttles
        Attempts sent, controls included; attempts of reviews that were not the first for their
        rows, and those that failed because of load (`FailureKind.LOAD`).
    rows
        Rows that are done, scored or failed.
    latencies_ms
        Of every request that was answered: from sending to the last byte. The reader clears them.
    """

    requests: int = 0
    retries: int = 0
    throttles: int = 0
    rows: int = 0
    latencies_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint said: one label a row, as decoded, and the variant that said it."""

    labels: Sequence[object]
    model_variant: str


class Invoke(Protocol):
    """One request: k texts in, their answer out; raises `EndpointError` and nothing else."""

    def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Awaitable[Answer]:
        """Send one request under `inference_id`, which is new for every attempt.

        `variant` is the production variant to ask, None for the endpoint's default.
        """


@dataclass(slots=True)
class Request:
    """Texts that are asked together.

    Attributes
    ----------
    rows
        Their places in the batch.
    texts
        As many.
    requested_variant, variant
        The variant that the rows prefer, and the one that is asked now; None: the endpoint's
        default.
    is_part
        Whether it was cut out of a request that failed.
    attempts
        How often its rows were asked.
    failures
        How often it has failed for each kind of reason since it is this request.
    answers, number
        How many answers its variant had given when it was last sent, and the number of its slot.
    was_alone, alone_failures
        Whether it was in flight alone when it last failed, and how often that was so.
    """

    rows: Sequence[int]
    texts: Sequence[str]
    requested_variant: str | None
    variant: str | None
    is_part: bool = False
    attempts: int = 0
    failures: dict[FailureKind, int] = field(default_factory=dict)
    answers: int = 0
    number: int = 0
    was_alone: bool = False
    alone_failures: int = 0

    def failed(self, kind: FailureKind) -> int:
        """Count a failure; return how many of its kind there were."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        return self.failures[kind]

    def parts(self, rows: int) -> list["Request"]:
        """Cut it into requests of `rows` rows each; the last may have fewer."""
        places = (slice(start, start + rows) for start in range(0, len(self.texts), rows))
        return [
            Request(
                self.rows[place],
                self.texts[place],
                self.requested_variant,
                self.variant,
                is_part=True,
                attempts=self.attempts,
            )
            for place in places
        ]


@dataclass(slots=True)
class Variant:
    """What is known of a production variant, or of the endpoint's default (name None).

    Attributes
    ----------
    limit, size
        How many requests, and of how many rows.
    answers, probes
        Requests that it has answered, and controls that it was sent.
    latest_answered
        The highest number of a slot whose request was answered: what was sent before that one and
        has not been answered does not wait in a queue.
    probe_failure, probe_failures
        Why it did not answer the latest control, None: it did; and how many it has not answered
        since its latest answer.
    latency_s
        Moving average of its answers; None: none yet.
    failing_since_s, recovery_s
        Since when it answers no control, None: it does; and how long it took lately to recover.
    recheck_s, recheck_pause_s
        When an unfit one is asked the next control, by the loop's clock; the latest pause.
    neighbour
        The latest review that it has answered; None: none yet.
    is_asked
        Whether it was sent a review.
    is_failing
        Whether its latest request has failed: another failure may come of the same crash.
    """

    name: str | None
    limit: ConcurrencyLimit
    size: RequestSize
    answers: int = 0
    probes: int = 0
    latest_answered: int = 0
    probe_failure: FailureKind | None = None
    probe_failures: int = 0
    latency_s: float | None = None
    failing_since_s: float | None = None
    recovery_s: float = 0.0
    recheck_s: float = 0.0
    recheck_pause_s: float = _FIRST_RECHECK_PAUSE_S
    neighbour: str | None = None
    is_asked: bool = False
    is_failing: bool = False
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


class ChanceRate:
    """How often a request fails at random: in this batch, and in those before it.

    Examples
    --------
    >>> rate = ChanceRate()
    >>> rate.add(97, 0)
    >>> rate.most()
    0.0
    >>> rate.add(1, 2)
    >>> round(rate.most(), 3)
    0.047
    """

    def __init__(self) -> None:
        self.answers = self.failures = 0.0
        self.past_answers = self.past_failures = 0.0

    def add(self, answers: int, failures: int) -> None:
        """Count answers, and failures of what was answered in the end."""
        self.answers += answers
        self.failures += failures

    def begin_batch(self) -> None:
        """Let what was counted be the past: a short one, for endpoints change."""
        answers = self.past_answers + self.answers
        share = min(1.0, _REMEMBERED_ANSWERS / answers) if answers else 0.0
        self.past_answers = share * answers
        self.past_failures = share * (self.past_failures + self.failures)
        self.answers = self.failures = 0.0

    def most(self) -> float:
        """Return the rate, with a standard deviation more; 0 if nothing has failed at random."""
        counts = ((self.failures, self.answers), (self.past_failures, self.past_answers))
        return max(
            (failures + 1 + math.sqrt(failures + 1)) / (failures + 1 + answers)
            if failures >= _LEAST_FAILURES
            else 0.0
            for failures, answers in counts
        )


def new_inference_id() -> str:
    """Return a random id of 32 characters (SageMaker takes up to 64)."""
    return uuid.uuid4().hex


class Invocations:
    """Sends requests through one `Invoke`, and keeps what they tell about each variant.

    Parameters
    ----------
    invoke
        Sends one request.
    options
        Bounds of requests and time.
    rng, sleep, new_id
        Source of jitter, pause and inference ids; for tests.

    Attributes
    ----------
    stats
        Counters.
    variants
        State by name. It outlives the batch, if the name is requested or chosen again.
    alone
        Of requests that were in flight alone: answers, and failures of what was answered in the
        end. The client's own load is not the cause of these.
    rejected
        Of all requests: answers, and rejections of what was answered in the end.
    retried_answers
        Requests of this batch that were answered after they had failed.
    unfit
        Names of those that do not exist or reject their control text.
    last_failure
        What the latest failure was, for messages.
    """

    def __init__(
        self,
        invoke: Invoke,
        options: ScoringOptions,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        new_id: Callable[[], str] = new_inference_id,
    ) -> None:
        self._invoke = invoke
        self._options = options
        self._rng = rng or random.Random()
        self._sleep = sleep
        self._new_id = new_id
        self.stats = ScoringStats()
        self.variants: dict[str | None, Variant] = {}
        # When each was last chosen: the number of answers to requests that named none.
        self._chosen: dict[str, int] = {}
        self._default_answers = 0
        self.alone = ChanceRate()
        self.rejected = ChanceRate()
        self.retried_answers = 0
        self.unfit: set[str] = set()
        self.last_failure = "none"

    def variant(self, name: str | None) -> Variant:
        """Return what is known of a variant."""
        if name not in self.variants:
            options = self._options
            self.variants[name] = Variant(
                name,
                ConcurrencyLimit(options.max_in_flight, options.attempt_timeout_s),
                RequestSize(
                    options.max_request_rows,
                    options.request_time_s,
                    options.attempt_timeout_s * _SIZE_SHARE,
                ),
            )
        return self.variants[name]

    async def begin_batch(self, requested: set[str]) -> None:
        """Forget what holds for one batch only; see which of the unfit variants are fit again."""
        self.retried_answers = 0
        self.alone.begin_batch()
        self.rejected.begin_batch()
        known = requested | self.defaults
        self.unfit &= known
        self.variants = {
            name: variant
            for name, variant in self.variants.items()
            if name is None or name in known
        }
        now_s = asyncio.get_running_loop().time()
        for variant in [self.variant(name) for name in sorted(self.unfit)]:
            if now_s < variant.recheck_s:
                continue
            with suppress(EndpointError):
                if await self.is_in_order(variant.name, variant.answers):
                    self.unfit.discard(variant.name or "")
                    continue
            # One that does not answer at all takes an attempt's time, each time.
            variant.recheck_pause_s = min(_MOST_RECHECK_PAUSE_S, 2 * variant.recheck_pause_s)
            variant.recheck_s = asyncio.get_running_loop().time() + variant.recheck_pause_s

    @property
    def defaults(self) -> set[str]:
        """Names of variants that the endpoint has lately chosen for requests that name none."""
        since = self._default_answers - _RECENT_ANSWERS
        return {name for name, number in self._chosen.items() if number >= since}

    def asked(self) -> list[Variant]:
        """Return the variants, and the endpoint's default, that reviews were sent to."""
        return [variant for variant in self.variants.values() if variant.is_asked]

    def most_rows(self, name: str | None) -> int:
        """Return how many rows a request to a variant may have.

        One to the default must not be too large for whichever variant gets it.
        """
        return min(size.rows for size in self._sizes(name))

    def longest_rows(self, name: str | None) -> int:
        """Return how many rows a variant answers in good time, however slow the model is."""
        return min(size.longest for size in self._sizes(name))

    def rejects_controls(self, name: str | None) -> bool:
        """Return whether a variant's latest control failed because of the variant.

        Load and the service are other reasons; so are single errors of a model's own code.
        """
        variant = self.variant(name)
        if variant.probe_failure is FailureKind.MODEL:
            return variant.probe_failures >= _MODEL_FAILURES
        return variant.probe_failure in (FailureKind.ROWS, FailureKind.VARIANT)

    def fit_defaults(self) -> list[str]:
        """Return the names of the variants that may be asked in the place of the default."""
        return sorted(self.defaults - self.unfit)

    def give_up_variant(self, name: str) -> None:
        """Note that a variant is unfit: one request will do to see whether it still is."""
        self.unfit.add(name)
        self.variant(name).limit.collapse()

    async def ask(
        self, request: Request, predictions: Predictions, slot: Slot, *, is_alone: bool = False
    ) -> None:
        """Send a request once, in a slot of its variant's limit, and note its predictions.

        Where nothing else is in flight (`is_alone`), a failure does not lower the limit.

        The slot is released; where load or the service has failed, after a pause, so that an
        endpoint in trouble gets no more attempts than there are slots.

        Raises
        ------
        EndpointError
            The request failed; `EndpointError.variant` is set if it is known.
        """
        variant = self.variant(request.variant)
        request.attempts += 1
        request.answers, request.number = variant.answers, slot.number
        variant.is_asked = True
        self.stats.requests += 1
        self.stats.retries += request.attempts > 1
        inference_id = self._new_id()
        try:
            try:
                answer, ratings, latency_s = await self._timed(request, inference_id)
            except EndpointError as error:
                self.last_failure = str(error)
                request.was_alone = is_alone or self._was_alone(variant, slot)
                self.stats.throttles += error.kind is FailureKind.LOAD
                left = 1.0 if is_alone else _limit_left(error, request)
                if variant.limit.failed(slot, left) and left == TIMED_OUT:
                    variant.size.timed_out()
                if request.variant is None and error.variant is not None:
                    self._chosen[error.variant] = self._default_answers
                error.variant = error.variant or request.variant
                its = self.variant(error.variant)
                if request.was_alone and error.reason is not None and not its.is_failing:
                    request.alone_failures += 1
                its.is_failing = True
                if error.kind in (FailureKind.LOAD, FailureKind.SERVICE):
                    await self.pause(request.variant)
                raise
            is_alone = is_alone or self._was_alone(variant, slot)
            variant.limit.answered(slot, len(ratings), latency_s, answer.model_variant)
            variant.latest_answered = max(variant.latest_answered, slot.number)
        finally:
            variant.limit.release()
        self.retried_answers += bool(request.failures)
        self.rejected.add(1, request.failures.get(FailureKind.ROWS, 0))
        if is_alone:
            self.alone.add(1, request.alone_failures)
        self._note(request, answer, latency_s)
        predictions.put_request(
            request.rows,
            ratings,
            answer.model_variant,
            request.requested_variant,
            inference_id,
            request.attempts,
        )

    def _was_alone(self, variant: Variant, slot: Slot) -> bool:
        in_flight = sum(other.limit.in_flight for other in self.variants.values())
        return in_flight == 1 and variant.limit.was_alone(slot)

    def _sizes(self, name: str | None) -> list[RequestSize]:
        """Return the sizes of a variant; of the default, those of all that it may choose, too."""
        names = [name, *self.defaults] if name is None else [name]
        return [self.variant(name).size for name in names]

    async def is_in_order(self, name: str | None, answers: int) -> bool:
        """Return whether a variant answers, without asking if it has since `answers`.

        Requests that want to know at the same time share one control. It is sent with the latest
        review that the variant has answered: what holds for a short text may not hold for reviews.
        """
        variant = self.variant(name)
        probes = variant.probes
        async with variant.probing:
            if variant.answers > answers:
                return True
            if variant.probes == probes:
                await self._probe(variant)
            return variant.probe_failure is None

    async def answers_control(self, name: str | None, *, after_failure: bool = False) -> bool:
        """Send a control and return whether it is answered.

        After the failure of a row that may have crashed the container, wait first as long as it
        took to recover the time before.
        """
        variant = self.variant(name)
        if after_failure and variant.recovery_s:
            await self._sleep(variant.recovery_s)
            variant.recovery_s *= _RECOVERY_SHARE
        failed_s = variant.failing_since_s
        try:
            answers = await self.is_in_order(name, variant.answers)
        except EndpointError:
            if name is not None:
                self.unfit.add(name)
            return False
        if answers and failed_s is not None:
            variant.recovery_s = asyncio.get_running_loop().time() - failed_s
        return answers

    async def pause_of_control(self, failures: int) -> None:
        """Wait before the next control, the longer the more have failed."""
        # Half of it for certain: what crashed needs its time, and each control is a request.
        pause_s = self._most_pause_s(failures + 2)
        await self._sleep(pause_s / 2 + self._rng.uniform(0.0, pause_s / 2))

    async def pause(self, name: str | None) -> None:
        """Wait before a request is sent to a variant again: the longer, the more it has failed."""
        strikes = self.variant(name).limit.strikes
        await self._sleep(self._rng.uniform(0.0, self._most_pause_s(strikes)))

    def was_overtaken(self, request: Request) -> bool:
        """Return whether one that was sent later is answered, and answers are quick in the mean.

        Then a time-out does not come of waiting in a queue.
        """
        variant = self.variant(request.variant)
        longest_s = _QUICK_SHARE * self._options.attempt_timeout_s
        return (
            variant.latest_answered > request.number
            and variant.latency_s is not None
            and variant.latency_s < longest_s
        )

    async def _probe(self, variant: Variant) -> None:
        variant.probes += 1
        texts = [CONTROL_TEXT]
        if variant.neighbour is not None:
            texts.append(variant.neighbour)
            options = self._options
            most = first_request(texts, 0, options.max_request_rows, options.max_request_bytes)
            texts = texts[most]
        control = Request(range(len(texts)), texts, variant.name, variant.name)
        limits = [variant.limit]
        if variant.name in self._chosen:
            # Requests that name no variant go there too, within a limit of their own.
            limits.insert(0, self.variant(None).limit)
        async with AsyncExitStack() as stack:
            for limit in limits:
                slot = await stack.enter_async_context(limit.slot(is_next=True))
            self.stats.requests += 1
            try:
                _, _, latency_s = await self._timed(control, self._new_id())
            except EndpointError as error:
                self.last_failure = str(error)
                if error.kind is FailureKind.CALL:
                    raise EndpointUnavailableError(str(error)) from error
                variant.probe_failure = error.kind
                variant.probe_failures += 1
                if variant.failing_since_s is None:
                    variant.failing_since_s = asyncio.get_running_loop().time()
                variant.is_failing = True
                variant.limit.failed(slot)
                if error.kind is FailureKind.VARIANT and variant.name is not None:
                    self._chosen.pop(variant.name, None)
                    raise
            else:
                self._note_answer(variant, latency_s)
                variant.limit.strikes = 0

    async def _timed(self, request: Request, inference_id: str) -> tuple[Answer, list[int], float]:
        loop, timeout_s = asyncio.get_running_loop(), self._options.attempt_timeout_s
        rows = len(request.texts)
        sent_s = loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._invoke(request.texts, inference_id, request.variant)
        except TimeoutError:
            raise EndpointError(
                f"no answer within {timeout_s} s", FailureKind.LOAD, reason=ScoreReason.TIMEOUT
            ) from None
        latency_s = loop.time() - sent_s
        for name in {request.variant, answer.model_variant or None}:
            self.variant(name).size.took(rows, latency_s)
        self.stats.latencies_ms.append(latency_s * 1000)
        return answer, checked_ratings(answer.labels, rows), latency_s

    def _note(self, request: Request, answer: Answer, latency_s: float) -> None:
        if request.variant is None and answer.model_variant:
            self._default_answers += 1
            self._chosen[answer.model_variant] = self._default_answers
        for name in {request.variant, answer.model_variant or None}:
            variant = self.variant(name)
            variant.neighbour = request.texts[0]
            self._note_answer(variant, latency_s)

    def _note_answer(self, variant: Variant, latency_s: float) -> None:
        variant.answers += 1
        variant.probe_failure = None
        variant.probe_failures = 0
        variant.failing_since_s = None
        variant.is_failing = False
        before_s = latency_s if variant.latency_s is None else variant.latency_s
        variant.latency_s = before_s + _LATENCY_WEIGHT * (latency_s - before_s)

    def _most_pause_s(self, strikes: int) -> float:
        # The exponent is bounded because 2**strikes of a long outage overflows a float.
        bound_s = self._options.backoff_base_s * 2.0 ** min(strikes, 30)
        return min(self._options.backoff_cap_s, bound_s)


def _limit_left(error: EndpointError, request: Request) -> float:
    """Return the share of the limit that a failure leaves."""
    if error.reason is ScoreReason.TIMEOUT:
        # A part is under suspicion because the others are answered quickly.
        return 1.0 if request.is_part else TIMED_OUT
    # An error of the model's own code may come of load as well.
    is_load = error.kind in (FailureKind.LOAD, FailureKind.MODEL)
    return REJECTED if is_load else 1.0


def checked_ratings(labels: Sequence[object], rows: int) -> list[int]:
    """Return the labels as ratings, or raise where they cannot be those of `rows` rows.

    Raises
    ------
    EndpointError
        Wrong count, or a label that is not an integer from 1 to 5.
    """
    if len(labels) != rows:
        raise EndpointError(
            f"{len(labels)} labels for {rows} rows",
            FailureKind.MODEL,
            reason=ScoreReason.BAD_ANSWER,
        )
    ratings: list[Any] = list(labels)
    # By their types, because True == 1 and 2.0 == 2.
    if rows and not (set(map(type, ratings)) == {int} and _RATINGS.issuperset(ratings)):
        raise EndpointError(
            f"a label is not a rating from {_MIN_RATING} to {_MAX_RATING}",
            FailureKind.MODEL,
            reason=ScoreReason.BAD_ANSWER,
        )
    return ratings
