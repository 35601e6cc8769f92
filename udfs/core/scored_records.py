"""A record of `scored-reviews` as its readers take it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, ValidationError

from udfs.core.keys import InvalidKeyError, normalised_key
from udfs.core.parsing import ParseReason
from udfs.core.validation import problems_of

MAX_LEAD_S = 86_400
"""How far the event time of a scored review may lie after its arrival, in seconds.

The parser keeps it far below that (`max_event_lead_s`); a window of a later year would stay
open for as long as the job runs.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# The end of a window must be a timestamp of pandas, the last of which is in the year 2262.
_END_MS = (datetime(2262, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND

_MAX_PLACE_CHARACTERS = 256

_Text = Annotated[str, StringConstraints(strict=True)]
_Place = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=_MAX_PLACE_CHARACTERS)
]


class _Fields(BaseModel):
    source_stream: _Place
    source_shard: _Place
    source_sequence_number: _Place
    # Records of earlier releases have none, nor a lane.
    source_part: Annotated[str, StringConstraints(strict=True, max_length=64)] | None = None
    review_id: _Text
    star_rating: Annotated[int, Field(strict=True, ge=1, le=5)]
    product_category: _Text
    review_body: _Text
    event_time: Annotated[AwareDatetime, Field(strict=True)]
    lane: Annotated[str, StringConstraints(strict=True, max_length=32)] | None = None


class _Body(BaseModel):
    review_body: str


_REASONS = {
    "json_invalid": ParseReason.NOT_JSON,
    "model_type": ParseReason.NOT_OBJECT,
    "model_attributes_type": ParseReason.NOT_OBJECT,
    "missing": ParseReason.MISSING_FIELD,
}


@dataclass(frozen=True, slots=True)
class ScoredReview:
    """A review with its predicted rating (1 to 5); `event_time_ms` counts from the epoch.

    The first three fields and `source_part` are its identity: see `udfs.core.source_ids`.
    `simhash` is the fingerprint of its body (`udfs.core.simhash`), 0 where it is not known;
    `excerpt` is how the body begins.
    """

    source_stream: str
    source_shard: str
    source_sequence_number: str
    review_id: str
    star_rating: int
    product_category: str
    body_length: int
    event_time_ms: int
    simhash: int = 0
    excerpt: str = ""
    source_part: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is not a scored review: a reason code and a sentence."""

    reason: ParseReason
    message: str


def read(payload: bytes | None, arrival_time_ms: int | None = None) -> ScoredReview | Unreadable:
    """Read one record of `scored-reviews`; never raises, whatever the bytes.

    Fields that are not needed here are ignored. `body_length` counts characters.

    Parameters
    ----------
    payload
        The record's bytes.
    arrival_time_ms
        When Kinesis took the record, in milliseconds since the epoch: an event time more than
        `MAX_LEAD_S` later is refused. None: not known.

    Examples
    --------
    >>> read(b"{}").reason.value
    'missing_field'
    """
    return read_with_details(payload, arrival_time_ms)[0]


def read_with_details(
    payload: bytes | None, arrival_time_ms: int | None = None
) -> tuple[ScoredReview | Unreadable, str | None, str | None]:
    """Return what `read` does, the body of a review, and the lane that it was scored in."""
    try:
        fields = _Fields.model_validate_json(payload or b"")
    except ValidationError as error:
        return _unreadable(error), None, None
    keys = {}
    for name, value in (
        ("review_id", fields.review_id),
        ("product_category", fields.product_category),
    ):
        # Records of earlier releases may hold keys that are not normalised.
        try:
            keys[name] = normalised_key(value)
        except InvalidKeyError as error:
            return Unreadable(ParseReason(error.reason), f"{name} {error}"), None, None
    event_time_ms = (fields.event_time - _EPOCH) // _MILLISECOND
    if (problem := _time_problem(event_time_ms, arrival_time_ms)) is not None:
        return problem, None, None
    review = ScoredReview(
        fields.source_stream,
        fields.source_shard,
        fields.source_sequence_number,
        keys["review_id"],
        fields.star_rating,
        keys["product_category"],
        len(fields.review_body),
        event_time_ms,
        source_part=fields.source_part,
    )
    return review, fields.review_body, fields.lane


def body_of(payload: bytes) -> str:
    """Return the text of a record that `read` takes for a review.

    The same parser as that of `read`: another one may refuse what this one has taken.
    """
    return _Body.model_validate_json(payload).review_body


def _unreadable(error: ValidationError) -> Unreadable:
    first = error.errors(include_input=False, include_url=False)[0]
    reason = _REASONS.get(first["type"])
    if reason is None:
        bad_time = first["loc"] == ("event_time",)
        reason = ParseReason.BAD_EVENT_TIME if bad_time else ParseReason.WRONG_TYPE
    return Unreadable(reason, problems_of(error)[0][:200])


def _time_problem(event_time_ms: int, arrival_time_ms: int | None) -> Unreadable | None:
    if not 0 <= event_time_ms < _END_MS:
        return Unreadable(
            ParseReason.BAD_EVENT_TIME, "event_time is not within the years 1970 to 2261 (UTC)"
        )
    if arrival_time_ms is not None and event_time_ms - arrival_time_ms > MAX_LEAD_S * 1_000:
        lead_s = (event_time_ms - arrival_time_ms) / 1_000
        return Unreadable(
            ParseReason.EVENT_TIME_IN_FUTURE,
            f"event_time is {lead_s:.3f} s after the arrival, at most {MAX_LEAD_S} are allowed",
        )
    return None
