"""Reviews with their ratings, from any file that the replayer reads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deploy.local.files.shape import EXAMPLE
from deploy.local.replay import NO_OPTIONS, FileOptions, replay
from udfs.core.characters import has_visible_character
from udfs.core.parsing import decode_json

_LOG = logging.getLogger(__name__)
_REPORT_ROWS = 5_000

COARSE_BOUNDS = {1: (1, 2), 3: (3, 3), 5: (4, 5)}
"""The lowest and the highest rating that a coarse one stands for."""


class TrainingDataError(ValueError):
    """The data cannot train a model; the message says why in one line."""


class Reviews(NamedTuple):
    """Review bodies, and star ratings in 1..5, of the same length."""

    texts: list[str]
    ratings: list[int]


def read_reviews(
    path: Path,
    *,
    max_rows: int | None = None,
    options: FileOptions = NO_OPTIONS,
    report: Callable[[str], None] = lambda progress: None,
) -> Reviews:
    """Read texts and ratings from a file of reviews.

    Parameters
    ----------
    path
        Any file that `make run REVIEWS=FILE` replays (see `deploy.local.replay`). Rows that are
        not rated reviews are skipped.
    max_rows
        Stop after this number of reviews; None: read all, into memory.
    options
        Columns and category, as of `replay`.
    report
        Called with the progress as text, every 5,000 rows.

    Raises
    ------
    TrainingDataError
        The file cannot be read to its end, or holds no rated review.
    """
    reviews = Reviews([], [])
    try:
        records = replay(path, "json", options)  # JSON keeps every character of a text
        for record in records:
            if records.rows % _REPORT_ROWS == 0:
                report(records.progress(max_rows))
            if record.star_rating is None:
                continue
            text = decode_json(record.data.decode()).get("review_body")
            if not isinstance(text, str) or not has_visible_character(text):
                continue
            reviews.texts.append(text)
            reviews.ratings.append(record.star_rating)
            if len(reviews.texts) == max_rows:
                break
        for note in records.notes:
            _LOG.warning(note)
    except FileNotFoundError as error:
        raise TrainingDataError(str(error)) from error
    except OSError as error:
        raise TrainingDataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise TrainingDataError(str(error)) from error
    if not reviews.texts:
        raise TrainingDataError(
            f"{path}: no row holds a star_rating in 1..5 and a review_body; where other columns"
            f" hold them: --columns {EXAMPLE}"
        )
    return reviews


def read_coarse(
    path: Path, *, max_rows: int | None = None, options: FileOptions = NO_OPTIONS
) -> Reviews:
    """Read reviews whose ratings are coarse: 1 stands for 1 or 2, 3 for 3, 5 for 4 or 5.

    Parameters and errors are those of `read_reviews`; a rating of 2 or 4 is an error too.
    """
    reviews = read_reviews(path, max_rows=max_rows, options=options)
    wrong = sorted(set(reviews.ratings) - set(COARSE_BOUNDS))
    if wrong:
        raise TrainingDataError(
            f"{path}: coarse ratings are 1, 3 and 5, but it has {', '.join(map(str, wrong))}"
        )
    return reviews
