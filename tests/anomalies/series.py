"""A catalogue of made-up series with labelled anomalies, of the kinds that monitoring brings forth.

Each kind is a generator of its own: what is usual about it, and what goes wrong. Every seed makes
another series of the kind; none is taken from a recording.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Values = NDArray[np.float64]

PROBATION = 0.15
"""Share of a series, from its beginning, that is only to be learned from."""

WINDOW_SHARE = 0.1
"""The windows about its anomalies make up so much of a series, all together."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values at a steady interval, and where something is wrong.

    Attributes
    ----------
    name
        Of its kind.
    values
        NaN where one is missing.
    interval_s
        From one to the next, in seconds.
    anomalies
        Index at which each begins, ascending.
    """

    name: str
    values: Values
    interval_s: float
    anomalies: tuple[int, ...]

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """First and last index of the span in which an anomaly counts as found."""
        if not self.anomalies:
            return ()
        half = int(len(self.values) * WINDOW_SHARE / len(self.anomalies) / 2)
        spans: list[tuple[int, int]] = []
        for at in self.anomalies:
            start, end = max(self.probation, at - half), min(len(self.values) - 1, at + half)
            if spans and start <= spans[-1][1]:
                start = spans[-1][1] + 1
            spans.append((start, end))
        return tuple(spans)

    @property
    def probation(self) -> int:
        """Number of values that are only to be learned from."""
        return int(min(len(self.values), 5_000) * PROBATION)

    @property
    def times_s(self) -> Values:
        """Time of each value, in seconds."""
        return np.arange(len(self.values)) * self.interval_s


Maker = Callable[[Generator], tuple[Values, float, Sequence[int]]]

_MINUTES_5 = 300.0
_DAY = 288  # of five minutes
_LENGTH = 4_032  # 14 days of five minutes


def _places(rng: Generator, length: int, count: int, room: int = 0) -> list[int]:
    """Return so many places behind the probation, well apart."""
    first, last = int(length * 0.25), int(length * 0.95) - room
    width = (last - first) / count
    return [int(first + width * (each + rng.uniform(0.1, 0.8))) for each in range(count)]


def _ar(rng: Generator, length: int, coefficient: float) -> Values:
    """Return an autoregression of order one with variance one."""
    noise = rng.normal(0, math.sqrt(1 - coefficient**2), length)
    out = np.empty(length)
    last = rng.normal()
    for index in range(length):
        last = coefficient * last + noise[index]
        out[index] = last
    return out


def _daily(length: int, day: int, phase: float = 0.0, sharpness: float = 1.0) -> Values:
    """Return a smooth day, 0 to 1; the sharper, the longer the night."""
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (np.arange(length) / day + phase))
    return wave**sharpness


# Nothing is wrong.


def _flat(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    return np.full(_LENGTH, rng.uniform(10, 90)), _MINUTES_5, ()


def _noise(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    return rng.normal(rng.uniform(20, 60), rng.uniform(0.5, 8), _LENGTH), _MINUTES_5, ()


def _square_wave(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values = np.where(np.arange(_LENGTH) % _DAY < _DAY // 3, 80.0, 20.0)
    return values + rng.uniform(0, rng.choice((0.0, 10.0)), _LENGTH), _MINUTES_5, ()


def _perfect_day(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    return 40 + 20 * _daily(_LENGTH, _DAY, rng.uniform()), _MINUTES_5, ()


def _quiet_trend(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    slope = rng.uniform(5, 30) / _LENGTH
    return rng.normal(30, 2, _LENGTH) + slope * np.arange(_LENGTH), _MINUTES_5, ()


# Artificial days with one thing wrong.


def _square_day(rng: Generator, wrong: str) -> tuple[Values, float, Sequence[int]]:
    values = np.where(np.arange(_LENGTH) % _DAY < _DAY // 3, 80.0, 20.0)
    values += rng.uniform(-4, 4, _LENGTH)
    day = int(rng.integers(6, 12)) * _DAY
    plateau = slice(day, day + _DAY // 3)
    noise = rng.uniform(-4, 4, _DAY // 3)
    at = day
    if wrong == "higher":
        values[plateau] = 110 + noise
    elif wrong == "lower":
        values[plateau] = 50 + noise
    elif wrong == "missing":
        values[plateau] = 20 + noise
    elif wrong == "frozen":
        at = day + 20
        values[at : at + _DAY] = values[at]
    return values, _MINUTES_5, (at,)


def _flat_middle(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values = 20 + 60 * _daily(_LENGTH, _DAY, 0.0, 1.0) + rng.uniform(-4, 4, _LENGTH)
    at = int(rng.integers(6, 12)) * _DAY
    values[at : at + _DAY] = 40 + rng.uniform(-4, 4, _DAY)
    return values, _MINUTES_5, (at,)


def _spike_density(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values = np.abs(rng.normal(0, 0.3, _LENGTH))
    spikes = np.arange(40, _LENGTH, 60) + rng.integers(-5, 6, len(range(40, _LENGTH, 60)))
    values[spikes] = 20 + rng.normal(0, 1, len(spikes))
    (at,) = _places(rng, _LENGTH, 1, 200)
    values[np.arange(at, at + 180, 12)] = 20 + rng.normal(0, 1, 15)
    return values, _MINUTES_5, (at,)


def _load_balancer(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values = rng.exponential(0.2, _LENGTH)
    busy = rng.random(_LENGTH) < 0.12
    values[busy] += rng.uniform(0.5, 2.0, busy.sum())
    (at,) = _places(rng, _LENGTH, 1, 100)
    values[at : at + 60 : 2] += rng.uniform(2, 4, 30)
    return values, _MINUTES_5, (at,)


# Servers.


def _cpu(rng: Generator, wrong: str) -> tuple[Values, float, Sequence[int]]:
    level, noise = rng.uniform(2, 50), rng.uniform(0.1, 3)
    values = level + noise * _ar(rng, _LENGTH, rng.uniform(0, 0.7))
    small = rng.random(_LENGTH) < rng.uniform(0.002, 0.02)
    values[small] += noise * rng.exponential(3, small.sum())
    places = _places(rng, _LENGTH, 2, 300)
    if wrong == "spike":
        for at in places:
            values[at : at + rng.integers(1, 4)] += noise * rng.uniform(12, 40)
    elif wrong == "level":
        for sign, at in zip((1, rng.choice((-1, 1))), places, strict=True):
            values[at:] += sign * noise * rng.uniform(5, 15)
    elif wrong == "passing":
        for at in places:
            values[at : at + rng.integers(20, 200)] += noise * rng.uniform(5, 15)
    elif wrong == "drop":
        for at in places:
            values[at : at + rng.integers(5, 40)] = 0.1 * level + noise * 0.1
    elif wrong == "variance":
        for at in places:
            span = slice(at, at + 150)
            values[span] = level + rng.uniform(3, 6) * (values[span] - level)
    return np.maximum(values, 0), _MINUTES_5, places


def _saturating_cpu(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    """Batches through the day, up to 100; then it stays up."""
    length = 9_000
    values = 30 + 8 * _ar(rng, length, 0.9)
    for start in rng.integers(0, length - 80, length // 120):
        values[start : start + rng.integers(5, 60)] += rng.uniform(20, 50)
    at = int(length * rng.uniform(0.6, 0.85))
    values[at : at + 500] = 97 + rng.normal(0, 1.5, 500)
    return np.clip(values, 0, 100), _MINUTES_5, (at,)


def _disk(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    """Nothing most of the time, bursts of writing of any size; then far larger ones."""
    values = np.zeros(_LENGTH)
    busy = rng.random(_LENGTH) < 0.06
    values[busy] = rng.lognormal(12, 1.0, busy.sum())
    places = _places(rng, _LENGTH, 2, 100)
    for at in places:
        values[at : at + 12] = rng.lognormal(15.5, 0.3, 12)
    return values, _MINUTES_5, places


def _network(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values = rng.lognormal(10, 0.5, _LENGTH) * (1 + 2 * _daily(_LENGTH, _DAY, 0, 3))
    first, second = _places(rng, _LENGTH, 2, 100)
    values[first : first + 3] *= rng.uniform(15, 40)
    values[second : second + 60] *= rng.uniform(4, 8)
    return values, _MINUTES_5, (first, second)


def _requests(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    """Counts with a day; overdispersed."""
    rate = 20 + 120 * _daily(_LENGTH, _DAY, 0, 2)
    values = rng.poisson(rate * rng.gamma(8, 1 / 8, _LENGTH)).astype(float)
    first, second = _places(rng, _LENGTH, 2, 100)
    values[first : first + 4] += rng.uniform(500, 900)
    values[second : second + 40] *= 3
    return values, _MINUTES_5, (first, second)


def _latency(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values = 45 + 2.5 * _ar(rng, _LENGTH, 0.3)
    single = rng.random(_LENGTH) < 0.003
    values[single] += rng.uniform(8, 20, single.sum())
    places = _places(rng, _LENGTH, 3, 60)
    values[places[0]] += 45
    values[places[1] : places[1] + 40] += rng.uniform(5, 30, 40)
    values[places[2] : places[2] + 10] += 50
    return values, _MINUTES_5, places


def _group(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    """A few machines; now and then the group is scaled."""
    values = np.full(_LENGTH, 30.0) + rng.normal(0, 0.3, _LENGTH)
    first, second = _places(rng, _LENGTH, 2, 100)
    values[first:] -= 12
    values[second:] += 15
    return values, _MINUTES_5, (first, second)


# People.


def _taxi(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    """Half hours with a day and a week; holidays are other days."""
    day, days = 48, 215
    hours = np.arange(day) / 2
    weekday = 4 + 14 / (1 + np.exp(-(hours - 7.5) * 1.5)) - 10 * np.exp(-(((hours - 3) / 3) ** 2))
    weekday += 5 * np.exp(-(((hours - 19) / 2.5) ** 2))
    weekend = 6 + 12 / (1 + np.exp(-(hours - 10) * 0.9)) + 6 * np.exp(-(((hours - 0.5) / 2) ** 2))
    weekend -= 5 * np.exp(-(((hours - 6) / 2) ** 2))
    whole = [(weekend if each % 7 in (5, 6) else weekday) for each in range(days)]
    special = sorted(rng.choice(np.arange(60, days - 8, 12), 5, replace=False).tolist())
    for each, kind in zip(special, ("half", "late", "closed", "half", "peak"), strict=True):
        whole[each] = {
            "half": whole[each] * 0.6,
            "late": np.roll(weekend, 6) * 0.8,
            "closed": np.full(day, 3.0),
            "peak": whole[each] + 12 * np.exp(-(((hours - 1) / 1.5) ** 2)),
        }[kind]
    level = np.repeat(1 + 0.05 * _ar(rng, days, 0.8), day)
    values = np.concatenate(whole) * level + 0.3 * _ar(rng, day * days, 0.7)
    return 1_000 * np.maximum(values, 0.05), 1_800.0, [each * day + 6 for each in special]


def _tweets(rng: Generator, mean: float) -> tuple[Values, float, Sequence[int]]:
    """Counts with a day and bursts of their own; then larger bursts that last."""
    length = 15_000
    rate = mean * (0.3 + _daily(length, _DAY, 0, 1.5))
    natural = np.zeros(length)
    for at in rng.integers(0, length - 60, length // 400):
        natural[at : at + 40] += rng.exponential(1.2) * np.exp(-np.arange(40) / 8)
    places = _places(rng, length, 3, 200)
    for at in places:
        natural[at : at + 120] += rng.uniform(8, 20) * np.exp(-np.arange(120) / 40)
    rate = rate * (1 + natural)
    return rng.poisson(rate * rng.gamma(4, 1 / 4, length)).astype(float), _MINUTES_5, places


def _traffic(rng: Generator, wrong: str) -> tuple[Values, float, Sequence[int]]:
    length = 2_400
    rush = _daily(length, _DAY, 0, 6) + 0.7 * _daily(length, _DAY, 0.4, 8)
    first, second = _places(rng, length, 2, 60)
    if wrong == "speed":
        values = 72 - 18 * rush + rng.normal(0, 4, length)
        values[first : first + 18] -= rng.uniform(25, 40)
        values[second : second + 30] -= rng.uniform(20, 35)
    elif wrong == "occupancy":
        values = 3 + 9 * rush + np.abs(rng.normal(0, 2, length))
        values[first : first + 10] += rng.uniform(15, 30)
        values[second : second + 24] += rng.uniform(10, 20)
    else:
        values = 90 + 150 * rush * rng.gamma(3, 1 / 3, length) + rng.normal(0, 10, length)
        single = rng.random(length) < 0.01
        values[single] += rng.exponential(150, single.sum())
        values[first : first + 20] += rng.uniform(400, 800)
        values[second] += 2_500
    return np.maximum(values, 0), _MINUTES_5, (first, second)


def _advertising(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    """Hourly prices: a heavy tail, no day to speak of."""
    length = 1_650
    values = 0.4 * np.exp(0.35 * _ar(rng, length, 0.5)) * (1 + 0.3 * _daily(length, 24))
    odd = rng.random(length) < 0.01
    values[odd] *= rng.uniform(1.5, 3.5, odd.sum())
    places = _places(rng, length, 3, 30)
    values[places[0]] *= 12
    values[places[1] : places[1] + 6] *= 5
    values[places[2] : places[2] + 14] *= rng.uniform(3, 4)
    return values, 3_600.0, places


# Machines.


def _machine_temperature(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    length = 18_000
    values = 85 + 6 * _ar(rng, length, 0.999) + 2 * _ar(rng, length, 0.9)
    values += 2 * _daily(length, _DAY)
    places = _places(rng, length, 3, 500)
    fall = np.concatenate([np.linspace(0, 1, 60), np.ones(80), np.linspace(1, 0, 120)])
    for at, depth in zip(places, (40, 18, 60), strict=True):
        values[at : at + 260] -= depth * fall
    return values, _MINUTES_5, places


def _room_temperature(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    length = 7_200
    season = 3 * np.sin(2 * np.pi * np.arange(length) / length * 1.2)
    values = 71 + season + 1.8 * _daily(length, 24) + 1.2 * _ar(rng, length, 0.97)
    first, second = _places(rng, length, 2, 100)
    values[first : first + 60] += np.linspace(0, 9, 60)
    values[second : second + 48] -= rng.uniform(7, 10)
    return values, 3_600.0, (first, second)


def _frozen_sensor(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values = 50 + 5 * _ar(rng, _LENGTH, 0.9)
    (at,) = _places(rng, _LENGTH, 1, 200)
    values[at : at + 150] = values[at]
    return values, _MINUTES_5, (at,)


def _keys(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    """Time between keystrokes of one person, then of another."""
    length = 2_400
    values = rng.lognormal(-2.2, 0.35, length)
    pause = rng.random(length) < 0.02
    values[pause] *= rng.uniform(3, 10, pause.sum())
    first, second = _places(rng, length, 2, 150)
    values[first : first + 80] *= 2.2
    values[second : second + 80] = rng.lognormal(-2.2, 1.0, 80)
    return values, _MINUTES_5, (first, second)


def _with_gaps(rng: Generator) -> tuple[Values, float, Sequence[int]]:
    values, interval_s, places = _cpu(rng, "passing")
    values[rng.random(len(values)) < 0.05] = np.nan
    gap = int(rng.integers(600, 1_000))
    values[gap : gap + 100] = np.nan
    return values, interval_s, places


CATALOGUE: dict[str, Maker] = {
    "flat": _flat,
    "noise": _noise,
    "square wave": _square_wave,
    "perfect day": _perfect_day,
    "trend": _quiet_trend,
    "day higher": partial(_square_day, wrong="higher"),
    "day lower": partial(_square_day, wrong="lower"),
    "day missing": partial(_square_day, wrong="missing"),
    "day frozen": partial(_square_day, wrong="frozen"),
    "flat middle": _flat_middle,
    "spike density": _spike_density,
    "load balancer": _load_balancer,
    "cpu spike": partial(_cpu, wrong="spike"),
    "cpu level": partial(_cpu, wrong="level"),
    "cpu passing": partial(_cpu, wrong="passing"),
    "cpu drop": partial(_cpu, wrong="drop"),
    "cpu variance": partial(_cpu, wrong="variance"),
    "cpu saturating": _saturating_cpu,
    "disk": _disk,
    "network": _network,
    "requests": _requests,
    "latency": _latency,
    "group": _group,
    "taxi": _taxi,
    "tweets few": partial(_tweets, mean=3.0),
    "tweets many": partial(_tweets, mean=40.0),
    "traffic speed": partial(_traffic, wrong="speed"),
    "traffic occupancy": partial(_traffic, wrong="occupancy"),
    "traffic travel time": partial(_traffic, wrong="travel time"),
    "advertising": _advertising,
    "machine temperature": _machine_temperature,
    "room temperature": _room_temperature,
    "frozen sensor": _frozen_sensor,
    "keys": _keys,
    "gaps": _with_gaps,
}
"""Each kind by its name."""


def catalogue(seed: int) -> Iterator[Series]:
    """Make one series of each kind."""
    for number, (name, make) in enumerate(CATALOGUE.items()):
        values, interval_s, anomalies = make(np.random.default_rng((seed, number)))
        yield Series(name, np.asarray(values, dtype=float), interval_s, tuple(sorted(anomalies)))
