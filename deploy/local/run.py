"""One run of the whole thing on a laptop: start, send, watch, wait, drain, reconcile."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from deploy.local import jobs
from deploy.local.cluster import ENDED_STATES, MEASURES_AGE_S, FlinkClientError, JobFailedError
from deploy.local.metrics import Point, read_points
from deploy.local.recorder import Recorder
from deploy.local.records import Outgoing
from deploy.local.sample import SampleConfig
from deploy.local.sender import Sender
from deploy.local.stack import BUCKET, SUMMARY, TRUTH, Stack, StackOptions
from deploy.local.summary import Summary
from deploy.local.tails import ArchiveTail, QueueTail, StreamTail, Tail
from deploy.local.view import Snapshot, View

_REFRESH_S = 0.5
_PLAIN_LINE_S = 5.0
_JOB_CHECK_S = 2.0
_REST_PATIENCE_S = 30.0
_THREAD_END_S = 1.0
_SCORED_SHARDS = 1


class RunError(RuntimeError):
    """A run that could not be carried through; the message says what to look at."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `make run` can be told.

    Attributes
    ----------
    run_dir
        Logs, the truth and the summary.
    rate_per_s
        Reviews a second; None: as fast as the stream takes them.
    limit, duration_s
        Bounds; without them, and with records without end, the run lasts until Ctrl-C.
    shards
        Of the stream of reviews.
    jobs
        Jobs to submit, upstream first.
    stall_timeout_s
        When nothing has come through for so long after the last review was sent, the run gives
        up waiting and reports what is missing.
    start_timeout_s
        How long the tasks of all jobs may take to start; nothing is sent before.
    """

    run_dir: Path
    rate_per_s: float | None = 200.0
    limit: int | None = None
    duration_s: float | None = None
    shards: int = 2
    jobs: tuple[str, ...] = jobs.JOBS
    stall_timeout_s: float = 120.0
    start_timeout_s: float = 180.0


def run(
    options: RunOptions, config: SampleConfig, records: Iterator[Outgoing], console: Console
) -> Summary:
    """Carry a whole run through and write `summary.json` into its directory.

    Ctrl-C once ends the sending; the run then ends as a bounded one does. Ctrl-C again, or when
    nothing is being sent, ends it at once.

    Parameters
    ----------
    options
        How.
    config
        Names streams and topic; that of `jobs.PROPERTIES`.
    records
        What to send.
    console
        Takes progress, the live view and the summary.

    Raises
    ------
    RunError
        A job failed or did not start in time, or a thread of the run failed.
    PartError
        A part of the laptop's AWS died; names it and its log.
    FlinkClientError
        A job could not be submitted.
    StackRunningError
        Another stack uses the run directory.
    KeyboardInterrupt
        Ctrl-C while nothing was being sent, or a second time.
    """
    stack_options = StackOptions(
        model_dir=jobs.MODEL_DIR,
        properties=jobs.PROPERTIES,
        shards=options.shards,
        scored_shards=_SCORED_SHARDS,
    )
    with Stack(
        options.run_dir, stack_options, on_progress=lambda line: console.print(f"  {line}")
    ) as stack:
        the_run = _Run(options, config, records, console, stack)
        try:
            return the_run.carry_through()
        except Exception:
            # A part that has died explains it better; its sockets close before it is gone.
            stack.check()
            time.sleep(_REFRESH_S)
            stack.check()
            raise
        finally:
            the_run.end_threads()


class _Run:
    def __init__(
        self,
        options: RunOptions,
        config: SampleConfig,
        records: Iterator[Outgoing],
        console: Console,
        stack: Stack,
    ) -> None:
        self._options = options
        self._config = config
        self._console = console
        self._stack = stack
        self._recorder = Recorder(options.jobs, config.reviews.stream, config.windows.lg_k)
        self._truth_path = options.run_dir / TRUTH
        # One attempt a call: a second one might put records in twice.
        self._sender = Sender(
            stack.client("kinesis", attempts=1),
            config.reviews.stream,
            records,
            self._truth_path,
            rate_per_s=options.rate_per_s,
            limit=options.limit,
            duration_s=options.duration_s,
        )
        self._is_interrupted = False
        self._problems: list[str] = []
        self._tails: list[Tail] = []
        self._job_ids: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        self._last_failure_ms: dict[str, int] = {}
        self._start_s = time.monotonic()
        self._jobs_seen_s = self._start_s
        self._next_job_check_s = 0.0
        info = stack.info
        self._addresses = {
            "Flink web UI": info.web_ui_url,
            "endpoint": f"{info.endpoint_url}/stats",
            "AWS emulator": f"{info.emulator_url}/moto-api/",
            "logs": str(options.run_dir / "logs"),
        }

    def carry_through(self) -> Summary:
        self._submit()
        self._wait_until_running()
        self._follow()
        self._start_s = self._jobs_seen_s = time.monotonic()
        self._sender.start()
        self._watch()
        seconds = time.monotonic() - self._start_s
        if self._sender.sent == 0:
            if self._is_interrupted:
                raise KeyboardInterrupt
            self._problems.append("nothing was sent")
        self._drain()
        for tail in self._tails:
            try:
                tail.finish()
            except Exception as error:
                raise RunError(f"{tail.name} failed: {_in_words(error)}") from error
        summary = self._recorder.summary(
            self._truth_path,
            seconds,
            self._sender.sent,
            self._sender.refused,
            self._problems,
            self._points(),
        )
        path = self._options.run_dir / SUMMARY
        path.write_text(json.dumps(summary.as_json(), indent=2) + "\n", encoding="utf-8")
        self._report(summary, path)
        return summary

    def end_threads(self) -> None:
        threads: list[Sender | Tail] = [self._sender, *self._tails]
        for thread in threads:
            thread.stop()
        for thread in threads:
            if thread.is_alive():
                thread.join(_THREAD_END_S)

    def _submit(self) -> None:
        pyfiles = jobs.write_pyfiles()
        for job in self._options.jobs:
            with self._console.status(f"submitting {job} with flink run"):
                self._job_ids[job] = self._stack.cluster.submit(
                    entry=jobs.ENTRY,
                    properties=self._stack.properties_for(job),
                    jarfile=jobs.JAR,
                    pyfiles=pyfiles,
                )
            self._console.print(f"  {job}: job {self._job_ids[job]}")

    def _wait_until_running(self) -> None:
        """Wait until no event time can pass by a job that is still starting."""
        deadline_s = time.monotonic() + self._options.start_timeout_s
        self._jobs_seen_s = time.monotonic()
        starting = dict(self._job_ids)
        with self._console.status("waiting until every task runs"):
            while starting:
                self._check()
                for job, job_id in list(starting.items()):
                    with contextlib.suppress(OSError):
                        if self._stack.cluster.is_running(job_id):
                            del starting[job]
                if starting and time.monotonic() > deadline_s:
                    raise RunError(
                        f"{', '.join(starting)} did not start within"
                        f" {self._options.start_timeout_s:g} s; see {self._addresses['logs']}"
                    )
                if starting:
                    time.sleep(_REFRESH_S)
        self._console.print("  every task runs")

    def _follow(self) -> None:
        config, recorder, stack = self._config, self._recorder, self._stack
        for stream, take in (
            (config.reviews.stream, recorder.sent),
            (config.scored_reviews.stream, recorder.scored),
            (config.dead_letters.stream, recorder.dead_letter),
            (config.review_metrics.stream, recorder.window),
            (config.rating_anomalies.stream, recorder.anomaly),
        ):
            self._tails.append(StreamTail(stack.client("kinesis"), stream, take))
        for prefix, take_line in (("raw/", recorder.s3_raw), ("scored/", recorder.s3_scored)):
            self._tails.append(ArchiveTail(stack.client("s3"), BUCKET, prefix, take_line))
        self._tails.append(QueueTail(stack.client("sqs"), config.alerts_topic, recorder.alert))
        for tail in self._tails:
            tail.start()

    def _watch(self) -> None:
        """Show and check the run until all is through, or nothing comes through any more."""
        view = View(time.monotonic)
        is_live = self._console.is_terminal
        next_line_s = 0.0
        before: Snapshot | None = None
        progress_s = time.monotonic()
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            while True:
                try:
                    # Asked first: an error of a sender that has ended is there to be found.
                    is_sending = self._sender.is_alive()
                    self._check()
                    snapshot = self._recorder.snapshot(
                        "sending" if is_sending else "waiting until all is through",
                        time.monotonic() - self._start_s,
                        self._sender.sent,
                        self._addresses,
                    )
                    now_s = time.monotonic()
                    if is_live:
                        live.update(view.render(snapshot), refresh=True)
                    elif now_s >= next_line_s:
                        next_line_s = now_s + _PLAIN_LINE_S
                        self._console.print(f"  {view.line(snapshot)}", soft_wrap=True)
                    if snapshot.latest and (before is None or not before.latest):
                        self._console.print(
                            f"  first scored review after {snapshot.seconds:.1f} s of sending"
                        )
                    if before is None or snapshot.counts != before.counts:
                        before, progress_s = snapshot, now_s
                    is_stalled = now_s - progress_s > self._options.stall_timeout_s
                    if not is_sending and (snapshot.under_way == 0 or is_stalled):
                        return
                    time.sleep(_REFRESH_S)
                except KeyboardInterrupt:
                    if self._is_interrupted or not self._sender.is_alive():
                        raise
                    self._is_interrupted = True
                    self._sender.stop()
                    self._console.print(
                        "  Ctrl-C: no more reviews are sent; waiting until all is through"
                        " (Ctrl-C again ends at once)"
                    )

    def _check(self) -> None:
        self._stack.check()
        threads: list[Sender | Tail] = [self._sender, *self._tails]
        for thread in threads:
            if thread.error is not None:
                words = f"{thread.name} failed: {_in_words(thread.error)}"
                raise RunError(words) from thread.error
        now_s = time.monotonic()
        if now_s < self._next_job_check_s:
            return
        self._next_job_check_s = now_s + _JOB_CHECK_S
        try:
            for job, job_id in self._job_ids.items():
                self._check_job(job, job_id)
        except OSError as error:
            # A JobManager under load may answer late; one that is gone is found by the stack.
            if now_s - self._jobs_seen_s > _REST_PATIENCE_S:
                silent_s = now_s - self._jobs_seen_s
                raise RunError(
                    f"the JobManager has not answered for {silent_s:.0f} s: {error}"
                ) from error
        else:
            self._jobs_seen_s = time.monotonic()

    def _check_job(self, job: str, job_id: str) -> None:
        cluster = self._stack.cluster
        state = cluster.job_state(job_id)
        failures = cluster.failures(job_id)
        if state in ENDED_STATES:
            why = failures[0].why if failures else "no exception is recorded"
            raise RunError(f"job {job} is {state}: {why}")
        last_ms = self._last_failure_ms.get(job, 0)
        for failure in reversed(failures):
            if failure.time_ms > last_ms:
                self._last_failure_ms[job] = failure.time_ms
                self._failures[job] += 1
                times = "once" if self._failures[job] == 1 else f"{self._failures[job]} times"
                self._console.print(
                    f"  {job} failed {times} and is restarted: {failure.why}",
                    style="yellow",
                    markup=False,
                )

    def _drain(self) -> None:
        """Drain the jobs, upstream first, each when it has read all that was written for it."""
        for job, job_id in list(self._job_ids.items()):
            if job != "review_scoring":
                self._wait_until_read(job, job_id)
            # What is being ended need not run any more.
            del self._job_ids[job]
            try:
                with self._console.status(f"draining {job} with flink stop --drain"):
                    self._stack.cluster.stop_job(job_id, drain=True)
            except (FlinkClientError, JobFailedError, OSError) as error:
                # What has come through is worth reporting all the same.
                self._stack.check()
                self._problems.append(f"{job} could not be drained: {error}")
            else:
                self._console.print(f"  {job}: drained")

    def _wait_until_read(self, job: str, job_id: str) -> None:
        stream = self._config.scored_reviews.stream
        deadline_s = time.monotonic() + self._options.stall_timeout_s
        unread_s = time.monotonic()
        with self._console.status(f"waiting until {job} has read all of {stream}"):
            while time.monotonic() - unread_s <= MEASURES_AGE_S:
                if time.monotonic() > deadline_s:
                    self._problems.append(
                        f"{job} has not read all of {stream} within"
                        f" {self._options.stall_timeout_s:g} s"
                    )
                    return
                self._check()
                if not self._has_read_all(job_id, stream):
                    unread_s = time.monotonic()
                time.sleep(_REFRESH_S)

    def _has_read_all(self, job_id: str, stream: str) -> bool:
        try:
            return self._stack.cluster.has_read_all(job_id, stream, _SCORED_SHARDS)
        except OSError:
            return False  # a JobManager under load; `_check` has patience with it, but not forever

    def _points(self) -> Iterator[Point]:
        if (span := self._recorder.windows_in_cloudwatch()) is None:
            return iter(())
        namespace = self._config.cloudwatch.namespace
        return read_points(self._stack.client("cloudwatch"), namespace, *span)

    def _report(self, summary: Summary, path: Path) -> None:
        self._console.print(summary.as_table())
        for problem in summary.problems:
            self._console.print(f"does not reconcile: {problem}", style="red", markup=False)
        self._console.print(f"written to {path}", markup=False)


def _in_words(error: BaseException) -> str:
    """Return an error in words; many of Python's own say nothing without their names."""
    return f"{type(error).__name__}: {error}"
