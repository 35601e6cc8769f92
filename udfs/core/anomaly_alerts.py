"""Alerts: what has changed, how serious it is, and reviews that show it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from udfs.core.anomaly import Finding
from udfs.core.xml_text import xml_text

EXAMPLES = 5

_SEVERITIES = ((1e-9, "critical"), (1e-6, "serious"))
_LEAST_SEVERITY = "notable"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999
_SMALLEST = 1e-300
_SHARE_TOLD = 0.2

# How a feature is called, and how its figures read; None: its direction says all.
_WORDS: Mapping[str, tuple[str, Callable[[float], str] | None]] = {
    "star_rating": ("predicted rating", "{:.2f}".format),
    "rating_gap": ("rating against the category's own average", "{:+.2f}".format),
    "log_body_length": ("body length in characters", lambda value: f"{math.expm1(value):.0f}"),
    "log_arrival_rate": ("arrival rate a second", lambda value: f"{math.exp(value):.3g}"),
    "near_duplicates": ("share of bodies that are nearly the same", None),
}

Explanation = Mapping[str, Mapping[str, float | str]]


class Recent(NamedTuple):
    """One of the newest reviews of a category; times in milliseconds since the epoch.

    `near_duplicates` counts the recent bodies that its own is nearly the same as.
    """

    review_id: str
    star_rating: int
    body_length: int
    near_duplicates: int
    event_time_ms: int
    source_stream: str
    source_shard: str
    source_sequence_number: str
    excerpt: str
    # State of earlier releases has none.
    source_part: str | None = None


# By the feature that has changed the most: which reviews show it best. What comes first does.
_SHOWS: Mapping[str, Callable[[Recent], float]] = {
    "star_rating": lambda review: review.star_rating,
    "rating_gap": lambda review: review.star_rating,
    "log_body_length": lambda review: review.body_length,
    "near_duplicates": lambda review: review.near_duplicates,
}


def severity(probability: float) -> str:
    """Return how serious an event is that opens with such a tail probability.

    >>> severity(1e-5), severity(1e-7), severity(1e-12)
    ('notable', 'serious', 'critical')
    """
    return next((name for least, name in _SEVERITIES if probability < least), _LEAST_SEVERITY)


def explain(findings: Mapping[str, Finding]) -> dict[str, dict[str, float | str]]:
    """Return each feature's part in a score, the largest first.

    `share` is its part of the sum of all features' -log(tail probability), 0 to 1; the rest is
    that of `Finding`.

    >>> explain({"star_rating": Finding(0.001, 1.5, 3.6, 4.4)})["star_rating"]["direction"]
    'low'
    """
    surprise = {
        name: -math.log(max(_SMALLEST, finding.tail_probability))
        for name, finding in findings.items()
    }
    total = sum(surprise.values())
    return {
        name: {
            "recent_mean": round(findings[name].recent_mean, 4),
            "usual_low": round(findings[name].usual_low, 4),
            "usual_high": round(findings[name].usual_high, 4),
            "direction": findings[name].direction,
            "share": round(surprise[name] / total, 4) if total > 0 else 0.0,
        }
        for name in sorted(surprise, key=surprise.__getitem__, reverse=True)
    }


def alert_message(
    event_id: str,
    product_category: str,
    probability: float,
    threshold: float,
    explanation: Explanation,
    newest: Sequence[Recent],
) -> str:
    """Return the JSON text of the alert for an event: for people in `summary`, else for programs.

    No text in it has a character that subscribers refuse: see `xml_text`.

    Parameters
    ----------
    probability
        Tail probability of the review that opens the event.
    threshold
        Of scores.
    explanation
        As of `explain`.
    newest
        The newest reviews in the order of their arrival, that one last.
    """
    event_id, product_category = xml_text(event_id), xml_text(product_category)
    newest = [_sendable(review) for review in newest]
    opened = newest[-1]
    return to_json(
        {
            "summary": summary(product_category, severity(probability), explanation),
            "severity": severity(probability),
            "event_id": event_id,
            "product_category": product_category,
            "event_time": _iso(opened.event_time_ms),
            "anomaly_score": 1.0 - probability,
            "tail_probability": probability,
            "threshold": threshold,
            "review_id": opened.review_id,
            "source_stream": opened.source_stream,
            "source_shard": opened.source_shard,
            "source_sequence_number": opened.source_sequence_number,
            "source_part": opened.source_part,
            "explanation": explanation,
            "records": {
                "reviews": len(newest),
                "first": _place(newest[0]),
                "last": _place(opened),
            },
            "examples": [
                _place(each)
                | {
                    "star_rating": each.star_rating,
                    "near_duplicates": each.near_duplicates,
                    "excerpt": each.excerpt,
                }
                for each in examples(explanation, newest)
            ],
        }
    )


def summary(product_category: str, how_serious: str, explanation: Explanation) -> str:
    """Return one sentence for a person.

    >>> part = {"recent_mean": 1.4, "usual_low": 3.1, "usual_high": 4.6, "direction": "low"}
    >>> summary("Books", "serious", {"star_rating": part | {"share": 1.0}})
    'Serious: reviews of Books have changed: predicted rating low (1.40; usually 3.10 to 4.60).'
    """
    # The first has the largest share; another is told of where it has a part worth the words.
    changes = [
        _change(name, part)
        for position, (name, part) in enumerate(explanation.items())
        if position == 0 or float(part["share"]) >= _SHARE_TOLD
    ]
    return (
        f"{how_serious.capitalize()}: reviews of {product_category} have changed: "
        f"{'; '.join(changes)}."
    )


def examples(explanation: Explanation, newest: Sequence[Recent]) -> list[Recent]:
    """Return the reviews that show best what has changed the most; of equal ones the newest."""
    name, part = next(iter(explanation.items()))
    shows = _SHOWS.get(name, _arrival)
    sign = 1 if part["direction"] == "low" else -1
    latest_first = newest[::-1]
    return sorted(latest_first, key=lambda review: sign * shows(review))[:EXAMPLES]


def _sendable(review: Recent) -> Recent:
    return Recent._make(xml_text(each) if isinstance(each, str) else each for each in review)


def _arrival(review: Recent) -> float:
    return review.event_time_ms


def to_json(document: object) -> str:
    """Return JSON text without escapes of other characters than JSON's own."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def newest_state(newest: Iterable[Recent]) -> list[dict[str, object]]:
    """Return reviews as JSON values, such that `Recent(**value)` is the review."""
    return [each._asdict() for each in newest]


def _change(name: str, part: Mapping[str, float | str]) -> str:
    words, figure = _WORDS.get(name, (name.replace("_", " "), "{:.2f}".format))
    if figure is None:
        return f"{words} {part['direction']}"
    recent, low, high = (
        figure(float(part[key])) for key in ("recent_mean", "usual_low", "usual_high")
    )
    return f"{words} {part['direction']} ({recent}; usually {low} to {high})"


def _place(review: Recent) -> dict[str, object]:
    return {
        "review_id": review.review_id,
        "event_time": _iso(review.event_time_ms),
        "source_shard": review.source_shard,
        "source_sequence_number": review.source_sequence_number,
        "source_part": review.source_part,
    }


def _iso(time_ms: int) -> str:
    # A state that an earlier release has kept may hold times that are not dates.
    time = _EPOCH + timedelta(milliseconds=min(max(time_ms, 0), _LAST_MS))
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
