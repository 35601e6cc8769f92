"""Double entry for windows: what was published against a recomputation in plain Python.

The job is not trusted with its own definitions: length and alignment of the windows and the
category of all are written down here once more.
"""

import base64
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from deploy.local.ledger import SourceId
from deploy.local.metrics import AVERAGE, DISTINCT, Point
from udfs.core.sketches import merge_estimate

WINDOW_MS = 5_000
ALL = "All"

_STANDARD_ERRORS = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def epoch_ms(text: str) -> int:
    """Return an ISO 8601 time in milliseconds since the epoch.

    >>> epoch_ms("1970-01-01T00:00:05.25Z")
    5250
    """
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


class Review(NamedTuple):
    """A scored review as the windows see it."""

    review_id: str
    star_rating: int
    product_category: str
    event_time_ms: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Review":
        """Return the review of a record of `scored-reviews`."""
        return cls(
            record["review_id"],
            record["star_rating"],
            record["product_category"],
            epoch_ms(record["event_time"]),
        )

    @property
    def categories(self) -> frozenset[str]:
        """The categories in whose windows it is counted."""
        return frozenset((self.product_category, ALL))


class WindowKey(NamedTuple):
    """A window of a category, by its start."""

    start_ms: int
    category: str


class Window(NamedTuple):
    """A window as it was published."""

    end_ms: int
    reviews: int
    avg_star_rating: float
    distinct_reviews: float
    distinct_lower: float
    distinct_upper: float


@dataclass(slots=True)
class Recomputed:
    """A window as it must be."""

    reviews: int = 0
    stars: int = 0
    review_ids: set[str] = field(default_factory=set)

    @property
    def avg_star_rating(self) -> float:
        """The average; both operands are exact, so the quotient is the nearest double."""
        return self.stars / self.reviews


def recompute(reviews: Iterable[Review]) -> dict[WindowKey, Recomputed]:
    """Return all windows of some reviews: tumbling, aligned to the epoch, start included.

    Examples
    --------
    >>> windows = recompute([Review("R1", 4, "Toys", 5_000), Review("R1", 1, "Books", 9_999)])
    >>> {(start_ms, category): w.reviews for (start_ms, category), w in sorted(windows.items())}
    {(5000, 'All'): 2, (5000, 'Books'): 1, (5000, 'Toys'): 1}
    >>> all_of_them = windows[WindowKey(5_000, "All")]
    >>> all_of_them.avg_star_rating, len(all_of_them.review_ids)
    (2.5, 1)
    """
    windows: dict[WindowKey, Recomputed] = {}
    for review in reviews:
        start_ms = review.event_time_ms - review.event_time_ms % WINDOW_MS
        for category in review.categories:
            window = windows.setdefault(WindowKey(start_ms, category), Recomputed())
            window.reviews += 1
            window.stars += review.star_rating
            window.review_ids.add(review.review_id)
    return windows


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """What the windows hold together; the names are those of `summary.json`.

    `distinct_reviews` is the estimate of the merged sketches of `All`, `cloudwatch_points` counts
    those of the average, and `distinct_within_3_se` is the share of windows whose estimate lies
    within three standard errors of the truth. What cannot be said without a window is None.
    """

    windows: int
    windowed_reviews: int
    late: int
    distinct_reviews: float
    avg_star_rating: float | None
    cloudwatch_points: int
    distinct_within_3_se: float | None


@dataclass
class WindowLedger:
    """Which review belongs to which window, and which windows were published.

    Attributes
    ----------
    lg_k
        Of the sketches, see `udfs.core.sketches.DistinctSketch`.
    """

    lg_k: int
    reviews: dict[SourceId, Review] = field(default_factory=dict)
    late: set[SourceId] = field(default_factory=set)
    published: dict[WindowKey, Window] = field(default_factory=dict)
    sketches: list[bytes] = field(default_factory=list)
    changed: set[WindowKey] = field(default_factory=set)
    points: dict[tuple[str, WindowKey], Point] = field(default_factory=dict)
    without_points: set[WindowKey] = field(default_factory=set)
    repeats: int = 0

    def add_review(self, source_id: SourceId, review: Review) -> None:
        """Note a scored review."""
        self.reviews[source_id] = review

    def add_late(self, source_id: SourceId) -> None:
        """Note a review that was dead-lettered as late."""
        self.late.add(source_id)

    def add_window(self, record: Mapping[str, Any]) -> bool:
        """Note a record of `review-metrics`; False for one of a window that is known."""
        key = WindowKey(epoch_ms(record["window_start"]), record["product_category"])
        # Less the sketch: the same set may be written in another order.
        window = Window(
            epoch_ms(record["window_end"]), *(record[name] for name in Window._fields[1:])
        )
        if key not in self.published:
            self.published[key] = window
            if key.category == ALL:
                self.sketches.append(base64.b64decode(record["sketch"]))
            return True
        if window == self.published[key]:
            self.repeats += 1
        else:
            self.changed.add(key)
        return False

    def add_without_points(self, category: str, interval: str) -> None:
        """Note a window whose points CloudWatch did not take; `interval` is START/END."""
        self.without_points.add(WindowKey(epoch_ms(interval.partition("/")[0]), category))

    def add_point(self, point: Point) -> None:
        """Note what was read back from CloudWatch."""
        self.points[point.name, WindowKey(point.time_ms, point.category)] = point

    @property
    def windowed_reviews(self) -> int:
        """Reviews in the windows of `All`."""
        return sum(w.reviews for key, w in self.published.items() if key.category == ALL)

    def figures(self) -> WindowFigures:
        """Return the counts, averages and estimates."""
        of_all = [window for key, window in self.published.items() if key.category == ALL]
        windowed = self.windowed_reviews
        stars = math.fsum(window.reviews * window.avg_star_rating for window in of_all)
        expected = self._recomputed()
        standard_error = 1.04 / math.sqrt(2**self.lg_k)
        within = [
            abs(window.distinct_reviews - truth) <= _STANDARD_ERRORS * standard_error * truth
            for key, window in self.published.items()
            if key in expected
            for truth in [len(expected[key].review_ids)]
        ]
        return WindowFigures(
            windows=len(self.published),
            windowed_reviews=windowed,
            late=len(self.late),
            distinct_reviews=round(merge_estimate(self.sketches), 1),
            avg_star_rating=round(stars / windowed, 6) if windowed else None,
            cloudwatch_points=sum(name == AVERAGE for name, _ in self.points),
            distinct_within_3_se=round(sum(within) / len(within), 4) if within else None,
        )

    def problems(self) -> list[str]:
        """Name every window that is not as it must be, and every category that does not add up."""
        expected, published = self._recomputed(), self.published
        both = expected.keys() & published.keys()
        windows = {
            "of scored reviews were not published": expected.keys() - published.keys(),
            "were published, yet no scored review is in them": published.keys() - expected.keys(),
            "were published again with other content": self.changed,
            "end at another time than their start says": {
                key
                for key, window in published.items()
                if window.end_ms - key.start_ms != WINDOW_MS
            },
            "hold another number of reviews than recomputed": {
                key for key in both if published[key].reviews != expected[key].reviews
            },
            "have another average than recomputed": {
                key
                for key in both
                if published[key].avg_star_rating != expected[key].avg_star_rating
            },
            "have not their values in CloudWatch": {
                key
                for key, window in published.items()
                if key not in self.without_points and not self._has_points(key, window)
            },
            "are in CloudWatch, yet were not published": {key for _, key in self.points}
            - published.keys(),
        }
        words = [
            f"{len(keys)} windows {problem}, such as {_in_words(min(keys))}"
            for problem, keys in windows.items()
            if keys
        ]
        words += self._unbalanced()
        if unknown := self.late - self.reviews.keys():
            words.append(f"{len(unknown)} are late, yet not scored, such as {min(unknown)}")
        return words

    def truth_problems(self, generated_late: Collection[SourceId]) -> list[str]:
        """Name the reviews that are late or on time, and were generated otherwise."""
        expected = {source_id for source_id in generated_late if source_id in self.reviews}
        wrong = {
            "are late, yet were generated on time": self.late - expected,
            "were generated late, yet are in windows": expected - self.late,
        }
        return [
            f"{len(records)} {problem}, such as {min(records)}"
            for problem, records in wrong.items()
            if records
        ]

    def _recomputed(self) -> dict[WindowKey, Recomputed]:
        return recompute(
            review for source_id, review in self.reviews.items() if source_id not in self.late
        )

    def _has_points(self, key: WindowKey, window: Window) -> bool:
        for name, value in (
            (AVERAGE, window.avg_star_rating),
            (DISTINCT, window.distinct_reviews),
        ):
            point = self.points.get((name, key))
            if point is None or not point.lowest == point.highest == value:
                return False
        return True

    def _unbalanced(self) -> list[str]:
        scored: Counter[str] = Counter()
        late: Counter[str] = Counter()
        windowed: Counter[str] = Counter()
        for source_id, review in self.reviews.items():
            scored.update(review.categories)
            if source_id in self.late:
                late.update(review.categories)
        for key, window in self.published.items():
            windowed[key.category] += window.reviews
        return [
            f"{category}: {scored[category]} scored are not {windowed[category]} in windows and"
            f" {late[category]} late"
            for category in sorted(scored.keys() | windowed.keys())
            if scored[category] != windowed[category] + late[category]
        ]


def _in_words(key: WindowKey) -> str:
    start = _EPOCH + timedelta(milliseconds=key.start_ms)
    return f"{key.category} from {start:%Y-%m-%dT%H:%M:%SZ}"
