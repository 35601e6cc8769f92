"""Predictions for many texts through one endpoint: packed, concurrent, retried, checked.

Two kinds of failure are kept apart. What the model says about *rows* (it rejects them, or its
answer does not fit them) ends as `Failed` for the rows to blame, found by cutting the request up.
What befalls the *endpoint* (throttling, outage, wrong name) is no fault of any row: it is retried
until the deadline and then raised, so that the caller reads the same rows again and skips none.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

MAX_REQUEST_BYTES = 6_291_456
"""Largest InvokeEndpoint body that SageMaker takes."""

_MIN_RATING, _MAX_RATING = 1, 5

# Parts that a rejected request is cut into: eight find a bad row of 64 in two steps, where halves
# need six, at the price of a few more requests.
_PARTS = 8

CONTROL_TEXT = "It works."
"""What the endpoint is asked before a row is given up: if it answers, it is in order."""


class ScoreReason(StrEnum):
    """Why a review has no prediction: the `reason` of its dead letter."""

    MODEL_ERROR = "model_error"
    TIMEOUT = "timeout"
    BAD_ANSWER = "bad_answer"
    REQUEST_TOO_LARGE = "request_too_large"


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How requests are made.

    Attributes
    ----------
    max_request_rows, max_request_bytes
        A request is closed before it exceeds either.
    max_in_flight
        Requests under way at once; one that waits to be retried does not count.
    attempt_timeout_s
        One attempt, from sending to the last byte. SageMaker gives the container 60 s.
    max_attempts
        Failures that its rows may have caused, before a request is cut up or its row given up.
    deadline_s
        From the call to the last answer. A batch under way holds the checkpoint barrier back, so
        this must be well below the checkpoint timeout; and at least `isolation_s`.
    backoff_base_s, backoff_cap_s
        Attempt k is followed by a pause drawn evenly from 0 to min(cap, base * 2**k): "full
        jitter" of the AWS Architecture Blog, Exponential Backoff And Jitter.
    """

    max_request_rows: int = 64
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_in_flight: int = 16
    attempt_timeout_s: float = 10.0
    max_attempts: int = 3
    deadline_s: float = 120.0
    backoff_base_s: float = 0.05
    backoff_cap_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Scored:
    """A prediction.

    `star_rating` is 1..5; `inference_id` names the request and `inference_row` the row in it
    (from 0), as the endpoint's data capture has them.
    """

    star_rating: int
    model_variant: str
    inference_id: str
    inference_row: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Failed:
    """No prediction: why, in words, and after how many attempts that the row was part of."""

    reason: ScoreReason
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint said: one label a row, as decoded, and the variant that said it."""

    labels: Sequence[object]
    model_variant: str


class Invoke(Protocol):
    """One request: k texts in, their answer out; raises `EndpointError` and nothing else."""

    def __call__(self, texts: Sequence[str], inference_id: str) -> Awaitable[Answer]:
        """Send one request under `inference_id`, which is new for every attempt."""


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
    """

    def __init__(
        self, message: str, *, is_retryable: bool, reason: ScoreReason | None = None
    ) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable
        self.reason = reason


class EndpointUnavailableError(Exception):
    """The endpoint gave no answer in time, or can give none: read the rows again later."""


def new_inference_id() -> str:
    """Return a random id of 32 characters (SageMaker takes up to 64)."""
    return uuid.uuid4().hex


class Scorer:
    """Scores batches of texts through one `Invoke`.

    A request that the model rejects is cut into parts, until the rejected row stands alone. It is
    given up if the endpoint answers for a control text right after; where the failure may heal
    (timeout, 5xx, an answer that does not fit), if it does so before and after yet another attempt.
    Else it is the endpoint that is out of order.

    Parameters
    ----------
    invoke
        Sends one request.
    options
        Bounds of requests, time and retries.
    rng, sleep, new_id
        Source of jitter, pause and inference ids; for tests.

    Examples
    --------
    >>> async def five(texts, inference_id):
    ...     return Answer([5 for _ in texts], "AllTraffic")
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

    async def score(self, texts: Sequence[str]) -> list[Scored | Failed]:
        """Predict the star rating of each text, in order.

        Parameters
        ----------
        texts
            Length n, none of them None; n may be 0.

        Returns
        -------
        list of Scored or Failed
            Length n. Each row holds the answer to its own text or the reason why there is none.

        Raises
        ------
        EndpointUnavailableError
            The endpoint could not be reached, kept throttling or failing until the deadline, or
            does not know the request's target. No row is to blame.
        """
        batch = _Batch(asyncio.Semaphore(self._options.max_in_flight))
        requests = pack(texts, self._options)
        try:
            async with asyncio.timeout(self._options.deadline_s):
                return await self._all(
                    self._request(batch, request, self._options.max_attempts)
                    for request in requests
                )
        except TimeoutError:
            raise EndpointUnavailableError(
                f"no complete answer within {self._options.deadline_s} s; last failure:"
                f" {batch.last_failure}"
            ) from None

    async def _all(
        self, requests: Iterable[Coroutine[Any, Any, list[Scored | Failed]]]
    ) -> list[Scored | Failed]:
        tasks = [asyncio.ensure_future(request) for request in requests]
        try:
            return [row for rows in await asyncio.gather(*tasks) for row in rows]
        finally:
            # After a failure of one: none of the others outlives the call.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _request(
        self, batch: "_Batch", texts: Sequence[str], blames: int, earlier_attempts: int = 0
    ) -> list[Scored | Failed]:
        """Ask until there is an answer, or until the rows were to blame `blames` times."""
        attempts = earlier_attempts
        was_in_order = False
        while True:
            attempts += 1
            try:
                return await self._scored(batch, texts, attempts)
            except EndpointError as error:
                batch.last_failure = str(error)
                if error.reason is None:
                    if not error.is_retryable:
                        raise EndpointUnavailableError(str(error)) from error
                    was_in_order = False
                else:
                    blames -= 1
                    if blames <= 0 or not error.is_retryable:
                        if len(texts) > 1:
                            return await self._cut_up(batch, texts, attempts)
                        is_in_order = await self._is_in_order(batch)
                        if is_in_order and (was_in_order or not error.is_retryable):
                            return [Failed(error.reason, str(error), attempts)]
                        was_in_order = is_in_order
            await self._sleep(self._backoff_s(attempts - earlier_attempts))

    async def _cut_up(
        self, batch: "_Batch", texts: Sequence[str], attempts: int
    ) -> list[Scored | Failed]:
        part_rows = -(-len(texts) // _PARTS)
        parts = [texts[start : start + part_rows] for start in range(0, len(texts), part_rows)]
        # Several rows are tried once before they are cut again; a row alone gets its chances.
        return await self._all(
            self._request(
                batch, part, self._options.max_attempts if len(part) == 1 else 1, attempts
            )
            for part in parts
        )

    async def _is_in_order(self, batch: "_Batch") -> bool:
        try:
            await self._scored(batch, [CONTROL_TEXT], 1)
        except EndpointError:
            return False
        return True

    async def _scored(
        self, batch: "_Batch", texts: Sequence[str], attempts: int
    ) -> list[Scored | Failed]:
        """Make one attempt; a slot is held for as long as it is under way."""
        timeout_s = self._options.attempt_timeout_s
        inference_id = self._new_id()
        async with batch.in_flight:
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await self._invoke(texts, inference_id)
            except TimeoutError:
                raise EndpointError(
                    f"no answer within {timeout_s} s",
                    is_retryable=True,
                    reason=ScoreReason.TIMEOUT,
                ) from None
        return [
            Scored(rating, answer.model_variant, inference_id, row, attempts)
            for row, rating in enumerate(checked_ratings(answer.labels, len(texts)))
        ]

    def _backoff_s(self, attempts: int) -> float:
        # The exponent is bounded because 2**attempts of a long outage overflows a float.
        bound_s = self._options.backoff_base_s * 2.0 ** min(attempts, 30)
        return self._rng.uniform(0.0, min(self._options.backoff_cap_s, bound_s))


@dataclass(slots=True)
class _Batch:
    """What the requests of one batch share."""

    in_flight: asyncio.Semaphore
    last_failure: str = "none"


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


def pack(texts: Sequence[str], options: ScoringOptions) -> Iterator[Sequence[str]]:
    """Cut a batch into requests of neighbouring rows, in order.

    A text is taken at the most that any content type can make of it, so a request never exceeds
    `max_request_bytes` unless a single text does.

    >>> [len(request) for request in pack(["a"] * 5, ScoringOptions(max_request_rows=2))]
    [2, 2, 1]
    """
    start, size = 0, 0
    for row, text in enumerate(texts):
        row_bytes = _max_row_bytes(text)
        if row > start and (
            row - start == options.max_request_rows or size + row_bytes > options.max_request_bytes
        ):
            yield texts[start:row]
            start, size = row, 0
        size += row_bytes
    if start < len(texts):
        yield texts[start:]


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
    ratings = [label for label in labels if type(label) is int and _is_rating(label)]
    if len(ratings) != rows:
        raise EndpointError(
            f"a label is no rating from {_MIN_RATING} to {_MAX_RATING}",
            is_retryable=True,
            reason=ScoreReason.BAD_ANSWER,
        )
    return ratings


def _is_rating(label: int) -> bool:
    return _MIN_RATING <= label <= _MAX_RATING


def _max_row_bytes(text: str) -> int:
    # Six bytes for an escaped control character, and room for the row's frame.
    return 6 * len(text) + 64
