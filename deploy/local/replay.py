"""Real files of reviews as records of the `reviews` stream.

What a file holds is told by its content: see `deploy.local.files`, of which `compression` knows
gzip, bzip2, Zstandard and UTF-16, `rows` JSON and delimited text, `layouts` the columns of known
data sets, and `shape` finds out what is what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from deploy.local.files.compression import Content, DamagedDataError
from deploy.local.files.layouts import NO_OPTIONS, FileOptions
from deploy.local.files.rows import MAX_ROW_BYTES
from deploy.local.files.shape import ReviewFileError, detect
from deploy.local.records import Outgoing
from udfs.core.parsing import ReviewFormat


class DamagedFileError(ValueError):
    """A file that could not be read to its end; the message says how far it was."""


class Replay(Iterator[Outgoing]):
    """The records of a file, and how far it was read.

    Attributes
    ----------
    path
        The file.
    rows
        How many were read, broken ones included.
    """

    def __init__(
        self,
        path: Path,
        format: ReviewFormat,
        options: FileOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._start_s = clock()
        self.path = path
        self.rows = 0
        content = Content(path)
        shape = detect(content, path, options, format)
        self._content = content
        self._too_long = 0
        self._records = shape.records(content.chunks())

    def __next__(self) -> Outgoing:
        if self.rows == 0:
            self._start_s = self._clock()
        try:
            record = next(self._records)
        except DamagedDataError as error:
            raise DamagedFileError(
                f"{self.path}: {error}; {self.rows:,} rows before that were read, the one that is"
                " cut off was left out"
            ) from error
        self.rows += 1
        if len(record.data) > MAX_ROW_BYTES:
            self._too_long += 1
        return record

    def progress(self, limit: int | None = None) -> str:
        r"""Return how far it is, of `limit` rows at most, and the time left, for people.

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".tsv") as file:
        ...     _ = file.write(b"R1\tGift_Card\t5\tNice.\n")
        ...     file.flush()
        ...     records = replay(Path(file.name), "json")
        ...     before, _ = records.progress(), list(records)
        ...     before, records.progress()
        ('0% of 0.0 MB, 0 rows', '100% of 0.0 MB, 1 rows, 0:00:00 left')
        """
        size = self._content.size_bytes
        share = self._content.read_bytes / size if self.rows else 0.0
        if limit:
            share = min(1.0, max(share, self.rows / limit))
        words = f"{share:.0%} of {size / 1e6:,.1f} MB, {self.rows:,} rows"
        if share == 0:
            return words
        left_s = (self._clock() - self._start_s) * (1 - share) / share
        return f"{words}, {timedelta(seconds=round(left_s))} left"

    @property
    def notes(self) -> list[str]:
        """What was left out of a file that is no row, in words."""
        notes = []
        if self._content.trailing_bytes:
            notes.append(
                f"{self.path}: {self._content.trailing_bytes:,} bytes after the end of the"
                " compressed data were ignored"
            )
        if self._too_long:
            notes.append(
                f"{self.path}: {self._too_long:,} rows are longer than"
                f" {MAX_ROW_BYTES // 2**20} MiB and were given up"
            )
        return notes


def replay(path: Path, format: ReviewFormat, options: FileOptions = NO_OPTIONS) -> Replay:
    """Read a file of reviews row by row; memory is bounded by its longest row, of 4 MiB at most.

    - A row of known columns becomes a record of `format` without event time: the arrival time
      counts. Only an `event_time` of the file's own, or one named in the options, is sent. What is
      wrong inside a field stays wrong.
    - A JSON row that holds the fields of the stream is sent as it is, its own event time included,
      when `format` is `json`; only a row with a `star_rating` is written anew, because records must
      not hold the truth.
    - Any other row is sent as its bytes (without the line end), to be dead-lettered; also one too
      large for Kinesis, which the sender refuses. A row of more than 4 MiB is cut and counted
      among `Replay.notes`.
    - Empty lines and header lines, in the middle too, are no rows.

    Parameters
    ----------
    path
        The file.
    format
        Of the records, whatever the shape of the file.
    options
        Columns and category, where the file is none of the known data sets.

    Returns
    -------
    Replay
        One record a row, in order, `fate` None; `star_rating` where the row has one of 1 to 5.

    Raises
    ------
    FileNotFoundError
        There is no such file. At once.
    ReviewFileError
        None of the first 100 rows is a review. At once.
    DamagedFileError
        Compressed data are damaged or cut off: when that is reached, after all rows before it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of reviews at {path}")
    return Replay(path, format, options)


__all__ = ["NO_OPTIONS", "DamagedFileError", "FileOptions", "Replay", "ReviewFileError", "replay"]
