"""A run's own logic, over streams in memory and a cluster that only pretends."""

import gzip
import io
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws
from rich.console import Console

from deploy.local import jobs
from deploy.local import pipeline as pipeline_module
from deploy.local import run as run_module
from deploy.local.cluster import Failure, FlinkClientError
from deploy.local.pipeline import RunError
from deploy.local.process import PartDiedError
from deploy.local.records import Outgoing, partition_key
from deploy.local.replay import NO_OPTIONS, Replay, replay
from deploy.local.run import RunOptions
from deploy.local.sample import load_sample
from deploy.local.stack import BUCKET, StackInfo
from deploy.local.summary import Summary
from deploy.stream_writer import MAX_BATCH_RECORDS

CONFIG = load_sample(jobs.PROPERTIES)
JOB_IDS = dict(zip(jobs.JOBS, ("1" * 32, "2" * 32, "3" * 32), strict=True))


def outgoing(number: int, size: int = 10) -> Outgoing:
    data = b"x" * size
    return Outgoing(data, partition_key(f"R{number}", data), "scored", f"R{number}", None, None)


class Cluster:
    """Accepts the jobs and does nothing; each answer can be replaced."""

    def __init__(self) -> None:
        self.submit: Callable[..., str] = lambda *, properties, **_: JOB_IDS[properties.name]
        self.is_running: Callable[[str], bool] = lambda _: True
        self.unread: Callable[[str, str, int], dict[str, str]] = lambda *_: {}
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
        config = Config(retries={"total_max_attempts": attempts}) if attempts else None
        return self._aws.client(service, config=config)  # type: ignore[call-overload]

    def properties_for(self, job: str, _: object = None) -> Path:
        return Path(job)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stack]:
    with mock_aws():
        aws = boto3.Session(
            region_name="us-east-1", aws_access_key_id="local", aws_secret_access_key="local"
        )
        for stream in (
            CONFIG.reviews.stream,
            CONFIG.scored_reviews.stream,
            CONFIG.dead_letters.stream,
            CONFIG.review_metrics.stream,
            CONFIG.rating_anomalies.stream,
        ):
            aws.client("kinesis").create_stream(StreamName=stream, ShardCount=1)
        aws.client("sqs").create_queue(QueueName=CONFIG.alerts_topic)
        aws.client("s3").create_bucket(Bucket=BUCKET)
        stack = Stack(aws, tmp_path)
        monkeypatch.setattr(run_module, "Stack", stack)
        monkeypatch.setattr(run_module, "_REFRESH_S", 0.01)
        monkeypatch.setattr(pipeline_module, "_POLL_S", 0.01)
        monkeypatch.setattr(pipeline_module, "_JOB_CHECK_S", 0.0)
        monkeypatch.setattr(pipeline_module, "MEASURES_AGE_S", 0.05)
        monkeypatch.setattr(jobs, "write_pyfiles", lambda: tmp_path / "python.zip")
        yield stack


def carry_through(
    stack: Stack,
    records: Iterator[Outgoing],
    *,
    only: tuple[str, ...] = ("review_scoring",),
    start_timeout_s: float = 5.0,
) -> tuple[Summary, str]:
    output = io.StringIO()
    options = RunOptions(
        run_dir=stack.info.run_dir,
        rate_per_s=None,
        jobs=only,
        stall_timeout_s=0.2,
        start_timeout_s=start_timeout_s,
    )
    console = Console(file=output, width=200)
    return run_module.run(options, CONFIG, records, console), output.getvalue()


class SlowReplay(Replay):
    """Long enough for the view to see it."""

    def __next__(self) -> Outgoing:
        time.sleep(0.1)
        return super().__next__()


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


def test_jobs_are_drained_upstream_first_each_when_it_has_read_all(stack: Stack) -> None:
    events: list[str] = []
    names = {job_id: job for job, job_id in JOB_IDS.items()}

    def unread(job_id: str, stream: str, shards: int) -> dict[str, str]:
        assert (stream, shards) == (CONFIG.scored_reviews.stream, 1)
        events.append(f"{names[job_id]} asked")
        # Once there is something after there was nothing: what was old holds nothing.
        return {"shard 0": "3..3"} if events.count(f"{names[job_id]} asked") == 3 else {}

    def stop_job(job_id: str, *, drain: bool) -> str:
        assert drain
        events.append(f"{names[job_id]} drained")
        return "file:/savepoint"

    stack.cluster.unread = unread
    stack.cluster.stop_job = stop_job
    carry_through(stack, map(outgoing, range(5)), only=jobs.JOBS)
    asked_or_drained = [event for event, _ in itertools.groupby(events)]
    assert asked_or_drained == [
        "review_scoring drained",
        "review_metrics asked",
        "review_metrics drained",
        "rating_anomalies asked",
        "rating_anomalies drained",
    ]
    assert events.count("review_metrics asked") > 4


def test_a_job_that_does_not_read_all_is_drained_in_the_end(stack: Stack) -> None:
    def unread(*_: Any) -> dict[str, str]:
        raise TimeoutError("timed out")

    stack.cluster.unread = unread
    summary, output = carry_through(stack, map(outgoing, range(5)), only=jobs.JOBS[:2])
    [problem] = [problem for problem in summary.problems if "not read all" in problem]
    assert problem == (
        "review_metrics has not read all of scored-reviews within 0.2 s: no measures timed out"
    )
    assert "review_metrics: drained" in output


def test_a_drained_job_is_not_taken_for_one_that_has_failed(stack: Stack) -> None:
    stopped: set[str] = set()
    stack.cluster.stop_job = lambda job_id, **_: str(stopped.add(job_id))
    stack.cluster.job_state = lambda job_id: "FINISHED" if job_id in stopped else "RUNNING"
    _, output = carry_through(stack, map(outgoing, range(5)), only=jobs.JOBS)
    assert output.count(": drained") == 3


def test_a_file_that_is_cut_off_is_sent_as_far_as_it_goes_and_drained(stack: Stack) -> None:
    path = stack.info.run_dir / "cut.tsv.gz"
    rows = [f"R{n}\tGift_Card\t5\tbody {n}\n" for n in range(2_000)]
    path.write_bytes(gzip.compress("".join(rows).encode(), mtime=0)[:-2_000])
    summary, output = carry_through(stack, replay(path, "json"))
    assert 0 < summary.sent < 2_000
    assert f"{summary.sent:,} rows before that were read" in summary.problems[0]
    assert "review_scoring: drained" in output
    assert not summary.reconciled


def test_a_file_shows_how_far_it_is(stack: Stack) -> None:
    path = stack.info.run_dir / "reviews.tsv"
    path.write_text("R1\tGift_Card\t5\tNice.\n" * 3)
    _, output = carry_through(stack, SlowReplay(path, "json", NO_OPTIONS))
    assert re.search(r"sending \d+% of 0\.0 MB, \d rows.*, 00:00: reviews", output)


def test_nothing_is_sent_before_every_job_runs(stack: Stack) -> None:
    asked: list[str] = []
    sent_at: list[int] = []

    def is_running(job_id: str) -> bool:
        asked.append(job_id)
        if len(asked) < 4:
            raise TimeoutError("timed out")
        return len(asked) > 7

    def records() -> Iterator[Outgoing]:
        sent_at.append(len(asked))
        yield outgoing(1)

    stack.cluster.is_running = is_running
    carry_through(stack, records(), only=jobs.JOBS)
    assert set(asked) == set(JOB_IDS.values())
    assert sent_at == [len(asked)]


def test_a_job_that_does_not_start_ends_the_run(stack: Stack) -> None:
    stack.cluster.is_running = lambda job_id: job_id != JOB_IDS["review_metrics"]
    with pytest.raises(RunError, match=r"^review_metrics did not start within 0\.1 s; see .*logs"):
        carry_through(stack, map(outgoing, range(5)), only=jobs.JOBS, start_timeout_s=0.1)


def test_a_job_that_fails_while_it_starts_ends_the_run(stack: Stack) -> None:
    stack.cluster.is_running = lambda _: False
    stack.cluster.job_state = lambda _: "FAILED"
    stack.cluster.failures = lambda _: [Failure(1, "no jar")]
    with pytest.raises(RunError, match="job review_scoring is FAILED: no jar"):
        carry_through(stack, map(outgoing, range(5)))


@pytest.mark.parametrize("only", [jobs.JOBS[1:], jobs.JOBS[1:2], jobs.JOBS[2:]])
def test_without_scoring_the_others_run_all_the_same(stack: Stack, only: tuple[str, ...]) -> None:
    summary, _ = carry_through(stack, map(outgoing, range(5)), only=only)
    assert summary.problems == ()
    assert "scored" not in written(stack)
    assert written(stack)["sent"] == 5


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
    monkeypatch.setattr(pipeline_module, "_REST_PATIENCE_S", 0.0)
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
