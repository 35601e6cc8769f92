"""Detects from its first rows how a file is read, before any of it is sent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from deploy.local.files.compression import Content, DamagedDataError
from deploy.local.files.layouts import (
    HEADERLESS,
    KNOWN_NAMES,
    REQUIRED,
    STREAM_COLUMNS,
    FileOptions,
    Layout,
    LayoutError,
    find_layout,
    normal,
)
from deploy.local.files.reviews import of_lines, of_objects
from deploy.local.files.rows import MAX_ROW_BYTES, Delimited, JsonLines, JsonObjects, Quotes, Row
from deploy.local.records import Outgoing
from udfs.core.parsing import ParseReason, ParsingOptions, Rejected, ReviewFormat, parse

FIRST_ROWS = 100
"""One of these must be a review."""

_SAMPLE_BYTES = 1024 * 1024
_SAMPLE_ROWS = 1000
_HEADER_ROWS = 5
# Where readings are equally good, the first: text between tabs is rarely quoted, between commas
# usually.
_READINGS: tuple[tuple[str, Quotes], ...] = (
    *(("\t", quotes) for quotes in ("none", "doubled", "escaped")),
    *((delimiter, quotes) for delimiter in ",;|" for quotes in ("doubled", "escaped", "none")),
)
# Readings of quotes are tried only where the sample has these bytes.
_MARK: dict[Quotes, bytes] = {"none": b"", "doubled": b'"', "escaped": b'\\"'}
_NEEDED = {normal(name) for name in REQUIRED}
_KNOWN = tuple(HEADERLESS.values())
_SHOWN_NAMES = 20
_SHOWN_BYTES = 200
ACCEPTED = (
    "JSON lines, JSON objects or arrays of them; TSV, or CSV with , ; or |; plain or .gz, .bz2,"
    " .zst. Columns: review_id product_category review_body and star_rating, those of the Amazon"
    " reviews of 2015, 2018 or 2023, or others by --columns"
)

EXAMPLE = "review_id=ID,product_category=TYPE,review_body=TEXT,star_rating=STARS"

Reader = JsonLines | JsonObjects | Delimited


class ReviewFileError(ValueError):
    """A file of which nothing can be sent; the message says what was found in it."""


@dataclass(frozen=True)
class Shape:
    """How the rows of a file are read and what its columns are.

    Attributes
    ----------
    reader
        Cuts the content into rows.
    layout
        Where the fields of a review are.
    names
        Columns by position; empty for JSON.
    path, options, format
        As of `replay`.
    """

    reader: Reader
    layout: Layout
    names: Sequence[str]
    path: Path
    options: FileOptions
    format: ReviewFormat

    def records(self, chunks: Iterator[bytes]) -> Iterator[Outgoing]:
        """Yield a record for each row except headers."""
        rows = self.reader.rows(chunks)
        if isinstance(self.reader, Delimited):
            return of_lines(rows, self.names, self.layout, self.format, self.path, self.options)
        return of_objects(rows, self.layout, self.format)


@dataclass(frozen=True)
class _Reading:
    """One way to read the sample: what comes out, or why nothing can."""

    reader: Reader
    rows: Sequence[Row]
    names: Sequence[str]
    shape: Shape | None = None
    problem: str = ""
    rejected: Sequence[Rejected | None] = ()

    @property
    def balance(self) -> int:
        """Reviews, less other rows and those that look as if they were read wrongly."""
        reviews = self.rejected.count(None)
        if not isinstance(self.reader, Delimited):
            # Broken lines count for less when they are taken together.
            return reviews
        suspects = sum(_is_misread(row, self.reader) for row in self.data_rows)
        return 2 * reviews - len(self.rejected) - suspects

    @property
    def data_rows(self) -> list[Row]:
        """The rows except headers, as far as these repeat the names of the columns."""
        header = [normal(name) for name in self.names]
        return [
            row
            for row in self.rows
            if not isinstance(row.values, list) or [normal(v) for v in row.values] != header
        ]


def detect(content: Content, path: Path, options: FileOptions, format: ReviewFormat) -> Shape:
    """Return how a file is read: the way in which most of its first rows are reviews.

    Each reading is tried on the first 1,000 rows (of 1 MiB): JSON lines, JSON objects or arrays,
    and fields between tabs, commas, semicolons and bars. Quotes are text, or they enclose fields
    and are doubled inside, or they enclose fields and follow a backslash inside; the last is tried
    only where the sample has a backslash before a quote. Where two readings are equally good,
    quotes are text between tabs, and enclose fields elsewhere.

    Rows that seem misread count against a reading. Against "quotes are text": between tabs, rows in
    which most fields are enclosed in quotes, or one is in which all quotes are doubled; between
    other delimiters, rows in which any field is enclosed. Against backslashes: rows with quotes in
    their fields, none of which follows a backslash.

    Raises
    ------
    ReviewFileError
        No reading makes a review of any of the first 100 rows.
    """
    sample, damage = _sample(content)
    if not sample.strip():
        raise ReviewFileError(f"{path}: {damage}" if damage else f"{path} holds no review")
    end = b"\n" if b"\n" in sample else b"\r"
    readers: list[Reader] = [JsonLines(end), JsonObjects()] if b"{" in sample else []
    readers += [
        Delimited(delimiter, quotes, end)
        for delimiter, quotes in _READINGS
        if delimiter.encode() in sample and _MARK[quotes] in sample
    ]
    readings = [_read(reader, sample, path, options, format) for reader in readers]
    best = max((r for r in readings if r.shape), key=lambda r: r.balance, default=None)
    if best and best.shape and None in best.rejected[:FIRST_ROWS]:
        return best.shape
    if best and not best.rejected and not damage:
        raise ReviewFileError(f"{path} holds no review, only a header")
    likely = best or max(readings, key=lambda r: len(r.names), default=None)
    raise ReviewFileError(_explained(path, content, sample, likely, damage))


def _sample(content: Content) -> tuple[bytes, str]:
    """Return the beginning of a file as whole lines, and what is wrong with the data after it."""
    sample = b""
    try:
        for chunk in content.chunks():
            sample += chunk
            if len(sample) >= _SAMPLE_BYTES and (
                b"\n" in sample or b"\r" in sample or len(sample) > MAX_ROW_BYTES
            ):
                end = max(sample.rfind(b"\n"), sample.rfind(b"\r"))
                return sample[: end + 1] or sample, ""
    except DamagedDataError as error:
        return sample, str(error)
    return sample, ""


def _read(
    reader: Reader, sample: bytes, path: Path, options: FileOptions, format: ReviewFormat
) -> _Reading:
    rows = list(islice(reader.rows([sample]), _SAMPLE_ROWS))
    names: Sequence[str] = ()
    try:
        if isinstance(reader, Delimited):
            names, layout = _columns(reader.delimiter, rows, path, options)
        else:
            names = list(
                dict.fromkeys(k for r in rows if isinstance(r.values, dict) for k in r.values)
            )
            layout = find_layout(names, path, options)
    except LayoutError as error:
        first = rows[0].values if rows else None
        return _Reading(
            reader, rows, names or (first if isinstance(first, list) else ()), problem=str(error)
        )
    shape = Shape(reader, layout, names, path, options, format)
    records = islice(shape.records(iter([sample])), _SAMPLE_ROWS)
    # Without a header line, and between what any prose has, a rating must say what it is.
    needs_rating = isinstance(reader, Delimited) and reader.delimiter != "\t" and names in _KNOWN
    rejected = [_rejected(record, format, needs_rating) for record in records]
    return _Reading(reader, rows, names, shape, rejected=rejected)


def _columns(
    delimiter: str, rows: Sequence[Row], path: Path, options: FileOptions
) -> tuple[Sequence[str], Layout]:
    """Return the columns of rows of fields: of a header among the first, or by their number."""
    lists = [row.values for row in rows if isinstance(row.values, list)]
    problem = LayoutError("has no row of fields")
    for number, names in enumerate(lists[:_HEADER_ROWS]):
        try:
            return names, find_layout(names, path, options)
        except LayoutError as error:
            normals = {normal(name) for name in names}
            if normals & _NEEDED or len(normals & KNOWN_NAMES) > 1:
                raise  # a header that lacks something
            if number == 0:
                problem = error
    for width, _ in Counter(map(len, lists)).most_common():
        if names_by_number := _by_number(width, delimiter, options):
            return names_by_number, find_layout(names_by_number, path, options)
    raise problem


def _by_number(width: int, delimiter: str, options: FileOptions) -> Sequence[str]:
    """Return the columns of a file without a header, by its number of fields; () if unknown."""
    if options.columns is not None:
        parts = [part for parts in options.columns.values() for part in parts]
        is_by_number = all(part.isdecimal() for part in parts)
        return [str(number) for number in range(1, width + 1)] if is_by_number else ()
    names = HEADERLESS.get(width, ())
    # Any prose with two commas a line has three fields.
    return () if names == STREAM_COLUMNS and delimiter != "\t" else names


def _rejected(record: Outgoing, format: ReviewFormat, needs_rating: bool) -> Rejected | None:
    if needs_rating and record.star_rating is None:
        return Rejected(ParseReason.MISSING_FIELD, "star_rating is not one of 1 to 5")
    # Whatever the time: training asks for none.
    anytime = ParsingOptions(format, max_event_age_s=math.inf, max_event_lead_s=math.inf)
    result = parse(record.data, 0, anytime)
    return result if isinstance(result, Rejected) else None


def _is_misread(row: Row, reader: Delimited) -> bool:
    """Return whether a row seems to use quotes in another way than `reader`; see `detect`."""
    if not isinstance(row.values, list) or b'"' not in row.raw or reader.quotes == "doubled":
        return False
    if reader.quotes == "escaped":
        return _MARK["escaped"] not in row.raw and any('"' in value for value in row.values)
    enclosed = [v[1:-1] for v in row.values if len(v) > 1 and v[0] == v[-1] == '"']
    if reader.delimiter != "\t":
        return bool(enclosed)
    return 2 * len(enclosed) > len(row.values) or any(
        '""' in inside and '"' not in inside.replace('""', "") for inside in enclosed
    )


def _explained(
    path: Path, content: Content, sample: bytes, likely: _Reading | None, damage: str
) -> str:
    names = list(likely.names[:_SHOWN_NAMES]) if likely else []
    found = [content.kind]
    why = damage
    if likely:
        found.append(likely.reader.name)
        if likely.shape:
            found.append(likely.shape.layout.name)
            why = why or _why(likely)
        else:
            why = why or f"it {likely.problem}"
    else:
        found.append("text in one column")
        why = why or "there are neither objects nor separators"
    if names:
        found.append(f"columns {', '.join(names)}")
    # As Python writes it: it may hold what a terminal takes for commands.
    first = sample.strip()[:_SHOWN_BYTES].splitlines()[0].decode(errors="replace")
    return "\n".join(
        [
            f"{path}: none of the first {FIRST_ROWS} rows is a review; none was sent",
            f"  why: {why}",
            f"  found: {'; '.join(found)}",
            f"  first row: {first!r}",
            f"  accepted: {ACCEPTED}",
            f"  for example: --columns {EXAMPLE}",
        ]
    )


def _why(reading: _Reading) -> str:
    """Return why the first row that is not a review is not one."""
    if isinstance(reading.reader, Delimited):
        for row, rejected in zip(reading.data_rows, reading.rejected, strict=False):
            if rejected and (fault := _fault(row, len(reading.names))):
                return fault
    first = next((found for found in reading.rejected if found), None)
    return f"{first.reason}: {first.message}" if first else "no row after the header"


def _fault(row: Row, width: int) -> str:
    """Return why a row does not have `width` fields; empty where it has."""
    if isinstance(row.values, list):
        found = len(row.values)
        return "" if found == width else f"expected {width} fields in a row, got {found}"
    if len(row.raw) > MAX_ROW_BYTES:
        return f"a row is longer than {MAX_ROW_BYTES // 2**20} MiB"
    try:
        row.raw.decode()
    except UnicodeDecodeError as error:
        return f"a row is not UTF-8: {error.reason}"
    return "a row has a quote that is not closed, or text after a closing quote"
