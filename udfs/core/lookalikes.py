"""Say what a record looks like that is not a review, and what its producer has to change.

Only records that were rejected come here, so that valid ones do not pay for it.
"""

import base64
import binascii
import json
import re
import zlib
from collections import deque
from typing import Any, Literal

from udfs.core.json_sequences import MAX_OBJECTS, TooManyObjectsError, object_slices

_REVIEW_FIELDS = ("review_id", "product_category", "review_body")

KPL_MAGIC = b"\xf3\x89\x9a\xc2"
"""First bytes of a record that the Kinesis Producer Library has aggregated out of several."""

_SIGNATURES = (
    (KPL_MAGIC, "a damaged aggregate of the Kinesis Producer Library", "send it again"),
    (b"\x1f\x8b", "gzip data", "send it uncompressed"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data", "send it uncompressed"),
    (b"BZh", "bzip2 data", "send it uncompressed"),
    (b"\xfd7zXZ\x00", "xz data", "send it uncompressed"),
    (b"\x04\x22\x4d\x18", "LZ4 data", "send it uncompressed"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy data", "send it uncompressed"),
    (b"PK\x03\x04", "a zip file", "send its reviews, one a record"),
    (b"PAR1", "a Parquet file", "send its reviews, one a record"),
    (b"Obj\x01", "an Avro file", "send JSON"),
    (b"\xff\xfe\x00\x00", "UTF-32 text", "send UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "send UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "send UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "send UTF-8"),
)
_ZLIB_STARTS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_UTF_16_START = re.compile(rb"(?:[\t-~]\x00){4}|(?:\x00[\t-~]){4}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}+={0,2}")
_SERVER_SENT_EVENT = re.compile(r"(?:(?:event|id|retry|):[^\n]*\n)*data: ?[{\[]")
_CELL_ENDS = re.compile(r"[\t,;|]")
_CSV_START = re.compile(r'(?:"[^"\n]*"|[^\s,"]+),(?:"[^"\n]*"|[^,"\n]*),')
_SEVERAL = "send one a record, or set the property `reviews.several_per_record`"
_KEY_LIMIT = 10
_MAX_NODES = 200


def likeness(payload: bytes, format: Literal["json", "tsv"]) -> str | None:
    r"""Return what the bytes of a record look like and what to do, or None if that is not known.

    Nothing is decompressed beyond a few bytes.

    Parameters
    ----------
    payload
        A record that is not one JSON object, or not the columns of a TSV line.
    format
        What is expected.

    Examples
    --------
    >>> likeness(b"\x1f\x8b\x08\x00", "json")
    'it looks like gzip data: send it uncompressed'
    """
    if not payload.strip():
        return "it has only white space" if payload else "the record is empty"
    for signature, name, step in _SIGNATURES:
        if payload.startswith(signature):
            return f"it looks like {name}: {step}"
    if payload.startswith(_ZLIB_STARTS) and _is_zlib(payload):
        return "it looks like zlib data: send it uncompressed"
    if _UTF_16_START.match(payload):
        return "it looks like UTF-16 text: send UTF-8"
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _of_bytes(payload)
    of_json = _of_json_for_tsv(text) if format == "tsv" else _of_json(text)
    return of_json or _of_base64(payload, format) or _of_text(text, format)


def envelope(fields: dict[str, Any]) -> str | None:
    r"""Return where in an object the review is, or None if it is not found.

    Members are searched level by level, at most 200 of them, also in strings that hold JSON or
    base64 of it.

    >>> envelope({"version": "0", "detail": {"review_id": "R1", "review_body": "Nice."}})
    'the review is in `detail`: send that alone'
    """
    nodes: deque[tuple[str, Any]] = deque(_members("", fields))
    for _ in range(_MAX_NODES):
        if not nodes:
            break
        path, value = nodes.popleft()
        if isinstance(value, str):
            value, coding = _in_string(value)
            path += f" ({coding})"
        if _is_like_review(value):
            return f"the review is in `{path[:100]}`: send that alone"
        nodes.extend(_members(path, value))
    return None


def names_of(fields: dict[str, Any]) -> str:
    """Return the first names of an object's members, cut to a readable length.

    >>> names_of({"reviewId": "R1", "text": "Nice."})
    'the object has reviewId, text'
    """
    names = [name[:32] for name in list(fields)[:_KEY_LIMIT]]
    more = ", ..." if len(fields) > len(names) else ""
    return f"the object has {', '.join(names)}{more}" if names else "the object is empty"


def unquoted_name(cell: str) -> str:
    r"""Return the name that a cell of a header line holds, without quotes and white space.

    >>> unquoted_name('"review_id" ')
    'review_id'
    """
    return cell[:64].strip("\"' \r\n\ufeff").lower()


def _members(path: str, value: object) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        return [(f"{prefix}{name[:32]}", value[name]) for name in list(value)[:_MAX_NODES]]
    if isinstance(value, list):
        return [(f"{path}[{index}]", item) for index, item in enumerate(value[:3])]
    return []


def _in_string(text: str) -> tuple[object, str]:
    """Return the JSON that a string holds, and how it is written there."""
    if text.lstrip().startswith(("{", "[")):
        return _decoded(text), "JSON"
    data = _unbase64(text.encode(errors="replace"))
    return None if data is None else _decoded(data.decode(errors="replace")), "base64 of JSON"


def _of_bytes(payload: bytes) -> str | None:
    has_utf8 = not payload.decode(errors="ignore").isascii()
    text = payload.decode("latin-1")
    if has_utf8 or (_decoded(text) is None and text.count("\t") < 2):
        return None
    return "it looks like ISO 8859-1 or Windows-1252 text: send UTF-8"


def _is_like_review(value: object) -> bool:
    return isinstance(value, dict) and sum(name in value for name in _REVIEW_FIELDS) > 1


def _of_json_for_tsv(text: str) -> str | None:
    try:
        is_json = len(object_slices(text)) > 1 or isinstance(_decoded(text), dict | list)
    except TooManyObjectsError:
        is_json = True
    return "it looks like JSON: set the property `reviews.format` to json" if is_json else None


def _of_json(text: str) -> str | None:
    try:
        objects = len(object_slices(text))
    except TooManyObjectsError:
        return f"it holds more than {MAX_OBJECTS} JSON objects: send one a record"
    value = _decoded(text)
    if isinstance(value, list):
        step = _SEVERAL if objects else "send one JSON object a record"
        return f"it looks like a JSON array of {len(value)}: {step}"
    if objects > 1:
        return f"it holds {objects} JSON objects: {_SEVERAL}"
    if isinstance(value, str):
        inner, coding = _in_string(value)
        if inner is not None:
            return f"it looks like a JSON string that holds {coding}: send the object itself"
    return _of_part_of_array(text) if value is None else None


def _of_part_of_array(text: str) -> str | None:
    try:
        objects = len(object_slices("[" + text.strip("[], \t\r\n\ufeff") + "]"))
    except TooManyObjectsError:
        objects = MAX_OBJECTS
    if objects > 1:
        return f"it holds {objects} JSON objects and commas between them: send one a record"
    if objects:
        return "it holds a JSON object and a comma or bracket of an array: send the object alone"
    return None


def _of_base64(payload: bytes, format: str) -> str | None:
    data = _unbase64(payload)
    if data is None:
        return None
    if data.startswith(b"\x1f\x8b"):
        return "it looks like base64 of gzip data: send it uncompressed, without base64"
    if _decoded(data.decode(errors="replace")) is not None:
        return "it looks like base64 of JSON: send it without base64, which the AWS SDKs add"
    if format == "tsv" and data.count(b"\t") == len(_REVIEW_FIELDS) - 1:
        return "it looks like base64 of a line: send it without base64, which the AWS SDKs add"
    return None


def _of_text(text: str, format: str) -> str | None:
    text = text.strip("\r\n ")
    if text.startswith("\x1e"):
        return "it looks like a JSON text sequence (RFC 7464): send one object, without U+001E"
    if _SERVER_SENT_EVENT.match(text):
        return "it looks like a server-sent event: send the object behind `data:` alone"
    start = text.find("{")
    if start > 0 and format == "json" and _is_like_review(_decoded(text[start:])):
        return f"the review is behind {text[: min(start, 32)]!a}: send the object alone"
    if text.startswith("<"):
        return "it looks like XML or HTML: send JSON"
    if text.startswith("{'"):
        return "it looks like a Python dict as text: write it with json.dumps"
    if text.startswith(("{", "[")):
        return None
    lines = text.split("\n")
    columns = lines[0].count("\t") + 1
    names = {unquoted_name(cell) for cell in _CELL_ENDS.split(lines[0][:4096])}
    if len(names.intersection(_REVIEW_FIELDS)) > 1:
        return "it looks like the header line of a file: send reviews only"
    if columns == 3 and format == "json":
        return "it looks like a TSV line: set the property `reviews.format` to tsv"
    if columns == 3 and len(lines) > 1:
        return _of_lines(lines)
    if columns > 1 and format == "json":
        return f"it looks like TSV with {columns} columns"
    if _CSV_START.match(lines[0]):
        return "it looks like CSV: send JSON, or TSV with the property `reviews.format` set to tsv"
    return None


def _of_lines(lines: list[str]) -> str:
    lines = [line for line in lines if line.rstrip("\r")]
    if len(lines) > MAX_OBJECTS:
        return f"it looks like more than {MAX_OBJECTS} lines: send one a record"
    for number, line in enumerate(lines, 1):
        if (columns := line.count("\t") + 1) != len(_REVIEW_FIELDS):
            return (
                f"it looks like {len(lines)} lines, of which line {number} has {columns} columns:"
                " send one a record"
            )
    return f"it looks like {len(lines)} lines: {_SEVERAL}"


def _decoded(text: str) -> Any:
    """Return a JSON object, array or string; None for all else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list | str) else None


def _unbase64(data: bytes) -> bytes | None:
    data = b"".join(data.split())
    if not _BASE64.fullmatch(data):
        return None
    try:
        return base64.b64decode(data.translate(bytes.maketrans(b"-_", b"+/")) + b"==")
    except binascii.Error:
        return None


def _is_zlib(payload: bytes) -> bool:
    try:
        return bool(zlib.decompressobj().decompress(payload, 64))
    except zlib.error:
        return False
