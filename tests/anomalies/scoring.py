"""What scores are worth: early detections count, false alarms cost, one threshold for all series.

The method is that of A. Lavin and S. Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the
Numenta Anomaly Benchmark", ICMLA 2015, with its standard profile: the first detection in a window
about an anomaly earns up to 1, the earlier the more; a window without one costs 1; each detection
elsewhere costs up to 0.11, less shortly behind a window. 0 is what silence would get, 100 what
finding everything at once would.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.anomalies.series import Series

FALSE_ALARM_COST = 0.11

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Result:
    """The score (at most 100) at the best threshold, and what came of each series there."""

    score: float
    threshold: float
    found: dict[str, int]
    windows: dict[str, int]
    false_alarms: dict[str, int]


def _worth(position: float) -> float:
    """Of a detection at -1 (a window's first value) to 0 (its last), and beyond."""
    return 2 / (1 + math.exp(5 * position)) - 1 if position < 3 else -1.0


def _steps(series: Series, scores: Scores) -> list[tuple[float, float, int, int]]:
    """Return (score, gain, found, false alarms): what lowering the threshold to a score adds."""
    windows = series.windows
    steps: list[tuple[float, float, int, int]] = []
    for start, end in windows:
        inside = scores[start : end + 1]
        best, earned = -math.inf, -1.0
        # Each record higher than all before it in its window is once the first detection: going
        # down with the threshold, the first detection moves to the front.
        firsts = []
        for index, value in enumerate(inside.tolist()):
            if value > best:
                firsts.append((value, index))
                best = value
        for value, index in reversed(firsts):
            position = -(end - start - index + 1) / (end - start + 1)
            worth = _worth(position) / _worth(-1.0)
            steps.append((value, worth - earned, int(earned == -1.0), 0))
            earned = worth
    outside = np.ones(len(scores), dtype=bool)
    outside[: series.probation] = False
    for start, end in windows:
        outside[start : end + 1] = False
    for index in np.flatnonzero(outside):
        before = [span for span in windows if span[1] < index]
        worth = -1.0
        if before:
            start, end = before[-1]
            worth = _worth((index - end) / (end - start + 1))
        steps.append((float(scores[index]), worth * FALSE_ALARM_COST, 0, 1))
    return steps


def evaluate(all_series: Sequence[Series], all_scores: Sequence[Scores]) -> Result:
    """Score a detector over series with the one threshold that suits it best."""
    steps = sorted(
        (
            (value, gain, found, false_alarms, series.name)
            for series, scores in zip(all_series, all_scores, strict=True)
            for value, gain, found, false_alarms in _steps(series, scores)
        ),
        key=lambda step: -step[0],
    )
    windows: dict[str, int] = {}
    for series in all_series:
        windows[series.name] = windows.get(series.name, 0) + len(series.windows)
    total = -float(sum(windows.values()))
    best, best_end = total, 0
    for number, (value, gain, *_) in enumerate(steps):
        total += gain
        is_last_of_ties = number + 1 == len(steps) or steps[number + 1][0] < value
        if is_last_of_ties and total > best:
            best, best_end = total, number + 1
    found: dict[str, int] = dict.fromkeys(windows, 0)
    false_alarms: dict[str, int] = dict.fromkeys(windows, 0)
    for _, _, hits, misses, name in steps[:best_end]:
        found[name] += hits
        false_alarms[name] += misses
    count = sum(windows.values())
    return Result(
        score=100 * (best + count) / (2 * count),
        threshold=steps[best_end - 1][0] if best_end else math.inf,
        found=found,
        windows=windows,
        false_alarms=false_alarms,
    )
