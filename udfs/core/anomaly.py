"""An online anomaly detector: how unusual is the newest behaviour against a stream's own history.

Each feature is looked at in several ways: the value itself, what is left of it after a prediction,
means over short and longer windows against what came before, the spread, the deviation from the
season where there is one. Each such view is a statistic whose tail probability comes from its own
past (`udfs.core.tails`), so that one that says nothing about a stream is silent there. The harmonic
mean of the tail probabilities, corrected by how often the stream has had such ones before, is the
tail probability of the record; the score is one minus it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from river import anomaly

from udfs.core.tails import SMALLEST, harmonic_mean
from udfs.core.views import Feature

Direction = Literal["low", "high", "same"]

TIME = "t"
"""The name under which a record may carry its time, in seconds."""

# Further out, a value's square is no float any more.
_LARGEST = 1e100

_EVENT_PROBABILITY = 3e-4
_NEWS = 0.1
_QUIET_PROBABILITY = 0.01

_LEVELS = (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
_LEVEL_PRIOR = 2.0
_LEAST_CORRECTION = 0.4


@dataclass(frozen=True, slots=True)
class Finding:
    """How unusual the newest behaviour of one feature is.

    Attributes
    ----------
    tail_probability
        Of behaviour at least so unusual, 0 to 1.
    recent_mean
        Mean of the newest values: of the view that is the most unusual, or of the shortest window.
    usual_low, usual_high
        Between these 95 % of such means lie.
    """

    tail_probability: float
    recent_mean: float
    usual_low: float
    usual_high: float

    @property
    def direction(self) -> Direction:
        """Whether the newest values lie lower or higher than usual."""
        middle = (self.usual_low + self.usual_high) / 2
        if self.recent_mean == middle:
            return "same"
        return "low" if self.recent_mean < middle else "high"


class Observation(NamedTuple):
    """What a record was found to be.

    Attributes
    ----------
    score
        As of `AnomalyDetector.score_one`.
    tail_probability
        As of `AnomalyDetector.probability_one`: no event silences it.
    findings
        By feature, where an explanation was asked for.
    """

    score: float
    tail_probability: float
    findings: Mapping[str, Finding]


class AnomalyDetector(anomaly.base.AnomalyDetector):
    """Scores how unusual a record is, with the interface of river's detectors.

    Score first, then learn: `score_one(x)` takes `x` as the newest record and changes nothing.
    `observe_one(x)` does both for the price of one.

    A record whose tail probability is below 0.0003 opens an event. What follows scores at most 0.99
    until `quiet` records in a row have been less unusual, unless its tail probability is a tenth of
    the least so far: one change of the stream, one high score. The first record of an event becomes
    part of the history like any other, the rest hardly, so that an anomaly does not become what is
    usual; after `shift_after` records it is no anomaly but a new behaviour, and learned.

    Parameters
    ----------
    windows
        Lengths of the windows whose means are looked at, in records, each at least 2. A window is
        compared with what came before it.
    clip
        What enters a window is at most so many scales (mean absolute deviations) out, so that a
        single value does not look like a sustained change. Infinite where values are bounded and
        what is rare counts.
    least_scale
        Differences below that are none worth the name, in the unit of the features.
    hold
        A record becomes part of the history only after so many more, and not at all if an event
        opens meanwhile: then it was how the anomaly began.
    most_correction
        The tail probability is multiplied by at most so much for small ones having been frequent.
    event_weight
        Of the records of an event but its first, 0 to 1.
    upward
        Names of features of which only more than usual is unusual, not less.
    has_points
        Look at single values.
    has_predictions
        Look at what is left of a value after a prediction from those before.
    has_spread
        Look at how much the values scatter about their prediction.
    has_seasons
        Look for a season: by the time `t` of a day or a week, else by the number of records at
        usual intervals.
    memory
        The history fades out over about so many records.
    warm_up
        A feature's first values, which are only learned from.
    quiet, shift_after
        See above, in records.

    Notes
    -----
    Constant time and bounded memory: about 5 KiB for each view of a feature, and with seasons up
    to 60 KiB of profiles. A feature that a record lacks, or that is no number (NaN, infinite or
    beyond 1e100), is left out of score and history alone. A restart loses nothing of what `state`
    returned, or of what pickle holds.

    Examples
    --------
    >>> detector = make_detector()
    >>> for number in range(300):
    ...     detector.learn_one({"value": number % 7})
    >>> detector.score_one({"value": 3.0}) < 0.9, detector.score_one({"value": 60.0}) > 0.9999
    (True, True)
    """

    def __init__(
        self,
        *,
        windows: Sequence[int] = (10, 60),
        clip: float = 4.0,
        least_scale: float = 0.0,
        hold: int = 0,
        most_correction: float = math.inf,
        event_weight: float = 0.05,
        upward: Collection[str] = (),
        has_points: bool = True,
        has_predictions: bool = True,
        has_spread: bool = True,
        has_seasons: bool = True,
        memory: int = 5_000,
        warm_up: int = 150,
        quiet: int = 150,
        shift_after: int = 300,
    ) -> None:
        if not windows or min(windows) < 2 or memory < max(windows) or warm_up < 0 or quiet < 1:
            raise ValueError(
                "windows must be at least 2, memory at least the longest of them, "
                "warm_up at least 0 and quiet at least 1"
            )
        self.windows = tuple(windows)
        self.clip = clip
        self.least_scale = least_scale
        self.hold = hold
        self.most_correction = most_correction
        self.event_weight = event_weight
        self.upward = frozenset(upward)
        self.has_points = has_points
        self.has_predictions = has_predictions
        self.has_spread = has_spread
        self.has_seasons = has_seasons
        self.memory = memory
        self.warm_up = warm_up
        self.quiet = quiet
        self.shift_after = shift_after
        self._features: dict[str, Feature] = {}
        self._event = _Event()
        self._correction = _Correction(memory)

    def score_one(self, x: Mapping[str, float]) -> float:
        """Return the score of a record, 0 to 1; 0 during the warm-up."""
        return 1.0 - self._event.told(self.probability_one(x))

    def probability_one(self, x: Mapping[str, float]) -> float:
        """Return the tail probability of a record, 0 to 1, as if no event were going on."""
        time_s = x.get(TIME)
        probabilities: list[float] = []
        for name, value in _numbers(x):
            feature = self._features.get(name)
            if feature is not None:
                probabilities += feature.probabilities(value, time_s)
        if not probabilities:
            return 1.0
        return self._correction.corrected(harmonic_mean(probabilities), self.most_correction)

    def learn_one(self, x: Mapping[str, float]) -> None:
        """Take a record into the history."""
        self.observe_one(x)

    def observe_one(self, x: Mapping[str, float]) -> float:
        """Return the score of a record and learn it: `score_one`, then `learn_one`."""
        return self.observe(x).score

    def observe(self, x: Mapping[str, float], explain_from: float = math.inf) -> Observation:
        """Score a record, learn it, and explain it where one minus its tail probability is so high.

        Parameters
        ----------
        x
            A record.
        explain_from
            One minus a tail probability, 0 to 1; more: never.
        """
        time_s = x.get(TIME)
        probabilities: list[float] = []
        features: dict[str, Feature] = {}
        looked: dict[str, list[float]] = {}
        for name, value in _numbers(x):
            feature = self._features.get(name)
            if feature is None:
                feature = self._features[name] = Feature(name, self)
            features[name] = feature
            looked[name] = feature.look(value, time_s)
            probabilities += looked[name]
        if len(features) < len(x):
            for name in x.keys() & self._features.keys() - features.keys():
                # A gap in a series is a place in its season all the same.
                self._features[name].skip()
        probability, told, weight = 1.0, 1.0, 1.0
        findings: dict[str, Finding] = {}
        if probabilities:
            raw = harmonic_mean(probabilities)
            probability = self._correction.corrected(raw, self.most_correction)
            told = self._event.told(probability)
            if 1.0 - probability >= explain_from:
                findings = {
                    name: Finding(harmonic_mean(looked[name]), *feature.told())
                    for name, feature in features.items()
                    if looked[name]
                }
            if not self._event.advance(probability, self.quiet, self.shift_after):
                weight = self.event_weight
            if weight:
                self._correction.learn(raw)
            if self._event.has_just_opened:
                for feature in features.values():
                    feature.forget_held()
        for feature in features.values():
            feature.learn(weight)
        return Observation(1.0 - told, probability, findings)

    def examine_one(self, x: Mapping[str, float]) -> dict[str, Finding]:
        """Return what the score of a record is made of: a finding for each feature that has one."""
        findings = {}
        for name, value in _numbers(x):
            feature = self._features.get(name)
            if feature is not None:
                probabilities, told = feature.examine(value, x.get(TIME))
                if probabilities:
                    findings[name] = Finding(harmonic_mean(probabilities), *told)
        return findings

    def state(self) -> dict[str, Any]:
        """Return what was learned as JSON values; the parameters are not among it."""
        return {
            "features": {name: feature.state() for name, feature in self._features.items()},
            "event": self._event.state(),
            "correction": self._correction.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._features = {
            name: Feature(name, self, saved) for name, saved in state["features"].items()
        }
        self._event = _Event(state["event"])
        self._correction = _Correction(self.memory, state["correction"])


def make_detector() -> AnomalyDetector:
    """Return a detector with sound defaults for one or many features under any names.

    A single series uses the name `value`; `t`, in seconds, is optional time.

    Examples
    --------
    >>> make_detector().score_one({"value": 1.0})
    0.0
    """
    return AnomalyDetector()


class _Event:
    """Whether something unusual is going on, and how unusual it has been."""

    __slots__ = ("lasted", "least", "quiet_left")

    def __init__(self, state: Sequence[float] | None = None) -> None:
        saved = state or (1.0, 0, 0)
        self.least = float(saved[0])
        self.quiet_left, self.lasted = int(saved[1]), int(saved[2])

    def told(self, probability: float) -> float:
        """Return the tail probability that is told: within an event, only what is news."""
        if self.quiet_left and probability >= _NEWS * self.least:
            return max(probability, _QUIET_PROBABILITY)
        return probability

    def advance(self, probability: float, quiet: int, shift_after: int) -> bool:
        """Take note of a record; return whether it is to be learned in full."""
        if probability < _EVENT_PROBABILITY:
            self.least = min(self.least, probability)
            self.quiet_left = quiet
        elif self.quiet_left:
            self.quiet_left -= 1
            if not self.quiet_left:
                self.least, self.lasted = 1.0, 0
        if not self.quiet_left:
            return True
        self.lasted += 1
        return not 1 < self.lasted < shift_after

    @property
    def has_just_opened(self) -> bool:
        """Whether the latest record was the first of an event."""
        return self.lasted == 1

    def state(self) -> list[float]:
        return [self.least, self.quiet_left, self.lasted]


class _Correction:
    """How much more often than it should the stream has had small tail probabilities.

    The harmonic mean is nearly exact, the tails are estimates: what they amount to is counted at a
    few levels, and the second largest ratio corrects what comes.
    """

    __slots__ = ("_counts", "_factor", "_memory", "_n")

    def __init__(self, memory: float, state: Mapping[str, Any] | None = None) -> None:
        self._memory = memory
        self._n: float = state["n"] if state else 0.0
        self._counts: list[float] = list(state["counts"]) if state else [0.0] * len(_LEVELS)
        self._factor = self._ratio()

    def corrected(self, probability: float, most: float) -> float:
        factor = min(most, self._factor)
        # Small ones by all of the factor, 1 not at all.
        return min(1.0, max(SMALLEST, probability * math.pow(factor, 1 - probability)))

    def learn(self, probability: float) -> None:
        self._n += 1
        if probability < _LEVELS[0]:
            for index, level in enumerate(_LEVELS):
                if probability < level:
                    self._counts[index] += 1
        if self._n > self._memory:
            fading = self._memory / self._n
            self._n *= fading
            self._counts = [count * fading for count in self._counts]
        self._factor = self._ratio()

    def state(self) -> dict[str, Any]:
        return {"n": self._n, "counts": self._counts}

    def _ratio(self) -> float:
        # The largest of several that are estimated is too large on average.
        _, second, *_ = sorted(
            [
                (count + _LEVEL_PRIOR) / (self._n * level + _LEVEL_PRIOR)
                for count, level in zip(self._counts, _LEVELS, strict=True)
            ],
            reverse=True,
        )
        return second if second > _LEAST_CORRECTION else _LEAST_CORRECTION


def _numbers(x: Mapping[str, float]) -> Iterable[tuple[str, float]]:
    # A comparison with NaN is False.
    return (
        (name, float(value)) for name, value in x.items() if abs(value) < _LARGEST and name != TIME
    )
