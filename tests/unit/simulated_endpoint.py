"""An endpoint in virtual time: capacity, queue or load shedding, latency, variants, poison rows."""

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from udfs.core.failures import EndpointError, FailureKind
from udfs.core.invocations import Answer
from udfs.core.predictions import ScoreReason

Poison = Literal["reject", "fail", "malformed", "hang", "crash"]
Overload = Literal["queue", "throttle", 0, 429, 500, 502, 503, 504]

_REFUSED_AFTER_S = 0.002


def rating_of(text: str) -> int:
    return sum(text.encode()) % 5 + 1


@dataclass(kw_only=True)
class SimulatedVariant:
    """One production variant: a container that serves `capacity` requests at once.

    Beyond that it queues, or refuses: with the service's throttling or with an original status.
    """

    capacity: int = 32
    overload: Overload = "queue"
    latency_s: float = 0.02
    row_s: float = 0.001
    weight: float = 1.0
    # Whether it stops working on a request whose client has left; a row on which it hangs occupies
    # it for `hang_s` otherwise.
    notices_departures: bool = True
    hang_s: float = 60.0
    recovery_s: float = 0.5
    broken_status: int | None = None
    # Larger requests are rejected.
    most_rows: int | None = None
    # Share of the requests that fail with status 503, whatever they are.
    failure_rate: float = 0.0

    served: int = field(default=0, init=False)
    requests: int = field(default=0, init=False)
    # Rows that it has answered.
    rows: int = field(default=0, init=False)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque, init=False)
    under_way: set[asyncio.Task[Answer]] = field(default_factory=set, init=False)
    down_until_s: float = field(default=0.0, init=False)

    def place(self) -> asyncio.Future[None]:
        """Take a place, or queue for it: the future is done when the request is served."""
        place = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        self._admit()
        return place

    def leave(self, place: asyncio.Future[None]) -> None:
        """Free a place, or leave the queue."""
        if place in self.waiting:
            self.waiting.remove(place)
        else:
            self.served -= 1
            self._admit()

    def _admit(self) -> None:
        while self.waiting and self.served < self.capacity:
            self.served += 1
            place = self.waiting.popleft()
            if not place.done():
                place.set_result(None)


class SimulatedEndpoint:
    """An `Invoke`."""

    def __init__(
        self,
        variants: Mapping[str, SimulatedVariant],
        poison: Mapping[str, Poison] | None = None,
        seed: int = 0,
    ) -> None:
        self.variants = dict(variants)
        self.poison = dict(poison or {})
        self.requests = 0
        # Requests that name no variant, and that it gave to a broken one.
        self.misrouted = 0
        self._random = random.Random(seed)

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Answer:
        self.requests += 1
        if variant is not None and variant not in self.variants:
            await asyncio.sleep(_REFUSED_AFTER_S)
            raise EndpointError(f"no variant {variant}", FailureKind.VARIANT)
        name = variant or self._chosen()
        its = self.variants[name]
        its.requests += 1
        self.misrouted += variant is None and its.broken_status is not None
        refusal = self._refusal(its, name)
        if refusal is not None:
            await asyncio.sleep(_REFUSED_AFTER_S)
            raise refusal
        # Taken at once: those that come at the same time find it taken.
        place = its.place()
        task = asyncio.ensure_future(self._served(its, name, list(texts), place))
        its.under_way.add(task)
        task.add_done_callback(its.under_way.discard)
        task.add_done_callback(lambda done: its.leave(place))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by a crash
                raise status(0, name) from None
            if its.notices_departures:
                task.cancel()
            raise

    def _chosen(self) -> str:
        names = list(self.variants)
        return self._random.choices(names, [self.variants[name].weight for name in names])[0]

    def _refusal(self, its: SimulatedVariant, name: str) -> EndpointError | None:
        if asyncio.get_running_loop().time() < its.down_until_s:
            return status(503, name)
        if its.broken_status is not None:
            return status(its.broken_status, name)
        if self._random.random() < its.failure_rate:
            return status(503, name)
        if its.served >= its.capacity and its.overload != "queue":
            if its.overload == "throttle":
                return EndpointError("ThrottlingException", FailureKind.LOAD)
            return status(its.overload, name)
        return None

    async def _served(
        self, its: SimulatedVariant, name: str, texts: list[str], place: asyncio.Future[None]
    ) -> Answer:
        await place
        if its.most_rows is not None and len(texts) > its.most_rows:
            raise status(400, name)
        found = {self.poison[text] for text in texts if text in self.poison}
        if "hang" in found:
            await asyncio.sleep(its.hang_s)
            raise status(0, name)
        await asyncio.sleep(its.latency_s + its.row_s * len(texts))
        if "crash" in found:
            its.down_until_s = asyncio.get_running_loop().time() + its.recovery_s
            for other in its.under_way - {asyncio.current_task()}:
                other.cancel()
            raise status(502, name)
        if "reject" in found:
            raise status(400, name)
        if "fail" in found:
            raise status(500, name)
        its.rows += len(texts)
        labels = [rating_of(text) for text in texts]
        return Answer(labels[1:] if "malformed" in found else labels, name)


def status(original: int, variant: str) -> EndpointError:
    """Return the error of a container's status, as the client classifies it."""
    if original in (0, 408, 429, 502, 503, 504):
        kind = FailureKind.LOAD
    else:
        kind = FailureKind.ROWS if original < 500 else FailureKind.MODEL
    return EndpointError(
        f"ModelError, original status {original}",
        kind,
        reason=ScoreReason.MODEL_ERROR,
        variant=variant,
    )
