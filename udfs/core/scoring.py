"""Predictions for many texts through one endpoint: packed, concurrent, retried, checked.

The endpoint sets the pace (`udfs.core.concurrency`), and an endpoint in trouble costs time, never a
row. A row is given up only where the row itself is shown to be the cause (`udfs.core.trials`); all
else is retried until the deadline and then raised, so that the caller reads the same rows again and
skips none. Kinds of failures: see `udfs.core.failures`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from udfs.core.concurrency import Slot
from udfs.core.failures import EndpointError, EndpointUnavailableError, FailureKind
from udfs.core.invocations import (
    Invocations,
    Invoke,
    Request,
    ScoringOptions,
    ScoringStats,
    new_inference_id,
)
from udfs.core.packing import first_request
from udfs.core.predictions import Predictions, ScoreReason
from udfs.core.trials import Trials, part_rows

# Failures of a part before it is cut up: a request with its rows has already failed.
_PART_FAILURES = 2
# If a batch has at least this many rows and none is answered, the endpoint is at fault.
_ROWS_OF_EVIDENCE = 8


class Scorer:
    """Scores batches of texts through one `Invoke`, one batch at a time.

    First all requests are sent concurrently. What fails there is sent again; what may be the fault
    of its rows is cut into parts, until a row stands alone. Rows and requests that go on failing
    for reasons that load could explain are then asked alone, one at a time: see `Trials`.

    What it learns about each variant (how many requests, how large) outlives the batch.

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
        Counters.

    Examples
    --------
    >>> from udfs.core.invocations import Answer
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
        self._invocations = Invocations(invoke, options, rng=rng, sleep=sleep, new_id=new_id)
        self._options = options

    @property
    def stats(self) -> ScoringStats:
        """Counters since the scorer was made."""
        return self._invocations.stats

    @property
    def slots(self) -> int:
        """Requests that may be in flight at once, to all variants that were asked together."""
        return sum(variant.limit.slots for variant in self._invocations.asked())

    @property
    def known_variants(self) -> set[str | None]:
        """Names of the variants that something is remembered of; None: the endpoint's default."""
        return set(self._invocations.variants)

    def take_peak(self) -> int:
        """Return the most requests that were in flight at once since the last call, likewise."""
        return sum(variant.limit.take_peak() for variant in self._invocations.asked())

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
            of them: the endpoint's default. Texts of one variant share requests. Where a variant
            does not exist, or fails for its control text as well, the endpoint's default answers.

        Returns
        -------
        Predictions
            Length n. Each row holds the answer to its own text or the reason why there is none.

        Raises
        ------
        EndpointUnavailableError
            The endpoint could not be reached, kept throttling or failing until the deadline,
            answers not one of many rows, or does not exist. No row is given up.
        """
        batch = _Batch(self._invocations, self._options, Predictions(len(texts)))
        try:
            async with asyncio.timeout(self._options.deadline_s):
                await batch.score(texts, variants)
        except TimeoutError:
            raise EndpointUnavailableError(
                f"{batch.predictions.answered} of {len(texts)} rows answered within"
                f" {self._options.deadline_s} s; last failure: {self._invocations.last_failure}"
            ) from None
        self.stats.rows += len(texts)
        return batch.predictions


class _Batch:
    """One batch in progress."""

    def __init__(
        self, invocations: Invocations, options: ScoringOptions, predictions: Predictions
    ) -> None:
        self.predictions = predictions
        self._invocations = invocations
        self._options = options
        self._trials = Trials(invocations, options, predictions)
        self._group: asyncio.TaskGroup
        # Requests to be asked alone.
        self._left: list[Request] = []

    async def score(self, texts: Sequence[str], variants: Sequence[str | None] | None) -> None:
        await self._invocations.begin_batch({name for name in variants or () if name})
        is_known = any(variant.neighbour is not None for variant in self._invocations.asked())
        await self._concurrently(
            self._send_next(_Queue(texts, rows, variant, self._options.max_request_bytes))
            for variant, rows in _rows_by_variant(len(texts), variants).items()
        )
        while self._left:
            left, self._left = self._left, []
            again = await self._trials.hold(left)
            await self._concurrently(self._send(request) for request in again)
        if len(texts) >= _ROWS_OF_EVIDENCE and not is_known and not self.predictions.answered:
            raise EndpointUnavailableError(
                f"not one of {len(texts)} rows is answered, only the control text is; last"
                f" failure: {self._invocations.last_failure}"
            )

    async def _concurrently(self, work: Iterable[Coroutine[Any, Any, None]]) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                for coroutine in work:
                    self._group.create_task(coroutine)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _send_next(self, queue: "_Queue") -> None:
        """Send the next request of a queue as soon as there is a slot; then the rest of it."""
        is_fit = queue.variant not in self._invocations.unfit
        name = self._fit_variant(queue.variant if is_fit else None)
        variant = self._invocations.variant(name)
        slot = await variant.limit.acquire()
        # Cut only now: what was answered meanwhile tells how large it may be.
        request = queue.take(self._invocations.most_rows(name))
        request.variant = name
        if queue:
            self._group.create_task(self._send_next(queue))
        await self._send(request, slot)

    async def _send(self, request: Request, slot: Slot | None = None) -> None:
        while True:
            if slot is None:
                if self._is_repacked(request):
                    return
                slot = await self._invocations.variant(request.variant).limit.acquire()
            try:
                await self._invocations.ask(request, self.predictions, slot)
            except EndpointError as error:
                if not await self._is_sent_again(request, error):
                    return
                slot = None
            else:
                return

    async def _is_sent_again(self, request: Request, error: EndpointError) -> bool:
        """Return whether a request is sent again as it is; if not, care for its rows."""
        match error.kind:
            case FailureKind.CALL:
                raise EndpointUnavailableError(str(error)) from error
            case FailureKind.VARIANT:
                self._fall_back(request, request.variant)
                return True
            case FailureKind.ROWS:
                return await self._after_rejection(request, error)
            case FailureKind.MODEL:
                return await self._after_model_error(request, error)
            case FailureKind.LOAD if error.reason is ScoreReason.TIMEOUT:
                return await self._after_timeout(request)
            case FailureKind.LOAD if error.reason is not None:
                return self._is_sent_on(request, request.failed(error.kind))
        return True

    async def _after_rejection(self, request: Request, error: EndpointError) -> bool:
        is_single = len(request.rows) == 1
        # To cut a request up, an answer while it was in flight is proof enough; to give a row up,
        # it takes one from after its failure.
        answers = None if is_single else request.answers
        is_unfit = error.variant in self._invocations.unfit
        if is_unfit or not await self._is_in_order(request, error.variant, answers):
            if is_unfit or self._invocations.rejects_controls(error.variant):
                self._fall_back(request, error.variant)
            await self._invocations.pause(request.variant)
            return True
        if not is_single:
            self._cut_up(request)
            return False
        if request.failed(error.kind) < self._trials.rejections_of_proof():
            return True
        self._trials.give_up(request, error)
        return False

    async def _after_model_error(self, request: Request, error: EndpointError) -> bool:
        failures = request.failed(error.kind)
        if failures >= (_PART_FAILURES if request.is_part else self._options.max_attempts):
            if await self._is_in_order(request, error.variant, request.answers):
                self._suspect(request)
                return False
            if self._invocations.rejects_controls(error.variant):
                self._fall_back(request, error.variant)
        await self._invocations.pause(request.variant)
        return True

    async def _after_timeout(self, request: Request) -> bool:
        failures = request.failed(FailureKind.LOAD)
        if request.was_alone:
            if not await self._is_in_order(request, request.variant, None):
                return True
            self._suspect(request)
            return False
        if self._invocations.was_overtaken(request):
            self._suspect(request)
            return False
        if self._is_repacked(request):
            return False
        return self._is_sent_on(request, failures)

    def _is_repacked(self, request: Request) -> bool:
        """Send a request in parts if it is too large for what is known of its variant by now."""
        most_rows = self._invocations.longest_rows(request.variant)
        if len(request.rows) <= most_rows:
            return False
        for part in request.parts(most_rows):
            part.is_part = request.is_part
            self._group.create_task(self._send(part))
        return True

    def _is_sent_on(self, request: Request, failures: int) -> bool:
        """Keep a request to be asked alone, or return True to send it again."""
        if failures < self._options.max_attempts and not request.was_alone:
            return True
        self._left.append(request)
        return False

    async def _is_in_order(
        self, request: Request, failed_variant: str | None, answers: int | None
    ) -> bool:
        """Return whether the variant that failed answers; since `answers`, None: since now."""
        if answers is None or failed_variant != request.variant:
            answers = self._invocations.variant(failed_variant).answers
        try:
            return await self._invocations.is_in_order(failed_variant, answers)
        except EndpointError:
            return False  # it was removed meanwhile

    def _suspect(self, request: Request) -> None:
        if len(request.rows) == 1:
            self._left.append(request)
        else:
            self._cut_up(request)

    def _cut_up(self, request: Request) -> None:
        for part in request.parts(part_rows(len(request.rows))):
            self._group.create_task(self._send(part))

    def _fall_back(self, request: Request, failed_variant: str | None) -> None:
        """Ask another variant than one that does not exist or fails for its control text."""
        if failed_variant is not None:
            self._invocations.give_up_variant(failed_variant)
        request.variant = self._fit_variant(None)

    def _fit_variant(self, name: str | None) -> str | None:
        """Return the variant to ask instead of the default, where one of those is unfit."""
        if name is not None or not self._invocations.unfit & self._invocations.defaults:
            return name
        fit = self._invocations.fit_defaults()
        return min(fit, key=self._in_flight) if fit else None

    def _in_flight(self, name: str) -> int:
        return self._invocations.variant(name).limit.in_flight


class _Queue:
    """The rows of a batch that go to one variant, cut into requests one after the other."""

    def __init__(
        self, texts: Sequence[str], rows: Sequence[int], variant: str | None, max_bytes: int
    ) -> None:
        self.variant = variant
        self._rows = rows
        self._texts = texts if len(rows) == len(texts) else [texts[row] for row in rows]
        self._max_bytes = max_bytes
        self._start = 0

    def __bool__(self) -> bool:
        return self._start < len(self._texts)

    def take(self, max_rows: int) -> Request:
        part = first_request(self._texts, self._start, max_rows, self._max_bytes)
        self._start = part.stop
        return Request(self._rows[part], self._texts[part], self.variant, self.variant)


def _rows_by_variant(
    rows: int, variants: Sequence[str | None] | None
) -> dict[str | None, Sequence[int]]:
    if variants is not None and len(variants) != rows:
        raise ValueError(f"{len(variants)} variants for {rows} rows")
    if variants is None or not any(variants):
        return {None: range(rows)} if rows else {}
    places: dict[str | None, list[int]] = {}
    for row, variant in enumerate(variants):
        places.setdefault(variant or None, []).append(row)
    return dict(places)


def isolation_s(options: ScoringOptions) -> float:
    """Return how long it takes to find one row on which the model hangs, in seconds.

    The request with it times out, each part with it, the row alone in its turn, then `max_attempts`
    times with nothing else in flight; there is room for one attempt more. Without waiting for a
    slot. The deadline must not be shorter, or one such row would fail the job again and again.

    >>> isolation_s(ScoringOptions(max_request_rows=1, attempt_timeout_s=1.0, backoff_base_s=0.0))
    5.0
    """
    attempts, rows = 1 + options.max_attempts + 1, options.max_request_rows
    while rows > 1:
        rows = part_rows(rows)
        attempts += 1
    # An answer before it: the pause is that after a first failure.
    pause_s = min(options.backoff_cap_s, 2 * options.backoff_base_s)
    return attempts * (options.attempt_timeout_s + pause_s)
