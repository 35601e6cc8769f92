"""Streams in which nothing happens, and how often a detector finds it unusual all the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Values = NDArray[Any]

LEVELS = (0.05, 0.01, 0.001)
SKIPPED = 1_000
"""So many records are left out at the beginning: the warm-up, and little history."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A kind of stream; whether its values are continuous and not heavy in the tails."""

    make: Callable[[Generator, int], Values]
    is_continuous: bool = True


def _autoregressive(rng: Generator, count: int, coefficient: float) -> Values:
    noise = rng.normal(0, np.sqrt(1 - coefficient**2), count)
    out, last = np.empty(count), rng.normal()
    for index in range(count):
        last = out[index] = coefficient * last + noise[index]
    return out


STREAMS: dict[str, Stream] = {
    "normal": Stream(lambda rng, n: rng.normal(0, 1, n)),
    "uniform": Stream(lambda rng, n: rng.uniform(0, 1, n)),
    "exponential": Stream(lambda rng, n: rng.exponential(1, n)),
    "AR(1) 0.5": Stream(partial(_autoregressive, coefficient=0.5)),
    "AR(1) 0.9": Stream(partial(_autoregressive, coefficient=0.9)),
    "stars": Stream(lambda rng, n: rng.choice(5, n, p=(0.17, 0.08, 0.1, 0.18, 0.47)) + 1, False),
    "counts": Stream(lambda rng, n: rng.poisson(2, n), False),
    "rare counts": Stream(lambda rng, n: rng.poisson(0.05, n), False),
    "Student t, 2": Stream(lambda rng, n: rng.standard_t(2, n), False),
    "Cauchy": Stream(lambda rng, n: rng.standard_cauchy(n), False),
    "log-normal": Stream(lambda rng, n: rng.lognormal(0, 1.5, n), False),
}


def frequencies(make: Callable[[], Any], values: Sequence[float]) -> dict[float, float]:
    """Return how often the tail probability is below each level, before events silence it.

    `make` returns a detector of this project, or one of river's, whose score is then taken.
    """
    detector, below, seen = make(), dict.fromkeys(LEVELS, 0), 0
    for number, value in enumerate(values):
        x = {"value": float(value)}
        if number >= SKIPPED:
            seen += 1
            probability = (
                detector.probability_one(x)
                if hasattr(detector, "probability_one")
                else 1 - detector.score_one(x)
            )
            for level in LEVELS:
                below[level] += probability < level
        detector.learn_one(x)
    return {level: count / seen for level, count in below.items()}
