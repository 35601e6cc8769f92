"""Capacity of the local endpoint: places and a queue for requests, containers that crash."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from deploy.local.endpoint_faults import Faults

T = TypeVar("T")


class QueueFullError(Exception):
    """A request arrived when all places and the queue for them were full."""


class CrashedError(Exception):
    """The container crashed while the request was served or queued."""


class Places:
    """Limit on the requests served at once, in total and for each variant.

    For one event loop.

    Parameters
    ----------
    faults
        The limits: `max_served`, `variant_max_served` and `max_queued`.

    Attributes
    ----------
    most_served
        Highest number of requests served at once since the last call of `replace`.
    """

    def __init__(self, faults: Faults) -> None:
        self.most_served = 0
        self._faults = faults
        self._served: Counter[str] = Counter()
        # The variant that each request waits for, in order of arrival.
        self._waiting: dict[asyncio.Future[None], str] = {}

    @property
    def served(self) -> int:
        """Requests being served."""
        return self._served.total()

    @property
    def queued(self) -> int:
        """Requests waiting for a place."""
        return len(self._waiting)

    def replace(self, faults: Faults) -> None:
        """Change the limits and serve the waiting requests that the new ones admit."""
        self._faults = faults
        self.most_served = self.served
        self._admit()

    @asynccontextmanager
    async def place(self, variant: str) -> AsyncIterator[None]:
        """Hold a place at `variant`, after waiting for it in order.

        Raises
        ------
        QueueFullError
            `max_queued` requests already wait for the same places.
        """
        if self._is_full(variant):
            max_queued = self._faults.max_queued
            if max_queued is not None and self._queued_before(variant) >= max_queued:
                raise QueueFullError
            await self._turn(variant)
        else:
            self._enter(variant)
        try:
            yield
        finally:
            self._leave(variant)

    def _has_no_place(self) -> bool:
        limit = self._faults.max_served
        return limit is not None and self.served >= limit

    def _is_full(self, variant: str) -> bool:
        limit = self._faults.variant_max_served.get(variant, math.inf)
        return self._has_no_place() or self._served[variant] >= limit

    def _queued_before(self, variant: str) -> int:
        if self._has_no_place():
            return self.queued
        return sum(waiting == variant for waiting in self._waiting.values())

    async def _turn(self, variant: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = variant
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.pop(turn, None)
            else:
                # The place was given just before.
                self._leave(variant)
            raise

    def _enter(self, variant: str) -> None:
        self._served[variant] += 1
        self.most_served = max(self.most_served, self.served)

    def _leave(self, variant: str) -> None:
        self._served[variant] -= 1
        self._admit()

    def _admit(self) -> None:
        # A free place is handed over at once: a new request cannot take it first.
        for turn, variant in list(self._waiting.items()):
            if self._has_no_place():
                break
            if not self._is_full(variant):
                del self._waiting[turn]
                if not turn.cancelled():
                    self._enter(variant)
                    turn.set_result(None)


class Container:
    """Container of one variant: the requests that are under way on it, and its crashes."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._down_until_s = -math.inf

    @property
    def is_down(self) -> bool:
        """Whether the container recovers from a crash."""
        return asyncio.get_running_loop().time() < self._down_until_s

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, which ends with the container.

        Raises
        ------
        CrashedError
            The container crashed meanwhile.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError as error:
            if task in self._tasks:
                raise
            raise CrashedError from error
        finally:
            self._tasks.discard(task)

    def crash(self, recovery_s: float) -> None:
        """End all work but the caller's own, and stay down for `recovery_s`."""
        self._down_until_s = asyncio.get_running_loop().time() + recovery_s
        # Work that is done keeps its outcome, even if `run` has yet to return it.
        crashed = {task for task in self._tasks if not task.done()}
        self._tasks -= crashed
        for task in crashed - {asyncio.current_task()}:
            task.cancel()

    def restart(self) -> None:
        """Recover at once."""
        self._down_until_s = -math.inf
