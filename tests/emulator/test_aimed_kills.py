"""The central promise where it is hardest to keep: a checkpoint waits for a bundle that dies."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import jobs
from deploy.local.generator import GeneratorOptions, generate
from deploy.local.recorder import Recorder
from deploy.local.sender import Sender
from deploy.local.stack import Stack, StackOptions
from tests import kills
from tests.emulator.conftest import follow, submit, wait_until_read
from tests.waiting import until

KILLS = 3

# Three restarts; on a busy machine each takes its time.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    options = StackOptions(
        model_dir=jobs.MODEL_DIR,
        properties=jobs.PROPERTIES,
        flink_overrides=kills.FLINK_OVERRIDES,
    )
    with Stack(tmp_path_factory.mktemp("run"), options) as running:
        yield running


def test_nothing_is_lost_when_workers_die_while_a_checkpoint_waits(
    stack: Stack, tmp_path: Path
) -> None:
    # One shard: the records of another would find the worker gone before the checkpoint does.
    job_id, streams = submit(stack, "aimed", kills.PROPERTIES, shards=1)
    recorder = Recorder(["review_scoring"], streams["reviews"])
    truth_path = tmp_path / "truth.jsonl"
    tails = follow(stack, streams, recorder)
    sender = Sender(
        stack.client("kinesis", attempts=1),
        streams["reviews"],
        # Rows of a batch that go past the endpoint would let the checkpoint find the worker gone.
        generate(GeneratorOptions(broken_share=0.0), 1, time.time),
        truth_path,
        rate_per_s=40.0,
    )
    sender.start()

    def scored() -> int:
        return recorder.snapshot("", 0.0, 0, {}).counts["scored-reviews (out)"]

    def has_failed_since(moment_ms: float) -> bool:
        return any(failure.time_ms >= moment_ms for failure in stack.cluster.failures(job_id))

    try:
        until(lambda: scored() > 0 and stack.cluster.last_checkpoint(job_id))
        with kills.slow_endpoint(stack):
            for _ in range(KILLS):
                until(lambda: kills.is_moment(stack, job_id))
                killed_ms = kills.kill_workers(stack)
                until(lambda ms=killed_ms: has_failed_since(ms))
        until(lambda: stack.cluster.is_running(job_id), hint=lambda: sender.error)
    finally:
        sender.stop()
        sender.join(60)
    assert sender.error is None
    # Whether all that was read has come out is for the summary to say.
    wait_until_read(stack, job_id, streams["reviews"], shards=1)
    stack.cluster.stop_job(job_id)
    for tail in tails:
        tail.finish()
    summary = recorder.summary(truth_path, 0.0, sender.sent, 0, [])
    assert summary.problems == ()
    assert summary.truth_matches is True
    assert summary.dead_letters == {}
    assert summary.sent == sender.sent > 100
