import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.event_times import EventTimeError, event_time_ms

MOMENT = datetime(2026, 9, 21, 14, 13, 20, 123_456, UTC)
MOMENT_MS = 1_790_000_000_123
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=OFFSETS), st.sampled_from("Tt "), st.sampled_from(".,"))
def test_what_python_writes_is_read(moment: datetime, letter: str, point: str) -> None:
    expected_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    for timespec in ("auto", "milliseconds", "microseconds"):
        text = moment.isoformat(letter, timespec).replace(".", point)
        assert event_time_ms(text) == expected_ms
        assert event_time_ms(text, require_time_zone=True) == expected_ms


@given(st.datetimes(timezones=OFFSETS))
def test_the_basic_format_is_the_extended_one_without_separators(moment: datetime) -> None:
    basic = f"{moment:%H%M%S%z}"
    date = moment.date().isoformat()
    assert event_time_ms(f"{date.replace('-', '')}T{basic}") == event_time_ms(
        f"{date}T{moment:%H:%M:%S%z}"
    )


@given(st.text() | st.from_regex(r"[0-9TtZz:.,+\- ]{8,30}", fullmatch=True))
def test_text_is_a_time_or_an_error(text: str) -> None:
    try:
        time_ms = event_time_ms(text)
    except EventTimeError:
        return
    assert isinstance(time_ms, int)
    assert text.strip().partition("[")[0].replace("\u2212", "-").isascii()


@pytest.mark.parametrize(
    "text",
    [
        "2026-09-21T14:13:20.123456abcZ",
        "2026-09-21T14:13\x0020Z",
        "2026-W39-1T14:13:20Z",
        "2026-09-21T14:1320Z",
        "2026-0921T141320Z",
        "2026-09-21T14:13:20.Z",
        "2026-09-21T14:13:20ZZ",
        "2026-09-21T14:13.5Z",
        "2026-09-21T14:13:20+2",
        "2026-09-21T14:13:20[!u-ca=hebrew]",
        "17900000000",
        "-1790000000",
        "infinity",
    ],
)
def test_other_text_is_an_error(text: str) -> None:
    with pytest.raises(EventTimeError):
        event_time_ms(text)


@pytest.mark.parametrize("end", ["x", "Z"])
def test_only_the_length_of_a_long_text_is_examined(end: str) -> None:
    text = "2026-09-21T14:13:20." + "1" * 250_000 + end
    with pytest.raises(EventTimeError, match="has 250021 characters, at most 128"):
        event_time_ms(text)


@pytest.mark.parametrize("text", ["2026-09-21T14:13:20.123", "20260921 141320,1239"])
def test_text_without_a_time_zone_is_in_utc_or_an_error(text: str) -> None:
    assert event_time_ms(text) == MOMENT_MS
    with pytest.raises(EventTimeError, match="no time zone"):
        event_time_ms(text, require_time_zone=True)


@pytest.mark.parametrize(
    ("number", "expected_ms"),
    [
        (MOMENT.timestamp(), MOMENT_MS),
        (1_790_000_000.123, MOMENT_MS),
        (1_790_000_000_123.9, MOMENT_MS),
        (10**11 - 1, (10**11 - 1) * 1000),
        (10**11, 10**11),
        (10**14 - 1, 10**14 - 1),
        (10**14, 10**11),
        (10**17 - 1, 10**14 - 1),
        (10**17, 10**11),
        (10**20 - 1, 10**14 - 1),
        (0, 0),
        (-1.5, -1_500),
        (-1, -1_000),
    ],
)
def test_the_magnitude_of_a_number_is_its_unit(number: float, expected_ms: int) -> None:
    found_ms = event_time_ms(number)
    assert found_ms == expected_ms
    assert isinstance(found_ms, int)


@pytest.mark.parametrize(
    "number", [10**20, -(10**20), 10**400, 1e300, math.inf, -math.inf, math.nan]
)
def test_a_number_of_no_unit_is_an_error(number: float) -> None:
    with pytest.raises(EventTimeError, match="too large"):
        event_time_ms(number)


@given(st.integers() | st.floats())
def test_a_number_is_a_time_or_an_error(number: float) -> None:
    try:
        assert abs(event_time_ms(number)) <= 10**14
    except EventTimeError:
        assert not abs(number) < 10**20
