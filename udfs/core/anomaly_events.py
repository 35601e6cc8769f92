"""From scores to events: what is worth an alert, and how it is told."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from udfs.core.anomaly import Finding, ShiftDetector, score
from udfs.core.scored_records import ScoredReview

STATE_VERSION = 1
"""Of what `AnomalyTracker.dump` writes."""

CALM_REVIEWS = 20
"""So many reviews below the threshold, one after the other, close an event."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SMALLEST = 1e-300
_SHARE_TOLD = 0.2


class StateVersionError(ValueError):
    """The state is of a version that this release does not read."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a review tells about its category.

    Attributes
    ----------
    anomaly_score
        One minus a tail probability, 0 to 1.
    is_anomaly
        The score has reached the threshold.
    explanation
        JSON object, a member for each feature: see `explain`. None unless `is_anomaly`.
    event_id
        `CATEGORY-NUMBER`, numbered from 1, of the event that the review belongs to. None outside.
    alert
        JSON object to send, where an event opens; else None.
    """

    anomaly_score: float
    is_anomaly: bool
    explanation: str | None
    event_id: str | None
    alert: str | None


class AnomalyTracker:
    """Follows one category: scores its reviews in turn and gathers anomalies into events.

    The first anomaly opens an event and gives an alert. All reviews from there on belong to it,
    until `CALM_REVIEWS` of them in a row are no anomalies: the last of these closes it.

    Parameters
    ----------
    detector
        Of this category alone.
    threshold
        Score from which on a review is an anomaly, 0 to 1.
    events
        Number of the latest event, 0 before the first.

    Notes
    -----
    Which reviews come in which order decides everything: there is neither clock nor chance. The
    order is that of arrival, not of event times.

    Examples
    --------
    >>> from udfs.core.anomaly import make_detector
    >>> tracker = AnomalyTracker(make_detector(), threshold=0.99999)
    >>> def review(number: int, star_rating: int) -> ScoredReview:
    ...     return ScoredReview("reviews", "shard", str(number), "R", star_rating, "Books", 80, 0)
    >>> for number in range(100):
    ...     judgement = tracker.track(review(number, 4 + number % 2))
    >>> judgement.is_anomaly
    False
    >>> judgements = [tracker.track(review(number, 1)) for number in range(100, 120)]
    >>> [judgement.event_id for judgement in judgements if judgement.alert]
    ['Books-1']
    """

    def __init__(self, detector: ShiftDetector, threshold: float, *, events: int = 0) -> None:
        self._detector = detector
        self._threshold = threshold
        self._events = events
        self._is_open = False
        self._calm = 0

    @property
    def events(self) -> int:
        """Number of the latest event, 0 before the first."""
        return self._events

    def track(self, review: ScoredReview) -> Judgement:
        """Score a review, then learn from it."""
        x = features(review)
        findings = self._detector.examine_one(x)
        self._detector.learn_one(x)
        anomaly_score = score(findings)
        is_anomaly = anomaly_score >= self._threshold
        opens = is_anomaly and not self._is_open
        if opens:
            self._is_open = True
            self._events += 1
        event_id = f"{review.product_category}-{self._events}" if self._is_open else None
        self._calm = 0 if is_anomaly or not self._is_open else self._calm + 1
        if self._calm >= CALM_REVIEWS:
            self._is_open = False
        explanation = explain(findings) if is_anomaly else None
        alert = None
        if opens and event_id is not None and explanation is not None:
            alert = alert_message(review, event_id, anomaly_score, self._threshold, explanation)
        return Judgement(
            anomaly_score,
            is_anomaly,
            _json(explanation) if explanation is not None else None,
            event_id,
            alert,
        )

    def dump(self) -> bytes:
        """Return all that was learned, with its version; a few kilobytes."""
        return _json(
            {
                "version": STATE_VERSION,
                "events": self._events,
                "is_open": self._is_open,
                "calm": self._calm,
                "features": self._detector.state(),
            }
        ).encode()

    def load(self, data: bytes) -> None:
        """Go on from what `dump` returned. Threshold and the detector's parameters stay as given.

        Raises
        ------
        StateVersionError
            The version is another one.
        """
        state = json.loads(data)
        if state["version"] != STATE_VERSION:
            raise StateVersionError(
                f"anomaly state of version {state['version']!r}; this release reads {STATE_VERSION}"
            )
        self._events = state["events"]
        self._is_open = state["is_open"]
        self._calm = state["calm"]
        self._detector.restore(state["features"])


def features(review: ScoredReview) -> dict[str, float]:
    """Return what the detector looks at: the predicted rating, and how long the text is.

    `log_body_length` is ln(1 + characters).

    >>> features(ScoredReview("reviews", "shard", "1", "R1", 4, "Books", 0, 0))
    {'star_rating': 4.0, 'log_body_length': 0.0}
    """
    return {
        "star_rating": float(review.star_rating),
        "log_body_length": math.log1p(review.body_length),
    }


def explain(findings: Mapping[str, Finding]) -> dict[str, dict[str, float | str]]:
    """Return each feature's part in a score, the largest first.

    `share` is its part of the sum of all features' -log(tail probability), 0 to 1; the rest is
    that of `Finding`.

    >>> explain({"star_rating": Finding(0.001, 1.5, 4.0, 1.2)})["star_rating"]["direction"]
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
            "usual_mean": round(findings[name].usual_mean, 4),
            "usual_deviation": round(findings[name].usual_deviation, 4),
            "direction": findings[name].direction,
            "share": round(surprise[name] / total, 4) if total > 0 else 0.0,
        }
        for name in sorted(surprise, key=surprise.__getitem__, reverse=True)
    }


def alert_message(
    review: ScoredReview,
    event_id: str,
    anomaly_score: float,
    threshold: float,
    explanation: Mapping[str, Mapping[str, float | str]],
) -> str:
    """Return the JSON text of the alert for an event that this review opens."""
    event_time = _EPOCH + timedelta(milliseconds=review.event_time_ms)
    # The first has the largest share; another is told of where it has a part worth the words.
    changes = [
        f"{name.replace('_', ' ')} unusually {part['direction']}"
        f" ({part['recent_mean']:.2f} of late, usually {part['usual_mean']:.2f}"
        f" ± {part['usual_deviation']:.2f})"
        for position, (name, part) in enumerate(explanation.items())
        if position == 0 or float(part["share"]) >= _SHARE_TOLD
    ]
    return _json(
        {
            "summary": f"Reviews of {review.product_category} have changed: {'; '.join(changes)}.",
            "event_id": event_id,
            "product_category": review.product_category,
            "event_time": event_time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "anomaly_score": anomaly_score,
            "threshold": threshold,
            "review_id": review.review_id,
            "source_stream": review.source_stream,
            "source_shard": review.source_shard,
            "source_sequence_number": review.source_sequence_number,
            "explanation": explanation,
        }
    )


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)
