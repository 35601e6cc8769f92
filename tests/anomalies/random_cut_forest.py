"""AWS's Random Cut Forest in Java, by Maven: see `tests/randomcutforest`."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_POM = Path(__file__).parents[1] / "randomcutforest" / "pom.xml"
_TIMEOUT_S = 1_200.0


class RandomCutForestError(RuntimeError):
    """The program did not come to its end; what Maven said."""


def random_cut_forest(
    streams: Sequence[Sequence[Mapping[str, float]]], *, shingle_size: int
) -> list[NDArray[np.float64]]:
    """Return the anomaly scores of `ThresholdedRandomCutForest`, a forest for each stream.

    Parameters
    ----------
    streams
        Records, each with all features of its stream, in the same order.
    shingle_size
        So many records in a row make a point.

    Raises
    ------
    RandomCutForestError
        Where Maven or the program fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        records, scores = Path(directory, "records"), Path(directory, "scores")
        with records.open("w", encoding="utf-8") as file:
            for stream in streams:
                file.write(f"{len(stream)} {len(stream[0])}\n")
                file.writelines(" ".join(map(repr, x.values())) + "\n" for x in stream)
        maven = ["mvn", "--quiet", "--batch-mode", "--file", str(_POM), "compile", "exec:java"]
        result = subprocess.run(
            [*maven, f"-Dexec.args={shingle_size} {records} {scores}"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        if result.returncode != 0:
            raise RandomCutForestError(result.stdout + result.stderr)
        together = np.loadtxt(scores)
    return np.split(together, np.cumsum([len(stream) for stream in streams])[:-1])
