"""Detectors to compare with: records in, a score for each out, the higher the more unusual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import anomaly, preprocessing, stats, utils

from tests.anomalies.random_cut_forest import random_cut_forest
from udfs.core.anomaly import TIME, make_detector

Records = Sequence[Mapping[str, float]]
Scores = NDArray[np.float64]
ScoreAll = Callable[[Sequence[Records]], list[Scores]]

_SEED = 1
_RECENT = 30
_LEAST_HISTORY = 150


def ours(streams: Sequence[Records]) -> list[Scores]:
    """`make_detector`, as it comes."""
    found = []
    for records in streams:
        detector = make_detector()
        found.append(np.array([detector.observe_one(x) for x in records]))
    return found


def half_space_trees(streams: Sequence[Records]) -> list[Scores]:
    """river's HalfSpaceTrees behind its MinMaxScaler, as river's documentation has it."""
    found = []
    for records in streams:
        scaler = preprocessing.MinMaxScaler()  # type: ignore[no-untyped-call]
        trees = anomaly.HalfSpaceTrees(seed=_SEED)
        scores = []
        for x in _filled(records):
            scaler.learn_one(x)
            scaled = scaler.transform_one(x)
            scores.append(trees.score_one(scaled))
            trees.learn_one(scaled)
        found.append(np.array(scores))
    return found


def gaussian_tail(streams: Sequence[Records]) -> list[Scores]:
    """The mean of the newest 30 values of each feature against mean and variance of all before.

    The score is the largest distance in standard errors, as that of a normal distribution would be.
    """
    return [np.array(_gaussian(_filled(records))) for records in streams]


def _gaussian(records: Sequence[dict[str, float]]) -> list[float]:
    histories: dict[str, Any] = {}
    windows: dict[str, Any] = {}
    scores = []
    for number, x in enumerate(records):
        largest = 0.0
        for name, value in x.items():
            if name not in histories:
                histories[name] = stats.Var()
                windows[name] = utils.Rolling(stats.Mean(), window_size=_RECENT)
            history, window = histories[name], windows[name]
            window.update(value)
            deviation = history.get() ** 0.5
            if number >= _LEAST_HISTORY and deviation > 0.0:
                distance = abs(window.get() - history.mean.get()) / deviation * _RECENT**0.5
                largest = max(largest, distance)
            history.update(value)
        scores.append(largest)
    return scores


def _filled(records: Records) -> list[dict[str, float]]:
    """Return records with all features but the time; what is missing is as it was before, or 0."""
    names = dict.fromkeys(name for x in records for name in x if name != TIME)
    last = dict.fromkeys(names, 0.0)
    filled = []
    for x in records:
        # What is not equal to itself is no number.
        last = last | {name: value for name, value in x.items() if value == value and name != TIME}
        filled.append(last)
    return filled


OF_SERIES: Mapping[str, ScoreAll] = {
    "ours": ours,
    "half_space_trees": half_space_trees,
    "gaussian_tail": gaussian_tail,
    "random_cut_forest": lambda streams: random_cut_forest(
        [_filled(records) for records in streams], shingle_size=8
    ),
}
"""Those of single series."""

OF_REVIEWS: Mapping[str, ScoreAll] = {
    "half_space_trees": half_space_trees,
    "gaussian_tail": gaussian_tail,
    "random_cut_forest": lambda streams: random_cut_forest(
        [_filled(records) for records in streams], shingle_size=1
    ),
}
"""Those of the features of reviews, ours apart."""
