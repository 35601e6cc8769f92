"""What is said of a model's predictions for reviews that it has not learnt from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, mean_absolute_error

from deploy.model.inference import medians, modes

RATINGS = (1, 2, 3, 4, 5)


def figures(probabilities: NDArray[np.float64], ratings: Sequence[int]) -> dict[str, float]:
    """Compare predicted distributions with the true ratings.

    Parameters
    ----------
    probabilities
        Of 1 to 5 stars, (n, 5).
    ratings
        True ratings in 1..5, length n, at least one.

    Returns
    -------
    dict
        `accuracy` and `macro_f1` of the mode, in 0..1; `mean_absolute_error` of the median, in
        stars. For each it is the prediction that suits the figure.
    """
    mode = modes(probabilities)
    return {
        "accuracy": float(accuracy_score(ratings, mode)),
        "macro_f1": float(f1_score(ratings, mode, average="macro")),
        "mean_absolute_error": float(mean_absolute_error(ratings, medians(probabilities))),
    }


def confusion(probabilities: NDArray[np.float64], ratings: Sequence[int]) -> list[list[int]]:
    """Count reviews by true rating (row) and mode (column), both from 1 to 5."""
    counts = confusion_matrix(ratings, modes(probabilities), labels=RATINGS)
    rows: list[list[int]] = counts.tolist()
    return rows


def confusion_text(counts: Sequence[Sequence[int]]) -> str:
    """Lay a confusion matrix out as a table in plain text.

    >>> print(confusion_text([[9, 1, 0, 0, 0]] + [[0] * 5] * 4).splitlines()[1])
    true 1          9       1       0       0       0
    """
    head = f"{'predicted':<9}" + "".join(f"{rating:>8}" for rating in RATINGS)
    rows = [
        f"true {rating:<4}" + "".join(f"{count:>8}" for count in row)
        for rating, row in zip(RATINGS, counts, strict=True)
    ]
    return "\n".join([head, *rows]) + "\n"


def draw_confusion(counts: Sequence[Sequence[int]], title: str, file: BinaryIO) -> None:
    """Write a confusion matrix as a PNG picture; shades are shares of the true rating's reviews."""
    from matplotlib.figure import Figure  # it takes a second to import

    table = np.array(counts)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    # Without pyplot, hence without a display and without global state.
    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(RATINGS)), [str(rating) for rating in RATINGS])
    axes.set_yticks(range(len(RATINGS)), [str(rating) for rating in RATINGS])
    axes.set(xlabel="predicted stars (mode)", ylabel="true stars", title=title)
    figure.savefig(file, format="png", dpi=120)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside `path`, then put it in its place.

    When `write` or the disk fails, `path` stays as it was and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
