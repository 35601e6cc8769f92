"""Event times as producers write them: ISO 8601 text, or a number of seconds since 1970."""

import math
import re
from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MILLISECOND = timedelta(milliseconds=1)

# What most producers write takes half the time of the whole grammar.
_USUAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)
# RFC 9557 puts the name of the zone behind the offset: Java's ZonedDateTime writes it.
# Go writes an offset and an abbreviation, and may append a reading of the monotonic clock.
_ISO_DATE_TIME = re.compile(
    r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"[Tt ](?P<hour>\d\d)"
    r"(?:(?P<colon>:?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+\-\u2212])(?P<zone_hour>\d\d)"
    r"(?::?(?P<zone_minute>\d\d))?(?: (?:[A-Z]{1,5}|[+\-]\d\d(?:\d\d)?))?(?: m=[+\-]\d+\.\d+)?)?"
    r"(?P<zone_name>(?:\[[^\[\]!]{1,64}\])*)",
    re.ASCII,
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Dates of HTTP and mail.
_RFC_1123 = re.compile(
    r"(?:[A-Z][a-z]{2}, )?(?P<day>\d\d?) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4})"
    r" (?P<time>\d\d:\d\d(?::\d\d)?) (?P<zone>GMT|UTC|[+\-]\d{4})",
    re.ASCII,
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{8}", re.ASCII)
_WEEK_OR_DAY_OF_YEAR = re.compile(r"\d{4}-?(?:W\d\d|\d{3}(?!\d))", re.ASCII)
# Lengths that no date without separators has: 8, 12, 14 or 17 digits.
_EPOCH_TEXT = re.compile(r"(\d{10}|\d{13}|\d{16}|\d{19})(\.\d{1,9})?", re.ASCII)
# The unit of an epoch number by its magnitude: up to which bound, and units in a millisecond. All
# four reach from 1973, seconds from 1970, to the year 5138.
_EPOCH_UNITS = ((10**11, 0.001), (10**14, 1), (10**17, 1_000), (10**20, 1_000_000))
_MAX_CHARACTERS = 128
_ACCEPTED = "send ISO 8601, such as 2026-01-31T12:00:00.000Z, or seconds or milliseconds since 1970"


class EventTimeError(ValueError):
    """A value that is not an event time; the message says why, without the field's name."""


def event_time_ms(value: str | float, require_time_zone: bool = False) -> int:
    """Return an event time in milliseconds since the epoch; smaller parts are cut off.

    Text has at most 128 characters. It is a date and a time of ISO 8601 or RFC 3339, in the
    extended format or in the basic one:

    - `T`, `t` or a space between date and time; seconds, or minutes and seconds, may be missing;
    - a fraction of the second of any length, behind a point or a comma;
    - `Z`, `z`, `UTC`, `GMT` or an offset such as `+02`, `+0200` or `+02:00`, after a space or none.
      The name of a zone in brackets behind it is ignored, and so is an abbreviation behind an
      offset, as Go writes it (`+0200 CEST`). Without any of these the time is in UTC.
    - A 60th second counts as the second before, and 24:00 as the midnight that ends the day.

    Or it is a date of RFC 1123, such as `Mon, 21 Sep 2026 14:13:20 GMT`.

    A number counts from 1970 in UTC. Its magnitude says in which unit: below 1e11 seconds, below
    1e14 milliseconds, below 1e17 microseconds, below 1e20 nanoseconds. Text of 10, 13, 16 or 19
    digits, with or without a fraction, is such a number too; other lengths could be a date.

    Parameters
    ----------
    value
        As it stands in the record. A bool is not a number here.
    require_time_zone
        Reject text without a time zone.

    Raises
    ------
    EventTimeError
        The value is not an event time.

    Examples
    --------
    >>> event_time_ms("2026-09-21T14:13:20Z"), event_time_ms("20260921T161320,5+02")
    (1790000000000, 1790000000500)
    >>> event_time_ms(1_790_000_000), event_time_ms(1_790_000_000_000)
    (1790000000000, 1790000000000)
    """
    if not isinstance(value, str):
        return _of_number(value)
    if _USUAL.fullmatch(value):
        try:
            return (datetime.fromisoformat(value) - _EPOCH) // _MILLISECOND
        except ValueError:
            pass  # a 60th second, 24:00 or an invalid time
    if len(value) > _MAX_CHARACTERS:
        raise EventTimeError(
            f"has {len(value)} characters, at most {_MAX_CHARACTERS} are taken: {_ACCEPTED}"
        )
    return _of_text(value.strip(), require_time_zone)


def _of_number(value: float) -> int:
    magnitude = abs(value)
    if not magnitude < _EPOCH_UNITS[-1][0]:
        raise EventTimeError(
            "is too large for seconds, milliseconds, microseconds or nanoseconds since 1970"
        )
    per_ms = next(units for bound, units in _EPOCH_UNITS if magnitude < bound)
    if per_ms < 1:
        # Rounded first: 0.123 s as a float is a little less than 123 ms.
        return value * 1000 if isinstance(value, int) else math.floor(round(value * 1000, 3))
    return int(value // per_ms)


def _of_text(text: str, require_time_zone: bool) -> int:
    found = _ISO_DATE_TIME.fullmatch(_in_iso_form(text))
    if found is None:
        return _of_other_text(text)
    if found["zone"] is None:
        if found["zone_name"]:
            raise EventTimeError("has the name of a time zone but no offset, such as +02:00")
        if require_time_zone:
            raise EventTimeError(
                "has no time zone, and `require_time_zone` is set: append Z or an offset such as"
                " +02:00"
            )
    try:
        day = date(int(found["year"]), int(found["month"]), int(found["day"])).toordinal()
    except ValueError as error:
        raise EventTimeError(f"is not a time: {error}") from None
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    fraction_ms = int((found["fraction"] or "")[:3].ljust(3, "0"))
    if hour > 23 and (hour, minute, second, fraction_ms) != (24, 0, 0, 0):
        raise EventTimeError("is not a time: hour must be in 0..23")
    if minute > 59:
        raise EventTimeError("is not a time: minute must be in 0..59")
    if second > 60:
        raise EventTimeError("is not a time: second must be in 0..60")
    minutes = (day - _EPOCH_DAY) * 1440 + hour * 60 + minute - _offset_minutes(found)
    return (minutes * 60 + min(second, 59)) * 1000 + fraction_ms


def _offset_minutes(found: re.Match[str]) -> int:
    if found["sign"] is None:
        return 0
    hours, minutes = int(found["zone_hour"]), int(found["zone_minute"] or 0)
    if hours > 23 or minutes > 59:
        raise EventTimeError("has an offset beyond 23:59")
    return (hours * 60 + minutes) * (1 if found["sign"] == "+" else -1)


def _of_other_text(text: str) -> int:
    if found := _EPOCH_TEXT.fullmatch(text):
        return _of_number(float(text) if found[2] else int(text))
    if _DATE.fullmatch(text):
        raise EventTimeError("is a date without a time of day, such as T12:00:00Z")
    if _WEEK_OR_DAY_OF_YEAR.match(text):
        raise EventTimeError(f"counts weeks or days of the year: {_ACCEPTED}")
    raise EventTimeError(f"is not a time: {_ACCEPTED}")


def _in_iso_form(text: str) -> str:
    """Return a date of RFC 1123 in the form of ISO 8601, and other text as it is."""
    found = _RFC_1123.fullmatch(text)
    if found is None or found["month"] not in _MONTHS:
        return text
    month = _MONTHS.index(found["month"]) + 1
    return f"{found['year']}-{month:02}-{found['day']:0>2}T{found['time']}{found['zone']}"
