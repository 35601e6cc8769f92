import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.characters import has_visible_character
from udfs.core.keys import normalised_key
from udfs.core.parsing import ParseReason, ParsingOptions, Rejected, Review, json_bytes, parse

ARRIVAL_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
JSON = ParsingOptions()
TSV = ParsingOptions(format="tsv")


def record(**fields: object) -> bytes:
    review = {"review_id": "R1", "product_category": "Gift_Card", "review_body": "Nice."}
    return json.dumps({**review, **fields}, ensure_ascii=False).encode("utf-8", "surrogatepass")


def without(name: str) -> bytes:
    fields = json.loads(record())
    del fields[name]
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not_json"),
        (None, "not_json"),
        (b'{"review_id": "R1"', "not_json"),
        (b'{"review_id": "R1", "helpful": NaN}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"n": ' + b"9" * 5_000 + b"}", "not_json"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b'"R1"', "not_object"),
        (record(review_id=1), "wrong_type"),
        (record(product_category=True), "wrong_type"),
        (record(review_body=["Nice."]), "wrong_type"),
        (record(event_time=True), "wrong_type"),
        (record(event_time=[ARRIVAL_MS]), "wrong_type"),
        (without("review_id"), "missing_field"),
        (without("product_category"), "missing_field"),
        (without("review_body"), "missing_field"),
        (record(review_id=None), "missing_field"),
        (record(review_body=None), "missing_field"),
        (record(review_id=""), "missing_field"),
        (record(product_category="  "), "missing_field"),
        (record(review_id="R" * 257), "key_too_long"),
        (record(product_category="é" * 129), "key_too_long"),
        (record(review_id="R\x001"), "key_not_printable"),
        (record(product_category="\u202e"), "key_not_printable"),
        (record(review_id="\ud800"), "invalid_utf8"),
        (b'{"review_id": "\\ud800"}', "key_not_printable"),
        (record(review_body=""), "empty_body"),
        (record(review_body=" \t\u00a0\u3000\n"), "empty_body"),
        (b"\xff\xfe" + record(), "invalid_utf8"),
        (record().replace(b"Nice.", b"\\udc00"), "invalid_utf8"),
        (record(event_time=""), "bad_event_time"),
        (record(event_time="yesterday"), "bad_event_time"),
        (record(event_time="2026-09-21"), "bad_event_time"),
        (record(event_time="2026-13-45T99:00:00Z"), "bad_event_time"),
        (record(event_time="0001-01-01T00:00:00+23:59"), "event_time_too_old"),
        (record(event_time="2026-09-20T14:13:19.999Z"), "event_time_too_old"),
        (record(event_time="2026-09-21T14:13:25.001Z"), "event_time_in_future"),
        (record(event_time="9999-12-31T23:59:59-23:59"), "event_time_in_future"),
    ],
)
def test_what_is_no_review_is_rejected_for_its_own_reason(
    payload: bytes | None, reason: str
) -> None:
    parsed = parse(payload, ARRIVAL_MS, JSON)
    assert isinstance(parsed, Rejected)
    assert parsed.reason == reason
    assert parsed.message
    parsed.message.encode()


@pytest.mark.parametrize(
    ("event_time", "event_time_ms"),
    [
        (None, ARRIVAL_MS),
        ("2026-09-21T14:13:20Z", ARRIVAL_MS),
        ("2026-09-21 14:13:20.5", ARRIVAL_MS + 500),
        ("2026-09-21T16:13:20.123456789+02:00", ARRIVAL_MS + 123),
        ("2026-09-20T14:13:20Z", ARRIVAL_MS - 86_400_000),
        ("2026-09-21T14:13:25Z", ARRIVAL_MS + 5_000),
    ],
)
def test_event_time_is_the_records_own_or_else_its_arrival(
    event_time: str | None, event_time_ms: int
) -> None:
    parsed = parse(record(event_time=event_time), ARRIVAL_MS, JSON)
    assert parsed == Review("R1", "Gift_Card", "Nice.", event_time_ms)


def test_further_fields_are_no_concern_of_the_parser() -> None:
    assert isinstance(parse(record(star_rating=5, vine=None), ARRIVAL_MS, JSON), Review)


def test_a_rejected_record_keeps_its_review_id_where_that_is_sound() -> None:
    parsed = parse(record(review_body=""), ARRIVAL_MS, JSON)
    assert isinstance(parsed, Rejected)
    assert parsed.review_id == "R1"
    parsed = parse(record(review_id="\x00", review_body=""), ARRIVAL_MS, JSON)
    assert isinstance(parsed, Rejected)
    assert parsed.review_id is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"R1\tGift_Card\tNice.\n", Review("R1", "Gift_Card", "Nice.", ARRIVAL_MS)),
        (b"R1\tGift_Card\tNice.\r\n", Review("R1", "Gift_Card", "Nice.", ARRIVAL_MS)),
        (b'R1\tGift_Card\t"Nice."', Review("R1", "Gift_Card", '"Nice."', ARRIVAL_MS)),
        (b"R1\tGift_Card", ParseReason.WRONG_COLUMNS),
        (b"R1\tGift_Card\tNice.\t5", ParseReason.WRONG_COLUMNS),
        (b"", ParseReason.WRONG_COLUMNS),
        (b"review_id\tproduct_category\treview_body", ParseReason.WRONG_COLUMNS),
        (b'"review_id"\t"product_category"\t"review_body"', ParseReason.WRONG_COLUMNS),
        (b"R1\treview_body\tNice.", Review("R1", "review_body", "Nice.", ARRIVAL_MS)),
        (b"\tGift_Card\tNice.", ParseReason.MISSING_FIELD),
        (b"R1\tGift_Card\t ", ParseReason.EMPTY_BODY),
        (b"R1\tGift_Card\t\xff", ParseReason.INVALID_UTF8),
    ],
)
def test_tsv(line: bytes, expected: Review | ParseReason) -> None:
    parsed = parse(line, ARRIVAL_MS, TSV)
    assert (parsed.reason if isinstance(parsed, Rejected) else parsed) == expected


def test_a_record_is_oversize_just_above_the_bound() -> None:
    options = ParsingOptions(max_body_bytes=1_000)
    frame = len(record(review_body=""))
    assert isinstance(parse(record(review_body="a" * (1_000 - frame)), ARRIVAL_MS, options), Review)
    parsed = parse(record(review_body="a" * (1_001 - frame)), ARRIVAL_MS, options)
    assert isinstance(parsed, Rejected)
    assert parsed.reason == "oversize"


def test_control_characters_count_as_they_are_written() -> None:
    options = ParsingOptions(format="tsv", max_body_bytes=600)
    assert isinstance(parse(b"R1\tBooks\ta" + b"\x01" * 99, ARRIVAL_MS, options), Review)
    parsed = parse(b"R1\tBooks\ta" + b"\x01" * 100, ARRIVAL_MS, options)
    assert isinstance(parsed, Rejected)
    assert parsed.reason == "oversize"


@given(st.binary() | st.text().map(str.encode), st.sampled_from([JSON, TSV]))
def test_never_raises(payload: bytes, options: ParsingOptions) -> None:
    assert isinstance(parse(payload, ARRIVAL_MS, options), Review | Rejected)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("review_id", "product_category", "review_body", "event_time"), json_values
        ),
    )
)
def test_every_review_fits_its_sinks(fields: dict[str, object]) -> None:
    options = ParsingOptions(max_body_bytes=200)
    parsed = parse(json.dumps(fields).encode(), ARRIVAL_MS, options)
    if isinstance(parsed, Review):
        assert json_bytes(parsed.review_body) <= options.max_body_bytes
        assert 0 < len(parsed.review_id.encode()) <= 256
        assert parsed.review_id == normalised_key(parsed.review_id)
        assert has_visible_character(parsed.review_body)
