"""Double entry for windows: what was published against a recomputation in plain Python.

The job is not trusted with its own definitions: which windows a review is in and the category of
all are written down here once more, and every one is made of its reviews.
"""

import base64
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from deploy.local.ledger import SourceId
from deploy.local.metrics import AVERAGE, DISTINCT, Point
from udfs.core.sketches import merge_estimate
from udfs.core.windows import WindowKind, WindowSpec, parse_windows

WINDOW_MS = 5_000
"""Length of the windows whose metrics have the plain names."""

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
    """A window of a category: what its kind and length are called, its start and its end."""

    window: str
    start_ms: int
    end_ms: int
    category: str


class Window(NamedTuple):
    """A window as it was published."""

    reviews: int
    avg_star_rating: float
    rating_counts: tuple[int, ...]
    distinct_reviews: float
    distinct_lower: float
    distinct_upper: float

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Window":
        """Return the window of a record, less its sketches.

        These may be written in another order, or by other chances, when a window is written again.
        """
        values = {name: record[name] for name in cls._fields}
        return cls(**values | {"rating_counts": tuple(values["rating_counts"])})


@dataclass(slots=True)
class Recomputed:
    """A window as it must be."""

    ratings: Counter[int] = field(default_factory=Counter)
    review_ids: set[str] = field(default_factory=set)

    @property
    def reviews(self) -> int:
        """How many reviews there are."""
        return self.ratings.total()

    @property
    def rating_counts(self) -> tuple[int, ...]:
        """How many have one star, two, ... five."""
        return tuple(self.ratings[stars] for stars in range(1, 6))

    @property
    def avg_star_rating(self) -> float:
        """The average; both operands are exact, so the quotient is the nearest double."""
        return sum(stars * count for stars, count in self.ratings.items()) / self.reviews


def edges(spec: WindowSpec, event_time_ms: int) -> Iterator[tuple[int, int]]:
    """Return start and end of every window that an event is in, in milliseconds since the epoch.

    >>> hopping = WindowSpec(WindowKind.HOPPING, 10, 5)
    >>> sorted(edges(hopping, 7_000))
    [(0, 10000), (5000, 15000)]
    >>> cumulative = WindowSpec(WindowKind.CUMULATIVE, 10, 5)
    >>> sorted(edges(cumulative, 2_000)), sorted(edges(cumulative, 7_000))
    ([(0, 5000), (0, 10000)], [(0, 10000)])
    """
    size_ms, slide_ms = spec.size_s * 1_000, spec.slide_s * 1_000
    if spec.kind is WindowKind.CUMULATIVE:
        start_ms = event_time_ms - event_time_ms % size_ms
        for end_ms in range(start_ms + slide_ms, start_ms + size_ms + 1, slide_ms):
            if event_time_ms < end_ms:
                yield start_ms, end_ms
    else:
        last_ms = event_time_ms - event_time_ms % slide_ms
        for start_ms in range(last_ms, event_time_ms - size_ms, -slide_ms):
            yield start_ms, start_ms + size_ms


def recompute(
    reviews: Iterable[Review], sizes: Sequence[WindowSpec]
) -> dict[WindowKey, Recomputed]:
    """Return all windows of some reviews: aligned to the epoch, start included.

    Examples
    --------
    >>> reviews = [Review("R1", 4, "Toys", 5_000), Review("R1", 1, "Books", 9_999)]
    >>> windows = recompute(reviews, parse_windows("5 s"))
    >>> {(key.start_ms, key.category): w.reviews for key, w in sorted(windows.items())}
    {(5000, 'All'): 2, (5000, 'Books'): 1, (5000, 'Toys'): 1}
    >>> all_of_them = windows[WindowKey("5 s", 5_000, 10_000, "All")]
    >>> all_of_them.avg_star_rating, len(all_of_them.review_ids)
    (2.5, 1)
    """
    windows: dict[WindowKey, Recomputed] = {}
    for review in reviews:
        for spec in sizes:
            for start_ms, end_ms in edges(spec, review.event_time_ms):
                for category in review.categories:
                    key = WindowKey(str(spec), start_ms, end_ms, category)
                    window = windows.setdefault(key, Recomputed())
                    window.ratings[review.star_rating] += 1
                    window.review_ids.add(review.review_id)
    return windows


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """What the windows hold together; the names are those of `summary.json`.

    `windowed_reviews` counts each review once, and `distinct_reviews` is the estimate of the merged
    sketches of `All`, both by the windows with the shortest slide. `cloudwatch_points` counts those
    of the average, `s3_windows` the windows in the archive. `distinct_within_3_se` is the share of
    windows whose estimate lies within three standard errors of the truth. What cannot be said
    without a window is None.
    """

    windows: int
    windowed_reviews: int
    late: int
    distinct_reviews: float
    avg_star_rating: float | None
    cloudwatch_points: int
    s3_windows: int
    distinct_within_3_se: float | None


@dataclass
class WindowLedger:
    """Which review belongs to which window, and which windows were published.

    Attributes
    ----------
    lg_k
        Of the sketches, see `udfs.core.sketches.DistinctSketch`.
    sizes
        Which windows there are.
    """

    lg_k: int
    sizes: Sequence[WindowSpec] = parse_windows("5 s")
    reviews: dict[SourceId, Review] = field(default_factory=dict)
    late: set[SourceId] = field(default_factory=set)
    published: dict[WindowKey, Window] = field(default_factory=dict)
    sketches: list[bytes] = field(default_factory=list)
    changed: set[WindowKey] = field(default_factory=set)
    archived: dict[WindowKey, Window] = field(default_factory=dict)
    points: dict[tuple[str, str, int], Point] = field(default_factory=dict)
    without_points: set[WindowKey] = field(default_factory=set)
    repeats: int = 0

    def add_review(self, source_id: SourceId, review: Review) -> None:
        """Note a scored review."""
        self.reviews[source_id] = review

    def add_late(self, source_id: SourceId) -> None:
        """Note a review that was dead-lettered as late."""
        self.late.add(source_id)

    def add_window(self, record: Mapping[str, Any]) -> bool:
        """Note a record of `review-metrics`; False for one of a window that is known.

        Raises
        ------
        ValueError
            There are no windows of its length.
        """
        key, window = _key(record), Window.of(record)
        if key.window not in map(str, self.sizes):
            raise ValueError(f"windows of {key.window!r} are not configured")
        if key not in self.published:
            self.published[key] = window
            if key.category == ALL and self._counts_once(key):
                self.sketches.append(base64.b64decode(record["sketch"]))
            return True
        if window == self.published[key]:
            self.repeats += 1
        else:
            self.changed.add(key)
        return False

    def add_archived(self, record: Mapping[str, Any]) -> None:
        """Note a line of the archive."""
        self.archived[_key(record)] = Window.of(record)

    def add_without_points(self, category: str, name: str) -> None:
        """Note a window whose points CloudWatch did not take; its name is START/END/WINDOW.

        Raises
        ------
        ValueError
            The name is another one.
        """
        try:
            start, end, window = name.split("/", 2)
            key = WindowKey(window, epoch_ms(start), epoch_ms(end), category)
        except (ValueError, TypeError) as error:
            raise ValueError(f"not the name of a window: {name!r} ({error})") from error
        self.without_points.add(key)

    def add_point(self, point: Point) -> None:
        """Note what was read back from CloudWatch."""
        self.points[point.name, point.category, point.time_ms] = point

    def metrics(self) -> dict[str, int]:
        """Return the names of all metrics, and the seconds that a point of each stands for."""
        return {
            _metric(measure, str(spec)): 1 if spec.slide_s % 60 else 60
            for spec in self.sizes
            for measure in (AVERAGE, DISTINCT)
        }

    def point_ms(self, key: WindowKey) -> int:
        """Return the time of a window's points: as long before its end as windows are apart."""
        (slide_s,) = (spec.slide_s for spec in self.sizes if str(spec) == key.window)
        return key.end_ms - slide_s * 1_000

    def _windows_of_all(self) -> list[Window]:
        """Windows of `All` that cover all time once."""
        return [
            window
            for key, window in self.published.items()
            if key.category == ALL and self._counts_once(key)
        ]

    def _counts_once(self, key: WindowKey, spec: WindowSpec | None = None) -> bool:
        """Whether it is one of the windows of a kind that cover all time once; of the first one."""
        spec = spec or self.sizes[0]
        return key.window == str(spec) and key.end_ms % (spec.size_s * 1_000) == 0

    @property
    def windowed_reviews(self) -> int:
        """Reviews in the windows of `All`, each once."""
        return sum(window.reviews for window in self._windows_of_all())

    def figures(self) -> WindowFigures:
        """Return the counts, averages and estimates."""
        of_all, windowed = self._windows_of_all(), self.windowed_reviews
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
            cloudwatch_points=sum(name.startswith(AVERAGE) for name, _, _ in self.points),
            s3_windows=len(self.archived),
            distinct_within_3_se=round(sum(within) / len(within), 4) if within else None,
        )

    def problems(self) -> list[str]:
        """Name every window that is not as it must be, and every category that does not add up."""
        expected, published = self._recomputed(), self.published
        both = expected.keys() & published.keys()
        at = {
            (_metric(measure, key.window), key.category, self.point_ms(key))
            for key in published
            for measure in (AVERAGE, DISTINCT)
        }
        windows = {
            "of scored reviews were not published": expected.keys() - published.keys(),
            "were published, yet no scored review is in them": published.keys() - expected.keys(),
            "were published again with other content": self.changed,
            "hold another number of reviews than recomputed": {
                key for key in both if published[key].reviews != expected[key].reviews
            },
            "have another average than recomputed": {
                key
                for key in both
                if published[key].avg_star_rating != expected[key].avg_star_rating
            },
            "have other counts of ratings than recomputed": {
                key for key in both if published[key].rating_counts != expected[key].rating_counts
            },
            "are not in S3 as they were published": {
                key for key in published if self.archived.get(key) != published[key]
            },
            "are in S3, yet were not published": self.archived.keys() - published.keys(),
            "have not their values in CloudWatch": {
                key
                for key, window in published.items()
                if key not in self.without_points and not self._has_points(key, window)
            },
        }
        words = [
            f"{len(keys)} windows {problem}, such as {_in_words(min(keys))}"
            for problem, keys in windows.items()
            if keys
        ]
        if stray := self.points.keys() - at:
            words.append(
                f"{len(stray)} points are in CloudWatch, yet their windows were not published, such"
                f" as {min(stray)}"
            )
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
            (review for source_id, review in self.reviews.items() if source_id not in self.late),
            self.sizes,
        )

    def _has_points(self, key: WindowKey, window: Window) -> bool:
        for measure, value in (
            (AVERAGE, window.avg_star_rating),
            (DISTINCT, window.distinct_reviews),
        ):
            at = _metric(measure, key.window), key.category, self.point_ms(key)
            point = self.points.get(at)
            if point is None or not point.lowest == point.highest == value:
                return False
        return True

    def _unbalanced(self) -> list[str]:
        scored: Counter[str] = Counter()
        late: Counter[str] = Counter()
        for source_id, review in self.reviews.items():
            scored.update(review.categories)
            if source_id in self.late:
                late.update(review.categories)
        words = []
        for spec in self.sizes:
            windowed: Counter[str] = Counter()
            for key, window in self.published.items():
                if self._counts_once(key, spec):
                    windowed[key.category] += window.reviews
            words += [
                f"{category}: {scored[category]} scored are not {windowed[category]} in windows of"
                f" {spec} and {late[category]} late"
                for category in sorted(scored.keys() | windowed.keys())
                if scored[category] != windowed[category] + late[category]
            ]
        return words


def _key(record: Mapping[str, Any]) -> WindowKey:
    start_ms, end_ms = (epoch_ms(record[name]) for name in ("window_start", "window_end"))
    return WindowKey(record["window"], start_ms, end_ms, record["product_category"])


def _metric(measure: str, window: str) -> str:
    return measure if window == f"{WINDOW_MS // 1_000} s" else f"{measure} {window}"


def _in_words(key: WindowKey) -> str:
    start = _EPOCH + timedelta(milliseconds=key.start_ms)
    return f"{key.category} of {key.window} from {start:%Y-%m-%dT%H:%M:%SZ}"
