import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.parsing import ParseReason
from udfs.core.scored_records import (
    MAX_LEAD_S,
    ScoredReview,
    Unreadable,
    body_of,
    read,
    read_with_details,
)

RECORD: dict[str, Any] = {
    "source_stream": "reviews",
    "source_shard": "shardId-000000000000",
    "source_sequence_number": "49",
    "review_id": "R1",
    "star_rating": 4,
    "product_category": "Café",
    "review_body": "fine 😀",
    "event_time": "2026-09-21T14:13:20.123Z",
    "policy_version": None,
    "propensities": {"a": 0.5},
}


def test_a_record_is_read() -> None:
    assert read(json.dumps(RECORD).encode()) == ScoredReview(
        source_stream="reviews",
        source_shard="shardId-000000000000",
        source_sequence_number="49",
        review_id="R1",
        star_rating=4,
        product_category="Café",
        body_length=6,
        event_time_ms=1_790_000_000_123,
    )


def test_a_record_says_in_which_lane_it_was_scored() -> None:
    payload = json.dumps(RECORD | {"lane": "3/8"}).encode()
    record, body, lane = read_with_details(payload)
    assert record == read(json.dumps(RECORD).encode())
    assert (body, lane) == ("fine 😀", "3/8")


@pytest.mark.parametrize("fields", [RECORD, RECORD | {"lane": None}])
def test_a_record_of_a_release_without_lanes_is_read(fields: dict[str, Any]) -> None:
    record, _, lane = read_with_details(json.dumps(fields).encode())
    assert isinstance(record, ScoredReview)
    assert lane is None


def test_keys_of_earlier_releases_are_normalised() -> None:
    fields = RECORD | {"review_id": " R1", "product_category": "Cafe\u0301\u200b"}
    assert read(json.dumps(fields).encode()) == read(json.dumps(RECORD).encode())


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in RECORD.items() if key != name}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (None, ParseReason.NOT_JSON),
        (b"", ParseReason.NOT_JSON),
        (b"\xff", ParseReason.NOT_JSON),
        (b"[" * 100_000, ParseReason.NOT_JSON),
        (b"[]", ParseReason.NOT_OBJECT),
        (b"1", ParseReason.NOT_OBJECT),
        (without("review_id"), ParseReason.MISSING_FIELD),
        (without("event_time"), ParseReason.MISSING_FIELD),
        (RECORD | {"review_id": None}, ParseReason.WRONG_TYPE),
        (RECORD | {"source_shard": 7}, ParseReason.WRONG_TYPE),
        (RECORD | {"product_category": ""}, ParseReason.MISSING_FIELD),
        (RECORD | {"product_category": "x" * 257}, ParseReason.KEY_TOO_LONG),
        (RECORD | {"product_category": "é" * 129}, ParseReason.KEY_TOO_LONG),
        (RECORD | {"review_id": "R\u202e1"}, ParseReason.KEY_NOT_PRINTABLE),
        (RECORD | {"review_id": "R\x9b1"}, ParseReason.KEY_NOT_PRINTABLE),
        (RECORD | {"review_id": "\ud800"}, ParseReason.NOT_JSON),
        (RECORD | {"review_body": "\udfff"}, ParseReason.NOT_JSON),
        (RECORD | {"source_stream": "x" * 257}, ParseReason.WRONG_TYPE),
        (RECORD | {"source_part": "x" * 65}, ParseReason.WRONG_TYPE),
        (RECORD | {"lane": "3/8" * 20}, ParseReason.WRONG_TYPE),
        (RECORD | {"star_rating": 0}, ParseReason.WRONG_TYPE),
        (RECORD | {"star_rating": 6}, ParseReason.WRONG_TYPE),
        (RECORD | {"star_rating": "4"}, ParseReason.WRONG_TYPE),
        (RECORD | {"star_rating": 4.5}, ParseReason.WRONG_TYPE),
        (RECORD | {"lane": 3}, ParseReason.WRONG_TYPE),
        (RECORD | {"event_time": "yesterday"}, ParseReason.BAD_EVENT_TIME),
        (RECORD | {"event_time": "2026-09-21T14:13:20"}, ParseReason.BAD_EVENT_TIME),
        (RECORD | {"event_time": "9999-12-31T23:59:59-23:59"}, ParseReason.BAD_EVENT_TIME),
        (RECORD | {"event_time": "2262-01-01T00:00:00Z"}, ParseReason.BAD_EVENT_TIME),
        (RECORD | {"event_time": "1969-12-31T23:59:59.999Z"}, ParseReason.BAD_EVENT_TIME),
        (RECORD | {"event_time": "0001-01-01T00:00:00+23:59"}, ParseReason.BAD_EVENT_TIME),
        (RECORD | {"event_time": 1_790_000_000}, ParseReason.BAD_EVENT_TIME),
        (RECORD | {"event_time": 10**400}, ParseReason.BAD_EVENT_TIME),
    ],
)
def test_what_is_none_is_explained(payload: bytes | dict[str, Any] | None, reason: str) -> None:
    found = read(json.dumps(payload).encode() if isinstance(payload, dict) else payload)
    assert isinstance(found, Unreadable)
    assert found.reason == reason
    assert 0 < len(found.message) <= 200


def test_an_event_time_far_beyond_the_arrival_is_refused() -> None:
    payload = json.dumps(RECORD).encode()
    arrival_ms = 1_790_000_000_123 - MAX_LEAD_S * 1_000
    assert isinstance(read(payload, arrival_ms), ScoredReview)
    found = read(payload, arrival_ms - 1)
    assert isinstance(found, Unreadable)
    assert found.reason is ParseReason.EVENT_TIME_IN_FUTURE


def test_the_text_is_that_of_the_last_of_two_members() -> None:
    payload = json.dumps(RECORD).encode()[:-1] + b', "review_body": "other"}'
    record, body, _ = read_with_details(payload)
    assert isinstance(record, ScoredReview)
    assert body == body_of(payload) == "other"


@given(st.binary())
def test_no_bytes_raise(payload: bytes) -> None:
    assert isinstance(read(payload), Unreadable)
