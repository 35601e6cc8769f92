"""From scores to events: what is worth an alert, and how it is told."""

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from udfs.core.anomaly import AnomalyDetector, Finding
from udfs.core.review_features import ReviewFeatures
from udfs.core.scored_records import ScoredReview

STATE_VERSION = 2
"""Of what `AnomalyTracker.dump` writes."""

CALM_PROBABILITY = 0.01
CALM_REVIEWS = 60
"""So many reviews with at least that tail probability, one after the other, close an event."""

COOL_DOWN_REVIEWS = 100
"""An anomaly so soon after an event has closed belongs to it, without another alert."""

EXAMPLES = 5

_SEVERITIES = ((1e-9, "critical"), (1e-6, "serious"))
_LEAST_SEVERITY = "notable"

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
    until `CALM_REVIEWS` of them in a row are not unusual at all: the last of these closes it. An
    anomaly within `COOL_DOWN_REVIEWS` more opens the same event again, in silence.

    Parameters
    ----------
    detector
        Of this category alone; see `udfs.core.review_features.make_review_detector`.
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
    >>> from udfs.core.review_features import make_review_detector
    >>> tracker = AnomalyTracker(make_review_detector(), threshold=0.9999)
    >>> review = ScoredReview("reviews", "shard", "1", "R1", 5, "Books", 80, 0, simhash=7)
    >>> tracker.track(review).anomaly_score
    0.0
    """

    def __init__(self, detector: AnomalyDetector, threshold: float, events: int = 0) -> None:
        self._detector = detector
        self._features = ReviewFeatures()
        self._threshold = threshold
        self._events = events
        self._is_open = False
        self._calm = 0
        self._since_closed = COOL_DOWN_REVIEWS if not events else 0
        self._reviews = 0
        self._newest = deque[tuple[str, int, str]](maxlen=EXAMPLES)

    @property
    def events(self) -> int:
        """Number of the latest event."""
        return self._events

    def track(self, review: ScoredReview) -> Judgement:
        """Judge a review, then learn from it."""
        self._reviews += 1
        self._newest.append((review.review_id, review.star_rating, review.source_sequence_number))
        observation = self._detector.observe(self._features.observe(review), self._threshold)
        probability = observation.tail_probability
        anomaly_score = 1.0 - probability
        is_anomaly = anomaly_score >= self._threshold
        is_news = False
        if is_anomaly and not self._is_open:
            self._is_open = True
            is_news = not self._events or self._since_closed >= COOL_DOWN_REVIEWS
            self._events += is_news
        event_id = f"{review.product_category}-{self._events}" if self._is_open else None
        self._advance(probability)
        explanation = explain(observation.findings) if is_anomaly else None
        alert = None
        if is_news and event_id is not None and explanation is not None:
            alert = self._alert(review, event_id, probability, explanation)
        return Judgement(
            anomaly_score,
            is_anomaly,
            _json(explanation) if explanation is not None else None,
            event_id,
            alert,
        )

    def _advance(self, probability: float) -> None:
        if not self._is_open:
            self._since_closed = min(self._since_closed + 1, COOL_DOWN_REVIEWS)
            return
        self._calm = self._calm + 1 if probability >= CALM_PROBABILITY else 0
        if self._calm >= CALM_REVIEWS:
            self._is_open, self._calm, self._since_closed = False, 0, 0

    def _alert(
        self,
        review: ScoredReview,
        event_id: str,
        probability: float,
        explanation: Mapping[str, Mapping[str, float | str]],
    ) -> str:
        """Return the JSON text of the alert for an event that this review opens."""
        event_time = _EPOCH + timedelta(milliseconds=review.event_time_ms)
        # The first has the largest share; another is told of where it has a part worth the words.
        changes = [
            f"{name.replace('_', ' ')} unusually {part['direction']}"
            f" ({part['recent_mean']:.2f} of late,"
            f" usually {part['usual_low']:.2f} to {part['usual_high']:.2f})"
            for position, (name, part) in enumerate(explanation.items())
            if position == 0 or float(part["share"]) >= _SHARE_TOLD
        ]
        return _json(
            {
                "summary": f"Reviews of {review.product_category} have changed: "
                f"{'; '.join(changes)}.",
                "severity": severity(probability),
                "event_id": event_id,
                "product_category": review.product_category,
                "event_time": event_time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "anomaly_score": 1.0 - probability,
                "tail_probability": probability,
                "threshold": self._threshold,
                "review_id": review.review_id,
                "source_stream": review.source_stream,
                "source_shard": review.source_shard,
                "source_sequence_number": review.source_sequence_number,
                "review_of_category": self._reviews,
                "explanation": explanation,
                "newest_reviews": [
                    {"review_id": key, "star_rating": rating, "source_sequence_number": number}
                    for key, rating, number in self._newest
                ],
            }
        )

    def dump(self) -> bytes:
        """Return all that was learned, with its version; tens of kilobytes."""
        return _json(
            {
                "version": STATE_VERSION,
                "events": self._events,
                "is_open": self._is_open,
                "calm": self._calm,
                "since_closed": self._since_closed,
                "reviews": self._reviews,
                "newest": [list(each) for each in self._newest],
                "features": self._features.state(),
                "detector": self._detector.state(),
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
        self._since_closed = state["since_closed"]
        self._reviews = state["reviews"]
        self._newest = deque(((k, r, n) for k, r, n in state["newest"]), maxlen=EXAMPLES)
        self._features = ReviewFeatures(state["features"])
        self._detector.restore(state["detector"])


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


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)
