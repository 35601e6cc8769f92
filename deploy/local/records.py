"""What goes into the `reviews` stream: sound records, and every way in which one can be broken."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from udfs.core.parsing import ParseReason, ReviewFormat

_MAX_KINESIS_RECORD_BYTES = 1024 * 1024  # partition key included
_MAX_PARTITION_KEY_CHARACTERS = 256
_BLANKS = str.maketrans("\t\n\r", "   ")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record on its way into the `reviews` stream, and the truth about it.

    Attributes
    ----------
    data
        The payload. It never holds the true rating.
    partition_key
        1 to 256 printable characters, also where the record is broken.
    fate
        `scored`, or the parse reason code that it must be dead-lettered with. None: not known.
    review_id, product_category, star_rating
        Those of the review that the record was made from, also where the broken payload does not
        show them. `star_rating` is what the customer really gave, 1 to 5. None: not known.
    is_late
        The event time lies at least a minute beyond the watermark delay.
    burst
        Label of the anomaly burst that the review belongs to.
    """

    data: bytes
    partition_key: str
    fate: str | None
    review_id: str | None
    product_category: str | None
    star_rating: int | None
    is_late: bool = False
    burst: str | None = None


def encode(
    review_id: str,
    product_category: str,
    review_body: str,
    event_time: datetime | None,
    format: ReviewFormat,
) -> bytes:
    r"""Return a review as a record of the `reviews` stream.

    Parameters
    ----------
    review_id, product_category, review_body
        Text without half surrogate pairs. In TSV the body's tabs and line ends become spaces; a
        tab in one of the others makes a record with too many columns.
    event_time
        With a time zone; written in UTC to the millisecond. None, and always in TSV: left out, so
        that the arrival time counts.
    format
        `json` or `tsv`.

    Examples
    --------
    >>> encode("R1", "Gift_Card", "Nice\tcard.", None, "json").decode()
    '{"review_id": "R1", "product_category": "Gift_Card", "review_body": "Nice\\tcard."}'
    >>> encode("R1", "Gift_Card", "Nice\tcard.", None, "tsv")
    b'R1\tGift_Card\tNice card.'
    """
    if format == "tsv":
        return f"{review_id}\t{product_category}\t{review_body.translate(_BLANKS)}".encode()
    fields = {
        "review_id": review_id,
        "product_category": product_category,
        "review_body": review_body,
    }
    if event_time is not None:
        fields["event_time"] = utc_text(event_time)
    return to_json(fields)


def to_json(fields: Mapping[str, object]) -> bytes:
    """Return a JSON object in UTF-8 (half surrogate pairs, which UTF-8 lacks, as escapes)."""
    try:
        return json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(fields).encode()


def utc_text(moment: datetime) -> str:
    """Return a time as the records hold it.

    >>> utc_text(datetime(2026, 1, 31, 12, tzinfo=UTC))
    '2026-01-31T12:00:00.000Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def partition_key(review_id: str | None, data: bytes) -> str:
    """Return the review id where Kinesis takes it as a key, else a hash of the payload.

    >>> partition_key("R1", b"...")
    'R1'
    >>> partition_key(None, b"...")
    'ab5df625bc76dbd4e163bed2dd888df8'
    """
    if (
        review_id
        and len(review_id) <= _MAX_PARTITION_KEY_CHARACTERS
        and len(review_id.encode(errors="replace")) <= _MAX_PARTITION_KEY_CHARACTERS
        and review_id.isprintable()
    ):
        return review_id
    return hashlib.sha256(data).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound review about to be broken: what each fault has to work on.

    Attributes
    ----------
    fields
        The record's fields, JSON names to values; `event_time` is on time.
    now
        Time of sending.
    max_body_bytes
        The parser's bound.
    rng
        Decides what a fault leaves open, such as where a record is cut off.
    """

    fields: dict[str, Any]
    now: datetime
    max_body_bytes: int
    rng: random.Random


Fault = Callable[[Sound], bytes]
"""Makes a broken record out of a sound review."""


def pad_body(record_bytes: int, text: str, make: Callable[[str], bytes]) -> bytes:
    """Return a record of exactly `record_bytes` whose ASCII body repeats `text`.

    `make` turns a body into a record in which an ASCII character takes one byte; `text` is ASCII
    without anything that JSON escapes.
    """
    body_length = record_bytes - len(make(""))
    repeated = (text + " ") * (body_length // (len(text) + 1) + 1)
    # Ends in a letter: a trailing space would be fragile in TSV.
    return make(repeated[: body_length - 1] + "x")


def _json_with(**changes: object) -> Fault:
    return lambda sound: to_json(sound.fields | changes)


def _json_without(name: str) -> Fault:
    return lambda sound: to_json({k: v for k, v in sound.fields.items() if k != name})


def _json_text(change: Callable[[str], str]) -> Fault:
    return lambda sound: change(to_json(sound.fields).decode()).encode()


def _json_value(change: Callable[[dict[str, Any]], object]) -> Fault:
    return lambda sound: json.dumps(change(sound.fields), ensure_ascii=False).encode()


def _json_event(distance: timedelta) -> Fault:
    return lambda sound: to_json(sound.fields | {"event_time": utc_text(sound.now + distance)})


def _json_body_bytes(junk: bytes) -> Fault:
    start = b'"review_body": "'
    return lambda sound: to_json(sound.fields).replace(start, start + junk, 1)


def _json_cut(sound: Sound) -> bytes:
    text = to_json(sound.fields).decode()
    return text[: sound.rng.randrange(1, len(text))].encode()


def _json_of_size(size: Callable[[int], int]) -> Fault:
    return lambda sound: pad_body(
        size(sound.max_body_bytes),
        "far too much text",
        lambda body: to_json(sound.fields | {"review_body": body}),
    )


def _tsv(sound: Sound, **changes: str) -> bytes:
    fields = sound.fields | changes
    return encode(
        fields["review_id"], fields["product_category"], fields["review_body"], None, "tsv"
    )


def _tsv_with(**changes: str) -> Fault:
    return lambda sound: _tsv(sound, **changes)


def _tsv_line(change: Callable[[bytes], bytes]) -> Fault:
    return lambda sound: change(_tsv(sound))


def _tsv_of_size(size: Callable[[int], int]) -> Fault:
    return lambda sound: pad_body(
        size(sound.max_body_bytes),
        "far too much text",
        lambda body: _tsv(sound, review_body=body),
    )


def _tsv_control_characters(sound: Sound) -> bytes:
    # The record is small enough; as JSON, where each of these takes six bytes, it is not.
    return _tsv(sound, review_body="x" + "\x01" * (sound.max_body_bytes // 6 + 1))


_NO_UTF8 = (
    b"\xff",
    "Caf\u00e9 ".encode("latin-1"),
    b"\xe2\x82",  # the euro sign without its last byte
    b"\xc0\xaf",  # a slash in two bytes
    b"\xed\xa0\x80",  # a surrogate
)
_LONG_KEYS = ("R" * 300, "\u00e9" * 129)
_UNPRINTABLE_KEYS = ("R\x07bell", "R\u2066isolated", "R\u202ereversed", "R\x7fdelete", "R\uffff")
_NO_TEXT = (
    "   ",
    "\u00a0\u00a0\u00a0",
    "",
    "\u3000",
    "\u2028 \u2009",
    "\x00",
    "\u200b\ufeff",
    "\u2800",
)
_NO_TIMES = (
    "2026-13-45T99:00:00Z",
    "yesterday",
    "",
    "23/11/2026 21:00",
    "2026-11-23",
    "17954676",
    "2026-11-23T21:00:00+14:99",
)
_KEYS = ("review_id", "product_category")


def _just_over(limit: int) -> int:
    return limit + 1


def _well_over(limit: int) -> int:
    return min(limit + limit // 2, _MAX_KINESIS_RECORD_BYTES - _MAX_PARTITION_KEY_CHARACTERS)


_JSON_FAULTS: Mapping[ParseReason, tuple[Fault, ...]] = {
    ParseReason.INVALID_UTF8: (
        *(_json_body_bytes(junk) for junk in _NO_UTF8),
        lambda sound: to_json(sound.fields).decode().encode("utf-16"),
        lambda sound: gzip.compress(to_json(sound.fields), mtime=0),
        _json_body_bytes(rb"\ud83d "),
    ),
    ParseReason.NOT_JSON: (
        _json_cut,
        _json_text(lambda text: text[:-1] + ', "weight": NaN}'),
        _json_text(lambda text: text + text[:-1]),
        _json_text(lambda text: text[:-1] + ",}"),
        _json_text(lambda text: text.replace('"', "'")),
        _json_text(lambda text: text.replace('"review_body": "', '"review_body": "\n', 1)),
        lambda sound: base64.b64encode(to_json(sound.fields)),
        _tsv,
        lambda sound: b"service temporarily unavailable",
    ),
    ParseReason.NOT_OBJECT: (
        _json_value(lambda fields: [fields, 5]),
        _json_value(lambda fields: list(fields.values())),
        _json_value(lambda fields: fields["review_body"]),
        _json_value(json.dumps),
        _json_value(lambda fields: 42),
        _json_value(lambda fields: None),
        _json_value(lambda fields: True),
    ),
    ParseReason.MISSING_FIELD: (
        _json_without("review_id"),
        _json_with(review_body=None),
        _json_with(review_id=""),
        _json_without("product_category"),
        _json_with(product_category=None),
        _json_without("review_body"),
        _json_with(product_category=""),
        _json_with(review_id=None),
        _json_value(lambda fields: {"version": "0", "detail": fields}),
        lambda sound: b"{}",
    ),
    ParseReason.WRONG_TYPE: (
        _json_with(review_id=4_711),
        _json_with(review_body=True),
        _json_with(product_category=["Gift_Card"]),
        _json_with(review_body={"text": "nested"}),
        _json_with(event_time=True),
        _json_with(review_body=5.0),
    ),
    ParseReason.KEY_TOO_LONG: tuple(_json_with(**{n: k}) for k in _LONG_KEYS for n in _KEYS),
    ParseReason.KEY_NOT_PRINTABLE: tuple(
        _json_with(**{n: k}) for k in (*_UNPRINTABLE_KEYS, "R\x00", "R\ud83d") for n in _KEYS
    ),
    ParseReason.EMPTY_BODY: tuple(_json_with(review_body=b) for b in (*_NO_TEXT, "\t\r\n")),
    ParseReason.OVERSIZE: (
        _json_of_size(_just_over),
        _json_of_size(_well_over),
        lambda sound: to_json(
            sound.fields | {"review_body": "\U0001f600" * (sound.max_body_bytes // 4)}
        ),
    ),
    ParseReason.BAD_EVENT_TIME: tuple(_json_with(event_time=text) for text in _NO_TIMES),
    ParseReason.EVENT_TIME_TOO_OLD: (
        _json_event(timedelta(days=-2)),
        _json_event(timedelta(days=-3_650)),
        _json_with(event_time="1970-01-01T00:00:00Z"),
    ),
    ParseReason.EVENT_TIME_IN_FUTURE: (
        _json_event(timedelta(hours=1)),
        _json_event(timedelta(days=400)),
        _json_with(event_time="9999-12-31T23:59:59.999Z"),
    ),
}

_TSV_FAULTS: Mapping[ParseReason, tuple[Fault, ...]] = {
    ParseReason.INVALID_UTF8: (
        *(_tsv_line(lambda line, junk=junk: line + junk) for junk in _NO_UTF8),  # type: ignore[misc]
        _tsv_line(lambda line: line.decode().encode("utf-16")),
    ),
    ParseReason.WRONG_COLUMNS: (
        _tsv_line(lambda line: line.rpartition(b"\t")[0]),
        _tsv_line(lambda line: line + b"\tone column more"),
        _tsv_line(lambda line: line.replace(b"\t", b",")),
        _tsv_line(lambda line: line.replace(b" ", b"\t").replace(b"\t", b"\t\t")),
        lambda sound: to_json(sound.fields),
    ),
    ParseReason.MISSING_FIELD: tuple(_tsv_with(**{name: ""}) for name in _KEYS),
    ParseReason.KEY_TOO_LONG: tuple(_tsv_with(**{n: k}) for k in _LONG_KEYS for n in _KEYS),
    ParseReason.KEY_NOT_PRINTABLE: tuple(
        _tsv_with(**{n: k}) for k in _UNPRINTABLE_KEYS for n in _KEYS
    ),
    ParseReason.EMPTY_BODY: tuple(_tsv_with(review_body=body) for body in _NO_TEXT),
    ParseReason.OVERSIZE: (
        _tsv_of_size(_just_over),
        _tsv_control_characters,
        _tsv_of_size(_well_over),
    ),
}


def faults(format: ReviewFormat) -> Mapping[ParseReason, tuple[Fault, ...]]:
    """Return the ways to break a record of this format, by the reason it is then rejected for.

    Every reason that the parser knows for the format is there, with at least two faults each.

    Examples
    --------
    >>> sorted(reason.value for reason in set(faults("json")) ^ set(faults("tsv")))[:3]
    ['bad_event_time', 'event_time_in_future', 'event_time_too_old']
    """
    return _JSON_FAULTS if format == "json" else _TSV_FAULTS
