"""Parse raw bytes to a review, or to the reason why they are not one.

The parser alone decides what a review is. It never raises for a record, so that an invalid one can
be kept and explained instead of stopping the stream.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NoReturn

from udfs.core.characters import has_visible_character
from udfs.core.event_times import EventTimeError, event_time_ms
from udfs.core.keys import InvalidKeyError, normalised_key
from udfs.core.lookalikes import envelope, likeness, names_of, unquoted_name

ReviewFormat = Literal["json", "tsv"]

TSV_COLUMNS = ("review_id", "product_category", "review_body")
"""The columns of a line of the format `tsv`."""

# The most that one character takes in the JSON of the sinks: see `json_bytes`.
_MAX_JSON_BYTES_PER_CHARACTER = 12


class ParseReason(StrEnum):
    """Why a record is not a review: the `reason` of its dead letter."""

    INVALID_UTF8 = "invalid_utf8"
    NOT_JSON = "not_json"
    NOT_OBJECT = "not_object"
    WRONG_COLUMNS = "wrong_columns"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    KEY_TOO_LONG = "key_too_long"
    KEY_NOT_PRINTABLE = "key_not_printable"
    EMPTY_BODY = "empty_body"
    OVERSIZE = "oversize"
    BAD_EVENT_TIME = "bad_event_time"
    EVENT_TIME_TOO_OLD = "event_time_too_old"
    EVENT_TIME_IN_FUTURE = "event_time_in_future"


@dataclass(frozen=True, slots=True)
class ParsingOptions:
    """What counts as a review.

    Attributes
    ----------
    format
        `json`: one object a record; `tsv`: one line `review_id, product_category, review_body`.
    max_body_bytes
        Bound of the raw record, and of the body as the sinks' JSON has it (`json_bytes`), so that
        no output record can exceed its sink's limit.
    max_event_age_s, max_event_lead_s
        How far an event time may lie before and after the arrival time, in seconds. The lead
        bounds by how much one record's wrong clock can push the watermark.
    require_time_zone
        Reject an event time as text without a time zone, instead of reading it as UTC.
    """

    format: ReviewFormat = "json"
    max_body_bytes: int = 256 * 1024
    max_event_age_s: float = 86_400.0
    max_event_lead_s: float = 5.0
    require_time_zone: bool = False


@dataclass(frozen=True, slots=True)
class Review:
    """A record that is a review: its keys normalised, `event_time_ms` counted from the epoch."""

    review_id: str
    product_category: str
    review_body: str
    event_time_ms: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """An invalid record: a reason code, what to do about it, and its review id if that is valid."""

    reason: ParseReason
    message: str
    review_id: str | None = None


class _RejectedError(Exception):
    def __init__(self, reason: ParseReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def parse(
    payload: bytes | None, arrival_time_ms: int, options: ParsingOptions
) -> Review | Rejected:
    """Parse one record of the `reviews` stream.

    Parameters
    ----------
    payload
        The record's bytes; None and the empty record are invalid.
    arrival_time_ms
        When Kinesis took the record, in milliseconds since the epoch: the event time of a
        record that has none, and what the others' event times are held against.
    options
        Format and bounds.

    Returns
    -------
    Review or Rejected
        Never raises, whatever the bytes.

    Examples
    --------
    >>> line = b'{"review_id": "R1", "product_category": "Gift_Card", "review_body": "Nice."}'
    >>> parse(line, 1_000, ParsingOptions())
    Review(review_id='R1', product_category='Gift_Card', review_body='Nice.', event_time_ms=1000)
    >>> parse(b"[]", 1_000, ParsingOptions()).reason.value
    'not_object'
    """
    fields: dict[str, Any] = {}
    try:
        fields = _fields(payload or b"", options)
        return _review(fields, arrival_time_ms, options)
    except _RejectedError as rejected:
        # Names of members can hold half surrogate pairs.
        message = rejected.message.encode(errors="replace").decode()
        return Rejected(rejected.reason, message, _valid_id(fields))


def json_bytes(text: str) -> int:
    r"""Return the length of `text` as Flink's JSON format writes it, in bytes without the quotes.

    Its Jackson writes a character outside the Basic Multilingual Plane as two escapes of six bytes,
    not as four bytes of UTF-8.

    Raises
    ------
    UnicodeEncodeError
        The text has half a surrogate pair.

    >>> json_bytes("é"), json_bytes('"'), json_bytes("\x01"), json_bytes("😀")
    (2, 2, 6, 12)
    """
    in_utf8 = len(json.dumps(text, ensure_ascii=False).encode()) - 2
    if text.isascii():
        return in_utf8
    surrogate_pairs = len(text.encode("utf-16-le")) // 2 - len(text)
    return in_utf8 + surrogate_pairs * (12 - 4)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


decode_json: Callable[[str], Any] = json.JSONDecoder(parse_constant=_reject_constant).decode
"""Decode JSON as the standard has it: without NaN and Infinity. Raises ValueError."""


def _fields(payload: bytes, options: ParsingOptions) -> dict[str, Any]:
    if len(payload) > options.max_body_bytes:
        raise _RejectedError(
            ParseReason.OVERSIZE,
            f"the record has {len(payload)} bytes, at most {options.max_body_bytes} are taken",
        )
    try:
        text = payload.decode()
        return _json_fields(text) if options.format == "json" else _tsv_fields(text)
    except UnicodeDecodeError as error:
        reason = ParseReason.INVALID_UTF8
        message = f"byte {error.start} of the record is not UTF-8"
    except _RejectedError as rejected:
        reason, message = rejected.reason, rejected.message
    like = likeness(payload, options.format)
    raise _RejectedError(reason, f"{message}; {like}" if like else message)


def _json_fields(text: str) -> dict[str, Any]:
    try:
        value = decode_json(text)
    # Deep nesting ends the C scanner with a RecursionError.
    except (ValueError, RecursionError) as error:
        # Looked for only now, because it is rare. In TSV the key that it is part of drops it.
        if text.startswith("\ufeff"):
            return _json_fields(text.lstrip("\ufeff"))
        raise _RejectedError(
            ParseReason.NOT_JSON, f"the record is not JSON: {str(error)[:200]}"
        ) from None
    if not isinstance(value, dict):
        raise _RejectedError(
            ParseReason.NOT_OBJECT, f"the record is a JSON {_json_type(value)}, not an object"
        )
    return value


def _tsv_fields(text: str) -> dict[str, Any]:
    columns = text.removesuffix("\n").removesuffix("\r").split("\t")
    if len(columns) != len(TSV_COLUMNS):
        raise _RejectedError(
            ParseReason.WRONG_COLUMNS,
            f"the number of columns is {len(columns)}, not 3: {', '.join(TSV_COLUMNS)}",
        )
    if tuple(unquoted_name(column) for column in columns[1:]) == TSV_COLUMNS[1:]:
        raise _RejectedError(ParseReason.WRONG_COLUMNS, "the columns hold their own names")
    return dict(zip(TSV_COLUMNS, columns, strict=True))


def _review(fields: dict[str, Any], arrival_time_ms: int, options: ParsingOptions) -> Review:
    return Review(
        _key(fields, "review_id"),
        _key(fields, "product_category"),
        _body(fields, options.max_body_bytes),
        _event_time_ms(fields.get("event_time"), arrival_time_ms, options),
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise _RejectedError(ParseReason.MISSING_FIELD, _missing(fields, name))
    if not isinstance(value, str):
        raise _RejectedError(
            ParseReason.WRONG_TYPE, f"{name} is a JSON {_json_type(value)}, not a string"
        )
    return value


def _missing(fields: dict[str, Any], name: str) -> str:
    if name in fields:
        return f"{name} is null"
    return f"{name} is missing; {envelope(fields) or names_of(fields)}"


def _key(fields: dict[str, Any], name: str) -> str:
    try:
        return normalised_key(_text(fields, name))
    except InvalidKeyError as error:
        raise _RejectedError(ParseReason(error.reason), f"{name} {error}") from None


def _body(fields: dict[str, Any], max_body_bytes: int) -> str:
    body = _text(fields, "review_body")
    if not has_visible_character(body):
        raise _RejectedError(ParseReason.EMPTY_BODY, "review_body has no visible character")
    if len(body) * _MAX_JSON_BYTES_PER_CHARACTER > max_body_bytes or not body.isascii():
        try:
            encoded_bytes = json_bytes(body)
        except UnicodeEncodeError:
            raise _RejectedError(
                ParseReason.INVALID_UTF8, "review_body has half a surrogate pair"
            ) from None
        if encoded_bytes > max_body_bytes:
            raise _RejectedError(
                ParseReason.OVERSIZE,
                f"review_body takes {encoded_bytes} bytes as JSON, at most {max_body_bytes} are"
                " taken",
            )
    return body


def _event_time_ms(value: Any, arrival_time_ms: int, options: ParsingOptions) -> int:
    if value is None:
        return arrival_time_ms
    if not isinstance(value, str) and _json_type(value) != "number":
        raise _RejectedError(
            ParseReason.WRONG_TYPE,
            f"event_time is a JSON {_json_type(value)}, not a string or a number",
        )
    try:
        time_ms = event_time_ms(value, options.require_time_zone)
    except EventTimeError as error:
        raise _RejectedError(
            ParseReason.BAD_EVENT_TIME, f"event_time {_shown(value)} {error}"
        ) from None
    lead_s = (time_ms - arrival_time_ms) / 1000
    if lead_s > options.max_event_lead_s:
        raise _RejectedError(
            ParseReason.EVENT_TIME_IN_FUTURE,
            f"event_time {_shown(value)} is {lead_s:.3f} s after the arrival, at most"
            f" {options.max_event_lead_s:g} s are allowed",
        )
    if -lead_s > options.max_event_age_s:
        raise _RejectedError(
            ParseReason.EVENT_TIME_TOO_OLD,
            f"event_time {_shown(value)} is {-lead_s:.3f} s before the arrival, at most"
            f" {options.max_event_age_s:g} s are allowed",
        )
    return time_ms


def _shown(value: Any) -> str:
    # Cut before, too: the text may have as many bytes as the record.
    return repr(value[:64] if isinstance(value, str) else value)[:64]


def _json_type(value: object) -> str:
    names: dict[type, str] = {
        bool: "boolean",
        dict: "object",
        list: "array",
        str: "string",
        type(None): "null",
    }
    return names.get(type(value), "number")


def _valid_id(fields: dict[str, Any]) -> str | None:
    try:
        return _key(fields, "review_id")
    except _RejectedError:
        return None
