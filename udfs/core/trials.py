"""Whether rows are the cause of failures that load could explain: asked alone, one at a time."""

import asyncio
import math
from collections.abc import Sequence

from udfs.core.failures import EndpointError, EndpointUnavailableError, FailureKind
from udfs.core.invocations import Invocations, Request, ScoringOptions
from udfs.core.predictions import Failed, Predictions

# Rejections of a row alone, while its variant answers others, before it is given up.
_REJECTIONS = 2
# Parts that a failed request is cut into: eight find a bad row of 64 in two steps, where halves
# need six, at the price of a few more requests.
_PARTS = 8
# A row is given up only if chance explains its failures with less than this probability.
_CHANCE = 1e-6
# Answers with nothing else in flight that must be known before: in general, if requests of the
# batch were answered only after failures, and in this batch.
_ANSWERS_OF_PROOF, _ANSWERS_AFTER_FAILURES, _ANSWERS_OF_BATCH = 16, 24, 8
# An endpoint that fails more often than this at random is out of order.
_MOST_CHANCE = 0.9


def part_rows(rows: int) -> int:
    """Return how many rows the parts have that a request of `rows` rows is cut into.

    >>> part_rows(512), part_rows(64), part_rows(9), part_rows(2)
    (64, 8, 2, 1)
    """
    return -(-rows // _PARTS)


class Trials:
    """Finds the rows that make the model hang or crash, with nothing else in flight.

    Requests come here that have failed `ScoringOptions.max_attempts` times for a reason that load
    could explain, and single rows that are suspected. At concurrency 1 the client's own load
    explains nothing. Each is asked between two controls (see `Invocations.is_in_order`): if it is
    answered, load was the cause. If it fails, it is cut up; a row alone is given up when it has
    failed `max_attempts` times, and more often where the endpoint fails at random for others too,
    until chance does not explain it.

    Parameters
    ----------
    invocations, options
        As of the scorer.
    predictions
        Of the batch.
    """

    def __init__(
        self, invocations: Invocations, options: ScoringOptions, predictions: Predictions
    ) -> None:
        self._invocations = invocations
        self._options = options
        self._predictions = predictions
        # Rows that were answered when requests were last sent back.
        self._answered_rows = -1
        # Variants whose latest request was answered.
        self._fresh: set[str | None] = set()
        # The latest of each request, by its first row.
        self._errors: dict[int, EndpointError] = {}

    async def hold(self, requests: Sequence[Request]) -> list[Request]:
        """Ask requests one after the other, until each row is answered or given up.

        Returns
        -------
        list of Request
            Those to be sent concurrently again: the endpoint was out of order when they came here,
            which explains their failures. Empty if sending them again has brought no answer before.
        """
        self._fresh.clear()
        # Large ones first: what they show of the endpoint is proof for single rows.
        requests = sorted(requests, key=lambda request: -len(request.rows))
        for request in requests:
            request.failures.clear()
        for place, request in enumerate(requests):
            was_out_of_order = await self._until_in_order(request)
            is_progress = self._predictions.answered > self._answered_rows
            if was_out_of_order and is_progress and len(requests) - place > 1:
                self._answered_rows = self._predictions.answered
                return requests[place:]
            if not await self._is_answered(request):
                await self._settle(request)
        return []

    def give_up(self, request: Request, error: EndpointError) -> None:
        """Record a row as failed."""
        if error.reason is None:
            raise ValueError(f"no row is the cause of this failure: {error}")
        [row] = request.rows
        self._predictions[row] = Failed(error.reason, str(error), request.attempts)

    def rejections_of_proof(self) -> int:
        """Return how often a row must be rejected, for chance not to explain it."""
        return self._failures_of_proof(_REJECTIONS, self._invocations.rejected.most())

    async def _settle(self, request: Request) -> None:
        """Go on with a request that has failed alone, until its rows are answered or given up."""
        alone = self._invocations.alone
        while True:
            failures = sum(request.failures.values())
            if len(request.rows) > 1:
                if failures >= (self._options.max_attempts if alone.most() else 1):
                    await self._settle_parts(request)
                    return
            elif failures >= self._options.max_attempts:
                await self._gather_proof(request)
                if failures >= self._failures_of_proof(self._options.max_attempts, alone.most()):
                    self.give_up(request, self._errors.pop(request.rows[0]))
                    return
            if await self._is_answered(request):
                return

    async def _settle_parts(self, request: Request) -> None:
        """Ask each part once; then go on with those that fail.

        What the others show of the endpoint is proof for these.
        """
        parts = request.parts(part_rows(len(request.rows)))
        failed = [part for part in parts if not await self._is_answered(part)]
        if not failed:
            self._invocations.alone.add(0, request.alone_failures)
        for part in failed:
            await self._settle(part)

    async def _is_answered(self, request: Request) -> bool:
        await self._until_in_order(request)
        slot = await self._invocations.variant(request.variant).limit.acquire()
        try:
            await self._invocations.ask(request, self._predictions, slot, is_alone=True)
        except EndpointError as error:
            self._fresh.discard(request.variant)
            if error.kind is FailureKind.CALL:
                raise EndpointUnavailableError(str(error)) from error
            if error.reason is not None:
                request.failed(error.kind)
                self._errors[request.rows[0]] = error
                await self._after(request)
            return False
        self._fresh.add(request.variant)
        return True

    def _candidates(self, request: Request) -> list[str | None]:
        """Return the variants that may be asked, the next one first.

        A control proves something about the variant that it was sent to: where none is preferred,
        each of the endpoint's has its turn by name.
        """
        preferred = request.requested_variant
        if preferred is not None and preferred not in self._invocations.unfit:
            return [preferred]
        names: list[str | None] = list(self._invocations.fit_defaults())
        turn = sum(request.failures.values()) % len(names) if names else 0
        return [*names[turn:], *names[:turn]] or [None]

    async def _until_in_order(self, request: Request, *, after_failure: bool = False) -> int:
        """Choose a variant that is in order; return how many controls failed before.

        A preferred one that answers nothing for a third of the deadline is given up.
        """
        loop, failures = asyncio.get_running_loop(), 0
        until_s = loop.time() + self._options.deadline_s / 3
        while True:
            for name in [request.variant] if after_failure else self._candidates(request):
                if name in self._fresh or await self._invocations.answers_control(
                    name, after_failure=after_failure
                ):
                    request.variant = name
                    self._fresh.add(name)
                    return failures
                failures += 1
            preferred = request.requested_variant
            if preferred is not None and (
                self._invocations.rejects_controls(preferred) or loop.time() > until_s
            ):
                self._invocations.give_up_variant(preferred)
            after_failure = after_failure and loop.time() < until_s
            await self._invocations.pause_of_control(failures)

    async def _after(self, request: Request) -> None:
        """Wait until a variant is in order after a failure, and stays so."""
        if await self._until_in_order(request, after_failure=True):
            # It has recovered from a crash, or it fails at random; if so, it does for others.
            await self._ask_control(request)
        self._invocations.alone.add(1, 0)

    async def _ask_control(self, request: Request) -> None:
        self._fresh.discard(request.variant)
        self._invocations.alone.add(1, await self._until_in_order(request))

    async def _gather_proof(self, request: Request) -> None:
        """Ask controls until enough is known of the variant's answers."""
        alone = self._invocations.alone
        least = _ANSWERS_AFTER_FAILURES if self._invocations.retried_answers else _ANSWERS_OF_PROOF
        # Answers from before this batch are not enough: the endpoint may have failed since.
        while (
            alone.answers < _ANSWERS_OF_BATCH or alone.answers + alone.past_answers < least
        ) and not alone.failures:
            await self._ask_control(request)

    def _failures_of_proof(self, least: int, rate: float) -> int:
        """Return how often a row must fail, for failures of this rate not to explain it."""
        if not rate:
            return least
        return max(least, math.ceil(math.log(_CHANCE) / math.log(min(rate, _MOST_CHANCE))))
