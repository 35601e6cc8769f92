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
from deploy.local.generator import GeneratorOptions, generate
from deploy.local.ledger import Ledger, SourceId, Summary
from deploy.local.records import Outgoing
from deploy.local.replay import replay
from deploy.local.sender import Sender
from deploy.local.stack import BUCKET, Stack, StackOptions
from deploy.local.tails import ArchiveTail, Arrived, StreamTail, Tail
from deploy.local.view import LATEST_ROWS, LatestReview, Snapshot, View
from flink_jobs.config import ReviewScoringConfig, load_config

_REFRESH_S = 0.5
_PLAIN_LINE_S = 5.0
_JOB_CHECK_S = 2.0


class RunError(RuntimeError):
    """A run that could not be carried through; the message says what to look at."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `make run` can be told.

    Attributes
    ----------
    run_dir
        Logs, the truth and the summary.
    reviews
        A file to replay; None: the generator.
    rate_per_s
        Reviews a second; None: as fast as the stream takes them.
    limit, duration_s
        Bounds; without them, and without a file, the run lasts until Ctrl-C.
    seed
        Of the generator.
    jobs
        Jobs to submit, upstream first.
    stall_timeout_s
        When nothing has come through for so long after the last review was sent, the run gives
        up waiting and reports what is missing.
    overrides
        Runtime properties by group and key, over the local sample's.
    """

    run_dir: Path
    reviews: Path | None = None
    rate_per_s: float | None = 200.0
    limit: int | None = None
    duration_s: float | None = None
    seed: int = 1
    jobs: tuple[str, ...] = jobs.JOBS
    stall_timeout_s: float = 120.0
    overrides: Mapping[str, Mapping[str, str]] | None = None


class Recorder:
    """Takes what the tails hand over, from their threads, into the ledger and the view."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._latest: deque[LatestReview] = deque(maxlen=LATEST_ROWS)
        self._reasons: Counter[str] = Counter()

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
                self._reasons[f"{letter['stage']}/{letter['reason']}"] += 1

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

    def summary(self, truth_path: Path, seconds: float) -> Summary:
        """Reconcile against the truth; call it when the tails have ended."""
        with truth_path.open(encoding="utf-8") as truth:
            for line in truth:
                record = json.loads(line)
                if record["fate"] is not None:
                    self._ledger.add_fate(SourceId.of(record), record["fate"])
        return self._ledger.summary(seconds)


def run(options: RunOptions, console: Console) -> Summary:
    """Carry a whole run through and write `summary.json` into its directory.

    Ctrl-C once ends the sending; the run then ends as a bounded one does. Ctrl-C again ends it at
    once.

    Raises
    ------
    RunError
        A job failed, or a thread of the run did.
    PartError
        A part of the laptop's AWS died; names it and its log.
    ConfigError
        The runtime properties are unusable.
    KeyboardInterrupt
        Ctrl-C before the first review was sent, or a second time.
    """
    if options.reviews is not None and not options.reviews.is_file():
        raise RunError(f"there is no file {options.reviews}")
    stack_options = StackOptions(model_dir=jobs.MODEL_DIR, properties=jobs.PROPERTIES)
    with Stack(
        options.run_dir, stack_options, on_progress=lambda line: console.print(f"  {line}")
    ) as stack:
        return _Run(options, console, stack).carry_through()


class _Run:
    def __init__(self, options: RunOptions, console: Console, stack: Stack) -> None:
        self._options = options
        self._console = console
        self._stack = stack
        self._properties = {
            job: stack.properties_for(job, options.overrides) for job in options.jobs
        }
        config = load_config(self._properties[options.jobs[0]])
        self._config: ReviewScoringConfig = config
        self._recorder = Recorder()
        self._truth_path = options.run_dir / "truth.jsonl"
        self._tails: list[Tail] = []
        self._job_ids: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._start_s = time.monotonic()
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
        sender = self._sender()
        self._follow()
        self._start_s = time.monotonic()
        sender.start()
        self._watch(sender)
        seconds = time.monotonic() - self._start_s
        self._drain()
        for tail in self._tails:
            tail.finish()
        summary = self._recorder.summary(self._truth_path, seconds)
        path = self._options.run_dir / "summary.json"
        path.write_text(json.dumps(summary.as_json(), indent=2) + "\n", encoding="utf-8")
        self._report(summary, sender, path)
        return summary

    def _submit(self) -> None:
        pyfiles = jobs.write_pyfiles()
        for job in self._options.jobs:
            with self._console.status(f"submitting {job} with flink run"):
                self._job_ids[job] = self._stack.cluster.submit(
                    entry=jobs.ENTRY,
                    properties=self._properties[job],
                    jarfile=jobs.JAR,
                    pyfiles=pyfiles,
                )
            self._console.print(f"  {job}: job {self._job_ids[job]}")

    def _records(self) -> Iterator[Outgoing]:
        reviews = self._config.reviews
        if self._options.reviews is not None:
            return replay(self._options.reviews, reviews.format)
        generator = GeneratorOptions(format=reviews.format, max_body_bytes=reviews.max_body_bytes)
        return generate(generator, self._options.seed, time.time)

    def _sender(self) -> Sender:
        return Sender(
            self._stack.client("kinesis"),
            self._config.reviews.stream,
            self._records(),
            self._truth_path,
            rate_per_s=self._options.rate_per_s,
            limit=self._options.limit,
            duration_s=self._options.duration_s,
        )

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

    def _watch(self, sender: Sender) -> None:
        view = View(time.monotonic)
        is_live = self._console.is_terminal
        next_line_s = 0.0
        before: Snapshot | None = None
        progress_s = time.monotonic()
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            while True:
                try:
                    self._check(sender)
                    phase = "sending" if sender.is_alive() else "waiting until all is through"
                    snapshot = self._recorder.snapshot(
                        phase, time.monotonic() - self._start_s, sender.sent, self._addresses
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
                    if not sender.is_alive() and (
                        snapshot.under_way == 0
                        or now_s - progress_s > self._options.stall_timeout_s
                    ):
                        return
                    time.sleep(_REFRESH_S)
                except KeyboardInterrupt:
                    if not sender.is_alive():
                        raise
                    sender.stop()
                    self._console.print(
                        "  Ctrl-C: no more reviews are sent; waiting until all is through"
                        " (Ctrl-C again ends at once)"
                    )
                    sender.join()

    def _check(self, sender: Sender) -> None:
        self._stack.check()
        threads: list[Sender | Tail] = [sender, *self._tails]
        for thread in threads:
            if thread.error is not None:
                raise RunError(f"{thread.name} failed: {thread.error!r}") from thread.error
        now_s = time.monotonic()
        if now_s < self._next_job_check_s:
            return
        self._next_job_check_s = now_s + _JOB_CHECK_S
        for job, job_id in self._job_ids.items():
            state = self._stack.cluster.job_state(job_id)
            if state in ("FAILED", "CANCELED", "FINISHED", "SUSPENDED"):
                why = self._stack.cluster.exceptions(job_id) or "no exception is recorded"
                raise RunError(f"job {job} is {state}: {why}")
            why = self._stack.cluster.exceptions(job_id)
            if why and why != self._failures.get(job):
                self._failures[job] = why
                self._console.print(
                    f"  {job} failed and is restarted: {why}", style="yellow", markup=False
                )

    def _drain(self) -> None:
        for job, job_id in self._job_ids.items():
            with self._console.status(f"draining {job} with flink stop --drain"):
                self._stack.cluster.stop_job(job_id, drain=True)
            self._console.print(f"  {job}: drained")

    def _report(self, summary: Summary, sender: Sender, path: Path) -> None:
        table = Table(title="summary", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("sent", f"{summary.sent:,}")
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
        if sender.refused:
            self._console.print(
                f"{sender.refused} records exceed what a Kinesis record can hold (1 MiB) and were"
                " not sent"
            )
        for problem in summary.problems:
            self._console.print(f"does not reconcile: {problem}", style="red", markup=False)
        self._console.print(f"written to {path}", markup=False)
