"""From scores to events: what is worth an alert, and how it is told."""

import json
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from udfs.core.anomaly import AnomalyDetector
from udfs.core.anomaly_alerts import Recent, alert_message, explain, newest_state, to_json
from udfs.core.review_features import Observed, ReviewFeatures
from udfs.core.scored_records import ScoredReview

STATE_VERSION = 2
"""Of what `AnomalyTracker.dump` writes."""

CALM_PROBABILITY = 0.01
CALM_REVIEWS = 60
"""So many reviews with at least that tail probability, one after the other, close an event."""

COOL_DOWN_REVIEWS = 100
"""An anomaly so soon after an event has closed belongs to it, without another alert."""

RECORDS = 30
"""So many of the newest reviews an alert looks back on."""

_FIRST_VERSION = 1


class StateVersionError(ValueError):
    """The state is of a version that this release does not read."""


class Judgement(NamedTuple):
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
    >>> [judgement.anomaly_score for judgement in tracker.track([review, review])]
    [0.0, 0.0]
    """

    def __init__(self, detector: AnomalyDetector, threshold: float, events: int = 0) -> None:
        self._detector = detector
        self._features = ReviewFeatures()
        self._threshold = threshold
        self._events = events
        self._is_open = False
        self._calm = 0
        self._since_closed = COOL_DOWN_REVIEWS if not events else 0
        self._newest = deque[Recent](maxlen=RECORDS)

    @property
    def events(self) -> int:
        """Number of the latest event."""
        return self._events

    def track(self, reviews: Sequence[ScoredReview]) -> list[Judgement]:
        """Judge reviews in the order of their arrival, and learn from each before the next.

        However they are split into calls, the judgements are the same; many in one call are
        quicker.
        """
        observed = self._features.observe(reviews)
        return [self._track(*each) for each in zip(reviews, observed, strict=True)]

    def _track(self, review: ScoredReview, observed: Observed) -> Judgement:
        self._newest.append(
            Recent(
                review.review_id,
                review.star_rating,
                review.body_length,
                observed.near_duplicates,
                review.event_time_ms,
                review.source_stream,
                review.source_shard,
                review.source_sequence_number,
                review.excerpt,
                review.source_part,
            )
        )
        observation = self._detector.observe(observed.x, self._threshold)
        probability = observation.tail_probability
        anomaly_score = 1.0 - probability
        is_anomaly = anomaly_score >= self._threshold
        is_news = is_anomaly and self._open()
        event_id = f"{review.product_category}-{self._events}" if self._is_open else None
        self._advance(probability)
        if not is_anomaly or event_id is None:
            return Judgement(anomaly_score, False, None, event_id, None)
        explanation = explain(observation.findings)
        alert = None
        if is_news:
            category, newest = review.product_category, tuple(self._newest)
            alert = alert_message(
                event_id, category, probability, self._threshold, explanation, newest
            )
        return Judgement(anomaly_score, True, to_json(explanation), event_id, alert)

    def _open(self) -> bool:
        """Return whether the anomaly that has come is news: neither in an event nor just after."""
        is_news = not self._is_open and self._since_closed >= COOL_DOWN_REVIEWS
        self._is_open = True
        self._events += is_news
        return is_news

    def _advance(self, probability: float) -> None:
        if not self._is_open:
            self._since_closed = min(self._since_closed + 1, COOL_DOWN_REVIEWS)
            return
        self._calm = self._calm + 1 if probability >= CALM_PROBABILITY else 0
        if self._calm >= CALM_REVIEWS:
            self._is_open, self._calm, self._since_closed = False, 0, 0

    def dump(self) -> bytes:
        """Return all that was learned, with its version; tens of kilobytes."""
        return to_json(
            {
                "version": STATE_VERSION,
                "events": self._events,
                "is_open": self._is_open,
                "calm": self._calm,
                "since_closed": self._since_closed,
                "newest": newest_state(self._newest),
                "features": self._features.state(),
                "detector": self._detector.state(),
            }
        ).encode()

    def load(self, data: bytes) -> None:
        """Go on from what `dump` returned. Threshold and the detector's parameters stay as given.

        Of version 1, whose detector looked at other things, only the number of the latest event is
        taken over: event ids go on, and what is usual is learned anew.

        Raises
        ------
        StateVersionError
            The version is one that this release does not know.
        """
        state = json.loads(data)
        if state["version"] not in (_FIRST_VERSION, STATE_VERSION):
            raise StateVersionError(
                f"anomaly state of version {state['version']!r};"
                f" this release reads {_FIRST_VERSION} and {STATE_VERSION}"
            )
        self._events = state["events"]
        if state["version"] == _FIRST_VERSION:
            return
        self._is_open = state["is_open"]
        self._calm = state["calm"]
        self._since_closed = state["since_closed"]
        self._newest = deque((Recent(**each) for each in state["newest"]), maxlen=RECORDS)
        self._features = ReviewFeatures(state["features"])
        self._detector.restore(state["detector"])
