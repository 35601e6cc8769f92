"""Records that the jobs write, as the recorder reads them: every field that it uses is checked."""

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from deploy.local.windows import epoch_ms
from udfs.core.sketches import DistinctSketch
from udfs.core.validation import problems_of

_END_MS = epoch_ms("9999-01-01T00:00:00Z")


def _time(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not 0 <= epoch_ms(text) < _END_MS:
        raise ValueError("not a time with a zone, of the years 1970 to 9998")
    return text


def _sketch(text: str) -> str:
    DistinctSketch.from_bytes(base64.b64decode(text, validate=True))
    return text


_Time = Annotated[str, AfterValidator(_time)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class Output(BaseModel):
    """A record; fields that nothing reads are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class OfReview(Output):
    """A line of the raw archive or the scored one: of which review it is."""

    source_shard: str
    source_sequence_number: str
    source_part: str | None


class ScoredOutput(OfReview):
    """A record of `scored-reviews`."""

    review_id: str
    star_rating: Annotated[int, Field(ge=1, le=5)]
    product_category: str
    review_body: str
    model_variant: str
    event_time: _Time


class DeadLetterOutput(OfReview):
    """A record of `dead-letters`."""

    source_stream: str
    stage: str
    reason: str


class WindowOutput(Output):
    """A record of `review-metrics`, or a line of its archive."""

    window: str
    window_start: _Time
    window_end: _Time
    product_category: str
    reviews: _Count
    avg_star_rating: float
    rating_counts: Annotated[list[_Count], Field(min_length=5, max_length=5)]
    distinct_reviews: float
    distinct_lower: float
    distinct_upper: float
    sketch: Annotated[str, AfterValidator(_sketch)]


class AnomalyOutput(OfReview):
    """A record of `rating-anomalies`."""

    product_category: str
    event_time: _Time
    anomaly_score: float
    is_anomaly: bool
    event_id: str | None


class AlertOutput(OfReview):
    """A message of the topic."""

    product_category: str
    event_time: _Time
    anomaly_score: float
    event_id: str
    summary: str


def json_object(data: object) -> Mapping[str, Any]:
    """Return a JSON object; of anything else, an object without a field that is looked for."""
    try:
        value = json.loads(data)  # type: ignore[arg-type]  # a TypeError where it is not text
    except (TypeError, ValueError, RecursionError) as error:
        return {"not JSON": str(error)}
    return value if isinstance(value, dict) else {"not an object": type(value).__name__}


def problem(model: type[Output], fields: Mapping[str, Any]) -> str | None:
    """Say why a record cannot be read; None where it can.

    >>> problem(OfReview, json_object(b"[]"))
    "source_shard: Field required, fields: ['not an object']"
    """
    try:
        model.model_validate(fields)
    except ValidationError as error:
        return f"{problems_of(error)[0]}, fields: {sorted(fields)!a}"[:300]
    return None
