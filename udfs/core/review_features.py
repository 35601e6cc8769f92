"""What the anomaly detector looks at in a category's reviews."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from udfs.core.anomaly import AnomalyDetector
from udfs.core.scored_records import ScoredReview

RECENT_BODIES = 200
NEAR_BITS = 12
"""Bodies are near duplicates if so few of the 64 bits of their fingerprints differ."""

_MOST_COUNTED, _ALLOWANCE, _MOST_REPEATED = 8, 1.5, 60.0

_RATE_REVIEWS = 20
_LEAST_SPAN_S = 0.001
_USUAL_RATING_REVIEWS = 2_000
_MASK = 0xFFFFFFFFFFFFFFFF


class ReviewFeatures:
    """Makes the features of a category's reviews, in the order of their arrival.

    `star_rating`: as predicted. `rating_gap`: that less the category's own average so far.
    `log_body_length`: ln(1 + characters). `log_arrival_rate`: ln of reviews a second, over the
    last 20, by the latest event time so far. `near_duplicates`: a cumulative sum (E. S. Page,
    "Continuous Inspection Schemes", Biometrika, 1954) of how many of the last 200 bodies are near
    duplicates of each, at most 8, less 1.5: it stays about 0 as long as people find their own
    words, and grows by what a campaign repeats.

    Notes
    -----
    State: about 2 KiB. A feature is left out until there is something to compare with.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        saved = state or {}
        self._fingerprints = deque[int](saved.get("fingerprints", ()), maxlen=RECENT_BODIES)
        self._latest_ms = deque[int](saved.get("latest_ms", ()), maxlen=_RATE_REVIEWS)
        self._usual_rating: float = saved.get("usual_rating", 0.0)
        self._rated: int = saved.get("rated", 0)
        self._repeated: float = saved.get("repeated", 0.0)

    def observe(self, review: ScoredReview) -> dict[str, float]:
        """Return the features of the newest review, and take note of it."""
        rating = float(review.star_rating)
        x = {"star_rating": rating, "log_body_length": math.log1p(review.body_length)}
        if self._rated:
            x["rating_gap"] = rating - self._usual_rating
        self._rated = min(self._rated + 1, _USUAL_RATING_REVIEWS)
        self._usual_rating += (rating - self._usual_rating) / self._rated

        latest = self._latest_ms
        # Event times are in disorder: what has come cannot be earlier than what had come.
        now_ms = max(review.event_time_ms, latest[-1]) if latest else review.event_time_ms
        if len(latest) == _RATE_REVIEWS:
            span_s = max(_LEAST_SPAN_S, (now_ms - latest[0]) / 1_000)
            x["log_arrival_rate"] = math.log(_RATE_REVIEWS / span_s)
        latest.append(now_ms)

        recent, own = self._fingerprints, review.simhash & _MASK
        if recent:
            near = sum([(own ^ other).bit_count() <= NEAR_BITS for other in recent]) if own else 0
            grown = self._repeated + min(near, _MOST_COUNTED) - _ALLOWANCE
            self._repeated = max(0.0, min(_MOST_REPEATED, grown))
        x["near_duplicates"] = self._repeated
        if own:
            recent.append(own)
        return x

    def state(self) -> dict[str, Any]:
        """Return what the next features depend on, as JSON values."""
        return {
            "fingerprints": list(self._fingerprints),
            "latest_ms": list(self._latest_ms),
            "usual_rating": self._usual_rating,
            "rated": self._rated,
            "repeated": self._repeated,
        }


def make_review_detector(*, warm_up: int = 150) -> AnomalyDetector:
    """Return a detector for the features of a category's reviews: of sustained changes only."""
    return AnomalyDetector(
        windows=(30,),
        clip=math.inf,
        least_scale=0.3,
        hold=150,
        event_weight=0.0,
        most_correction=1.0,
        has_predictions=False,
        has_spread=False,
        has_seasons=False,
        warm_up=warm_up,
        quiet=60,
        shift_after=3_000,
    )
