import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.ledger import SourceId
from deploy.local.metrics import AVERAGE, DISTINCT, Point
from deploy.local.windows import ALL, WINDOW_MS, Review, WindowKey, WindowLedger, recompute
from udfs.core.sketches import DistinctSketch
from udfs.core.windows import parse_window, parse_windows

A, B, C, LATE = (SourceId("shardId-000000000000", str(number)) for number in range(4))
REVIEWS = {
    A: Review("R1", 5, "Toys", 10_000),
    B: Review("R2", 4, "Toys", 14_999),
    C: Review("R3", 1, "Books", 15_000),
    LATE: Review("R4", 1, "Toys", 12_000),
}
FIRST = {
    "window": "5 s",
    "window_start": "1970-01-01T00:00:10Z",
    "window_end": "1970-01-01T00:00:15Z",
    "product_category": "All",
    "reviews": 2,
    "avg_star_rating": 4.5,
    "rating_counts": [0, 0, 0, 1, 1],
}
SECOND = FIRST | {
    "window_start": "1970-01-01T00:00:15Z",
    "window_end": "1970-01-01T00:00:20Z",
    "reviews": 1,
    "avg_star_rating": 1.0,
    "rating_counts": [1, 0, 0, 0, 0],
}


def published(record: dict[str, Any], *review_ids: str) -> dict[str, Any]:
    sketch = DistinctSketch(12)
    sketch.update(review_ids)
    lower, upper = sketch.bounds
    return record | {
        "distinct_reviews": sketch.estimate,
        "distinct_lower": lower,
        "distinct_upper": upper,
        "sketch": base64.b64encode(sketch.to_bytes()).decode(),
    }


WINDOWS = [
    published(FIRST, "R1", "R2"),
    published(FIRST | {"product_category": "Toys"}, "R1", "R2"),
    published(SECOND, "R3"),
    published(SECOND | {"product_category": "Books"}, "R3"),
]


def whole() -> WindowLedger:
    """Three reviews in two windows, and one late; everything where it belongs."""
    ledger = WindowLedger(lg_k=12)
    for source_id, review in REVIEWS.items():
        ledger.add_review(source_id, review)
    ledger.add_late(LATE)
    for record in WINDOWS:
        assert ledger.add_window(record)
        ledger.add_archived(record)
    for key, window in ledger.published.items():
        for name, value in (
            (AVERAGE, window.avg_star_rating),
            (DISTINCT, window.distinct_reviews),
        ):
            ledger.add_point(Point(name, key.category, key.start_ms, value, value))
    return ledger


def test_what_is_whole_has_no_problem() -> None:
    ledger = whole()
    assert ledger.problems() == []
    assert ledger.truth_problems([LATE]) == []
    figures = ledger.figures()
    assert (figures.windows, figures.windowed_reviews, figures.late) == (4, 3, 1)
    assert (figures.distinct_reviews, figures.avg_star_rating) == (3.0, round(10 / 3, 6))
    assert (figures.cloudwatch_points, figures.distinct_within_3_se) == (4, 1.0)


def test_nothing_at_all_has_no_problem() -> None:
    ledger = WindowLedger(lg_k=12)
    assert ledger.problems() == []
    figures = ledger.figures()
    assert (figures.windows, figures.windowed_reviews, figures.distinct_reviews) == (0, 0, 0.0)
    assert (figures.avg_star_rating, figures.distinct_within_3_se) == (None, None)


FIRST_ALL = WindowKey("5 s", 10_000, 15_000, ALL)


def change(ledger: WindowLedger, **changes: Any) -> None:
    ledger.published[FIRST_ALL] = ledger.published[FIRST_ALL]._replace(**changes)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (
            lambda ledger: ledger.published.pop(FIRST_ALL),
            "1 windows of scored reviews were not published, such as All of 5 s from 1970-01-01T00",
        ),
        (
            lambda ledger: ledger.published.pop(FIRST_ALL),
            "All: 4 scored are not 1 in windows",
        ),
        (
            lambda ledger: ledger.add_window(
                WINDOWS[0]
                | {"window_start": "1970-01-01T00:00:20Z", "window_end": "1970-01-01T00:00:25Z"}
            ),
            "yet no scored review is in them",
        ),
        (
            lambda ledger: ledger.add_window(WINDOWS[0] | {"reviews": 1}),
            "1 windows were published again with other content",
        ),
        (
            lambda ledger: ledger.add_window(WINDOWS[0] | {"distinct_reviews": 9.0}),
            "1 windows were published again with other content",
        ),
        (lambda ledger: change(ledger, rating_counts=(1, 0, 0, 0, 1)), "other counts of ratings"),
        (lambda ledger: ledger.archived.pop(FIRST_ALL), "are not in S3 as they were published"),
        (
            lambda ledger: ledger.add_archived(WINDOWS[0] | {"reviews": 1}),
            "are not in S3 as they were published",
        ),
        (lambda ledger: ledger.add_archived(WINDOWS[0] | {"window": "1 h"}), "are in S3, yet"),
        (lambda ledger: change(ledger, reviews=3), "another number of reviews than recomputed"),
        (
            lambda ledger: change(ledger, reviews=3),
            "4 scored are not 4 in windows of 5 s and 1 late",
        ),
        (lambda ledger: change(ledger, avg_star_rating=4.500000000000001), "another average"),
        (lambda ledger: ledger.points.pop((AVERAGE, ALL, 10_000)), "have not their values"),
        (lambda ledger: ledger.points.pop((DISTINCT, ALL, 10_000)), "have not their values"),
        (
            lambda ledger: ledger.add_point(Point(AVERAGE, ALL, 10_000, 4.4, 4.5)),
            "have not their values in CloudWatch",
        ),
        (
            lambda ledger: ledger.add_point(Point(DISTINCT, ALL, 11_000, 2.0, 2.0)),
            "1 points are in CloudWatch, yet their windows were not published",
        ),
        (
            lambda ledger: ledger.late.remove(LATE),
            "3 scored are not 2 in windows of 5 s and 0 late",
        ),
        (lambda ledger: ledger.add_late(A), "another number of reviews than recomputed"),
        (
            lambda ledger: ledger.add_late(SourceId("shardId-000000000000", "9")),
            "1 are late, yet not scored",
        ),
    ],
)
def test_each_way_of_not_adding_up_is_named(
    break_it: Callable[[WindowLedger], object], expected: str
) -> None:
    ledger = whole()
    break_it(ledger)
    assert any(expected in problem for problem in ledger.problems()), ledger.problems()


def test_a_window_that_is_published_again_as_it_was_is_a_repeat() -> None:
    ledger = whole()
    # The order of what a sketch holds may differ.
    assert not ledger.add_window(WINDOWS[0] | {"sketch": ""})
    assert (ledger.repeats, ledger.problems()) == (1, [])


def test_a_window_with_a_dead_letter_needs_no_points() -> None:
    ledger = whole()
    ledger.points.pop((AVERAGE, ALL, 10_000))
    ledger.add_without_points(ALL, "1970-01-01T00:00:10Z/1970-01-01T00:00:15Z/5 s")
    assert ledger.problems() == []


@pytest.mark.parametrize(
    ("generated_late", "expected"),
    [
        ([], ["1 are late, yet were generated on time"]),
        ([LATE, A], ["1 were generated late, yet are in windows"]),
        # Late and broken: it was never scored.
        ([LATE, SourceId("shardId-000000000000", "9")], []),
    ],
)
def test_lateness_is_held_against_the_truth(
    generated_late: list[SourceId], expected: list[str]
) -> None:
    problems = whole().truth_problems(generated_late)
    assert [problem.partition(", such")[0] for problem in problems] == expected


def test_an_estimate_that_is_far_off_is_counted() -> None:
    ledger = whole()
    change(ledger, distinct_reviews=3.0)
    assert ledger.figures().distinct_within_3_se == 0.75


def test_a_review_of_the_category_all_is_counted_once() -> None:
    ledger = WindowLedger(lg_k=12)
    ledger.add_review(A, Review("R1", 5, ALL, 10_000))
    ledger.add_window(
        published(
            FIRST | {"reviews": 1, "avg_star_rating": 5.0, "rating_counts": [0, 0, 0, 0, 1]}, "R1"
        )
    )
    ledger.archived = dict(ledger.published)
    window = ledger.published[FIRST_ALL]
    ledger.add_point(Point(AVERAGE, ALL, 10_000, 5.0, 5.0))
    ledger.add_point(Point(DISTINCT, ALL, 10_000, window.distinct_reviews, window.distinct_reviews))
    assert ledger.problems() == []


reviews = st.builds(
    Review,
    st.sampled_from(["R1", "R2", "R3"]),
    st.integers(1, 5),
    st.sampled_from(["Toys", "Books", ALL]),
    st.integers(0, 30_000),
)


SIZES = parse_windows("5 s, 10 s every 5 s, 15 s by 5 s")


@given(st.lists(reviews))
def test_every_review_is_in_all_its_windows_and_in_no_other(found: list[Review]) -> None:
    windows = recompute(found, SIZES)
    for key, window in windows.items():
        inside = [
            review
            for review in found
            if key.category in review.categories
            and key.start_ms <= review.event_time_ms < key.end_ms
        ]
        assert sorted(window.ratings.elements()) == sorted(r.star_rating for r in inside)
        assert window.review_ids == {review.review_id for review in inside}
        length_s, is_aligned = (key.end_ms - key.start_ms) // 1_000, key.start_ms % 5_000 == 0
        if key.window == "15 s by 5 s":
            length_s, is_aligned = (length_s - 1) // 5 * 5 + 5, key.start_ms % 15_000 == 0
            assert 5 <= length_s <= 15
        else:
            assert length_s == {"5 s": 5, "10 s every 5 s": 10}[key.window]
        assert is_aligned
    for review in found:
        for window, number in (
            ("5 s", {1}),
            ("10 s every 5 s", {2}),
            ("15 s by 5 s", {3 - review.event_time_ms % 15_000 // 5_000}),
        ):
            mine = {
                key
                for key in windows
                if key.window == window
                and key.category == ALL
                and key.start_ms <= review.event_time_ms < key.end_ms
            }
            assert {len(mine)} == number


def test_windows_of_every_kind_are_held_against_their_recomputation() -> None:
    ledger = WindowLedger(12, SIZES)
    ledger.add_review(A, Review("R1", 5, ALL, 12_000))
    records = [
        published(
            {
                "window": window,
                "window_start": f"1970-01-01T00:00:{start_s:02}Z",
                "window_end": f"1970-01-01T00:00:{end_s:02}Z",
                "product_category": ALL,
                "reviews": 1,
                "avg_star_rating": 5.0,
                "rating_counts": [0, 0, 0, 0, 1],
            },
            "R1",
        )
        for window, start_s, end_s in (
            ("5 s", 10, 15),
            ("10 s every 5 s", 5, 15),
            ("10 s every 5 s", 10, 20),
            ("15 s by 5 s", 0, 15),
        )
    ]
    for record in records:
        ledger.add_window(record)
        ledger.add_archived(record)
        (value,) = {w.distinct_reviews for w in ledger.published.values()}
    for window, times_ms in (
        ("", [10_000]),
        (" 10 s every 5 s", [10_000, 15_000]),
        (" 15 s by 5 s", [10_000]),
    ):
        for time_ms in times_ms:
            ledger.add_point(Point(f"{AVERAGE}{window}", ALL, time_ms, 5.0, 5.0))
            ledger.add_point(Point(f"{DISTINCT}{window}", ALL, time_ms, value, value))
    assert ledger.problems() == []
    assert ledger.windowed_reviews == 1
    hopping = WindowKey("10 s every 5 s", 10_000, 20_000, ALL)
    for container in (ledger.published, ledger.archived):
        container.pop(hopping)
    assert [problem.partition(",")[0] for problem in ledger.problems()] == [
        "1 windows of scored reviews were not published",
        "2 points are in CloudWatch",
        "All: 1 scored are not 0 in windows of 10 s every 5 s and 0 late",
    ]


def test_the_definitions_are_those_of_the_job() -> None:
    job = pytest.importorskip("flink_jobs.review_metrics")
    assert job.ALL == ALL
    spec = parse_window("5 s")
    assert spec.metric(AVERAGE) == AVERAGE
    assert spec.size_s * 1_000 == WINDOW_MS
    ledger = WindowLedger(12, SIZES)
    assert ledger.metrics() == {
        spec.metric(measure): spec.resolution_s for spec in SIZES for measure in (AVERAGE, DISTINCT)
    }
    assert all(
        ledger.point_ms(WindowKey(str(spec), 0, 15_000, ALL)) == spec.point_ms(15_000)
        for spec in SIZES
    )
