"""One run of the whole thing on a laptop: start, send, watch, wait, drain, reconcile."""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.local import jobs
from deploy.local.cluster import ENDED_STATES, FlinkClientError, JobFailedError
from deploy.local.ledger import Ledger, SourceId, Summary
from deploy.local.records import Outgoing
from deploy.local.sender import Sender
from deploy.local.stack import BUCKET, SUMMARY, TRUTH, Stack, StackOptions
from deploy.local.tails import ArchiveTail, Arrived, StreamTail, Tail
from deploy.local.view import LATEST_ROWS, LatestReview, Snapshot, View
from flink_jobs.config import ReviewScoringConfig

_REFRESH_S = 0.5
_PLAIN_LINE_S = 5.0
_JOB_CHECK_S = 2.0
_REST_PATIENCE_S = 30.0
_THREAD_END_S = 1.0


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
    """

    run_dir: Path
    rate_per_s: float | None = 200.0
    limit: int | None = None
    duration_s: float | None = None
    shards: int = 2
    jobs: tuple[str, ...] = jobs.JOBS
    stall_timeout_s: float = 120.0


class Recorder:
    """Takes what the tails hand over, from their threads, into the ledger and the view."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._latest: deque[LatestReview] = deque(maxlen=LATEST_ROWS)
        self._reasons: Counter[tuple[str, str]] = Counter()

    def sent(self, record: Arrived) -> None:
        """Take a record of `reviews`."""
        with self._lock:
            self._ledger.add_sent(SourceId(record.shard, record.sequence_number))

    def scored(self, record: Arrived) -> None:
        """Take a record of `scored-reviews`."""
        review = json.loads(record.data)
        with self._lock:
            if self._ledger.add_scored(SourceId.of(review)):
                self._latest.appendleft(
                    LatestReview(
                        review["star_rating"],
                        review["product_category"],
                        review["review_body"],
                        review["model_variant"],
                    )
                )

    def dead_letter(self, record: Arrived) -> None:
        """Take a record of `dead-letters`."""
        letter = json.loads(record.data)
        with self._lock:
            if self._ledger.add_dead_letter(SourceId.of(letter), letter["stage"], letter["reason"]):
                self._reasons[letter["stage"], letter["reason"]] += 1

    def s3_raw(self, line: Mapping[str, Any]) -> None:
        """Take a line of the raw archive."""
        with self._lock:
            self._ledger.add_s3_raw(SourceId.of(line))

    def s3_scored(self, line: Mapping[str, Any]) -> None:
        """Take a line of the scored archive."""
        with self._lock:
            self._ledger.add_s3_scored(SourceId.of(line))

    def snapshot(
        self, phase: str, seconds: float, sent: int, addresses: Mapping[str, str]
    ) -> Snapshot:
        """Return what the view shows now."""
        with self._lock:
            ledger = self._ledger
            scored, dead = len(ledger.scored), len(ledger.dead)
            return Snapshot(
                phase=phase,
                seconds=seconds,
                counts={
                    "reviews (in)": sent,
                    "scored-reviews (out)": scored,
                    "dead-letters (out)": dead,
                    "S3 raw/ (out)": len(ledger.s3_raw),
                    "S3 scored/ (out)": len(ledger.s3_scored),
                },
                under_way=max(0, sent - scored - dead),
                latest=tuple(self._latest),
                dead_letters=dict(self._reasons),
                addresses=addresses,
            )

    def summary(
        self, truth_path: Path, seconds: float, sent: int, refused: int, problems: list[str]
    ) -> Summary:
        """Reconcile against the truth; call it when sender and tails have ended.

        Parameters
        ----------
        truth_path
            What the sender wrote.
        seconds
            How long the run took.
        sent, refused
            As the sender counted them.
        problems
            What went wrong besides.
        """
        with truth_path.open(encoding="utf-8") as truth:
            for line in truth:
                record = json.loads(line)
                self._ledger.add_acknowledged(SourceId.of(record))
                if record["fate"] is not None:
                    self._ledger.add_fate(SourceId.of(record), record["fate"])
        acknowledged = len(self._ledger.acknowledged)
        if acknowledged != sent:
            problems = [*problems, f"{sent} were sent, yet got {acknowledged} different source_ids"]
        return self._ledger.summary(seconds, refused=refused, other_problems=problems)


def run(
    options: RunOptions, config: ReviewScoringConfig, records: Iterator[Outgoing], console: Console
) -> Summary:
    """Carry a whole run through and write `summary.json` into its directory.

    Ctrl-C once ends the sending; the run then ends as a bounded one does. Ctrl-C again, or when
    nothing is being sent, ends it at once.

    Parameters
    ----------
    options
        How.
    config
        Names the streams; that of `jobs.PROPERTIES`.
    records
        What to send.
    console
        Takes progress, the live view and the summary.

    Raises
    ------
    RunError
        A job failed, or a thread of the run did.
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
        model_dir=jobs.MODEL_DIR, properties=jobs.PROPERTIES, shards=options.shards
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
        config: ReviewScoringConfig,
        records: Iterator[Outgoing],
        console: Console,
        stack: Stack,
    ) -> None:
        self._options = options
        self._config = config
        self._console = console
        self._stack = stack
        self._recorder = Recorder()
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
            self._truth_path, seconds, self._sender.sent, self._sender.refused, self._problems
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

    def _follow(self) -> None:
        config, recorder, stack = self._config, self._recorder, self._stack
        for stream, take in (
            (config.reviews.stream, recorder.sent),
            (config.scored_reviews.stream, recorder.scored),
            (config.dead_letters.stream, recorder.dead_letter),
        ):
            self._tails.append(StreamTail(stack.client("kinesis"), stream, take))
        for prefix, take_line in (("raw/", recorder.s3_raw), ("scored/", recorder.s3_scored)):
            self._tails.append(ArchiveTail(stack.client("s3"), BUCKET, prefix, take_line))
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
                            f"  first scored review after {snapshot.seconds:.1f} s of sending, the"
                            " job's start included"
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
        for job, job_id in self._job_ids.items():
            try:
                with self._console.status(f"draining {job} with flink stop --drain"):
                    self._stack.cluster.stop_job(job_id, drain=True)
            except (FlinkClientError, JobFailedError, OSError) as error:
                # What has come through is worth reporting all the same.
                self._stack.check()
                self._problems.append(f"{job} could not be drained: {error}")
            else:
                self._console.print(f"  {job}: drained")

    def _report(self, summary: Summary, path: Path) -> None:
        table = Table(title="summary", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("sent", f"{summary.sent:,}")
        if summary.refused:
            table.add_row("refused: over Kinesis's 1 MiB, not sent", f"{summary.refused:,}")
        table.add_row("scored", f"{summary.scored:,}")
        for stage, reasons in summary.dead_letters.items():
            for reason, count in reasons.items():
                table.add_row(f"dead letters: {stage}/{reason}", f"{count:,}")
        table.add_row("unaccounted", f"{summary.unaccounted:,}")
        table.add_row("S3 raw / scored", f"{summary.s3_raw:,} / {summary.s3_scored:,}")
        table.add_row("repeats", f"{summary.repeats:,}")
        table.add_row("seconds", f"{summary.seconds:.1f}")
        if summary.truth_matches is not None:
            table.add_row("truth matches", "yes" if summary.truth_matches else "no")
        table.add_row("reconciled", "yes" if summary.reconciled else "NO")
        self._console.print(table)
        for problem in summary.problems:
            self._console.print(f"does not reconcile: {problem}", style="red", markup=False)
        self._console.print(f"written to {path}", markup=False)


def _in_words(error: BaseException) -> str:
    """Return an error in words; many of Python's own say nothing without their names."""
    return f"{type(error).__name__}: {error}"
