"""Several reviews of one Kinesis record."""

from udfs.core.json_sequences import MAX_OBJECTS, TooManyObjectsError, object_slices
from udfs.core.parsing import TSV_COLUMNS, ParsingOptions


def split(payload: bytes | None, options: ParsingOptions) -> list[bytes]:
    r"""Return the reviews that a record holds, each as its own bytes, unchanged.

    With the format `json` a record may hold objects that follow each other, with or without white
    space between them, or one array of objects. With the format `tsv` it may hold lines; empty
    ones do not count. Whether each part is a valid review is left to `udfs.core.parsing.parse`.

    A record stays whole where it cannot be split completely, so that it gets one reason and nothing
    of it is lost: something between the objects or behind them, a line without three columns (a
    body may have line ends), bytes that are not UTF-8, more than `max_body_bytes`, or more than
    `MAX_OBJECTS` reviews.

    Parameters
    ----------
    payload
        The record's bytes.
    options
        Format and bound.

    Returns
    -------
    list of bytes
        1 to `MAX_OBJECTS` parts, in their order. An ordinary record is its only part.

    Examples
    --------
    >>> split(b'{"a": 1}{"a": 2}\n', ParsingOptions())
    [b'{"a": 1}', b'{"a": 2}']
    >>> split(b'{"a": 1} and more', ParsingOptions())
    [b'{"a": 1} and more']
    """
    whole = payload or b""
    if len(whole) > options.max_body_bytes:
        return [whole]
    parts = _objects(whole) if options.format == "json" else _lines(whole)
    return parts or [whole]


def separate(payload: bytes | None, options: ParsingOptions) -> list[tuple[bytes, int | None]]:
    r"""Return the reviews of a record as `split` does, each with its place in the record.

    The place counts from 0. It is None for a record that is one review, or cannot be split.

    >>> separate(b'{"a": 1}{"a": 2}', ParsingOptions())
    [(b'{"a": 1}', 0), (b'{"a": 2}', 1)]
    >>> separate(b'{"a": 1}', ParsingOptions())
    [(b'{"a": 1}', None)]
    """
    parts = split(payload, options)
    if len(parts) == 1:
        return [(parts[0], None)]
    return [(part, place) for place, part in enumerate(parts)]


def _objects(payload: bytes) -> list[bytes]:
    # One brace at the end: an object without others, as most records are.
    if payload.startswith(b"{") and payload.find(b"}") == len(payload) - 1:
        return [payload]
    try:
        text = payload.decode()
        return [text[found].encode() for found in object_slices(text)]
    except (UnicodeDecodeError, TooManyObjectsError):
        return []


def _lines(payload: bytes) -> list[bytes]:
    lines = [line for end in payload.split(b"\n") if (line := end.removesuffix(b"\r"))]
    is_complete = all(line.count(b"\t") == len(TSV_COLUMNS) - 1 for line in lines)
    return lines if is_complete and 1 < len(lines) <= MAX_OBJECTS else []
