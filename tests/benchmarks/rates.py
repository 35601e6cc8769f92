"""The arithmetic of a benchmark: counts to rates, rates of several rounds to a figure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """A counter's value, and when it was read: monotonic seconds from any start."""

    at_s: float
    count: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of what several rounds gave."""

    median: float
    lowest: float
    highest: float


def steady_rate(samples: Sequence[Sample]) -> float:
    """Return the records a second between the first and the last of `samples`.

    Raises
    ------
    ValueError
        Fewer than two samples, a clock that stands still or a counter that does not move: no rate
        can be told from these.

    Examples
    --------
    >>> steady_rate([Sample(10.0, 4_000), Sample(11.0, 5_500), Sample(12.0, 6_000)])
    1000.0
    """
    if len(samples) < 2:
        raise ValueError(f"a rate needs two samples, not {len(samples)}")
    first, last = samples[0], samples[-1]
    if last.at_s <= first.at_s or last.count <= first.count:
        raise ValueError(f"no progress between {first} and {last}")
    return (last.count - first.count) / (last.at_s - first.at_s)


def drift(samples: Sequence[Sample]) -> float:
    """Return by how much the second half of the time was faster than the first, as a share.

    Near 0 where the state is steady. The sample next to the middle parts the halves.

    Raises
    ------
    ValueError
        No rate can be told from one of the halves.

    Examples
    --------
    >>> drift([Sample(0.0, 0), Sample(1.0, 1_000), Sample(2.0, 2_100)])
    0.1
    """
    middle_s = (samples[0].at_s + samples[-1].at_s) / 2
    middle = min(range(len(samples)), key=lambda i: abs(samples[i].at_s - middle_s))
    first, second = steady_rate(samples[: middle + 1]), steady_rate(samples[middle:])
    return round(second / first - 1, 6)


def is_getting_faster(samples: Sequence[Sample], span_s: float, by: float) -> bool:
    """Return whether the last `span_s` seconds were faster than those before them.

    Parameters
    ----------
    samples
        Of a job since its first record, in their order.
    span_s
        In seconds.
    by
        A lesser gain, as a share, is noise.

    Returns
    -------
    bool
        True also as long as there are not two such spans, and while nothing comes.

    Examples
    --------
    >>> steady = [Sample(t, 100 * t) for t in range(5)]
    >>> is_getting_faster(steady, span_s=2, by=0.05)
    False
    >>> is_getting_faster([*steady, Sample(5, 650)], span_s=2, by=0.05)
    True
    >>> is_getting_faster(steady[:4], span_s=2, by=0.05)
    True
    """
    last = samples[-1]
    middle = _at_most(samples, last.at_s - span_s)
    first = None if middle is None else _at_most(samples, middle.at_s - span_s)
    if first is None or middle is None or first.count == middle.count:
        return True
    return steady_rate([middle, last]) > (1 + by) * steady_rate([first, middle])


def _at_most(samples: Sequence[Sample], at_s: float) -> Sample | None:
    """Return the latest sample that is not later than `at_s`."""
    return next((sample for sample in reversed(samples) if sample.at_s <= at_s), None)


def spread(values: Sequence[float]) -> Spread:
    """Return median and extremes of at least one value.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, lowest=1.0, highest=3.0)
    """
    return Spread(statistics.median(values), min(values), max(values))


def ratios(
    rates: Mapping[str, Mapping[int, float]], variant: str, reference: str
) -> dict[int, float]:
    """Return a variant's rate over the reference's, round by round.

    Within a round both met the same machine; the ratio of two medians may come from two rounds.

    Parameters
    ----------
    rates
        Records a second by variant and round.
    variant, reference
        Names in `rates`. Rounds that either lacks are left out.

    Examples
    --------
    >>> ratios({"a": {1: 50.0, 2: 30.0}, "b": {1: 100.0, 2: 40.0}}, "a", "b")
    {1: 0.5, 2: 0.75}
    """
    of_reference = rates[reference]
    return {
        number: rate / of_reference[number]
        for number, rate in rates[variant].items()
        if number in of_reference
    }


def order(variants: Sequence[str], round_number: int, rounds: int) -> list[str]:
    """Return the variants in the order of a round, counted from 1.

    Rotated from round to round, so that each is measured early, in the middle and late.

    Examples
    --------
    >>> [order(["a", "b", "c"], number, rounds=3) for number in (1, 2, 3)]
    [['a', 'b', 'c'], ['b', 'c', 'a'], ['c', 'a', 'b']]
    """
    step = max(1, len(variants) // rounds)
    shift = (round_number - 1) * step % len(variants)
    return [*variants[shift:], *variants[:shift]]
