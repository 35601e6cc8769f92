"""The central promise: every record in exactly one place, also after a failure or a restart."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import jobs
from deploy.local.generator import GeneratorOptions, generate
from deploy.local.recorder import Recorder
from deploy.local.sender import Sender
from deploy.local.stack import Stack, StackOptions
from tests.emulator.conftest import by_name, follow, put, read_stream, resubmit, submit
from tests.waiting import until
from tests.workers import python_workers


def test_nothing_is_lost_when_the_python_worker_is_killed(stack: Stack, tmp_path: Path) -> None:
    job_id, streams = submit(stack, "killed")
    recorder = Recorder(["review_scoring"], streams["reviews"])
    truth_path = tmp_path / "truth.jsonl"
    tails = follow(stack, streams, recorder)
    sender = Sender(
        stack.client("kinesis", attempts=1),
        streams["reviews"],
        generate(GeneratorOptions(broken_share=0.1), 1, time.time),
        truth_path,
        rate_per_s=100.0,
    )
    sender.start()

    def scored() -> int:
        return recorder.snapshot("", 0.0, 0, {}).counts["scored-reviews (out)"]

    def under_way() -> int:
        return recorder.snapshot("", 0.0, sender.sent, {}).under_way

    try:
        # So that the restart finds a place in the stream to go on from.
        checkpoints = stack.info.run_dir / "checkpoints" / job_id
        until(lambda: scored() > 0 and any(checkpoints.glob("chk-*/_metadata")))
        workers = python_workers(stack)
        assert workers
        for worker in workers:
            worker.kill()
        before = sender.sent
        until(lambda: stack.cluster.failures(job_id))
        until(lambda: stack.cluster.job_state(job_id), lambda state: state == "RUNNING")
        until(lambda: sender.sent, lambda sent: sent >= before + 100, hint=lambda: sender.error)
    finally:
        sender.stop()
        sender.join(60)
    assert sender.error is None
    until(under_way, lambda count: count == 0, hint=lambda: stack.cluster.exceptions(job_id))
    stack.cluster.stop_job(job_id)
    for tail in tails:
        tail.finish()
    summary = recorder.summary(truth_path, 0.0, sender.sent, 0, [])
    assert summary.problems == ()
    assert summary.truth_matches is True
    assert summary.sent == sender.sent > 100
    assert summary.dead_letters.keys() == {"parse"}


@pytest.fixture
def without_checkpoints(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose jobs have the places of their savepoints, and no others."""
    options = StackOptions(
        model_dir=jobs.MODEL_DIR,
        properties=jobs.PROPERTIES,
        flink_overrides={"execution.checkpointing.interval": "1 h"},
    )
    with Stack(tmp_path / "run", options) as running:
        yield running


def test_a_job_goes_on_from_its_savepoint_where_it_stopped(without_checkpoints: Stack) -> None:
    stack = without_checkpoints
    kinesis = stack.client("kinesis")
    names: dict[tuple[str, str], str] = {}

    def send(moment: str, streams: dict[str, str]) -> None:
        payloads = {
            f"{moment} {number}": f'{{"review_id": "R{number}", "product_category": "Gift_Card",'
            f' "review_body": "Sent {moment}."}}'.encode()
            for number in range(20)
        }
        payloads[f"{moment} broken"] = b"no review"
        names.update(put(stack, streams["reviews"], payloads))

    def out(streams: dict[str, str]) -> list[dict[str, object]]:
        groups = ("scored_reviews", "dead_letters")
        return [row for group in groups for row in read_stream(kinesis, streams[group])]

    job_id, streams = submit(stack, "restored")
    send("before", streams)
    until(lambda: len(out(streams)), lambda count: count >= len(names))
    assert stack.cluster.last_checkpoint(job_id) is None
    savepoint = stack.cluster.stop_job(job_id, drain=False)
    send("between", streams)
    # Fails where an operator of the savepoint has no place in the plan: ids must be stable.
    job_id = resubmit(stack, streams, savepoint=savepoint)
    send("after", streams)
    until(
        lambda: len(out(streams)),
        lambda count: count >= len(names),
        hint=lambda: stack.cluster.exceptions(job_id),
    )
    stack.cluster.stop_job(job_id)
    found = by_name(names, out(streams))
    assert found.keys() == set(names.values())
    assert len(found) == 63
    assert {name for name, row in found.items() if "reason" in row} == {
        "before broken",
        "between broken",
        "after broken",
    }
