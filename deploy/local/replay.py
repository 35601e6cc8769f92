"""Real files of reviews as records of the `reviews` stream.

A file's format is detected from its content, by the modules of `deploy.local.files`: `compression`
reads gzip, bzip2, Zstandard and UTF-16, `rows` reads JSON and delimited text, `layouts` has the
columns of known data sets, and `shape` chooses among them.
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
    """A file that could not be read to its end; the message has the number of rows read."""


class Replay(Iterator[Outgoing]):
    """Records of a file, and the progress of reading it.

    Attributes
    ----------
    path
        The file.
    rows
        Number of rows read, broken ones included.
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
        self._drops_event_times = format == "tsv" and "event_time" in shape.layout.columns
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
        r"""Return progress and the time left as text; `limit` is the number of rows to be read.

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
        """Notes on content of the file that was not sent."""
        notes = []
        if self._drops_event_times:
            notes.append(
                f"{self.path}: event times were not sent, because records of the format tsv have"
                " none"
            )
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

    - A row of known columns becomes a record of `format`. Faults inside fields are kept.
    - Its event time is the value of the column `event_time`, or of the one named in the options.
      Without such a column, and always where `format` is `tsv`, the record has no event time: the
      arrival time counts. `Replay.notes` says where event times are left out for that reason.
    - A JSON row that holds the fields of the stream is sent as it is, its own event time included,
      when `format` is `json`; only a row with a `star_rating` is written anew, because records must
      not hold the truth.
    - Any other row is sent as its bytes (without the line end), to be dead-lettered; also one too
      large for Kinesis, which the sender refuses. A row of more than 4 MiB is cut and counted
      among `Replay.notes`.
    - Empty lines and header lines are skipped, also in the middle of a file.

    Parameters
    ----------
    path
        The file.
    format
        Format of the records, independent of the format of the file.
    options
        Columns and category, where the file has another layout than the known data sets.

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
