"""Payloads of dead letters: whole while there is budget, never more bytes than it allows."""

import base64
import hashlib
import json
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs import bridges, rating_anomalies, review_metrics, review_scoring, scored_reviews
from flink_jobs.config import JOB_CONFIGS, load_groups
from flink_jobs.streams import DEAD_LETTER
from tests.unit.flink_context import FakeContext
from udfs.core.dead_letters import (
    MAX_PAYLOAD_BYTES,
    MIN_PAYLOAD_BYTES,
    PAYLOAD_BYTES_PER_S,
    PayloadBudget,
    digest,
)
from udfs.dead_letters import DigestPayloads

SHARD_BYTES_PER_S = 1024 * 1024
SHARD_RECORDS_PER_S = 1_000


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def letter_bytes(payload_bytes: int) -> int:
    """Size of a dead letter as the sink's JSON has it."""
    fields = {
        **dict.fromkeys((name for name, _ in DEAD_LETTER), "x" * 20),
        "source_sequence_number": "4" * 56,
        "message": "x" * 100,
        "payload_sha256": "0" * 64,
        "payload": base64.b64encode(bytes(payload_bytes)).decode(),
    }
    return len(json.dumps(fields, separators=(",", ":")))


arrivals = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.001, 0.1, 1.0, 30.0)) | st.floats(0, 100),
        st.sampled_from((0, 255, 256, 257, 65_536, 700_000)) | st.integers(0, 700_000),
    ),
    max_size=60,
)


@given(arrivals, st.sampled_from((1_024, 32_768, PAYLOAD_BYTES_PER_S, 10_000_000)))
def test_no_stretch_of_time_brings_more_than_the_budget(
    arrivals: list[tuple[float, int]], bytes_per_s: int
) -> None:
    clock = Clock()
    budget = PayloadBudget(bytes_per_s, clock)
    kept: list[tuple[float, int]] = []
    for gap_s, size in arrivals:
        clock.now_s += gap_s
        taken = budget.take(size)
        kept.append((clock.now_s, taken))
        whole = min(size, MAX_PAYLOAD_BYTES)
        assert taken in (whole, min(whole, MIN_PAYLOAD_BYTES))
    for first, (start_s, _) in enumerate(kept):
        total = 0
        for letters, (end_s, taken) in enumerate(kept[first:], start=1):
            total += taken
            allowed = budget.burst_bytes + bytes_per_s * (end_s - start_s)
            assert total <= allowed + letters * MIN_PAYLOAD_BYTES + 1e-3


def test_a_flood_of_large_letters_drains_in_seconds() -> None:
    """5,000 letters of 64 KiB in a second: 420 s of a shard without the budget."""
    clock = Clock()
    budget = PayloadBudget(PAYLOAD_BYTES_PER_S, clock)
    sizes = []
    for number in range(5_000):
        clock.now_s = number / 5_000
        sizes.append(letter_bytes(budget.take(64 * 1024)))
    assert 5_000 * letter_bytes(64 * 1024) > 415 * SHARD_BYTES_PER_S
    assert sum(sizes) < 6.5 * SHARD_BYTES_PER_S
    assert budget.shortened == sizes.count(letter_bytes(MIN_PAYLOAD_BYTES)) > 4_900


@pytest.mark.parametrize("letters_per_s", [10, 300, SHARD_RECORDS_PER_S])
def test_one_job_never_takes_more_than_a_shards_bytes(letters_per_s: int) -> None:
    """As long as the shard can take as many records."""
    clock = Clock()
    budget = PayloadBudget(PAYLOAD_BYTES_PER_S, clock)
    for number in range(30 * letters_per_s):
        clock.now_s = number / letters_per_s
        budget.take(64 * 1024)
    seconds, total = 60, 0
    for number in range(seconds * letters_per_s):
        clock.now_s = 30 + number / letters_per_s
        total += letter_bytes(budget.take(64 * 1024))
    assert total / seconds < SHARD_BYTES_PER_S


def test_letters_that_come_now_and_then_are_whole() -> None:
    clock = Clock()
    budget = PayloadBudget(PAYLOAD_BYTES_PER_S / 8, clock)
    for number in range(500):
        clock.now_s = number * 2.0
        assert budget.take(64 * 1024) == 64 * 1024
    assert budget.shortened == 0


def test_small_letters_are_whole_in_a_flood() -> None:
    budget = PayloadBudget(1_024, Clock())
    assert {budget.take(MIN_PAYLOAD_BYTES) for _ in range(10_000)} == {MIN_PAYLOAD_BYTES}
    assert budget.shortened == 0


def test_hash_and_size_are_those_of_all_bytes() -> None:
    budget = PayloadBudget(1_024, Clock())
    payload = "é😀".encode() * 20_000
    first, second = digest(payload, budget), digest(payload, budget)
    assert first.payload == payload[:MAX_PAYLOAD_BYTES]
    assert second.payload == payload[:MIN_PAYLOAD_BYTES]
    for found in (first, second):
        assert found.payload_sha256 == hashlib.sha256(payload).hexdigest()
        assert found.payload_bytes == len(payload)
    assert digest(None, budget).payload_bytes == 0


@pytest.mark.parametrize("job", [review_scoring, review_metrics, rating_anomalies])
def test_each_subtask_has_its_share_of_the_budget(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = load_groups(Path("deploy/runtime_properties.json"))
    name = job.__name__.rpartition(".")[2]
    fields = JOB_CONFIGS[name].model_fields
    config = JOB_CONFIGS[name].model_validate(
        {group: properties[group] for group in fields if group in properties}
        | {"dead_letters": {"stream": "dead", "payload_bytes_per_s": 80_000}}
        | {group: {} for group in fields if group not in properties}
    )
    t_env = Mock()
    monkeypatch.setattr(bridges, "parallelism", lambda env: 8)
    for module, defined in (
        (job, "create_views"),
        (job, "inserts"),
        (scored_reviews, "create_scored_reviews"),
        (scored_reviews, "create_views"),
    ):
        monkeypatch.setattr(module, defined, Mock())
    job.build(t_env, config)
    functions = dict(call.args for call in t_env.create_temporary_system_function.call_args_list)
    assert functions["digest_payload"]._func._bytes_per_s == 10_000


def test_the_function_shortens_and_counts() -> None:
    context = FakeContext()
    function = DigestPayloads(bytes_per_s=1_024)
    function.open(context)
    frame = function.eval(pd.Series([bytes(65_536), bytes(1_000), bytes(100), None], dtype=object))
    assert [len(payload) for payload in frame["payload"]] == [65_536, 256, 100, 0]
    assert frame["payload_bytes"].tolist() == [65_536, 1_000, 100, 0]
    assert context.counts == {"dead_letters.shortened_payloads": 1}
