"""Whatever the bytes of a record: a value or a reason, never an exception, and no memory is kept.

`make test-long` is the long run, with `GENERATED_RECORDS=100000`.
"""

import gc
import json
import os
import random
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus import ARRIVAL_MS, ORDINARY, record_cases
from tests.unit.generated_records import records
from udfs.core.characters import has_visible_character
from udfs.core.keys import normalised_key
from udfs.core.parsing import ParsingOptions, Rejected, Review, json_bytes, parse
from udfs.core.scored_records import ScoredReview, Unreadable, read
from udfs.core.splitting import split

RECORDS = int(os.environ.get("GENERATED_RECORDS", "500"))
pytestmark = pytest.mark.timeout(7_200)
OPTIONS = [
    ParsingOptions(format, max_body_bytes, max_event_age_s=1e13, require_time_zone=is_required)
    for format in ("json", "tsv")
    for max_body_bytes in (100, 256 * 1024)
    for is_required in (False, True)
]
SCORED = {
    "source_stream": "reviews",
    "source_shard": "shardId-000000000000",
    "source_sequence_number": "49",
    "star_rating": 4,
    "event_time": "2026-09-21T14:13:20.123Z",
}


def check(payload: bytes, options: ParsingOptions) -> None:
    """Take a record through the splitter, the parser and the reader of what was scored."""
    parts = split(payload, options)
    assert parts
    assert sum(map(len, parts)) <= len(payload)
    for part in {payload, *parts}:
        parsed = parse(part, ARRIVAL_MS, options)
        if isinstance(parsed, Rejected):
            assert 0 < len(parsed.message.encode()) <= 1_000
            continue
        assert isinstance(parsed, Review)
        assert json_bytes(parsed.review_body) <= options.max_body_bytes
        assert has_visible_character(parsed.review_body)
        for key in (parsed.review_id, parsed.product_category):
            assert normalised_key(key) == key
        fields = {"review_id": parsed.review_id, "product_category": parsed.product_category}
        scored = SCORED | fields | {"review_body": parsed.review_body}
        found = read(json.dumps(scored).encode())
        assert isinstance(found, ScoredReview)
        assert (found.review_id, found.product_category) == tuple(fields.values())
    assert isinstance(read(payload), Unreadable | ScoredReview)


@settings(
    max_examples=RECORDS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(records, st.sampled_from(OPTIONS))
def test_a_record_is_a_review_or_has_a_reason(payload: bytes, options: ParsingOptions) -> None:
    check(payload, options)


@settings(max_examples=max(100, RECORDS // 10), deadline=None)
@given(st.dictionaries(st.sampled_from([*SCORED, *ORDINARY, "lane"]), st.text() | st.integers()))
def test_a_scored_record_is_read_or_has_a_reason(changes: dict[str, object]) -> None:
    found = read(json.dumps(SCORED | ORDINARY | changes).encode())
    assert isinstance(found, Unreadable | ScoredReview)


def test_records_leave_no_memory_behind() -> None:
    rng = random.Random(1)
    payloads = [case.payload for case in record_cases()]

    def take(count: int) -> None:
        for _ in range(count):
            payload = bytearray(rng.choice(payloads))
            for _ in range(rng.randrange(4)):
                place = rng.randrange(len(payload) + 1)
                payload[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            check(bytes(payload), rng.choice(OPTIONS))

    take(2_000)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        take(max(1_000, RECORDS))
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 256 * 1024
    assert peak - before < 16 * 1024 * 1024
