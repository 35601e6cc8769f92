"""An online anomaly detector: how unusual is the newest behaviour against a stream's own history.

For each feature, the mean of the newest values is compared with all that came before them. If
nothing has changed, the newest values are a random draw without replacement from history and newest
together; how such a mean is distributed follows from the moments of the whole, whatever the values
are: discrete, skewed, bounded. That is a permutation test by moments (P. W. Mielke and K. J. Berry,
"Permutation Methods: A Distance Function Approach", Springer, 2007), with a Pearson type III tail
after Wilson and Hilferty (G. W. Kite, "Frequency and Risk Analyses in Hydrology", 1977).

Neighbouring values are taken as independent: a stream that follows itself (a season, a slow swing)
scores higher than it should.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from river import stats

Direction = Literal["low", "high", "same"]

# Further out, a value's third power is no float any more.
_LARGEST = 1e50
# Of squares about the origin: less is what rounding leaves of a constant.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Finding:
    """How unusual the newest behaviour of one feature is.

    Attributes
    ----------
    tail_probability
        Of a mean at least so far away, in either direction, had nothing changed; 0 to 1.
    recent_mean
        Mean of the newest values.
    usual_mean, usual_deviation
        Mean and standard deviation of a single value in the history.
    """

    tail_probability: float
    recent_mean: float
    usual_mean: float
    usual_deviation: float

    @property
    def direction(self) -> Direction:
        """Whether the newest values lie lower or higher than usual."""
        if self.recent_mean == self.usual_mean:
            return "same"
        return "low" if self.recent_mean < self.usual_mean else "high"


class ShiftDetector:
    """Scores a shift of the mean of any feature, with the interface of river's detectors.

    Score first, then learn: `score_one(x)` takes `x` as the newest record and changes nothing.

    While a feature behaves in a way that has a tail probability below `gate`, what it brings is
    kept apart from its history, so that an anomaly does not become what is usual. If that lasts for
    `shift_after` records, it is no anomaly but a new level: it takes the place of the history.

    Parameters
    ----------
    window
        The newest behaviour is the mean of so many records, at least 2.
    memory
        The history follows the stream: an average over about so many records, fading out.
    warm_up
        A feature's first values, which are only learned from; never less than twice `window`.
    gate
        Tail probability, 0 to 1.
    shift_after
        In records.

    Notes
    -----
    Constant time and, for each feature, about 2 KiB. A feature that a record lacks, or that is no
    number (NaN, infinite or beyond 1e50), is left out of score and history alone. What never
    varied scores 0.

    Examples
    --------
    >>> detector = ShiftDetector(window=5, warm_up=40)
    >>> for number in range(40):
    ...     detector.learn_one({"value": number % 3})
    >>> for value in (1, 9, 9, 9):
    ...     print(round(detector.score_one({"value": value}), 3))
    ...     detector.learn_one({"value": value})
    0.34
    0.933
    0.989
    0.997
    """

    def __init__(
        self,
        *,
        window: int = 20,
        memory: int = 500,
        warm_up: int = 50,
        gate: float = 0.001,
        shift_after: int = 200,
    ) -> None:
        if window < 2 or memory < window or shift_after < window or not 0 <= gate <= 1:
            raise ValueError(
                "window must be at least 2, memory and shift_after at least window, gate 0 to 1"
            )
        self.window = window
        self.memory = memory
        self.warm_up = warm_up
        self.gate = gate
        self.shift_after = shift_after
        self._features: dict[str, _Feature] = {}

    def score_one(self, x: Mapping[str, float]) -> float:
        """Return the score of a record, 0 to 1; 0 during the warm-up.

        One minus the smallest tail probability of any feature, times the number of features: the
        more are looked at, the more often one of them is unusual by chance (Bonferroni).
        """
        return score(self.examine_one(x))

    def examine_one(self, x: Mapping[str, float]) -> dict[str, Finding]:
        """Return what the score of a record is made of: a finding for each feature that has one."""
        findings = {}
        for name, value in _numbers(x):
            feature = self._features.get(name)
            finding = feature.examine([*feature.newest, value]) if feature is not None else None
            if finding is not None:
                findings[name] = finding
        return findings

    def learn_one(self, x: Mapping[str, float]) -> None:
        """Take a record into the newest behaviour, and the oldest there into the history."""
        for name, value in _numbers(x):
            feature = self._features.get(name)
            if feature is None:
                feature = self._features[name] = _Feature(self)
            feature.learn(value)

    def state(self) -> dict[str, Any]:
        """Return what was learned as JSON values; the parameters are not among it."""
        return {name: feature.state() for name, feature in self._features.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._features = {name: _Feature(self, saved) for name, saved in state.items()}


def make_detector(*, warm_up: int = 50) -> ShiftDetector:
    """Return a detector with sound defaults for any features.

    Parameters
    ----------
    warm_up
        The first records, which are only learned from.

    Examples
    --------
    >>> make_detector().score_one({"star_rating": 1.0})
    0.0
    """
    return ShiftDetector(warm_up=warm_up)


def score(findings: Mapping[str, Finding]) -> float:
    """Return the score that findings amount to, 0 to 1; see `ShiftDetector.score_one`.

    >>> score({"a": Finding(0.01, 1.0, 3.0, 1.0), "b": Finding(0.5, 1.0, 3.0, 1.0)})
    0.98
    """
    if not findings:
        return 0.0
    smallest = min(finding.tail_probability for finding in findings.values())
    return 1.0 - min(1.0, len(findings) * smallest)


class _Mean(Protocol):
    """river's `stats.Mean`, which is untyped."""

    n: float

    def update(self, x: float, w: float = 1.0) -> None: ...

    def get(self) -> float: ...


class _Feature:
    """The newest values of one feature and the history of all before them."""

    def __init__(self, options: ShiftDetector, saved: Mapping[str, Any] | None = None) -> None:
        self._options = options
        self._learned: int = saved["learned"] if saved else 0
        self._newest = deque[float](saved["newest"] if saved else (), maxlen=options.window)
        self._history = _History(options.memory, saved["history"] if saved else None)
        # What may turn out to be a new level.
        self._apart = _History(options.memory, saved["apart"] if saved else None)

    @property
    def newest(self) -> Sequence[float]:
        """All but the oldest of the newest values: what the next value will be seen with."""
        values = list(self._newest)
        return values[1:] if len(values) == self._options.window else values

    def examine(self, newest: Sequence[float]) -> Finding | None:
        """Compare so many newest values with the history; None during the warm-up."""
        options = self._options
        if self._learned < max(options.warm_up, 2 * options.window):
            return None
        usual_mean, usual_deviation = self._history.mean_and_deviation()
        return Finding(
            self._history.tail_probability(newest),
            math.fsum(newest) / len(newest),
            usual_mean,
            usual_deviation,
        )

    def learn(self, value: float) -> None:
        leaving = self._newest[0] if len(self._newest) == self._options.window else None
        self._newest.append(value)
        self._learned += 1
        if leaving is None:
            return
        finding = self.examine(self._newest)
        if finding is None or finding.tail_probability >= self._options.gate:
            self._history.update(leaving)
            if self._apart.count:
                self._apart = _History(self._options.memory)
            return
        self._apart.update(leaving)
        if self._apart.count >= self._options.shift_after:
            self._history = self._apart
            self._apart = _History(self._options.memory)

    def state(self) -> dict[str, Any]:
        return {
            "learned": self._learned,
            "newest": list(self._newest),
            "history": self._history.state(),
            "apart": self._apart.state(),
        }


class _History:
    """The first three moments of values, about the first of them so that digits are kept.

    Means of all values up to `memory` of them, exponentially weighted ones from there on.
    """

    __slots__ = ("_memory", "_moments", "_origin")

    def __init__(self, memory: int, saved: Mapping[str, Any] | None = None) -> None:
        self._memory = memory
        self._origin: float | None = saved["origin"] if saved else None
        means = [stats.Mean() for _ in range(3)]  # type: ignore[no-untyped-call]
        self._moments = cast(list[_Mean], means)
        if saved and saved["count"]:
            for mean, moment in zip(self._moments, saved["moments"], strict=True):
                mean.update(moment, w=saved["count"])

    @property
    def count(self) -> float:
        return self._moments[0].n

    def update(self, value: float) -> None:
        if self._origin is None:
            self._origin = value
        away = value - self._origin
        for mean, power in zip(self._moments, (away, away**2, away**3), strict=True):
            # A mean whose count stands still fades exponentially.
            mean.n = min(mean.n, self._memory - 1)
            mean.update(power)

    def mean_and_deviation(self) -> tuple[float, float]:
        first, second, _ = (mean.get() for mean in self._moments)
        return (self._origin or 0.0) + first, math.sqrt(max(0.0, second - first**2))

    def tail_probability(self, newest: Sequence[float]) -> float:
        """Return how likely a mean so far away is for a draw from history and newest together."""
        origin = self._origin or 0.0
        away = [value - origin for value in newest]
        drawn, rest = len(away), self.count
        total = drawn + rest
        powers = (
            math.fsum(away),
            math.fsum([each**2 for each in away]),
            math.fsum([each**3 for each in away]),
        )
        first, second, third = (
            (rest * mean.get() + power) / total
            for mean, power in zip(self._moments, powers, strict=True)
        )
        variance = second - first**2
        if not variance > _ROUNDING * second:
            return 1.0
        skewness = (third - 3 * first * second + 2 * first**3) / variance / math.sqrt(variance)
        # Of the mean of a draw without replacement.
        mean_variance = variance * rest / (drawn * (total - 1))
        mean_skewness = (
            skewness * (rest - drawn) / (total - 2) * math.sqrt((total - 1) / (drawn * rest))
        )
        return _two_sided((powers[0] / drawn - first) / math.sqrt(mean_variance), mean_skewness)

    def state(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "origin": self._origin,
            "moments": [mean.get() for mean in self._moments],
        }


def _two_sided(deviations: float, skewness: float) -> float:
    """Return the probability of a value at least so many deviations away, in either direction.

    Skewness counts where it makes the tail heavier: what is rare on one side says nothing about
    the other.

    >>> round(_two_sided(1.96, 0.0), 3), round(_two_sided(1.96, 1.0), 3)
    (0.05, 0.089)
    """
    if skewness * deviations > 1e-6:
        stretched = math.cbrt(skewness * deviations / 2 + 1)
        deviations = 6 / skewness * (stretched - 1) + skewness / 6
    return math.erfc(abs(deviations) / math.sqrt(2))


def _numbers(x: Mapping[str, float]) -> Iterable[tuple[str, float]]:
    # A comparison with NaN is False.
    return ((name, float(value)) for name, value in x.items() if abs(value) < _LARGEST)
