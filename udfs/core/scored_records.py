"""A record of `scored-reviews` as its readers take it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, ValidationError

from udfs.core.keys import InvalidKeyError, normalised_key
from udfs.core.parsing import ParseReason

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_Text = Annotated[str, StringConstraints(strict=True, min_length=1)]


class _Fields(BaseModel):
    source_stream: _Text
    source_shard: _Text
    source_sequence_number: _Text
    # Records of earlier releases have none, nor a lane.
    source_part: Annotated[str, StringConstraints(strict=True)] | None = None
    review_id: Annotated[str, StringConstraints(strict=True)]
    star_rating: Annotated[int, Field(strict=True, ge=1, le=5)]
    product_category: Annotated[str, StringConstraints(strict=True)]
    review_body: Annotated[str, StringConstraints(strict=True)]
    event_time: AwareDatetime
    lane: Annotated[str, StringConstraints(strict=True)] | None = None


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
    """A record that is no scored review: a reason code and a sentence."""

    reason: ParseReason
    message: str


def read(payload: bytes | None) -> ScoredReview | Unreadable:
    """Read one record of `scored-reviews`; never raises, whatever the bytes.

    Fields that are not needed here are not looked at. `body_length` counts characters.

    Examples
    --------
    >>> read(b"{}").reason.value
    'missing_field'
    """
    return read_with_details(payload)[0]


def read_with_details(
    payload: bytes | None,
) -> tuple[ScoredReview | Unreadable, str | None, str | None]:
    """Return what `read` does, the body of a review, and the lane that it was scored in."""
    try:
        fields = _Fields.model_validate_json(payload or b"")
        review = ScoredReview(
            fields.source_stream,
            fields.source_shard,
            fields.source_sequence_number,
            # Records of earlier releases may hold keys that are not normalised.
            normalised_key(fields.review_id),
            fields.star_rating,
            normalised_key(fields.product_category),
            len(fields.review_body),
            (fields.event_time - _EPOCH) // _MILLISECOND,
            source_part=fields.source_part,
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = _REASONS.get(first["type"])
        if reason is None:
            bad_time = place == "event_time"
            reason = ParseReason.BAD_EVENT_TIME if bad_time else ParseReason.WRONG_TYPE
        message = f"{place}: {first['msg']}" if place else first["msg"]
        return Unreadable(reason, message[:200]), None, None
    except InvalidKeyError as error:
        message = f"review_id or product_category {error}"
        return Unreadable(ParseReason(error.reason), message), None, None
    return review, fields.review_body, fields.lane
