"""The ways in which the anomaly detector looks at one feature: statistics with their pasts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol, cast

from river import stats

from udfs.core.tails import REACH, Tail

_RATES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.002)
_ERROR_MEMORY = 500

# A window is compared with an average over so many windows before it.
_WINDOWS_BEFORE = 5
_ROUNDING = 1e-12
_SPREAD_WINDOW = 20
_LEAST_SPREAD = 1e-3

_CALENDAR_BIN_S = 300.0
_CALENDAR = (288, 2_016)  # a day and a week of them
_LAGS = (24, 48, 96, 144, 168, 288, 336, 672, 2_016)
_SEASON_RATE, _SEASON_EVENT_RATE = 0.3, 0.1
_SEASON_SUPPORT = 0.6
_SEASON_MIN_COMPARED = 100
_SEASON_CYCLES = 4
_SEASON_CHECK = 50

# Of the warm-up: a view that begins later than the feature is silent until then.
_VIEW_WARM_UP = 0.7


Told = tuple[float, float, float]


class Options(Protocol):
    """What a feature is told about how to look; see `AnomalyDetector`."""

    windows: tuple[int, ...]
    clip: float
    least_scale: float
    hold: int
    upward: frozenset[str]
    has_points: bool
    has_predictions: bool
    has_spread: bool
    has_seasons: bool
    memory: int
    warm_up: int


class Feature:
    """All views of one feature.

    `look` and `learn` belong together: what was looked at is what is learned. `probabilities` is
    `look` without a trace.
    """

    def __init__(self, name: str, options: Options, state: Mapping[str, Any] | None = None) -> None:
        self._options = options
        self._is_upward = name in options.upward
        saved = state or {}
        self._n: int = saved.get("n", 0)
        self._averages = _Averages(saved.get("averages"))
        self._tails = {
            name: self._new_tail(name, each) for name, each in saved.get("tails", {}).items()
        }
        windows = saved.get("windows", {})
        self._windows = [_Window(each, windows.get(str(each))) for each in options.windows]
        self._errors = _Window(_SPREAD_WINDOW, saved.get("errors"))
        self._seasons = _Seasons(saved.get("seasons")) if options.has_seasons else None
        self._deviations = _Window(options.windows[0], saved.get("deviations"))
        # What is not yet part of the past: it may turn out to be how an anomaly begins.
        self._held = deque[dict[str, float]](saved.get("held", ()))
        self._names = [f"window_{each}" for each in options.windows]
        self._least = _VIEW_WARM_UP * options.warm_up
        # Even without a view of its own it says what enters a window.
        self._has_level = options.has_points or options.clip < math.inf
        self._value = 0.0
        self._time_s: float | None = None
        self._statistics: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """Return all that was learned as JSON values."""
        return {
            "n": self._n,
            "averages": self._averages.state(),
            "tails": {name: tail.state() for name, tail in self._tails.items()},
            "windows": {str(window.length): window.state() for window in self._windows},
            "errors": self._errors.state(),
            "deviations": self._deviations.state(),
            "seasons": self._seasons.state() if self._seasons else None,
            "held": list(self._held),
        }

    def probabilities(self, value: float, time_s: float | None) -> list[float]:
        """Return the tail probability of each view for a value; none during the warm-up."""
        if self._n < self._options.warm_up:
            return []
        return self._weigh(self._look(value, time_s))

    def look(self, value: float, time_s: float | None) -> list[float]:
        """Return `probabilities`, and keep in mind what was seen for `learn`."""
        self._value, self._time_s = value, time_s
        self._statistics = self._look(value, time_s)
        return self._weigh(self._statistics) if self._n >= self._options.warm_up else []

    def learn(self, weight: float) -> None:
        """Learn the value that was last looked at, with a weight of 0 to 1."""
        options, value, seen = self._options, self._value, self._statistics
        clip, tails = options.clip, self._tails
        self._n += 1
        entering = self._clipped(value)
        residual = seen.get("residual")
        if options.has_spread and residual is not None and "residual" in tails:
            self._errors.append(abs(tails["residual"].clip(residual, clip)))
        deviation = seen.get("season")
        if deviation is not None and "season" in tails:
            self._deviations.append(tails["season"].clip(deviation, clip))
        if self._has_level:
            seen["level"] = value
        if options.hold and weight == 1.0:
            self._held.append(seen)
            if len(self._held) > options.hold:
                self._learn(self._held.popleft(), 1.0)
        elif weight:
            self._learn(seen, weight)
        for window in self._windows:
            # Also where nothing of an event is learned: it must not last because the stream is not
            # quite what it was.
            window.append(entering)
        if options.has_predictions or options.has_spread:
            self._averages.learn(value)
        if self._seasons is not None:
            scale = self._level_tail().scale
            self._seasons.learn(value, self._time_s, weight, scale)

    def forget_held(self) -> None:
        """Keep out of the past what has led to an anomaly."""
        self._held.clear()

    def _learn(self, seen: Mapping[str, float], weight: float) -> None:
        for name, statistic in seen.items():
            tail = self._tails.get(name)
            if tail is None:
                tail = self._tails[name] = self._new_tail(name)
            tail.learn(statistic, weight)

    def skip(self) -> None:
        """Go on in the season without a value."""
        if self._seasons is not None and self._time_s is None:
            self._seasons.skip()

    def told(self) -> Told:
        """Return mean of the newest values, and the usual lowest and highest mean.

        Of the window that is the most unusual, or of the value alone where that is more unusual;
        of what was last looked at.
        """
        return self._tell(self._value, self._statistics)

    def examine(self, value: float, time_s: float | None) -> tuple[list[float], Told]:
        """Return `probabilities` and what `told` would after `look`, without a trace."""
        seen = self._look(value, time_s)
        return self._weigh(seen) if self._n >= self._options.warm_up else [], self._tell(
            value, seen
        )

    def _tell(self, value: float, seen: Mapping[str, float]) -> Told:
        best, before, mean, tail = 2.0, 0.0, value, None
        for name, window in zip(self._names, self._windows, strict=True):
            if name in seen and name in self._tails:
                probability = self._tails[name].probability(seen[name])
                if probability < best:
                    best, before, tail = probability, window.before, self._tails[name]
                    mean = before + seen[name]
        level = self._tails.get("level") if self._options.has_points else None
        if level is not None and level.probability(value) < best:
            before, mean, tail = 0.0, value, level
        if tail is None:
            return value, value, value
        low, high = tail.usual_range()
        return mean, before + low, before + high

    def _new_tail(self, view: str, state: Mapping[str, Any] | None = None) -> Tail:
        options = self._options
        # Where nothing is clipped on its way into windows, nothing is in the level either.
        reach = math.inf if view == "level" and options.clip == math.inf else REACH
        return Tail(options.memory, state, reach=reach, least_scale=options.least_scale)

    def _clipped(self, value: float) -> float:
        """Return what of a value enters a window."""
        clip = self._options.clip
        return value if clip == math.inf else self._level_tail().clip(value, clip)

    def _level_tail(self) -> Tail:
        tail = self._tails.get("level")
        if tail is None:
            tail = self._tails["level"] = self._new_tail("level")
        return tail

    def _look(self, value: float, time_s: float | None) -> dict[str, float]:
        """Return the statistics that there are for a value."""
        options, tails = self._options, self._tails
        clip = options.clip
        seen: dict[str, float] = {}
        if not self._n:
            return {"level": value} if options.has_points else seen
        residual = 0.0
        if options.has_predictions or options.has_spread:
            residual = _difference(value, self._averages.prediction())
            seen["residual"] = residual
        if options.has_points:
            seen["level"] = value
        entering = self._clipped(value)
        for name, window in zip(self._names, self._windows, strict=True):
            mean = window.mean_with(entering)
            if mean is not None:
                seen[name] = _difference(mean, window.before)
        if options.has_spread:
            tail = tails.get("residual")
            if tail is not None and tail.scale > 0.0:
                spread = self._errors.mean_with(abs(tail.clip(residual, clip)))
                if spread is not None:
                    seen["spread"] = math.log(spread / tail.scale + _LEAST_SPREAD)
        if self._seasons is not None:
            usual = self._seasons.usual(time_s)
            if usual is not None:
                deviation = seen["season"] = _difference(value, usual)
                tail = tails.get("season")
                if tail is not None:
                    mean = self._deviations.mean_with(tail.clip(deviation, clip))
                    if mean is not None:
                        seen["season_window"] = mean
        return seen

    def _weigh(self, seen: Mapping[str, float]) -> list[float]:
        tails, least = self._tails, self._least
        weighed = []
        for name, statistic in seen.items():
            tail = tails.get(name)
            if tail is None or tail.n < least:
                continue
            probability = tail.probability(statistic)
            if self._is_upward:
                probability = probability / 2 if statistic > tail.location else 1.0
            weighed.append(probability)
        return weighed


class _Mean(Protocol):
    """river's `stats.EWMean`, which is untyped."""

    def update(self, x: float) -> None: ...

    def get(self) -> float: ...


class _Averages:
    """Exponentially weighted means of several memories; the one that errs the least predicts."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._means = [cast(_Mean, stats.EWMean(rate)) for rate in _RATES]  # type: ignore[no-untyped-call]
        self._errors = [0.0] * len(_RATES)
        self._n = 0
        if state and state["n"]:
            self._n, self._errors = state["n"], list(state["errors"])
            for mean, value in zip(self._means, state["means"], strict=True):
                mean.update(value)

    def prediction(self) -> float:
        errors = self._errors
        return float(self._means[errors.index(min(errors))].get())

    def learn(self, value: float) -> None:
        if self._n:
            rate = max(1 / self._n, 1 / _ERROR_MEMORY)
            self._errors = [
                error + rate * (abs(value - mean.get()) - error)
                for error, mean in zip(self._errors, self._means, strict=True)
            ]
        self._n += 1
        for mean in self._means:
            mean.update(value)

    def state(self) -> dict[str, Any]:
        return {
            "n": self._n,
            "errors": self._errors,
            "means": [mean.get() for mean in self._means] if self._n else [],
        }


class _Window:
    """Newest values, their mean, and a fading mean of those before."""

    __slots__ = ("_left", "_rate", "_since", "_sum", "_values", "before", "length")

    def __init__(self, length: int, state: Mapping[str, Any] | None = None) -> None:
        self.length = length
        self._rate = 1 / (_WINDOWS_BEFORE * length)
        saved = state or {"values": (), "sum": 0.0, "since": 0, "before": [0.0, 0]}
        self._values = deque[float](saved["values"], maxlen=length)
        self._sum: float = saved["sum"]
        self._since: int = saved["since"]
        # The fading mean of what has left the window (before, of what it holds); how many have.
        self.before, self._left = float(saved["before"][0]), int(saved["before"][1])

    def mean_with(self, value: float) -> float | None:
        """Return the mean with a value in the place of the oldest; None until it is full."""
        if len(self._values) < self.length:
            return None
        return (self._sum - self._values[0] + value) / self.length

    def append(self, value: float) -> None:
        values = self._values
        if len(values) == self.length:
            leaving = values[0]
            left = self._left
            rate = max(1 / (left + self.length), self._rate) if left else 1.0
            self.before += rate * (leaving - self.before)
            self._left = left + 1
            self._sum -= leaving
        values.append(value)
        self._sum += value
        self._since += 1
        if self._since >= self.length:
            # What rounding has left.
            self._sum, self._since = math.fsum(values), 0
        if not self._left:
            self.before = self._sum / len(values)

    def state(self) -> dict[str, Any]:
        return {
            "values": list(self._values),
            "sum": self._sum,
            "since": self._since,
            "before": [self.before, self._left],
        }


class _Seasons:
    """Candidates for the season; the first that explains enough stays, alone."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        saved = state or {}
        self._is_timed: bool | None = saved.get("is_timed")
        self._n: int = saved.get("n", 0)
        self._found: bool = saved.get("found", False)
        self._profiles = [_Profile(each["length"], each) for each in saved.get("profiles", ())]

    def usual(self, time_s: float | None) -> float | None:
        """Return what is usual at this place of the season; None where that is not known."""
        if not self._found:
            return None
        return self._profiles[0].usual(self._place(time_s))

    def learn(self, value: float, time_s: float | None, weight: float, scale: float) -> None:
        if self._is_timed is None:
            self._is_timed = time_s is not None and math.isfinite(time_s)
            self._profiles = [_Profile(each) for each in (_CALENDAR if self._is_timed else _LAGS)]
        place = self._place(time_s)
        if place is None:
            return
        rate = _SEASON_RATE if weight == 1.0 else _SEASON_EVENT_RATE
        for profile in self._profiles:
            profile.learn(value, place, rate)
        self._n += 1
        if not self._found and self._n % _SEASON_CHECK == 0:
            self._choose(scale)

    def skip(self) -> None:
        self._n += 1

    def state(self) -> dict[str, Any]:
        return {
            "is_timed": self._is_timed,
            "n": self._n,
            "found": self._found,
            "profiles": [profile.state() for profile in self._profiles],
        }

    def _place(self, time_s: float | None) -> int | None:
        if not self._is_timed:
            return self._n
        if time_s is None or not math.isfinite(time_s):
            return None
        return math.floor(time_s / _CALENDAR_BIN_S)

    def _choose(self, scale: float) -> None:
        ready = [profile for profile in self._profiles if profile.is_ready]
        if not ready:
            return
        best = min(ready, key=lambda profile: profile.error)
        if best.error < _SEASON_SUPPORT * scale:
            self._found, self._profiles = True, [best]
        else:
            self._profiles = [each for each in self._profiles if not each.is_hopeless]


class _Profile:
    """What is usual at each place of a season of so many places."""

    def __init__(self, length: int, state: Mapping[str, Any] | None = None) -> None:
        self.length = length
        saved = state or {}
        self._usual: list[float | None] = list(saved.get("usual", [None] * length))
        self._known: int = saved.get("known", 0)
        self._compared: int = saved.get("compared", 0)
        self.error: float = saved.get("error", 0.0)
        # The place that is being filled: its number, and the sum and count of its values.
        self._filling: tuple[int, float, int] = tuple(saved.get("filling", (-1, 0.0, 0)))

    @property
    def is_ready(self) -> bool:
        """Whether about a whole season has been compared with the one before."""
        return self._compared >= max(self._known, _SEASON_MIN_COMPARED)

    @property
    def is_hopeless(self) -> bool:
        """Whether several seasons have been compared."""
        return self._compared >= _SEASON_CYCLES * max(self._known, _SEASON_MIN_COMPARED)

    def usual(self, place: int | None) -> float | None:
        return None if place is None else self._usual[place % self.length]

    def learn(self, value: float, place: int, rate: float) -> None:
        number, total, count = self._filling
        if place == number:
            self._filling = (number, total + value, count + 1)
            return
        if count:
            self._commit(number % self.length, total / count, rate)
        self._filling = (place, value, 1)

    def _commit(self, index: int, value: float, rate: float) -> None:
        usual = self._usual[index]
        if usual is None:
            self._usual[index] = value
            self._known += 1
            return
        difference = value - usual
        self._compared += 1
        fading = max(1 / self._compared, 0.5 / max(self._known, _SEASON_MIN_COMPARED))
        self.error += fading * (abs(difference) - self.error)
        self._usual[index] = usual + rate * difference

    def state(self) -> dict[str, Any]:
        return {
            "length": self.length,
            "usual": self._usual,
            "known": self._known,
            "compared": self._compared,
            "error": self.error,
            "filling": list(self._filling),
        }


def _difference(one: float, other: float) -> float:
    """Return the difference, 0 where it is no more than what rounding leaves."""
    difference = one - other
    return difference if abs(difference) > _ROUNDING * abs(one) else 0.0
