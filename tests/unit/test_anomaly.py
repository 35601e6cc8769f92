import math
import random
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from tests.anomalies.calibration import STREAMS, frequencies
from udfs.core.anomaly import AnomalyDetector, make_detector
from udfs.core.tails import Tail, harmonic_mean

ALARM = 0.999


def scores(values: Iterator[float] | list[float], with_time: bool = False) -> list[float]:
    detector, found = make_detector(), []
    for number, value in enumerate(values):
        x = {"value": value, "t": 300.0 * number} if with_time else {"value": value}
        found.append(detector.score_one(x))
        detector.learn_one(x)
    return found


def alarms(found: list[float], threshold: float = ALARM) -> list[int]:
    return [place for place, score in enumerate(found) if score >= threshold]


def noise(count: int, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in range(count)]


@pytest.mark.parametrize("name", STREAMS)
def test_chance_alone_is_as_rare_as_the_score_says(name: str) -> None:
    kind = STREAMS[name]
    found = frequencies(make_detector, kind.make(np.random.default_rng(5), 9_000).tolist())
    for p, frequency in found.items():
        # Beyond the bounds by what so few records may differ by chance, as counts that cluster.
        slack = 4 * math.sqrt(p / 8_000)
        assert frequency <= 2 * p + slack, p
        assert not kind.is_continuous or frequency >= p / 2 - slack, p


def test_a_spike_is_found_at_once() -> None:
    values = noise(1_500)
    values[1_200] = 15.0
    assert 1_200 in alarms(scores(values))


@pytest.mark.parametrize("level", [-5.0, 5.0])
def test_a_shift_is_found_once_and_then_usual(level: float) -> None:
    values = noise(1_000) + [level + value for value in noise(2_000, seed=2)]
    found = alarms(scores(values))
    assert any(place in range(1_000, 1_010) for place in found)
    assert sum(place >= 1_000 for place in found) <= 5
    assert max(found) < 1_100


def test_a_change_of_variance_is_found() -> None:
    values = noise(1_500) + [4 * value for value in noise(200, seed=2)]
    found = alarms(scores(values))
    assert any(place in range(1_500, 1_530) for place in found)


def test_a_stream_that_freezes_is_found() -> None:
    values = noise(1_500) + [0.3] * 100
    assert any(place in range(1_500, 1_560) for place in alarms(scores(values)))


def test_a_slow_drift_and_a_trend_are_nothing_unusual() -> None:
    values = [value + number / 200 for number, value in enumerate(noise(6_000))]
    assert len(alarms(scores(values), 1 - 1e-4)) <= 3


@pytest.mark.parametrize("with_time", [True, False])
def test_a_day_that_is_missing_is_found_by_its_season(with_time: bool) -> None:
    days = 12
    values = [
        (50.0 if number % 288 < 96 else 0.0) + value
        for number, value in enumerate(noise(288 * days))
    ]
    at = 288 * 10
    values[at : at + 96] = noise(96, seed=4)
    found = alarms(scores(values, with_time))
    assert any(place in range(at, at + 10) for place in found)
    # Until a few days have gone by, every new one is something new.
    assert sum(288 * 5 < place < at for place in found) <= 2


def test_a_gap_moves_no_season() -> None:
    values = [
        (50.0 if number % 288 < 96 else 0.0) + value for number, value in enumerate(noise(3_000))
    ]
    values[2_000:2_100] = [math.nan] * 100
    assert max(scores(values)[2_100:], default=0.0) < 1 - 1e-4


def test_an_anomaly_does_not_become_what_is_usual() -> None:
    values = noise(3_000)
    for start in (1_000, 1_600):
        values[start : start + 40] = [value + 8 for value in noise(40, seed=start)]
    found = alarms(scores(values))
    for start in (1_000, 1_600):
        assert any(place in range(start, start + 10) for place in found), start


def test_a_finding_tells_direction_and_what_is_usual() -> None:
    detector = AnomalyDetector(windows=(10,))
    rng = random.Random(6)
    for _ in range(1_000):
        detector.learn_one({"level": rng.gauss(5, 1), "other": rng.random()})
    for _ in range(10):
        detector.learn_one({"level": 0.0, "other": rng.random()})
    findings = detector.examine_one({"level": 0.0, "other": 0.5})
    assert findings["level"].direction == "low"
    assert findings["level"].recent_mean < findings["level"].usual_low < 5
    assert findings["level"].usual_high > 4.9
    assert findings["level"].tail_probability < 1e-4 < findings["other"].tail_probability


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="windows must be at least 2"):
        AnomalyDetector(windows=(1,))


def test_a_tail_counts_ties_and_knows_nothing_at_first() -> None:
    tail = Tail(memory=1_000)
    for number in range(59):
        tail.learn(float(number % 2))
        assert tail.probability(1e9) == 1.0
    for number in range(600):
        tail.learn(float(number % 2))
    assert min(tail.probability(1.0), tail.probability(0.0)) > 0.95


def test_farther_out_is_never_more_probable() -> None:
    tail, rng = Tail(memory=1_000), random.Random(8)
    for _ in range(2_000):
        tail.learn(rng.lognormvariate(0, 1))
    for sign in (-1, 1):
        found = [tail.probability(tail.location + sign * 0.05 * each) for each in range(1, 4_000)]
        assert all(later <= earlier for earlier, later in pairwise(found))


def test_the_harmonic_mean_of_equal_ones_is_the_same() -> None:
    assert harmonic_mean([0.01] * 7) == pytest.approx(0.01)
    assert harmonic_mean([]) == 1.0
