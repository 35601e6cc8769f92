"""What can go wrong at the local endpoint, on purpose: delays, queues, errors, wrong answers."""

import asyncio
import random
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

ERROR_STATUSES: dict[str, int] = {
    "ThrottlingException": 400,
    "ValidationError": 400,
    "ModelError": 424,
    "ModelNotReadyException": 429,
    "InternalFailure": 500,
    "ServiceUnavailable": 503,
    "InternalDependencyException": 530,
}
"""Errors that can be injected, with their HTTP status (Amazon SageMaker Runtime API)."""

THROTTLED = "ThrottlingException"
RESET, HANG, SHORT, MALFORMED = "reset", "hang", "short_answer", "malformed_answer"

_MAX_LATENCY_MS = 600_000


def _known(code: str) -> str:
    if code not in ERROR_STATUSES:
        raise ValueError(f"no such code; codes: {', '.join(ERROR_STATUSES)}")
    return code


ErrorCode = Annotated[str, AfterValidator(_known)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Latency = Annotated[float, Field(ge=0, le=_MAX_LATENCY_MS, allow_inf_nan=False)]


class Faults(BaseModel):
    """What to inject; by default nothing.

    Attributes
    ----------
    latency_ms, latency_ms_per_record
        A request is answered so much later; an injected error only by the first.
    max_served
        Requests that are served at once; the others queue, in order. None: all.
    max_queued
        Requests that may queue; what comes beyond them is throttled. None: all. A lower bound
        throttles none of those that queue already.
    error_rates
        Share of the requests that are answered with an error, by code of `ERROR_STATUSES`.
    reset_rate, hang_rate
        Share of the requests whose connection is reset, or kept open without an answer: until the
        client leaves, the faults change or the server ends.
    short_answer_rate, malformed_answer_rate
        Share of the requests whose answer lacks its last label, or is cut off in the middle.
    labels
        `hash`: `hashed_rating` of each text instead of the model's label.

    Raises
    ------
    pydantic.ValidationError
        Values out of range, unknown names or codes; or, where there are none of these, shares that
        exceed 1 together, or `max_queued` without `max_served`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    latency_ms: Latency = 0.0
    latency_ms_per_record: Latency = 0.0
    max_served: Annotated[int | None, Field(ge=1)] = None
    max_queued: Annotated[int | None, Field(ge=0)] = None
    error_rates: dict[ErrorCode, Share] = Field(default_factory=dict)
    reset_rate: Share = 0.0
    hang_rate: Share = 0.0
    short_answer_rate: Share = 0.0
    malformed_answer_rate: Share = 0.0
    labels: Literal["model", "hash"] = "model"

    @model_validator(mode="after")
    def _fit(self) -> Self:
        problems = []
        total = sum(self.shares().values())
        # A little more is rounding: ten times 0.1.
        if total > 1 + 1e-9:
            problems.append(f"the shares of all faults make {total:g}, more than 1")
        if self.max_queued is not None and self.max_served is None:
            problems.append("max_queued needs max_served")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def shares(self) -> dict[str, float]:
        """Return the share of each fate but the good one."""
        return {
            **self.error_rates,
            RESET: self.reset_rate,
            HANG: self.hang_rate,
            SHORT: self.short_answer_rate,
            MALFORMED: self.malformed_answer_rate,
        }


def problems_of(error: ValidationError) -> list[str]:
    """Return a line for each problem of an invalid `Faults`: where, and what.

    >>> try:
    ...     Faults.model_validate({"labels": "random", "latency": 1})
    ... except ValidationError as error:
    ...     problems_of(error)
    ["labels: Input should be 'model' or 'hash'", 'latency: Extra inputs are not permitted']
    """
    return [
        ": ".join([*(str(part) for part in problem["loc"]), problem["msg"]])
        for problem in error.errors()
    ]


def hashed_rating(text: str) -> int:
    """Return a rating, 1 to 5, by a stable hash of the text, so that mixed-up rows show.

    >>> [hashed_rating(text) for text in ("good", "bad", "")]
    [5, 2, 1]
    """
    return 1 + zlib.crc32(text.encode(errors="surrogatepass")) % 5


class QueueFullError(Exception):
    """A request came when as many as may were served and waiting."""


class FaultInjector:
    """Decides what becomes of each request, and lets only so many be served at once.

    For one event loop.

    Parameters
    ----------
    faults
        At the start; `replace` changes them.
    seed
        Of the fates.
    sleep
        Waits for so many seconds; for tests.

    Attributes
    ----------
    faults
        The present ones.
    injected
        How many requests each befell, by error code or kind.
    served
        Requests being served.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        seed: int = 0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.faults = faults or Faults()
        self.injected: Counter[str] = Counter()
        self.served = 0
        # Of its own: the endpoint draws variants from the seed itself, which must not go together.
        self._random = random.Random(f"faults {seed}")
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """Requests that wait to be served."""
        return len(self._waiting)

    def replace(self, faults: Faults) -> None:
        """Change the faults: hangs end, and of those that wait so many are served as now may be."""
        self.faults = faults
        self._changed.set()
        self._changed = asyncio.Event()
        self._admit()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold one of the places of those that are served, waiting for it in order.

        Raises
        ------
        QueueFullError
            Too many wait already.
        """
        if self._is_full():
            most = self.faults.max_queued
            if most is not None and self.queued >= most:
                self.injected[THROTTLED] += 1
                raise QueueFullError
            await self._turn()
        else:
            self.served += 1
        try:
            yield
        finally:
            self._leave()

    def fate(self) -> str | None:
        """Draw what becomes of a request: an error code, a kind of fault, None for an answer."""
        draw = self._random.random()
        for name, share in self.faults.shares().items():
            draw -= share
            if draw < 0:
                self.injected[name] += 1
                return name
        return None

    async def delay(self, records: int) -> None:
        """Wait as long as an answer for so many records takes."""
        faults = self.faults
        latency_ms = faults.latency_ms + records * faults.latency_ms_per_record
        if latency_ms > 0:
            await self._sleep(latency_ms / 1000)

    def hang(self) -> Awaitable[object]:
        """Return what ends with the present faults, however late it is awaited."""
        return self._changed.wait()

    def _is_full(self) -> bool:
        most = self.faults.max_served
        return most is not None and self.served >= most

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
                # The place was given just before.
                self._leave()
            raise

    def _leave(self) -> None:
        self.served -= 1
        self._admit()

    def _admit(self) -> None:
        # Whoever leaves hands the place on: no newcomer can take it in between.
        while self._waiting and not self._is_full():
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self.served += 1
                turn.set_result(None)
