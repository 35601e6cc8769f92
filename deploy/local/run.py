"""One run of the whole thing on a laptop: start, send, watch, wait, drain, reconcile."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from deploy.local import jobs
from deploy.local.pipeline import Pipeline
from deploy.local.records import Outgoing
from deploy.local.replay import Replay
from deploy.local.sample import SampleConfig
from deploy.local.stack import SUMMARY, Stack, StackOptions
from deploy.local.summary import Summary
from deploy.local.view import Snapshot, View
from deploy.tables import print_table

_REFRESH_S = 0.5
_PLAIN_LINE_S = 5.0


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
    )
    with Stack(
        options.run_dir, stack_options, on_progress=lambda line: console.print(f"  {line}")
    ) as stack:
        pipeline = Pipeline(
            stack,
            config,
            options.jobs,
            records,
            console,
            rate_per_s=options.rate_per_s,
            limit=options.limit,
            duration_s=options.duration_s,
        )
        try:
            return _Run(options, pipeline, records, console, stack).carry_through()
        except Exception:
            # A part that has died explains it better; its sockets close before it is gone.
            stack.check()
            time.sleep(_REFRESH_S)
            stack.check()
            raise
        finally:
            pipeline.end_threads()


class _Run:
    def __init__(
        self,
        options: RunOptions,
        pipeline: Pipeline,
        records: Iterator[Outgoing],
        console: Console,
        stack: Stack,
    ) -> None:
        self._options = options
        self._pipeline = pipeline
        self._records = records
        self._console = console
        self._is_interrupted = False
        self._start_s = time.monotonic()
        info = stack.info
        self._addresses = {
            "Flink web UI": info.web_ui_url,
            "endpoint": f"{info.endpoint_url}/stats",
            "AWS emulator": f"{info.emulator_url}/moto-api/",
            "logs": str(options.run_dir / "logs"),
        }

    def carry_through(self) -> Summary:
        pipeline = self._pipeline
        pipeline.submit()
        pipeline.wait_until_running(self._options.start_timeout_s)
        pipeline.follow()
        self._start_s = time.monotonic()
        pipeline.sender.start()
        self._watch()
        seconds = time.monotonic() - self._start_s
        if pipeline.sender.sent == 0:
            if self._is_interrupted:
                raise KeyboardInterrupt
            pipeline.problems.append("nothing was sent")
        if pipeline.sender.error is not None:
            pipeline.problems.append(str(pipeline.sender.error))
        pipeline.drain(self._options.stall_timeout_s)
        summary = pipeline.summary(seconds)
        path = self._options.run_dir / SUMMARY
        path.write_text(json.dumps(summary.as_json(), indent=2) + "\n", encoding="utf-8")
        self._report(summary, path)
        return summary

    def _sending(self) -> str:
        if not isinstance(self._records, Replay):
            return "sending"
        return f"sending {self._records.progress(self._options.limit)},"

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
                    is_sending = self._pipeline.sender.is_alive()
                    self._pipeline.check()
                    snapshot = self._pipeline.recorder.snapshot(
                        self._sending() if is_sending else "waiting until all is through",
                        time.monotonic() - self._start_s,
                        self._pipeline.sender.sent,
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
                    if self._is_interrupted or not self._pipeline.sender.is_alive():
                        raise
                    self._is_interrupted = True
                    self._pipeline.sender.stop()
                    self._console.print(
                        "  Ctrl-C: no more reviews are sent; waiting until all is through"
                        " (Ctrl-C again ends at once)"
                    )

    def _report(self, summary: Summary, path: Path) -> None:
        print_table(self._console, summary.as_table())
        for problem in summary.problems:
            self._console.print(f"does not reconcile: {problem}", style="red", markup=False)
        self._console.print(f"written to {path}", markup=False)
