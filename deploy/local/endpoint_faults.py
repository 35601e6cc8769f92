"""Faults of the local endpoint: delays, limits, errors, wrong answers, broken variants."""

import asyncio
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

MODEL_ERROR = "ModelError"
THROTTLED = "ThrottlingException"

ERROR_STATUSES: dict[str, int] = {
    THROTTLED: 400,
    "ValidationError": 400,
    MODEL_ERROR: 424,
    "ModelNotReadyException": 429,
    "InternalFailure": 500,
    "ServiceUnavailable": 503,
    "InternalDependencyException": 530,
}
"""Errors that can be injected, with their HTTP status (Amazon SageMaker Runtime API)."""

RESET, HANG, SHORT, MALFORMED = "reset", "hang", "short_answer", "malformed_answer"
HANG_TEXT, CRASH_TEXT = "hang_text", "crash_text"

_MAX_LATENCY_MS = 600_000
_MAX_HANG_S = 600


def _known(code: str) -> str:
    name, slash, status = code.partition("/")
    if name not in ERROR_STATUSES or (slash and (name != MODEL_ERROR or not status)):
        raise ValueError(f"unknown code; codes: {', '.join(ERROR_STATUSES)}, {MODEL_ERROR}/STATUS")
    return code


def _original(status: int) -> int:
    if status != 0 and not 400 <= status <= 599:
        raise ValueError(f"must be 0 or 400 to 599, got {status}")
    return status


def _served_variants(info: ValidationInfo) -> list[str] | None:
    context: dict[str, Any] = info.context or {}
    return context.get("variants")


def _served(variant: str, info: ValidationInfo) -> str:
    variants = _served_variants(info)
    if variants is not None and variant not in variants:
        raise ValueError(f"unknown variant {variant}; variants: {', '.join(variants)}")
    return variant


def _some_left(removed: list[str], info: ValidationInfo) -> list[str]:
    variants = _served_variants(info)
    if variants is not None and set(variants) <= set(removed):
        raise ValueError(f"at least one variant must remain of {', '.join(variants)}")
    return removed


ErrorCode = Annotated[str, AfterValidator(_known)]
OriginalStatus = Annotated[int, AfterValidator(_original)]
Variant = Annotated[str, AfterValidator(_served)]
Mark = Annotated[str, Field(min_length=1)]
Limit = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Latency = Annotated[float, Field(ge=0, le=_MAX_LATENCY_MS, allow_inf_nan=False)]


class Faults(BaseModel):
    """Faults to inject; by default none.

    An original status is that of the container behind a `ModelError`: 400 to 599, or 0, with which
    SageMaker reports that the container did not answer.

    Attributes
    ----------
    latency_ms, latency_ms_per_record
        Delay of each answer, and for each of its records. An injected error has only the first.
    variant_latency_ms
        Further delay by variant, of answers and injected errors.
    max_served, variant_max_served
        Requests served at once, in total and by variant. Further requests queue in order. None, or
        a variant without a number: unlimited.
    max_queued
        Requests that may wait for a place: all of them where `max_served` is reached, those for the
        same variant where only its own limit is. Further requests are shed. None: unlimited. A
        lower limit sheds none of the requests that wait already.
    shed_status
        Original status of the `ModelError` that shed requests get. None: they get SageMaker's own
        `ThrottlingException`.
    notices_departures
        Whether a request frees its place, or leaves the queue, as soon as its client disconnects.
        If false, it keeps both and takes its full time, as in a container that only writes the
        answer in the end. A prediction that has begun uses its thread in both cases.
    error_rates
        Share of the requests that get an error, by code of `ERROR_STATUSES`. `ModelError/STATUS`
        has that original status instead of 500. One that is not a number is sent as a string, on
        which botocore fails with a `ValueError`, not a `ClientError`.
    reset_rate, hang_rate
        Share of the requests whose connection is reset, or kept open without an answer until the
        client disconnects, the faults change or the server stops.
    short_answer_rate, malformed_answer_rate
        Share of the requests whose answer lacks its last label, or is cut off in the middle.
    hang_text
        A request with a text that contains this mark hangs and keeps its place for `hang_s`. Then
        it is answered with a `ModelError` of original status 0. When the faults change, its
        connection is closed.
    hang_s
        Limit of SageMaker for a container's answer.
    crash_text
        A request with a text that contains this mark crashes its variant's container. All requests
        that are served by it or queued for it get a `ModelError` of original status 0: SageMaker
        reports a container that breaks off the connection like one that does not answer.
    crash_recovery_ms
        Time after a crash in which the variant answers with a `ModelError` of original status 503.
        It ends early when the faults change.
    reject_text, reject_status
        A request with a text that contains this mark is answered with a `ModelError` of this
        original status. Of several marks in one request, a crash comes first, then a hang.
    broken_variants
        Original status of the `ModelError` that a variant always answers with.
    removed_variants
        Variants that are not found by name and get no traffic; at least one must remain.
    labels
        `hash`: `hashed_rating` of each text instead of the model's label.

    Raises
    ------
    pydantic.ValidationError
        Values out of range, unknown names, codes or, where the validation context has the served
        `variants`, variants. Without any of these: shares that exceed 1 together, `max_queued`
        without a limit on served requests, or `shed_status` without `max_queued`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    latency_ms: Latency = 0.0
    latency_ms_per_record: Latency = 0.0
    variant_latency_ms: dict[Variant, Latency] = Field(default_factory=dict)
    max_served: Limit | None = None
    variant_max_served: dict[Variant, Limit] = Field(default_factory=dict)
    max_queued: Annotated[int | None, Field(ge=0)] = None
    shed_status: OriginalStatus | None = None
    notices_departures: bool = False
    error_rates: dict[ErrorCode, Share] = Field(default_factory=dict)
    reset_rate: Share = 0.0
    hang_rate: Share = 0.0
    short_answer_rate: Share = 0.0
    malformed_answer_rate: Share = 0.0
    hang_text: Mark | None = None
    hang_s: Annotated[float, Field(gt=0, le=_MAX_HANG_S, allow_inf_nan=False)] = 60.0
    crash_text: Mark | None = None
    crash_recovery_ms: Latency = 500.0
    reject_text: Mark | None = None
    reject_status: OriginalStatus = 400
    broken_variants: dict[Variant, OriginalStatus] = Field(default_factory=dict)
    removed_variants: Annotated[list[Variant], AfterValidator(_some_left)] = Field(
        default_factory=list
    )
    labels: Literal["model", "hash"] = "model"

    @model_validator(mode="after")
    def _fit(self) -> Self:
        problems = []
        total = sum(self.shares().values())
        # A little more is rounding: ten times 0.1.
        if total > 1 + 1e-9:
            problems.append(f"the shares of all faults make {total:g}, more than 1")
        if self.max_queued is not None and self.max_served is None and not self.variant_max_served:
            problems.append("max_queued needs max_served or variant_max_served")
        if self.shed_status is not None and self.max_queued is None:
            problems.append("shed_status needs max_queued")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def has_marks(self) -> bool:
        """Whether the fate of a request depends on its texts."""
        return any((self.hang_text, self.crash_text, self.reject_text))

    def shares(self) -> dict[str, float]:
        """Return the share of each fault that is drawn at random."""
        return {
            **self.error_rates,
            RESET: self.reset_rate,
            HANG: self.hang_rate,
            SHORT: self.short_answer_rate,
            MALFORMED: self.malformed_answer_rate,
        }

    def checked(self, variants: Iterable[str]) -> Self:
        """Return the same faults, after checking that they name only these variants.

        Raises
        ------
        pydantic.ValidationError
            They name others, or remove all.
        """
        return self.model_validate(self.model_dump(), context={"variants": list(variants)})


def parsed_faults(body: str | bytes, variants: Iterable[str]) -> Faults:
    """Read faults, as JSON, of an endpoint with these variants.

    Raises
    ------
    pydantic.ValidationError
        Not JSON, or invalid, see `Faults`.
    """
    return Faults.model_validate_json(body, context={"variants": list(variants)})


def original_status(code: str) -> int | str:
    """Return the original status of a `ModelError` code.

    >>> [original_status(code) for code in ("ModelError", "ModelError/0", "ModelError/abc")]
    [500, 0, 'abc']
    """
    status = code.partition("/")[2] or "500"
    return int(status) if status.isdecimal() else status


def hashed_rating(text: str) -> int:
    """Return a rating, 1 to 5, by a stable hash of the text, so that a mix-up of rows shows.

    >>> [hashed_rating(text) for text in ("good", "bad", "")]
    [5, 2, 1]
    """
    return 1 + zlib.crc32(text.encode(errors="surrogatepass")) % 5


class FaultInjector:
    """Decides what happens to each request.

    For one event loop.

    Parameters
    ----------
    faults
        At the start; `replace` changes them.
    seed
        Of the random fates.

    Attributes
    ----------
    faults
        The present ones.
    injected
        Number of requests by the fault that they met.
    """

    def __init__(self, faults: Faults | None = None, *, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self.injected: Counter[str] = Counter()
        # Separate from the endpoint's own generator, or variants and fates would correlate.
        self._random = random.Random(f"faults {seed}")
        self._changed = asyncio.Event()

    def replace(self, faults: Faults) -> None:
        """Change the faults and end all hangs."""
        self.faults = faults
        self._changed.set()
        self._changed = asyncio.Event()

    def fate(self, variant: str, texts: Sequence[str] = ()) -> str | None:
        """Decide what happens to a request: an error code, a kind of fault, None for an answer."""
        name, fate = self._certain(variant, texts) or self._drawn() or (None, None)
        if name is not None:
            self.injected[name] += 1
        return fate

    async def delay(self, variant: str, records: int = 0) -> None:
        """Wait as long as an answer with this number of records takes, or an error."""
        faults = self.faults
        latency_ms = (
            faults.latency_ms
            + faults.variant_latency_ms.get(variant, 0.0)
            + records * faults.latency_ms_per_record
        )
        if latency_ms > 0:
            await asyncio.sleep(latency_ms / 1000)

    async def hang(self, *events: asyncio.Event, timeout_s: float | None = None) -> bool:
        """Wait for a change of the faults or another event; return False if neither came."""
        waits = [asyncio.create_task(event.wait()) for event in (self._changed, *events)]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            return bool(done)
        finally:
            for wait in waits:
                wait.cancel()

    def _certain(self, variant: str, texts: Sequence[str]) -> tuple[str, str] | None:
        faults = self.faults
        if variant in faults.broken_variants:
            return "broken_variant", f"{MODEL_ERROR}/{faults.broken_variants[variant]}"
        for name, mark, fate in (
            (CRASH_TEXT, faults.crash_text, CRASH_TEXT),
            (HANG_TEXT, faults.hang_text, HANG_TEXT),
            ("reject_text", faults.reject_text, f"{MODEL_ERROR}/{faults.reject_status}"),
        ):
            if mark is not None and any(mark in text for text in texts):
                return name, fate
        return None

    def _drawn(self) -> tuple[str, str] | None:
        draw = self._random.random()
        for name, share in self.faults.shares().items():
            draw -= share
            if draw < 0:
                return name, name
        return None
