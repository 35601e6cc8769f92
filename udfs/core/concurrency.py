"""How many requests an endpoint is asked at once, by what it takes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# Slots that a round trip of answers adds: as TCP with delayed acknowledgements. A whole one gets a
# request throttled for every two that a small endpoint answers.
_INCREASE = 0.5
# What throttling leaves of the limit: as CUBIC (RFC 9438), a flatter sawtooth than with half.
_DECREASE = 0.7


class ConcurrencyLimit:
    """Additive increase, multiplicative decrease, as TCP has it (Jacobson, 1988).

    Each answer that came while all slots were taken adds half the limit's reciprocal, hence one
    slot in two round trips; throttling takes 30 % away, once for all requests that were under way
    together.
    Several clients of one endpoint so come to share it evenly (Chiu and Jain, 1989).

    For one event loop at a time. Slots are given in the order in which they are asked for.

    Parameters
    ----------
    most
        Upper bound, at least 1, and the limit to start with; the lower bound is 1.

    Examples
    --------
    >>> async def request():
    ...     async with limit.slot() as sent:
    ...         limit.throttled(sent)
    >>> limit = ConcurrencyLimit(10)
    >>> asyncio.run(request())
    >>> limit.slots
    7
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._decreases = 0
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._peak = 0

    @property
    def slots(self) -> int:
        """Requests that may be under way at once: 1 to `most`."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._in_flight

    def take_peak(self) -> int:
        """Return the most requests that were under way at once since the last call."""
        peak, self._peak = self._peak, self._in_flight
        return peak

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Hold a slot, waiting for it; gives what `answered` and `throttled` are to be told."""
        if self._waiting or self._in_flight >= self.slots:
            await self._turn()
        else:
            self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        try:
            yield self._decreases
        finally:
            self._leave()

    def answered(self) -> None:
        """Note an answer, before its slot is left."""
        # Where slots are free, more of them would not help: nothing is known of what they meet.
        if self._in_flight >= self.slots:
            self._limit = min(self._most, self._limit + _INCREASE / self._limit)
            self._admit()

    def throttled(self, sent: int) -> None:
        """Note that a request was throttled, unless it was sent before the last decrease."""
        if sent == self._decreases:
            self._decreases += 1
            self._limit = max(1.0, self._limit * _DECREASE)

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(turn)
            else:
                # The slot was given just before.
                self._leave()
            raise

    def _leave(self) -> None:
        self._in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._in_flight < self.slots:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._in_flight += 1
                turn.set_result(None)
