"""What the anomaly detector looks at in a category's reviews."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from udfs.core.anomaly import AnomalyDetector
from udfs.core.scored_records import ScoredReview
from udfs.core.simhash import bit_counts

RECENT_BODIES = 200
NEAR_BITS = 12
"""Bodies are near duplicates if so few of the 64 bits of their fingerprints differ."""

_MOST_COUNTED, _ALLOWANCE, _MOST_REPEATED = 8, 0.75, 30.0

_RATE_REVIEWS = 20
_LEAST_SPAN_S = 0.001
_USUAL_RATING_REVIEWS = 2_000
_BODIES_AT_ONCE = 512


class Observed(NamedTuple):
    """The features of a review, and how many recent bodies its own is a near duplicate of."""

    x: dict[str, float]
    near_duplicates: int


class ReviewFeatures:
    """Makes the features of a category's reviews, in the order of their arrival.

    `star_rating`: as predicted. `rating_gap`: that less the category's own average so far.
    `log_body_length`: ln(1 + characters). `log_arrival_rate`: ln of reviews a second, over the
    last 20, by the latest event time so far. `near_duplicates`: a cumulative sum (E. S. Page,
    "Continuous Inspection Schemes", Biometrika, 1954) of how many of the last 200 bodies are near
    duplicates of each, a half of at most 8, less 0.75: it stays about 0 as long as people find
    their own words, and grows by what a campaign repeats.

    Notes
    -----
    State: about 2 KiB. A feature is left out until there is something to compare with.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        saved = state or {}
        self._fingerprints = np.array(saved.get("fingerprints", ()), dtype=np.int64)
        self._latest_ms = deque[int](saved.get("latest_ms", ()), maxlen=_RATE_REVIEWS)
        self._usual_rating: float = saved.get("usual_rating", 0.0)
        self._rated: int = saved.get("rated", 0)
        self._repeated: float = saved.get("repeated", 0.0)

    def observe(self, reviews: Sequence[ScoredReview]) -> list[Observed]:
        """Return the features of the newest reviews, in their order, and take note of them.

        However they are split into calls, the features are the same.
        """
        near = self._near_duplicates([review.simhash for review in reviews])
        return [self._observe(*each) for each in zip(reviews, near, strict=True)]

    def _observe(self, review: ScoredReview, near: int | None) -> Observed:
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

        if near is not None:
            grown = self._repeated + min(near, _MOST_COUNTED) / 2 - _ALLOWANCE
            self._repeated = max(0.0, min(_MOST_REPEATED, grown))
        x["near_duplicates"] = self._repeated
        return Observed(x, near or 0)

    def _near_duplicates(self, simhashes: Sequence[int]) -> list[int | None]:
        """Return how many of the recent bodies each is near to; None while there are none."""
        own = np.array(simhashes, dtype=np.int64)
        kept = self._fingerprints
        # A body without a word has no fingerprint: it is near to none, and none is near to it.
        known = own != 0
        recent = np.concatenate((kept, own[known]))
        before = len(kept) + np.cumsum(known) - known
        padded = np.concatenate((np.zeros(RECENT_BODIES, dtype=np.int64), recent))
        found: list[int | None] = []
        for start in range(0, len(own), _BODIES_AT_ONCE):
            part = slice(start, start + _BODIES_AT_ONCE)
            # The last 200 before each; where there are fewer, nothing.
            others = sliding_window_view(padded, RECENT_BODIES)[before[part]]
            is_near = bit_counts(others ^ own[part, None]) <= NEAR_BITS
            is_near &= (others != 0) & known[part, None]
            counts = is_near.sum(axis=1).tolist()
            found += [
                count if place else None
                for count, place in zip(counts, before[part].tolist(), strict=True)
            ]
        self._fingerprints = recent[-RECENT_BODIES:]
        return found

    def state(self) -> dict[str, Any]:
        """Return what the next features depend on, as JSON values."""
        return {
            "fingerprints": self._fingerprints.tolist(),
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
        upward=("near_duplicates",),
        most_correction=1.0,
        has_predictions=False,
        has_spread=False,
        has_seasons=False,
        warm_up=warm_up,
        quiet=60,
        shift_after=3_000,
    )
