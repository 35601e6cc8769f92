"""Predictions for many texts through one endpoint: packed, concurrent, retried, checked.

The endpoint sets the pace: throttling takes slots away, answers give them back one by one
(`ConcurrencyLimit`), and requests grow only as long as they are answered quickly.

Two kinds of failure are kept apart. What the model says about *rows* (it rejects them, or its
answer does not fit them) ends as `Failed` for the rows to blame, found by cutting the request up.
What befalls the *endpoint* (throttling, outage, wrong name) is no fault of any row: it is retried
until the deadline and then raised, so that the caller reads the same rows again and skips none.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from udfs.core.concurrency import ConcurrencyLimit
from udfs.core.packing import RequestSize, pack
from udfs.core.predictions import Failed, Predictions, Scored, ScoreReason
from udfs.core.text_cache import TextCache

MAX_REQUEST_BYTES = 6_291_456
"""Largest InvokeEndpoint body that SageMaker takes."""

_MIN_RATING, _MAX_RATING = 1, 5
_RATINGS = frozenset(range(_MIN_RATING, _MAX_RATING + 1))

# Parts that a rejected request is cut into: eight find a bad row of 64 in two steps, where halves
# need six, at the price of a few more requests.
_PARTS = 8

CONTROL_TEXT = "It works."
"""What the endpoint is asked before a row is given up: if it answers, it is in order."""


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
        Requests under way at once, where the endpoint does not throttle them: see
        `ConcurrencyLimit`.
    attempt_timeout_s
        One attempt, from sending to the last byte. SageMaker gives the container 60 s.
    max_attempts
        Failures that its rows may have caused, before a request is cut up or its row given up.
    deadline_s
        From the call to the last answer: an outage that lasts longer is raised. A batch under way
        holds the checkpoint barrier back, so this must be well below the checkpoint timeout; and
        at least `isolation_s`.
    backoff_base_s, backoff_cap_s
        Attempt k is followed by a pause drawn evenly from 0 to min(cap, base * 2**k): "full
        jitter" of the AWS Architecture Blog, Exponential Backoff And Jitter.
    cache_texts
        So many of the latest texts are not asked for again; 0: none.
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
    cache_texts: int = 0


@dataclass(slots=True)
class ScoringStats:
    """What was done since the scorer was made; an embedding reads it between batches.

    Attributes
    ----------
    requests, retries, throttles
        Attempts sent, controls included; those of them that were not the first for their rows;
        those that the endpoint throttled.
    rows, cache_hits
        Rows that are through, scored or failed; those of them that needed no request.
    latencies_ms
        Of every request that was answered: from sending to the last byte. Whoever reads them
        clears them.
    """

    requests: int = 0
    retries: int = 0
    throttles: int = 0
    rows: int = 0
    cache_hits: int = 0
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


class EndpointError(Exception):
    """A request that failed.

    Parameters
    ----------
    message
        What happened, with the service's own code.
    is_retryable
        Whether the same request may succeed later.
    reason
        The reason code where the rows may be to blame, None where it is the endpoint.
    is_throttling
        Whether the endpoint asks for fewer requests.
    """

    def __init__(
        self,
        message: str,
        *,
        is_retryable: bool,
        reason: ScoreReason | None = None,
        is_throttling: bool = False,
    ) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable
        self.reason = reason
        self.is_throttling = is_throttling


class EndpointUnavailableError(Exception):
    """The endpoint gave no answer in time, or can give none: read the rows again later."""


def new_inference_id() -> str:
    """Return a random id of 32 characters (SageMaker takes up to 64)."""
    return uuid.uuid4().hex


class Scorer:
    """Scores batches of texts through one `Invoke`, one batch at a time.

    A request that the model rejects is cut into parts, until the rejected row stands alone. It is
    given up if the endpoint answers for a control text right after; where the failure may heal
    (timeout, 5xx, an answer that does not fit), if it does so before and after yet another attempt.
    Else it is the endpoint that is out of order.

    A request that failed through no fault of its rows keeps its slot while it waits to be sent
    again, so that an endpoint in trouble gets no more than as many attempts as there are slots.

    What it learns about the endpoint (how many slots, how large a request) and the cache outlive
    the batch.

    Parameters
    ----------
    invoke
        Sends one request.
    options
        Bounds of requests, time and retries.
    rng, sleep, new_id
        Source of jitter, pause and inference ids; for tests.

    Attributes
    ----------
    stats
        What was done so far.
    limit
        The slots.

    Examples
    --------
    >>> async def five(texts, inference_id, variant):
    ...     return Answer([5 for _ in texts], variant or "AllTraffic")
    >>> scorer = Scorer(five, ScoringOptions(), new_id=lambda: "request-1")
    >>> [scored.star_rating for scored in asyncio.run(scorer.score(["fine", "good"]))]
    [5, 5]
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
        self._size = RequestSize(options.max_request_rows, options.request_time_s)
        self._cache: TextCache[Scored] | None = (
            TextCache(options.cache_texts) if options.cache_texts else None
        )
        self.limit = ConcurrencyLimit(options.max_in_flight)
        self.stats = ScoringStats()

    async def score(
        self, texts: Sequence[str], variants: Sequence[str | None] | None = None
    ) -> Predictions:
        """Predict the star rating of each text, in order.

        Parameters
        ----------
        texts
            Length n, none of them None; n may be 0.
        variants
            The production variant to ask for each text, length n; None, also in the place of one
            of them: the endpoint's default. Texts of one variant share requests.

        Returns
        -------
        Predictions
            Length n. Each row holds the answer to its own text or the reason why there is none.
            With a cache, a text that was asked for before, or stands in the batch before, has the
            earlier prediction with the `inference_id`, `inference_row` and `attempts` of the
            request that was made for it. Failures are not cached.

        Raises
        ------
        EndpointUnavailableError
            The endpoint could not be reached, kept throttling or failing until the deadline, or
            does not know the request's target. No row is to blame.
        """
        predictions = (
            await self._asked(texts, variants)
            if self._cache is None
            else await self._asked_once(self._cache, texts, variants)
        )
        self.stats.rows += len(texts)
        return predictions

    async def _asked_once(
        self,
        cache: TextCache[Scored],
        texts: Sequence[str],
        variants: Sequence[str | None] | None,
    ) -> Predictions:
        predictions = Predictions(len(texts))
        # Places in the batch, by key: the first of them is asked for.
        unknown: dict[bytes, list[int]] = {}
        for row, text in enumerate(texts):
            key = cache.key(text, None if variants is None else variants[row])
            scored = cache.get(key)
            if scored is None:
                unknown.setdefault(key, []).append(row)
            else:
                predictions[row] = scored
        first = [rows[0] for rows in unknown.values()]
        asked = await self._asked(
            [texts[row] for row in first],
            None if variants is None else [variants[row] for row in first],
        )
        for (key, rows), outcome in zip(unknown.items(), asked, strict=True):
            for row in rows:
                predictions[row] = outcome
            if isinstance(outcome, Scored):
                cache.put(key, outcome)
        self.stats.cache_hits += len(texts) - len(first)
        return predictions

    async def _asked(
        self, texts: Sequence[str], variants: Sequence[str | None] | None
    ) -> Predictions:
        batch = _Batch(Predictions(len(texts)))
        try:
            async with asyncio.timeout(self._options.deadline_s):
                await self._all(
                    self._request(batch, request, self._options.max_attempts)
                    for request in self._packed(texts, variants)
                )
        except TimeoutError:
            raise EndpointUnavailableError(
                f"{batch.answered} of {len(texts)} rows answered within {self._options.deadline_s}"
                f" s; last failure: {batch.last_failure}"
            ) from None
        return batch.predictions

    def _packed(
        self, texts: Sequence[str], variants: Sequence[str | None] | None
    ) -> Iterator["_Request"]:
        places: dict[str | None, Sequence[int]]
        if variants is None or not any(variants):
            places = {None: range(len(texts))}
        else:
            lists: dict[str | None, list[int]] = {}
            for row, (_, variant) in enumerate(zip(texts, variants, strict=True)):
                lists.setdefault(variant or None, []).append(row)
            places = dict(lists)
        for variant, rows in places.items():
            its_texts = texts if len(rows) == len(texts) else [texts[row] for row in rows]
            for part in pack(its_texts, self._size.rows, self._options.max_request_bytes):
                yield _Request(rows[part], its_texts[part], variant)

    async def _all(self, requests: Iterable[Coroutine[Any, Any, None]]) -> None:
        tasks = [asyncio.ensure_future(request) for request in requests]
        try:
            await asyncio.gather(*tasks)
        finally:
            # After a failure of one: none of the others outlives the call.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _request(
        self, batch: "_Batch", request: "_Request", blames: int, earlier_attempts: int = 0
    ) -> None:
        """Ask until there is an answer, or until the rows were to blame `blames` times."""
        attempts = earlier_attempts
        was_in_order = False
        while True:
            attempts += 1
            try:
                await self._attempt(batch, request, attempts, attempts - earlier_attempts)
            except EndpointError as error:
                if error.reason is None:
                    if not error.is_retryable:
                        raise EndpointUnavailableError(str(error)) from error
                    was_in_order = False
                    continue
                blames -= 1
                if blames <= 0 or not error.is_retryable:
                    if len(request.texts) > 1:
                        await self._cut_up(batch, request, attempts)
                        return
                    is_in_order = await self._is_in_order(batch, request.variant)
                    if is_in_order and (was_in_order or not error.is_retryable):
                        batch.predictions[request.rows[0]] = Failed(
                            error.reason, str(error), attempts
                        )
                        return
                    was_in_order = is_in_order
                await self._sleep(self._backoff_s(attempts - earlier_attempts))
            else:
                return

    async def _cut_up(self, batch: "_Batch", request: "_Request", attempts: int) -> None:
        rows = len(request.texts)
        part_rows = -(-rows // _PARTS)
        parts = [
            _Request(request.rows[part], request.texts[part], request.variant)
            for start in range(0, rows, part_rows)
            for part in [slice(start, start + part_rows)]
        ]
        # Several rows are tried once before they are cut again; a row alone gets its chances.
        await self._all(
            self._request(
                batch, part, self._options.max_attempts if len(part.texts) == 1 else 1, attempts
            )
            for part in parts
        )

    async def _is_in_order(self, batch: "_Batch", variant: str | None) -> bool:
        control = _Request([0], [CONTROL_TEXT], variant)
        try:
            await self._attempt(_Batch(Predictions(1)), control, 1, 1)
        except EndpointError as error:
            batch.last_failure = str(error)
            return False
        return True

    async def _attempt(
        self, batch: "_Batch", request: "_Request", attempts: int, attempts_of_its_own: int
    ) -> None:
        """Send a request once and note its answer, or raise.

        The slot is held for as long as it is under way; where the endpoint is at fault and may
        heal, also during the pause after it.
        """
        async with self.limit.slot() as sent:
            try:
                inference_id = self._new_id()
                answer = await self._timed(request, inference_id)
                ratings = checked_ratings(answer.labels, len(request.texts))
            except EndpointError as error:
                batch.last_failure = str(error)
                if error.is_throttling:
                    self.stats.throttles += 1
                    self.limit.throttled(sent)
                if error.reason is None and error.is_retryable:
                    await self._sleep(self._backoff_s(attempts_of_its_own))
                raise
            finally:
                self.stats.requests += 1
                self.stats.retries += attempts > 1
            self.limit.answered()
        batch.answered += len(ratings)
        batch.predictions.put_request(
            request.rows, ratings, answer.model_variant, inference_id, attempts
        )

    async def _timed(self, request: "_Request", inference_id: str) -> Answer:
        loop, timeout_s = asyncio.get_running_loop(), self._options.attempt_timeout_s
        sent_s = loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._invoke(request.texts, inference_id, request.variant)
        except TimeoutError:
            self._size.took(len(request.texts), timeout_s)
            raise EndpointError(
                f"no answer within {timeout_s} s", is_retryable=True, reason=ScoreReason.TIMEOUT
            ) from None
        latency_s = loop.time() - sent_s
        self._size.took(len(request.texts), latency_s)
        self.stats.latencies_ms.append(latency_s * 1000)
        return answer

    def _backoff_s(self, attempts: int) -> float:
        # The exponent is bounded because 2**attempts of a long outage overflows a float.
        bound_s = self._options.backoff_base_s * 2.0 ** min(attempts, 30)
        return self._rng.uniform(0.0, min(self._options.backoff_cap_s, bound_s))


@dataclass(slots=True)
class _Batch:
    """What the requests of one batch share."""

    predictions: Predictions
    answered: int = 0
    last_failure: str = "none"


@dataclass(frozen=True, slots=True)
class _Request:
    """Texts that go together, and their places in the batch."""

    rows: Sequence[int]
    texts: Sequence[str]
    variant: str | None


def isolation_s(options: ScoringOptions) -> float:
    """Return how long it takes to find one row on which the model hangs, in seconds.

    The whole request is tried `max_attempts` times, the parts once, the row alone once more than
    `max_attempts`, with two controls; pauses are drawn at their longest, and there is room for one
    attempt more. Without waiting for a slot. The deadline must not be shorter, or one such row
    would fail the job again and again.

    >>> isolation_s(ScoringOptions(max_request_rows=1, attempt_timeout_s=1.0, backoff_base_s=0.0))
    7.0
    """
    parts_attempts, rows = 0, options.max_request_rows
    while (rows := -(-rows // _PARTS)) > 1:
        parts_attempts += 1
    attempts = options.max_attempts + 1 + 2 + 1
    if options.max_request_rows > 1:
        attempts += options.max_attempts + parts_attempts
    pauses_s = sum(
        min(options.backoff_cap_s, options.backoff_base_s * 2.0 ** min(attempt, 30))
        for attempt in range(1, options.max_attempts + 1)
    )
    return attempts * options.attempt_timeout_s + 2 * pauses_s


def checked_ratings(labels: Sequence[object], rows: int) -> list[int]:
    """Return the labels as ratings, or raise where they cannot be those of `rows` rows.

    Raises
    ------
    EndpointError
        Wrong count, or a label that is no integer from 1 to 5.
    """
    if len(labels) != rows:
        raise EndpointError(
            f"{len(labels)} labels for {rows} rows",
            is_retryable=True,
            reason=ScoreReason.BAD_ANSWER,
        )
    ratings: list[Any] = list(labels)
    # By their types, because True == 1 and 2.0 == 2.
    if rows and not (set(map(type, ratings)) == {int} and _RATINGS.issuperset(ratings)):
        raise EndpointError(
            f"a label is no rating from {_MIN_RATING} to {_MAX_RATING}",
            is_retryable=True,
            reason=ScoreReason.BAD_ANSWER,
        )
    return ratings
