"""What every detector must do, whatever it is made of."""

import json
import math
import pickle
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.core.anomaly import AnomalyDetector, make_detector
from udfs.core.review_features import make_review_detector

DETECTORS: dict[str, Callable[[], AnomalyDetector]] = {
    "of any series": make_detector,
    "of reviews": make_review_detector,
}
Record = dict[str, float]


@pytest.fixture(params=DETECTORS.values(), ids=list(DETECTORS))
def make(request: pytest.FixtureRequest) -> Callable[[], AnomalyDetector]:
    made: Callable[[], AnomalyDetector] = request.param
    return made


def records(count: int, seed: int = 1) -> list[Record]:
    """Two features with a daily season, one integer and often missing, and something wrong."""
    rng = random.Random(seed)
    made: list[Record] = []
    for number in range(count):
        wave = math.sin(2 * math.pi * number / 288)
        x = {"value": 10 * wave + rng.gauss(0, 1), "t": 300.0 * number}
        if number % 900 > 850:
            x["value"] += 30
        if rng.random() < 0.7:
            x["count"] = float(rng.choice((1, 2, 3, 3, 5)))
        if rng.random() < 0.01:
            x["value"] = math.nan
        made.append(x)
    return made


def run(detector: AnomalyDetector, xs: list[Record]) -> list[float]:
    found = []
    for x in xs:
        found.append(detector.score_one(x))
        detector.learn_one(x)
    return found


def test_scores_are_of_what_came_before_alone(make: Callable[[], AnomalyDetector]) -> None:
    xs = records(1_200)
    other = [*xs[:1_000], *({"value": 1e6, "count": 77.0} for _ in range(200))]
    assert run(make(), xs)[:1_000] == run(make(), other)[:1_000]


def test_same_records_same_scores(make: Callable[[], AnomalyDetector]) -> None:
    found = run(make(), records(1_500))
    assert found == run(make(), records(1_500))
    assert len(set(found)) > 500
    assert all(0.0 <= score <= 1.0 for score in found)


def test_observing_is_scoring_and_learning(make: Callable[[], AnomalyDetector]) -> None:
    detector, xs = make(), records(1_500)
    assert [detector.observe_one(x) for x in xs] == run(make(), xs)


@pytest.mark.parametrize("stop", [0, 1, 151, 700, 873])
def test_it_goes_on_from_a_pickle_and_from_its_state(
    make: Callable[[], AnomalyDetector], stop: int
) -> None:
    xs = records(1_400)
    straight = make()
    expected = run(straight, xs)
    first = make()
    begun = run(first, xs[:stop])
    pickled = pickle.loads(pickle.dumps(first))
    restored = make()
    restored.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    for other in (pickled, restored):
        assert begun + run(other, xs[stop:]) == expected
        assert other.state() == straight.state()


def test_inputs_are_not_touched(make: Callable[[], AnomalyDetector]) -> None:
    detector, xs = make(), records(400)
    before = [dict(x) for x in xs]
    run(detector, xs)
    assert [json.dumps(x) for x in xs] == [json.dumps(x) for x in before]


def test_scoring_and_examining_change_nothing(make: Callable[[], AnomalyDetector]) -> None:
    detector = make()
    run(detector, records(1_000))
    before = json.dumps(detector.state())
    for x in ({"value": 99.0, "t": 3e5}, {"value": math.nan}, {}, {"new": 1.0}):
        assert detector.score_one(x) == detector.score_one(x)
        detector.examine_one(x)
    assert json.dumps(detector.state()) == before


def test_missing_and_impossible_values_are_left_out(make: Callable[[], AnomalyDetector]) -> None:
    detector, plain = make(), make()
    rng = random.Random(2)
    odd: list[Record] = [{}, {"t": 1.0}]
    for _ in range(600):
        x = {"value": rng.gauss(0, 1)}
        plain.learn_one(x)
        detector.learn_one(x)
        detector.learn_one(rng.choice(odd))
    for x in (*odd, {"value": math.nan}, {"value": math.inf}, {"value": -1e300}, {"other": 1.0}):
        assert detector.score_one(x) == 0.0
    assert detector.state() == plain.state()


def test_it_is_silent_during_warm_up_whatever_comes(make: Callable[[], AnomalyDetector]) -> None:
    rng = random.Random(1)
    xs = [{"value": rng.choice((0.0, 1.0, 1e9))} for _ in range(make().warm_up)]
    assert set(run(make(), xs)) == {0.0}


@pytest.mark.parametrize("value", [0.0, -3.0, 0.1, 1e9])
def test_a_constant_is_never_unusual(make: Callable[[], AnomalyDetector], value: float) -> None:
    assert max(run(make(), [{"value": value}] * 3_000)) == 0.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=400))
def test_a_score_is_a_probability_whatever_comes(values: list[float]) -> None:
    for make_any in DETECTORS.values():
        found = run(make_any(), [{"value": value} for value in values])
        assert all(0.0 <= score <= 1.0 for score in found)


# Of a million records: a minute on a busy machine.
@pytest.mark.timeout(400)
def test_memory_is_bounded(make: Callable[[], AnomalyDetector]) -> None:
    detector, rng = make(), random.Random(3)
    sizes = []
    for number in range(1_000_000):
        # Ever new values, out to ever larger ones: nothing to be found twice.
        detector.observe_one({"value": rng.gauss(0, 1) * 1.0005 ** min(number, 60_000)})
        if number % 100_000 == 20_000:
            sizes.append(len(pickle.dumps(detector)))
    assert max(sizes[1:]) < 1.2 * sizes[0], sizes
