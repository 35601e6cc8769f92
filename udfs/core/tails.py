"""How rarely a statistic has been so far out, judged by nothing but its own past.

The past is a histogram over standardised values, bounded and fading. Within its reach the tail
probability is the share of the past at least so far out, ties included, so that it holds for
values of any distribution, discrete ones too, and for a past whose neighbours resemble each other.
Beyond, it is extrapolated: the logarithm of a tail probability is taken as a power of the distance
(a Weibull tail), the power read off two upper quantiles (L. Gardes and S. Girard, "Comparison of
Weibull tail-coefficient estimators", REVSTAT, 2006), then averaged, in logarithms, with the share
that a Dirichlet process (T. S. Ferguson, "A Bayesian Analysis of Some Nonparametric Problems",
Annals of Statistics, 1973) leaves to what has never been seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

SMALLEST = 1e-15
"""No tail probability is told to be smaller: one minus it would be 1."""

REACH = 5.0

_LINEAR_BINS, _LINEAR_WIDTH, _LINEAR_END = 40, 0.1, 4.0
_BINS = 150
_PER_E_FOLD = 10
_EDGES = (
    *(index * _LINEAR_WIDTH for index in range(_LINEAR_BINS)),
    *(_LINEAR_END * math.exp(index / _PER_E_FOLD) for index in range(_BINS - _LINEAR_BINS + 1)),
)
_FARTHEST = 1e6

_FIRST_BINNED = 8  # before, location and scale mean nothing
_MIN_COUNT = 60
_REFIT_EARLY, _REFIT_EARLY_UNTIL, _REFIT = 8, 400, 64
_FADE_SLACK = 1.02

_SEEN = 3.0  # so many of the past must be as far out, or the tail is extrapolated
_NEVER_SEEN = 0.5
_UPPER_COUNT, _LOWER_COUNT = 10.0, 100.0
_USUAL_SHAPE, _SHAPE_WEIGHT, _MIN_SHAPE, _MAX_SHAPE = 0.7, 0.1, 0.05, 1.2
_PRIOR_COUNT = 4.0

_ROBUST_AFTER = 20
_ROUNDING = 1e-9


class Tail:
    """The past of one statistic.

    Location and scale follow the statistic robustly: an exponentially weighted mean, and mean
    absolute deviation from it, of clipped values.

    Parameters
    ----------
    memory
        The past fades out over about so many values.
    state
        What `state` returned, to go on from there.
    reach
        For location and scale, values are clipped at so many scales.
    least_scale
        In the statistic's own unit: less than that is no difference worth the name, also where
        the statistic has hardly varied yet.

    Notes
    -----
    Constant time; up to 300 floats, of which only those that are not 0 are kept in `state`.

    Examples
    --------
    >>> tail = Tail(memory=1_000)
    >>> for number in range(500):
    ...     tail.learn(number * 37 % 100)
    >>> round(tail.probability(75.0), 2), tail.probability(1_000.0) < 1e-4
    (0.5, True)
    """

    __slots__ = (
        "_above",
        "_anchors",
        "_counts",
        "_pending",
        "_total",
        "least_scale",
        "location",
        "memory",
        "n",
        "reach",
        "scale",
    )

    def __init__(
        self,
        memory: float,
        state: Mapping[str, Any] | None = None,
        *,
        reach: float = REACH,
        least_scale: float = 0.0,
    ) -> None:
        self.memory = memory
        self.least_scale = least_scale
        self.reach = reach
        self.n: float = state["n"] if state else 0.0
        self.location: float = state["location"] if state else 0.0
        self.scale: float = state["scale"] if state else 0.0
        # Higher and lower than the location.
        self._counts: tuple[list[float], list[float]] = ([0.0] * _BINS, [0.0] * _BINS)
        # Waiting for the next fit: pairs of the place, -1 - bin where lower, and the weight.
        self._pending: list[tuple[int, float]] = []
        self._total = 0.0
        if state:
            for side, saved in zip(self._counts, state["counts"], strict=True):
                for index, count in saved:
                    side[index] = count
            self._total = state["total"]
        self._summarise()
        if state:
            self._pending = [(place, weight) for place, weight in state["pending"]]

    def state(self) -> dict[str, Any]:
        """Return the past as JSON values."""
        return {
            "n": self.n,
            "location": self.location,
            "scale": self.scale,
            "total": self._total,
            "counts": [
                [[index, count] for index, count in enumerate(side) if count]
                for side in self._counts
            ],
            "pending": [list(each) for each in self._pending],
        }

    def standardise(self, value: float) -> float:
        """Return the distance from the location in scales, within a million."""
        # Called most of all: comparisons are quicker than calls of min and max.
        distance = value - self.location
        scale = self.scale if self.scale > self.least_scale else self.least_scale
        if scale <= _ROUNDING * abs(self.location):
            return math.copysign(_FARTHEST / 100, distance) if self.n and distance else 0.0
        distance /= scale
        if distance > _FARTHEST:
            return _FARTHEST
        return distance if distance > -_FARTHEST else -_FARTHEST

    def clip(self, value: float, scales: float) -> float:
        """Return the value, or where it is further away than so many scales, what is that far."""
        reach = scales * self.scale
        if self.n < _ROBUST_AFTER or reach <= 0.0:
            return value
        distance = value - self.location
        if distance > reach:
            return self.location + reach
        return self.location - reach if distance < -reach else value

    def probability(self, value: float) -> float:
        """Return the two-sided tail probability of a value; 1 while little is known."""
        if self.n < _MIN_COUNT:
            return 1.0
        distance = self.standardise(value)
        side = 0
        if distance < 0.0:
            side, distance = 1, -distance
        if distance < _LINEAR_WIDTH:
            # At the location itself; it may have been on the other side of a discrete value.
            return 1.0
        index = int(distance * 10) if distance < _LINEAR_END else _bin(distance)
        count, total = self._above[side][index], self._total
        if count >= _SEEN:
            share = 2 * count / total
            return share if share < 1.0 else 1.0
        anchor, anchor_count, shape = self._anchors[side]
        if distance <= anchor:
            return min(1.0, 2 * count / total)
        depth = max(0.5, math.log((total + 1) / 2 / anchor_count))
        seen = math.exp(-depth * (distance / anchor) ** shape)
        unseen = _PRIOR_COUNT / total / (1 + distance * distance / 4) ** 2
        if seen > unseen and count < _NEVER_SEEN:
            # The heavier the tail, the less is news about what has never been seen.
            share = 0.5 * min(1.0, shape / _USUAL_SHAPE)
            return float(seen ** (1 - share) * unseen**share)
        return max(seen, unseen)

    def learn(self, value: float, weight: float = 1.0) -> None:
        """Take a value into the past; less of it where the weight (0 to 1) is less than 1."""
        self.n = n = self.n + weight
        if n > _FIRST_BINNED:
            distance = self.standardise(value)
            if -_LINEAR_END < distance < _LINEAR_END:
                index = int(distance * 10) if distance >= 0.0 else -1 - int(distance * -10)
            else:
                index = _bin(distance) if distance >= 0.0 else -1 - _bin(-distance)
            self._pending.append((index, weight))
            if len(self._pending) >= (_REFIT_EARLY if n < _REFIT_EARLY_UNTIL else _REFIT):
                self._fit()
        distance = value - self.location
        if n <= 1.0:
            self.location = value
            return
        rate = weight / (n if n < self.memory else self.memory)
        if n > _ROBUST_AFTER and self.scale > 0.0:
            reach = self.reach * self.scale
            if distance > reach:
                distance = reach
            elif distance < -reach:
                distance = -reach
        self.location += rate * distance
        self.scale += rate * (abs(distance) - self.scale)

    def usual_range(self, share: float = 0.95) -> tuple[float, float]:
        """Return between which values the middle of the past lies, as exact as its bins."""
        outside = (1 - share) / 2 * self._total
        ends = []
        for above in self._above:
            index = next((i for i in range(_BINS) if above[i + 1] <= outside), _BINS - 1)
            ends.append(_EDGES[index + 1] if above[0] > 0.0 else 0.0)
        return self.location - ends[1] * self.scale, self.location + ends[0] * self.scale

    def _fit(self) -> None:
        """Take what is pending into the histogram."""
        higher, lower = self._counts
        for index, weight in self._pending:
            if index >= 0:
                higher[index] += weight
            else:
                lower[-1 - index] += weight
            self._total += weight
        self._pending.clear()
        if self._total > _FADE_SLACK * self.memory:
            fading = self.memory / self._total
            self._counts = ([c * fading for c in higher], [c * fading for c in lower])
            self._total = self.memory
        self._summarise()

    def _summarise(self) -> None:
        self._above = tuple(_counts_from(side) for side in self._counts)
        self._anchors = tuple(self._anchor(above) for above in self._above)

    def _anchor(self, above: Sequence[float]) -> tuple[float, float, float]:
        """Return from where a side is extrapolated, the count there, and its shape."""
        index = next((i for i in range(_BINS - 1, 0, -1) if above[i] >= _SEEN), 0)
        anchor, count = _EDGES[max(1, index)], max(1.0, above[index])
        shape = _USUAL_SHAPE
        if above[0] >= 2 * _UPPER_COUNT:
            upper, upper_count = _quantile(above, _UPPER_COUNT)
            lower, lower_count = _quantile(above, min(_LOWER_COUNT, 0.7 * above[0]))
            upper_count = max(1.0, upper_count)
            if upper > lower > 0.0 and lower_count > 1.5 * upper_count:
                half = self._total / 2
                steepness = math.log(math.log(half / upper_count + 1)) - math.log(
                    math.log(half / lower_count + 1)
                )
                shape = (steepness + _SHAPE_WEIGHT * _USUAL_SHAPE) / (
                    math.log(upper / lower) + _SHAPE_WEIGHT
                )
        return anchor, count, max(_MIN_SHAPE, min(_MAX_SHAPE, shape))


def harmonic_mean(probabilities: Iterable[float]) -> float:
    """Return the harmonic mean of tail probabilities, 1 if there is none.

    As a tail probability it is nearly exact where it is small, however the statistics depend on
    each other (D. J. Wilson, "The harmonic mean p-value for combining dependent tests", PNAS,
    2019).

    >>> round(harmonic_mean([0.5, 0.001, 0.2]), 6)
    0.002979
    """
    count, total = 0, 0.0
    for each in probabilities:
        count += 1
        total += 1.0 / (each if each > SMALLEST else SMALLEST)
    return count / total if count else 1.0


def _bin(distance: float) -> int:
    if distance < _LINEAR_END:
        return int(distance * 10)
    return min(_BINS - 1, _LINEAR_BINS + int(_PER_E_FOLD * math.log(distance / _LINEAR_END)))


def _counts_from(counts: list[float]) -> list[float]:
    """Return how many lie in each bin or beyond; one more than the bins."""
    above = list(accumulate(counts[::-1], initial=0.0))
    above.reverse()
    return above


def _quantile(above: Sequence[float], count: float) -> tuple[float, float]:
    """Return the least edge beyond which at most so many lie, and how many do."""
    index = next((i for i in range(_BINS, 0, -1) if above[i - 1] > count), 0)
    return _EDGES[index], above[index]
