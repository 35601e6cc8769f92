import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.rates import (
    Sample,
    drift,
    is_getting_faster,
    order,
    ratios,
    spread,
    steady_rate,
)


@given(
    st.floats(1, 1e6),
    st.lists(st.floats(0.01, 10), min_size=1, max_size=50),
    st.integers(0, 10**9),
)
def test_a_steady_counter_has_its_rate_wherever_it_is_sampled(
    rate: float, gaps_s: list[float], start: int
) -> None:
    at_s, samples = 0.0, [Sample(0.0, start)]
    for gap_s in gaps_s:
        at_s += gap_s
        samples.append(Sample(at_s, start + round(rate * at_s)))
    if samples[-1].count == start:
        with pytest.raises(ValueError, match="no progress"):
            steady_rate(samples)
    else:
        # A count is a whole number: half a record too many or too few.
        assert steady_rate(samples) == pytest.approx(rate, abs=0.51 / at_s)


def test_what_came_before_the_first_sample_does_not_count() -> None:
    slow_start = [Sample(0, 0), Sample(10, 100)]
    steady = [Sample(11, 1_100), Sample(12, 2_100), Sample(13, 3_100)]
    assert steady_rate(steady) == 1_000
    assert steady_rate(slow_start + steady) < 250


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [Sample(1, 1)],
        [Sample(1, 1), Sample(2, 1)],
        [Sample(1, 1), Sample(1, 2)],
        [Sample(2, 1), Sample(1, 2)],
    ],
)
def test_no_rate_is_made_up(samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match=r"two samples|no progress"):
        steady_rate(samples)


def test_drift_compares_the_halves() -> None:
    warming_up = [Sample(t, t * t * 100) for t in range(5)]
    assert drift(warming_up) == 2.0
    assert drift([Sample(t, t * 100) for t in range(5)]) == 0.0


def test_a_job_is_warm_when_it_gets_no_faster() -> None:
    """The rate grows for ten seconds, then stays."""
    samples = [Sample(0.0, 0)]
    for tick in range(1, 201):
        at_s = tick / 10
        samples.append(Sample(at_s, samples[-1].count + round(10 * min(at_s, 10.0))))
    faster = [
        sample.at_s
        for number, sample in enumerate(samples, 1)
        if is_getting_faster(samples[:number], span_s=1.5, by=0.05)
    ]
    assert faster[:100] == [sample.at_s for sample in samples[:100]]
    assert 10.0 < faster[-1] < 13.0


def test_a_job_that_stands_still_is_not_warm() -> None:
    assert is_getting_faster([Sample(t, 0) for t in range(10)], span_s=2, by=0.05)
    stalled = [*(Sample(t, t * 100) for t in range(4)), Sample(4, 300), Sample(5, 300)]
    assert not is_getting_faster(stalled[:4], span_s=1, by=0.05)
    assert is_getting_faster([*stalled, Sample(6, 400)], span_s=1, by=0.05)


def test_spread_is_that_of_the_values_in_any_order() -> None:
    values = [5.0, 1.0, 9.0, 3.0]
    random.Random(1).shuffle(values)
    assert spread(values).median == 4.0
    assert (spread(values).lowest, spread(values).highest) == (1.0, 9.0)


def test_ratios_are_of_one_round_however_the_machine_changes() -> None:
    machine = {1: 1.0, 2: 0.3, 3: 2.0}
    rates = {
        "a": {number: 50 * speed for number, speed in machine.items()},
        "b": {number: 200 * speed for number, speed in machine.items() if number != 2},
    }
    assert ratios(rates, "a", "b") == {1: 0.25, 3: 0.25}


@given(st.integers(1, 12), st.integers(1, 6))
def test_a_round_holds_every_variant_once_and_begins_with_another(count: int, rounds: int) -> None:
    variants = [str(number) for number in range(count)]
    orders = [order(variants, number, rounds) for number in range(1, rounds + 1)]
    assert orders[0] == variants
    assert all(sorted(names) == sorted(variants) for names in orders)
    first = [names[0] for names in orders]
    assert len(set(first)) == min(count, rounds)
