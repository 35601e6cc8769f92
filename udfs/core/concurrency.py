"""Adaptive concurrency limit of the requests to one variant of an endpoint."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

# Requests in flight before anything is known; answers double it with each round trip.
_FIRST = 1
# Slots that a round trip of answers adds: as TCP with delayed acknowledgements. A whole one gets a
# request rejected for every two that a small endpoint answers.
_INCREASE = 0.5
# What a rejection leaves of the limit: as CUBIC (RFC 9438), a flatter sawtooth than with half.
REJECTED = 0.7
# What a time-out leaves: the endpoint may go on working on the requests that were given up.
TIMED_OUT = 0.5
# What a growing queue leaves.
_QUEUEING = 0.9
# A queue is tolerated up to this multiple of the time without one, and up to `_MIN_QUEUE_S` in any
# case, but not beyond this share of the attempt's time.
_QUEUE_RATIO, _QUEUE_SHARE, _MIN_QUEUE_S = 3.0, 0.25, 0.2
# The limit no longer doubles once a queue of this share of the time without one is seen.
_QUEUE_OF_START = 0.5


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to have one request in flight.

    Attributes
    ----------
    number
        Counts the slots that were taken.
    generation
        Counts the decreases before it was taken: what was sent before a decrease says nothing
        about the limit after it.
    was_first
        Whether no other slot was taken at that time.
    """

    number: int
    generation: int
    was_first: bool


class _Floors:
    """Lowest latency of requests by size: of the latest 100 to 200 answers of all sizes."""

    _ANSWERS = 100

    def __init__(self) -> None:
        # By the power of two below the number of rows.
        self._before_s: dict[int, float] = {}
        self._now_s: dict[int, float] = {}
        self._count = 0

    def of(self, rows: int, latency_s: float) -> float:
        """Take an answer; return how long one of its size takes without a queue."""
        if self._count == self._ANSWERS:
            self._before_s, self._now_s, self._count = self._now_s, {}, 0
        self._count += 1
        size = rows.bit_length()
        self._now_s[size] = min(latency_s, self._now_s.get(size, latency_s))
        # What a larger request took without a queue is enough for a smaller one, too.
        return min(
            floor_s
            for floors_s in (self._before_s, self._now_s)
            for of_size, floor_s in floors_s.items()
            if of_size >= size
        )


class ConcurrencyLimit:
    """Additive increase, multiplicative decrease, by rejections, time-outs and latency.

    - It starts with one slot and doubles with each round trip until something fails (slow start);
      from then on each answer to a request since which all slots were taken adds half the limit's
      reciprocal, hence one slot in two round trips (Jacobson, Congestion Avoidance and Control,
      1988).
    - A rejection leaves 70 % of it and a time-out 50 %, once for all requests that were in flight
      together. Several clients of one endpoint so come to share it evenly (Chiu and Jain, 1989).
      If nothing was answered since the failure before, one slot is left.
    - A growing queue leaves 90 %, before requests time out: requests are in a queue when they take
      much longer than the quickest of their size (after the delay-based limits of TCP Vegas,
      Brakmo and Peterson, 1995).

    For one event loop at a time. Slots are given in the order in which they are asked for.

    Parameters
    ----------
    most
        Upper bound, at least 1; the lower bound is 1.
    timeout_s
        The time that a request has.
    first
        The limit to start with.

    Attributes
    ----------
    strikes
        Failures in a row, counted once for all requests that were in flight together; an answer
        clears them. The pause before the next attempt grows with it.

    Examples
    --------
    >>> async def request():
    ...     async with limit.slot() as slot:
    ...         limit.failed(slot, REJECTED)
    >>> limit = ConcurrencyLimit(10, 10.0, first=10)
    >>> asyncio.run(request())
    >>> limit.slots
    7
    """

    def __init__(self, most: int, timeout_s: float, first: int = _FIRST) -> None:
        self._most = most
        self._timeout_s = timeout_s
        self._limit = float(min(first, most))
        self._threshold = float(most)
        self._generation = 0
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._peak = 0
        self._taken = 0
        # The number of the slot that was the last free one.
        self._full = 0
        # The time without a queue, by server.
        self._floors: defaultdict[str, _Floors] = defaultdict(_Floors)
        self.strikes = 0

    @property
    def slots(self) -> int:
        """Requests that may be in flight at once: 1 to `most`."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return self._in_flight

    def was_alone(self, slot: Slot) -> bool:
        """Return whether no other request is in flight, nor was since a slot was taken.

        What fails then, does not fail for the client's own load.
        """
        return self._in_flight == 1 and slot.number == self._taken and slot.was_first

    def take_peak(self) -> int:
        """Return the most requests that were in flight at once since the last call."""
        peak, self._peak = self._peak, self._in_flight
        return peak

    async def acquire(self, *, is_next: bool = False) -> Slot:
        """Take a slot, waiting for it; `release` gives it back.

        `is_next`: ahead of all that wait.
        """
        if self._waiting or self._in_flight >= self.slots:
            await self._turn(is_next)
        else:
            self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        self._taken += 1
        was_first = self._in_flight == 1
        if self._in_flight >= self.slots:
            self._full = self._taken
        return Slot(self._taken, self._generation, was_first)

    def release(self) -> None:
        """Give a slot back."""
        self._in_flight -= 1
        self._admit()

    @asynccontextmanager
    async def slot(self, *, is_next: bool = False) -> AsyncIterator[Slot]:
        """Hold a slot, waiting for it as `acquire` does."""
        slot = await self.acquire(is_next=is_next)
        try:
            yield slot
        finally:
            self.release()

    def answered(self, slot: Slot, rows: int, latency_s: float, server: str = "") -> None:
        """Note an answer to `rows` rows after `latency_s`, before its slot is released.

        `server` names who has answered, where requests go to several that are not equally quick.
        """
        self.strikes = 0
        floor_s = self._floors[server].of(rows, latency_s)
        queue_s = latency_s - floor_s
        most_s = max(_QUEUE_RATIO * floor_s, _MIN_QUEUE_S)
        if queue_s > min(most_s, _QUEUE_SHARE * self._timeout_s):
            if slot.generation == self._generation:
                self._generation += 1
                self._decrease(_QUEUEING)
        # Where slots stayed free, more would not help: nothing is known of what they would meet.
        elif slot.number <= self._full:
            is_slow_start = self._limit < self._threshold and queue_s <= _QUEUE_OF_START * floor_s
            self._limit += 1.0 if is_slow_start else _INCREASE / self._limit
            self._limit = min(self._most, self._limit)
            self._admit()

    def failed(self, slot: Slot, left: float = 1.0) -> bool:
        """Note a failure, and leave a share of the limit; return whether it counts.

        Failures of requests that were sent before the last decrease count as that one.
        """
        if slot.generation != self._generation:
            return False
        self._generation += 1
        self.strikes += 1
        if left < 1.0:
            self._decrease(left)
            if self.strikes > 1:
                self.collapse()
        return True

    def collapse(self) -> None:
        """Leave one slot."""
        self._limit = 1.0

    def _decrease(self, left: float) -> None:
        self._limit = self._threshold = max(1.0, self._limit * left)

    async def _turn(self, is_next: bool) -> None:
        turn = asyncio.get_running_loop().create_future()
        if is_next:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):
                    self._waiting.remove(turn)
            else:
                # The slot was given just before.
                self.release()
            raise

    def _admit(self) -> None:
        while self._waiting and self._in_flight < self.slots:
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._in_flight += 1
                turn.set_result(None)
