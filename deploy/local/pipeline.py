"""The jobs of a stack with all that goes in and comes out: submit, follow, send, drain, reconcile.

What a run shows and what a fault harness breaks in between is theirs; see `deploy.local.run`.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from deploy.local import jobs
from deploy.local.cluster import ENDED_STATES, MEASURES_AGE_S, FlinkClientError, JobFailedError
from deploy.local.metrics import Point, read_points
from deploy.local.recorder import Recorder
from deploy.local.records import Outgoing
from deploy.local.replay import DamagedFileError
from deploy.local.sample import SampleConfig
from deploy.local.sender import Sender
from deploy.local.stack import BUCKET, TRUTH, Stack
from deploy.local.summary import Summary
from deploy.local.tails import ArchiveTail, QueueTail, StreamTail, Tail

_POLL_S = 0.5
_JOB_CHECK_S = 2.0
_REST_PATIENCE_S = 30.0
_THREAD_END_S = 1.0


class RunError(RuntimeError):
    """A run that could not be carried through; the message says what to look at."""


class Pipeline:
    """Some jobs over a running stack, a sender, and tails on everything that comes out.

    Call `submit`, `wait_until_running`, `follow` and `sender.start` in this order; when enough was
    sent, `sender.stop`, `drain` and `summary`; `end_threads` in any case.

    Parameters
    ----------
    stack
        Owned by the caller.
    config
        Names streams and topic; that of the stack's properties.
    job_names
        Jobs to run, upstream first.
    records
        What to send.
    console
        Takes progress.
    rate_per_s, limit, duration_s
        As of `Sender`.
    entry
        The script that builds the jobs.
    jarfile
        The connectors' jar.
    pyfiles
        What script and workers import; None: a zip of this project's packages.
    parallelism
        Of every job; None: the cluster's default.
    overrides
        Property values by group and key, over the stack's properties.
    scored_shards
        Of the stream of scored reviews.

    Attributes
    ----------
    sender, recorder
        What goes in, and what came out.
    job_ids
        Of the jobs that must run, by name.
    problems
        What went wrong, in words; `summary` takes them in.
    """

    def __init__(
        self,
        stack: Stack,
        config: SampleConfig,
        job_names: tuple[str, ...],
        records: Iterator[Outgoing],
        console: Console,
        *,
        rate_per_s: float | None = None,
        limit: int | None = None,
        duration_s: float | None = None,
        entry: Path = jobs.ENTRY,
        jarfile: Path = jobs.JAR,
        pyfiles: Path | None = None,
        parallelism: int | None = None,
        overrides: Mapping[str, Mapping[str, str]] | None = None,
        scored_shards: int = 1,
    ) -> None:
        self.stack = stack
        self.config = config
        self.job_names = job_names
        self._console = console
        self._entry = entry
        self._jarfile = jarfile
        self._pyfiles = pyfiles
        self._parallelism = parallelism
        self._overrides = overrides
        self._scored_shards = scored_shards
        self.recorder = Recorder(
            job_names,
            config.reviews.stream,
            config.windows.lg_k,
            config.windows.sizes,
            config.reviews.separate,
        )
        self._truth_path = stack.info.run_dir / TRUTH
        # One attempt a call: a second one might put records in twice.
        self.sender = Sender(
            stack.client("kinesis", attempts=1),
            config.reviews.stream,
            records,
            self._truth_path,
            rate_per_s=rate_per_s,
            limit=limit,
            duration_s=duration_s,
        )
        self.problems: list[str] = []
        self.job_ids: dict[str, str] = {}
        self._tails: list[Tail] = []
        self._failures: Counter[str] = Counter()
        self._last_failure_ms: dict[str, int] = {}
        self._jobs_seen_s = time.monotonic()
        self._next_job_check_s = 0.0

    def submit(self) -> None:
        """Submit all jobs, upstream first.

        Raises
        ------
        FlinkClientError
            One could not be submitted.
        """
        for job in self.job_names:
            self.submit_job(job, parallelism=self._parallelism)

    def submit_job(
        self, job: str, *, savepoint: str | None = None, parallelism: int | None = None
    ) -> None:
        """Submit one job, from a savepoint where one is given; see `FlinkClient.submit`."""
        with self._console.status(f"submitting {job} with flink run"):
            self.job_ids[job] = self.stack.cluster.submit(
                entry=self._entry,
                properties=self.stack.properties_for(job, self._overrides),
                jarfile=self._jarfile,
                pyfiles=self._pyfiles or jobs.write_pyfiles(),
                savepoint=savepoint,
                parallelism=parallelism,
            )
        self._console.print(f"  {job}: job {self.job_ids[job]}")

    def wait_until_running(self, timeout_s: float) -> None:
        """Wait until no event time can pass by a job that is still starting.

        Raises
        ------
        RunError
            A job has failed, or not all of its tasks run within `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        self._jobs_seen_s = time.monotonic()
        starting = dict(self.job_ids)
        with self._console.status("waiting until every task runs"):
            while starting:
                self.check()
                for job, job_id in list(starting.items()):
                    with contextlib.suppress(OSError):
                        if self.stack.cluster.is_running(job_id):
                            del starting[job]
                if starting and time.monotonic() > deadline_s:
                    raise RunError(
                        f"{', '.join(starting)} did not start within {timeout_s:g} s;"
                        f" see {self.stack.info.run_dir / 'logs'}"
                    )
                if starting:
                    time.sleep(_POLL_S)
        self._console.print("  every task runs")

    def follow(self) -> None:
        """Begin to read everything that comes out."""
        config, recorder, stack = self.config, self.recorder, self.stack
        for stream, take in (
            (config.reviews.stream, recorder.sent),
            (config.scored_reviews.stream, recorder.scored),
            (config.dead_letters.stream, recorder.dead_letter),
            (config.review_metrics.stream, recorder.window),
            (config.rating_anomalies.stream, recorder.anomaly),
        ):
            self._tails.append(StreamTail(stack.client("kinesis"), stream, take))
        for prefix, take_line in (
            ("raw/", recorder.s3_raw),
            ("scored/", recorder.s3_scored),
            ("metrics/", recorder.s3_window),
        ):
            self._tails.append(ArchiveTail(stack.client("s3"), BUCKET, prefix, take_line))
        self._tails.append(QueueTail(stack.client("sqs"), config.alerts_topic, recorder.alert))
        for tail in self._tails:
            tail.start()

    def check(self) -> None:
        """Do nothing while all is well; tell the console of each restart.

        Raises
        ------
        PartDiedError
            A part of the stack has ended.
        RunError
            A job or a thread has failed, or the JobManager has been silent for long.
        """
        self.stack.check()
        threads: list[Sender | Tail] = [self.sender, *self._tails]
        for thread in threads:
            # What came before the damage is sent, and worth following to its end.
            if thread.error is not None and not isinstance(thread.error, DamagedFileError):
                words = f"{thread.name} failed: {_in_words(thread.error)}"
                raise RunError(words) from thread.error
        now_s = time.monotonic()
        if now_s < self._next_job_check_s:
            return
        self._next_job_check_s = now_s + _JOB_CHECK_S
        try:
            for job, job_id in self.job_ids.items():
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
        cluster = self.stack.cluster
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

    def drain(self, timeout_s: float) -> None:
        """Drain the jobs, upstream first, each when it has read all that was written for it.

        What goes wrong is noted among the problems: what has come through is worth reporting all
        the same.

        Parameters
        ----------
        timeout_s
            How long a job may take to read all, in seconds.

        Raises
        ------
        PartDiedError
            A part of the stack has ended.
        RunError
            A job that still has to run, or a thread, has failed.
        """
        for job, job_id in list(self.job_ids.items()):
            if job != "review_scoring":
                self._wait_until_read(job, job_id, timeout_s)
            # What is being ended need not run any more.
            del self.job_ids[job]
            try:
                with self._console.status(f"draining {job} with flink stop --drain"):
                    self.stack.cluster.stop_job(job_id, drain=True)
            except (FlinkClientError, JobFailedError, OSError) as error:
                self.stack.check()
                self.problems.append(f"{job} could not be drained: {error}")
            else:
                self._console.print(f"  {job}: drained")

    def _wait_until_read(self, job: str, job_id: str, timeout_s: float) -> None:
        stream = self.config.scored_reviews.stream
        deadline_s = time.monotonic() + timeout_s
        unread_s = time.monotonic()
        with self._console.status(f"waiting until {job} has read all of {stream}"):
            while time.monotonic() - unread_s <= MEASURES_AGE_S:
                self.check()
                unread = self._unread(job_id, stream)
                if unread:
                    unread_s = time.monotonic()
                if time.monotonic() > deadline_s:
                    measures = ", ".join(f"{name} {value}" for name, value in unread.items())
                    self.problems.append(
                        f"{job} has not read all of {stream} within {timeout_s:g} s: {measures}"
                    )
                    return
                time.sleep(_POLL_S)

    def _unread(self, job_id: str, stream: str) -> dict[str, str]:
        try:
            return self.stack.cluster.unread(job_id, stream, self._scored_shards)
        except OSError as error:
            # A JobManager under load; `check` has patience with it, but not forever.
            return {"no measures": str(error)}

    def summary(self, seconds: float) -> Summary:
        """Read everything to its end and reconcile it; the jobs were drained before.

        Parameters
        ----------
        seconds
            How long the run took.

        Raises
        ------
        RunError
            Not everything could be read.
        """
        for tail in self._tails:
            try:
                tail.finish()
            except Exception as error:
                raise RunError(f"{tail.name} failed: {_in_words(error)}") from error
        return self.recorder.summary(
            self._truth_path,
            seconds,
            self.sender.sent,
            self.sender.refused,
            self.problems,
            self._points(),
        )

    def end_threads(self) -> None:
        """End sender and tails, whatever they are at."""
        threads: list[Sender | Tail] = [self.sender, *self._tails]
        for thread in threads:
            thread.stop()
        for thread in threads:
            if thread.is_alive():
                thread.join(_THREAD_END_S)

    def _points(self) -> Iterator[Point]:
        if (span := self.recorder.windows_in_cloudwatch()) is None:
            return iter(())
        namespace = self.config.cloudwatch.namespace
        return read_points(self.stack.client("cloudwatch"), namespace, *span)


def _in_words(error: BaseException) -> str:
    """Return an error in words; many of Python's own say nothing without their names."""
    return f"{type(error).__name__}: {error}"
