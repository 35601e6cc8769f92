import itertools
import json
import math
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.generator import SCORED, GeneratorOptions, generate
from udfs.core.anomaly import ShiftDetector, make_detector
from udfs.core.anomaly_events import (
    CALM_REVIEWS,
    AnomalyTracker,
    Judgement,
    StateVersionError,
)
from udfs.core.scored_records import ScoredReview

THRESHOLD = 0.99999


def scores(detector: ShiftDetector, values: list[float]) -> list[float]:
    found = []
    for value in values:
        found.append(detector.score_one({"value": value}))
        detector.learn_one({"value": value})
    return found


def review(number: int, star_rating: int, body_length: int = 80) -> ScoredReview:
    return ScoredReview("reviews", "s", str(number), "R", star_rating, "Café", body_length, number)


def usual(count: int, seed: int = 1, start: int = 0) -> list[ScoredReview]:
    rng = random.Random(seed)
    return [
        review(start + number, rng.choice((1, 3, 4, 5, 5)), round(rng.lognormvariate(4.5, 0.6)))
        for number in range(count)
    ]


def tracked(tracker: AnomalyTracker, reviews: list[ScoredReview]) -> list[Judgement]:
    return [tracker.track(each) for each in reviews]


def alerts(judgements: list[Judgement]) -> list[str]:
    return [judgement.event_id or "" for judgement in judgements if judgement.alert]


def test_it_is_silent_during_warm_up_whatever_comes() -> None:
    rng = random.Random(1)
    assert set(scores(make_detector(), [rng.choice((0.0, 1e9)) for _ in range(50)])) == {0.0}


@pytest.mark.parametrize("value", [0.0, -3.0, 1e9])
def test_a_constant_is_never_unusual(value: float) -> None:
    assert set(scores(make_detector(), [value] * 1_000)) == {0.0}


def test_chance_alone_is_as_rare_as_the_score_says() -> None:
    rng = random.Random(2)
    found = scores(make_detector(), [rng.gauss(0, 1) for _ in range(20_000)])
    assert sum(score >= 0.99 for score in found) / len(found) < 0.03
    assert sum(score >= THRESHOLD for score in found) <= 20


@pytest.mark.parametrize("level", [-2.0, 2.0])
def test_a_shift_is_found_and_then_becomes_usual(level: float) -> None:
    rng = random.Random(3)
    values = [rng.gauss(0, 1) for _ in range(500)] + [rng.gauss(level, 1) for _ in range(1_500)]
    found = scores(make_detector(), values)
    assert max(found[:500]) < THRESHOLD
    assert max(found[500:530]) >= THRESHOLD
    assert max(found[1_500:]) < THRESHOLD


def test_missing_and_impossible_values_are_left_out() -> None:
    detector = make_detector()
    for number in range(200):
        detector.learn_one({"value": float(number % 7)})
    for x in ({}, {"value": math.nan}, {"value": math.inf}, {"value": 1e300}, {"other": 1.0}):
        before = detector.state()
        assert detector.score_one(x) == 0.0
        if "other" not in x:
            detector.learn_one(x)
            assert detector.state() == before


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300))
def test_a_score_is_a_probability_whatever_comes(values: list[float]) -> None:
    assert all(0.0 <= score <= 1.0 for score in scores(ShiftDetector(window=3, warm_up=6), values))


def test_scoring_changes_nothing() -> None:
    detector = make_detector()
    scores(detector, [float(number % 5) for number in range(300)])
    before = json.dumps(detector.state())
    assert detector.score_one({"value": 99.0}) == detector.score_one({"value": 99.0})
    assert json.dumps(detector.state()) == before


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 2"):
        ShiftDetector(window=1)


def test_an_event_gives_one_alert_and_closes_after_calm_reviews() -> None:
    tracker = AnomalyTracker(make_detector(), THRESHOLD)
    assert alerts(tracked(tracker, usual(400))) == []
    judgements = tracked(tracker, [review(number, 1, 900) for number in range(400, 460)])
    assert alerts(judgements) == ["Café-1"]
    opened = next(place for place, each in enumerate(judgements) if each.alert)
    assert opened < 20
    assert {each.event_id for each in judgements[opened:]} == {"Café-1"}
    after = tracked(tracker, usual(400, seed=2, start=460))
    assert alerts(after) == []
    belonging = [place for place, each in enumerate(after) if each.event_id is not None]
    assert belonging == list(range(len(belonging)))
    assert CALM_REVIEWS <= len(belonging) < 100
    again = tracked(tracker, [review(number, 1, 900) for number in range(860, 920)])
    assert alerts(again) == ["Café-2"]


def test_an_alert_reads_well_and_parses() -> None:
    tracker = AnomalyTracker(make_detector(), THRESHOLD)
    tracked(tracker, usual(400))
    judgements = tracked(tracker, [review(number, 1, 80) for number in range(400, 430)])
    (judgement,) = [each for each in judgements if each.alert]
    alert = json.loads(judgement.alert or "")
    assert alert["event_id"] == judgement.event_id == "Café-1"
    assert alert["anomaly_score"] == judgement.anomaly_score >= alert["threshold"] == THRESHOLD
    assert alert["summary"].startswith("Reviews of Café have changed: star rating unusually low (")
    assert alert["event_time"].startswith("1970-01-01T00:00:00.4")
    assert alert["explanation"] == json.loads(judgement.explanation or "")
    assert next(iter(alert["explanation"])) == "star_rating"
    assert sum(part["share"] for part in alert["explanation"].values()) == pytest.approx(
        1, abs=0.01
    )


def test_state_goes_on_where_it_was_and_is_small() -> None:
    straight, stopped = (AnomalyTracker(make_detector(), THRESHOLD) for _ in range(2))
    reviews = [*usual(2_000), *(review(number, 1, 900) for number in range(2_000, 2_100))]
    expected = tracked(straight, reviews)
    found = []
    for batch in (reviews[start : start + 7] for start in range(0, len(reviews), 7)):
        found += tracked(stopped, batch)
        dump = stopped.dump()
        assert len(dump) < 10_000
        stopped = AnomalyTracker(make_detector(), THRESHOLD)
        stopped.load(dump)
    assert found == expected
    assert alerts(found) == ["Café-1"]


def test_state_of_another_version_is_refused() -> None:
    tracker = AnomalyTracker(make_detector(), THRESHOLD)
    other = json.dumps(json.loads(tracker.dump()) | {"version": 2}).encode()
    with pytest.raises(StateVersionError, match="version 2; this release reads 1"):
        tracker.load(other)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bursts_are_found_and_nothing_else_is(seed: int) -> None:
    """The generator's reviews, their ratings predicted with one error in seven."""
    rng = random.Random(seed)
    moments = itertools.count()
    trackers: dict[str, AnomalyTracker] = defaultdict(
        lambda: AnomalyTracker(make_detector(), THRESHOLD)
    )
    bursts, found, false_alarms = set(), set(), []
    records = generate(GeneratorOptions(), seed, lambda: 1.79e9 + next(moments) / 200)
    for number, record in enumerate(itertools.islice(records, 6_000)):
        if record.fate != SCORED:
            continue
        body = json.loads(record.data)["review_body"]
        rating = record.star_rating or 3
        if rng.random() < 1 / 7:
            rating = min(5, max(1, rating + rng.choice((-1, 1))))
        category = record.product_category or ""
        judgement = trackers[category].track(
            ScoredReview("reviews", "s", str(number), "R", rating, category, len(body), number)
        )
        if record.burst:
            bursts.add(record.burst)
        if judgement.alert and record.burst:
            found.add(record.burst)
        elif judgement.alert:
            false_alarms.append((number, judgement.alert))
    assert len(bursts) >= 2
    assert found == bursts
    assert len(false_alarms) <= 1, false_alarms
