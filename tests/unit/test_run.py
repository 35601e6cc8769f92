"""A run's own logic, over streams in memory and a cluster that only pretends."""

import io
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import pytest
from moto import mock_aws
from rich.console import Console

from deploy.local import jobs
from deploy.local import run as run_module
from deploy.local.cluster import Failure, FlinkClientError
from deploy.local.ledger import Summary
from deploy.local.process import PartDiedError
from deploy.local.records import Outgoing, partition_key
from deploy.local.run import RunError, RunOptions
from deploy.local.sender import MAX_BATCH_RECORDS
from deploy.local.stack import BUCKET, StackInfo
from flink_jobs.config import load_config

CONFIG = load_config(jobs.PROPERTIES)


def outgoing(number: int, size: int = 10) -> Outgoing:
    data = b"x" * size
    return Outgoing(data, partition_key(f"R{number}", data), "scored", f"R{number}", None, None)


class Cluster:
    """Accepts the job and does nothing; each answer can be replaced."""

    def __init__(self) -> None:
        self.submit: Callable[..., str] = lambda **_: "1" * 32
        self.job_state: Callable[[str], str] = lambda _: "RUNNING"
        self.failures: Callable[[str], list[Failure]] = lambda _: []
        self.stop_job: Callable[..., str] = lambda *_, **__: "file:/savepoint"


class Stack:
    """Stands in for `deploy.local.stack.Stack`."""

    def __init__(self, aws: boto3.Session, run_dir: Path) -> None:
        self._aws = aws
        self.cluster = Cluster()
        self.info = StackInfo(1, run_dir, jobs.PROPERTIES, "us-east-1", "", "", "")
        self.check: Callable[[], None] = lambda: None

    def __call__(self, *_: Any, **__: Any) -> "Stack":
        return self

    def __enter__(self) -> "Stack":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        pass

    def client(self, service: str, *, attempts: int | None = None) -> Any:
        return self._aws.client(service)  # type: ignore[call-overload]

    def properties_for(self, job: str) -> Path:
        return jobs.PROPERTIES


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    with mock_aws():
        aws = boto3.Session(
            region_name="us-east-1", aws_access_key_id="local", aws_secret_access_key="local"
        )
        for group in (CONFIG.reviews, CONFIG.scored_reviews, CONFIG.dead_letters):
            aws.client("kinesis").create_stream(StreamName=group.stream, ShardCount=1)
        aws.client("s3").create_bucket(Bucket=BUCKET)
        stack = Stack(aws, tmp_path)
        monkeypatch.setattr(run_module, "Stack", stack)
        monkeypatch.setattr(run_module, "_REFRESH_S", 0.01)
        monkeypatch.setattr(run_module, "_JOB_CHECK_S", 0.0)
        monkeypatch.setattr(jobs, "write_pyfiles", lambda: tmp_path / "python.zip")
        yield stack


def carry_through(
    stack: Stack, records: Iterator[Outgoing], stall_timeout_s: float = 0.2
) -> tuple[Summary, str]:
    output = io.StringIO()
    options = RunOptions(
        run_dir=stack.info.run_dir, rate_per_s=None, stall_timeout_s=stall_timeout_s
    )
    console = Console(file=output, width=200)
    return run_module.run(options, CONFIG, records, console), output.getvalue()


def written(stack: Stack) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((stack.info.run_dir / "summary.json").read_text())
    return document


def test_a_stalled_job_that_cannot_be_drained_is_summed_up_all_the_same(stack: Stack) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise FlinkClientError("flink stop ended with status 1: the job is RESTARTING")

    stack.cluster.stop_job = refuse
    summary, output = carry_through(stack, map(outgoing, range(5)))
    assert not summary.reconciled
    assert "review_scoring could not be drained: flink stop ended" in summary.problems[0]
    assert (written(stack)["reconciled"], written(stack)["unaccounted"]) == (False, 5)
    assert "does not reconcile: review_scoring could not be drained" in output


def test_what_no_stream_takes_is_in_the_summary(stack: Stack) -> None:
    records = iter([outgoing(1), outgoing(2, 1024 * 1024)])
    _, output = carry_through(stack, records)
    assert (written(stack)["sent"], written(stack)["refused"]) == (1, 1)
    assert "refused" in output


def test_a_run_that_sent_nothing_does_not_reconcile(stack: Stack) -> None:
    summary, _ = carry_through(stack, iter([]))
    assert summary.problems == ("nothing was sent",)


def test_an_error_of_the_sender_ends_the_run(stack: Stack) -> None:
    def damaged() -> Iterator[Outgoing]:
        yield from map(outgoing, range(5))
        raise ValueError("the gzip data of reviews.tsv.gz is damaged")

    with pytest.raises(RunError, match="sender failed: ValueError: the gzip data of"):
        carry_through(stack, damaged())
    assert not (stack.info.run_dir / "summary.json").exists()


def test_a_part_that_dies_during_the_submission_is_named(stack: Stack, tmp_path: Path) -> None:
    def die(**_: Any) -> str:
        def check() -> None:
            raise PartDiedError("jobmanager", -9, tmp_path / "jobmanager.log")

        stack.check = check
        raise FlinkClientError("flink run ended with status 1")

    stack.cluster.submit = die
    with pytest.raises(PartDiedError, match="jobmanager ended by signal SIGKILL"):
        carry_through(stack, iter([]))


def test_a_job_that_has_failed_ends_the_run(stack: Stack) -> None:
    stack.cluster.job_state = lambda _: "FAILED"
    stack.cluster.failures = lambda _: [Failure(1, "no more restarts")]
    with pytest.raises(RunError, match="job review_scoring is FAILED: no more restarts"):
        carry_through(stack, map(outgoing, range(5)))


def test_each_failure_is_told_once_also_when_they_are_alike(stack: Stack) -> None:
    failures: list[Failure] = []

    def fail(_: str) -> list[Failure]:
        if len(failures) < 3:
            failures.insert(0, Failure(1_000 + len(failures), "connection reset"))
        return failures

    stack.cluster.failures = fail
    _, output = carry_through(stack, map(outgoing, range(5)))
    told = [line.strip() for line in output.splitlines() if "restarted" in line]
    assert told == [
        "review_scoring failed once and is restarted: connection reset",
        "review_scoring failed 2 times and is restarted: connection reset",
        "review_scoring failed 3 times and is restarted: connection reset",
    ]


def test_a_job_manager_may_be_silent_for_a_while_only(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: str) -> str:
        raise TimeoutError("timed out")

    stack.cluster.job_state = silent
    summary, _ = carry_through(stack, map(outgoing, range(5)))
    assert summary.sent == 5
    monkeypatch.setattr(run_module, "_REST_PATIENCE_S", 0.0)
    with pytest.raises(RunError, match=r"the JobManager has not answered for .*timed out"):
        carry_through(stack, map(outgoing, range(5)))


@pytest.mark.parametrize("is_anything_sent", [True, False])
def test_ctrl_c_ends_the_sending_and_then_the_run(stack: Stack, is_anything_sent: bool) -> None:
    may_end = threading.Event()
    taken = 0

    def endless() -> Iterator[Outgoing]:
        nonlocal taken
        for taken in itertools.count(1):
            if not is_anything_sent:
                may_end.wait(60)
                return
            yield outgoing(taken)

    interrupts = iter([KeyboardInterrupt()])

    def check() -> None:
        # The second batch is asked for when the first one was sent.
        if taken > (MAX_BATCH_RECORDS if is_anything_sent else 0):
            may_end.set()
            for interrupt in interrupts:
                raise interrupt

    stack.check = check
    if is_anything_sent:
        summary, output = carry_through(stack, endless())
        assert "Ctrl-C: no more reviews are sent" in output
        assert summary.sent >= MAX_BATCH_RECORDS
        assert not any("nothing was sent" in problem for problem in summary.problems)
    else:
        with pytest.raises(KeyboardInterrupt):
            carry_through(stack, endless())


def test_ctrl_c_again_ends_the_run_at_once(stack: Stack) -> None:
    def check() -> None:
        raise KeyboardInterrupt

    stack.check = check
    with pytest.raises(KeyboardInterrupt):
        carry_through(stack, map(outgoing, itertools.count()))
    assert not (stack.info.run_dir / "summary.json").exists()
