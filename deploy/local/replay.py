"""Real files of reviews as records of the `reviews` stream.

Known shapes, plain or gzip: the 15 columns of the Amazon Customer Reviews data set, the four
columns `review_id product_category star_rating review_body` (both tab-separated, unquoted, with
or without a header line), and JSON lines.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from deploy.local.generator import COLUMNS
from deploy.local.records import Outgoing, encode, partition_key, to_json
from udfs.core.parsing import ReviewFormat, decode_json

_FOUR_COLUMNS = ("review_id", "product_category", "star_rating", "review_body")
_LAYOUTS = {len(columns): columns for columns in (COLUMNS, _FOUR_COLUMNS)}
_REQUIRED = ("review_id", "product_category", "review_body")
_RECORD_FIELDS = (*_REQUIRED, "event_time")

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}


def replay(path: Path, format: ReviewFormat) -> Iterator[Outgoing]:
    """Read a file of reviews row by row; memory is bounded by its longest line.

    What the file holds is told by its content (gzip by its first bytes, JSON lines by an opening
    brace, a header by its column names, in any order, else the Amazon or the four columns by
    their number) and, where the first line is neither, by the extension.

    - A TSV row with the right columns becomes a record of `format` without event time: the
      arrival time counts. What is wrong inside a field stays wrong.
    - A JSON row is sent as it is, its own event time included, when `format` is `json`; only a
      row with a `star_rating` is written anew with the fields of the stream, because records must
      not hold the truth. In `tsv` its three fields are written as a line.
    - Any other row is sent as the bytes of its line (without the line end), to be dead-lettered;
      also one too large for Kinesis, which the sender refuses.
    - Empty lines are no rows.

    Parameters
    ----------
    path
        The file.
    format
        Of the records, whatever the shape of the file.

    Returns
    -------
    iterator of Outgoing
        One a row, in order, `fate` None; `star_rating` where the row has one of 1 to 5.

    Raises
    ------
    FileNotFoundError
        There is no such file. At once.
    ValueError
        The file holds no row, or a header without the columns that a review needs (at once), or
        damaged gzip data (when it is reached).
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of reviews at {path}")
    with closing(_lines(path)) as lines:
        first, second = next(lines, None), next(lines, None)
    header = None if first is None else _header(first)
    if first is None or (header and second is None):
        raise ValueError(f"{path} holds no review")
    if first.lstrip().startswith(b"{") or (b"\t" not in first and _has_json_suffix(path)):
        return (_of_json(line, format) for line in _lines(path))
    missing = [name for name in _REQUIRED if header and name not in header]
    if missing:
        raise ValueError(f"the header of {path} lacks {', '.join(missing)}")
    return _of_tsv(path, header, format)


def _lines(path: Path) -> Generator[bytes, None, None]:
    """Yield the lines that are not empty, without their ends."""
    with path.open("rb") as probe:
        is_gzip = probe.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        try:
            for number, line in enumerate(file):
                if number == 0:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                if line:
                    yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"the gzip data of {path} is damaged: {error}") from error


def _has_json_suffix(path: Path) -> bool:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    return bool(suffixes) and suffixes[-1] in _JSON_SUFFIXES


def _header(line: bytes) -> tuple[str, ...] | None:
    columns = tuple(name.strip().lower() for name in line.decode(errors="replace").split("\t"))
    return columns if set(columns) & set(_REQUIRED) else None


def _of_tsv(path: Path, header: Sequence[str] | None, format: ReviewFormat) -> Iterator[Outgoing]:
    lines = _lines(path)
    columns = header
    if header:
        next(lines)
    for line in lines:
        try:
            values = line.decode().split("\t")
        except UnicodeDecodeError:
            yield _as_it_is(line)
            continue
        # Without a header the first row of a known width tells; none before it can be a review.
        columns = columns or _LAYOUTS.get(len(values))
        if columns is None or len(values) != len(columns):
            yield _as_it_is(line)
        else:
            yield _of_row(dict(zip(columns, values, strict=True)), format)


def _of_row(row: Mapping[str, str], format: ReviewFormat) -> Outgoing:
    review_id, category, body = (row[name] for name in _REQUIRED)
    data = encode(review_id, category, body, None, format)
    return _outgoing(data, review_id, category, row.get("star_rating"))


def _of_json(line: bytes, format: ReviewFormat) -> Outgoing:
    try:
        row = decode_json(line.decode())
    # A deeply nested line ends in a RecursionError.
    except (ValueError, RecursionError):
        return _as_it_is(line)
    if not isinstance(row, dict):
        return _as_it_is(line)
    data = line
    if format == "tsv":
        review_id, category, body = (row.get(name) for name in _REQUIRED)
        if isinstance(review_id, str) and isinstance(category, str) and isinstance(body, str):
            try:
                data = encode(review_id, category, body, None, format)
            except UnicodeEncodeError:  # half a surrogate pair
                return _as_it_is(line)
    elif "star_rating" in row:
        data = to_json({name: row[name] for name in _RECORD_FIELDS if name in row})
    return _outgoing(
        data, row.get("review_id"), row.get("product_category"), row.get("star_rating")
    )


def _as_it_is(line: bytes) -> Outgoing:
    return _outgoing(line, None, None, None)


def _outgoing(data: bytes, review_id: object, category: object, rating: object) -> Outgoing:
    return Outgoing(
        data=data,
        partition_key=partition_key(review_id if isinstance(review_id, str) else None, data),
        fate=None,
        review_id=review_id if isinstance(review_id, str) else None,
        product_category=category if isinstance(category, str) else None,
        star_rating=_rating(rating),
    )


def _rating(value: object) -> int | None:
    # Tools that read ratings as floats write 5.0.
    text = str(value).strip().removesuffix(".0")
    return int(text) if text in ("1", "2", "3", "4", "5") else None
