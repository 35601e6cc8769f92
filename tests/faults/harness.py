"""A whole pipeline, one thing in it broken while reviews flow, and every record accounted for."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.local import jobs
from deploy.local.generator import GeneratorOptions, generate
from deploy.local.pipeline import Pipeline, RunError
from deploy.local.sample import load_sample
from deploy.local.stack import Stack, StackOptions
from deploy.local.windows import WINDOW_MS
from tests.faults.lag import LagRecorder

PARALLELISM = 2

_TASK_MANAGERS = 2
_SCORED_SHARDS = 2
_POLL_S = 0.2
_START_TIMEOUT_S = 180.0
_SETTLE_TIMEOUT_S = 120.0
_CHECKPOINT_TIMEOUT_S = 20.0
# On a busy machine the first windows take their time.
_LATE_FREE_S = 25.0
# After a restart one half of a backlog may be read seconds before the other: with the generator's
# own disorder that must stay within the watermark's delay.
_MAX_DISORDER_S = 2.0
# No fault keeps a window open for so long, on whatever machine.
_MIN_LATENESS_S = 600.0
_TOLERANCE_S = 2.0


class NoBiteError(Exception):
    """The fault had no effect that could be seen: what passes then proves nothing."""


@dataclass(frozen=True)
class Bite:
    """What a fault was seen to do.

    Attributes
    ----------
    seen
        In words.
    since_s
        From when on the pipeline could recover, as `time.monotonic` has it: the moment of a kill,
        the end of an outage.
    """

    seen: str
    since_s: float


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """What became of one run; a row of `build/faults.json`.

    Attributes
    ----------
    fault
        Its name.
    sent
        Records in the stream `reviews`.
    lost
        Those that were neither scored nor dead-lettered.
    truth_matches
        Whether every record met the fate that it was generated for: no valid review was
        dead-lettered because of the fault, none became late.
    repeats
        In all outputs together; readers drop them.
    recovery_s
        From the fault (an outage: from its end) until no job was further behind than before it.
        None: that did not happen in time.
    passed
        Whether nothing was lost, all counts and windows reconcile, the truth matches, the fault
        was seen to bite and the pipeline recovered.
    seen
        What the fault was seen to do.
    problems
        Everything that does not add up, in words.
    """

    fault: str
    sent: int = 0
    lost: int | None = None
    truth_matches: bool | None = None
    repeats: int = 0
    recovery_s: float | None = None
    passed: bool = False
    seen: str = ""
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """How a pipeline is run that something will be broken in.

    Attributes
    ----------
    rate_per_s
        Reviews a second.
    break_after_s
        How long reviews flow through every job, in seconds, before something is broken.
    recovery_timeout_s
        How long it may take until no job is further behind than before.
    entry
        The script that builds the jobs.
    seed
        Of the reviews.
    """

    rate_per_s: float = 100.0
    break_after_s: float = 5.0
    recovery_timeout_s: float = 120.0
    entry: Path = jobs.ENTRY
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a fault needs of the pipeline that it is to break.

    Attributes
    ----------
    job_names
        Jobs to run, upstream first.
    rate_per_s
        Reviews a second; None: as the options have it.
    broken_share
        Of the reviews; None: the generator's own.
    properties
        Property values by group and key, over the sample's.
    flink_overrides
        Flink configuration by flat key, over the harness's own.
    """

    job_names: tuple[str, ...] = jobs.JOBS
    rate_per_s: float | None = None
    broken_share: float | None = None
    properties: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    flink_overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Rig:
    """What a fault may use: a pipeline under way, and how far behind its jobs are."""

    pipeline: Pipeline
    lags: LagRecorder

    @property
    def stack(self) -> Stack:
        """The parts."""
        return self.pipeline.stack

    def watch(self, seconds: float) -> None:
        """Let the pipeline go on for so long."""
        end_s = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end_s, seconds + 1.0)

    def until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is so, and return whether it became so in time.

        Raises
        ------
        PartError, RunError
            Something has failed that should run.
        """
        deadline_s = time.monotonic() + timeout_s
        while not _answered(is_so):
            if time.monotonic() > deadline_s:
                return False
            self.pipeline.check()
            if self.lags.error is not None:
                raise RunError(f"the lags are not known: {self.lags.error!r}") from self.lags.error
            time.sleep(_POLL_S)
        return True

    def restarted(self, since_ms: float) -> set[str]:
        """Return the jobs that have failed since a moment (ms from the epoch)."""
        cluster = self.stack.cluster
        return {
            job
            for job, job_id in self.pipeline.job_ids.items()
            if any(failure.time_ms >= since_ms for failure in cluster.failures(job_id))
        }


Fault = Callable[[Rig], Bite]
"""Breaks one thing, repairs what does not recover by itself, and returns when it was seen to bite.

Raises `NoBiteError` where it was not.
"""


def break_once(
    fault: Fault,
    run_dir: Path,
    console: Console,
    options: HarnessOptions | None = None,
    setting: Setting | None = None,
) -> FaultRow:
    """Start a pipeline, let it settle, break one thing, let it recover, drain it and reconcile.

    Parameters
    ----------
    fault
        See `Fault`; its name is that of the row.
    run_dir
        Logs, the truth.
    console
        Takes progress.
    options
        How; the defaults where None.
    setting
        What the fault needs; the defaults where None.

    Returns
    -------
    FaultRow
        Also where the run could not be carried through: `problems` says why then.
    """
    options = options or HarnessOptions()
    setting = setting or Setting()
    name = fault.__name__
    stack_options = StackOptions(
        model_dir=jobs.MODEL_DIR,
        properties=jobs.PROPERTIES,
        shards=2,
        scored_shards=_SCORED_SHARDS,
        task_managers=_TASK_MANAGERS,
        # All jobs fit on a TaskManager that is left alone.
        slots=PARALLELISM * len(jobs.JOBS),
        heartbeat_timeout_s=8.0,
        flink_overrides={
            "execution.checkpointing.interval": "2 s",
            # Every job has a subtask on every TaskManager.
            "taskmanager.load-balance.mode": "SLOTS",
            **setting.flink_overrides,
        },
    )
    try:
        with Stack(
            run_dir, stack_options, on_progress=lambda line: console.print(f"  {line}")
        ) as s:
            return _Drill(s, options, setting, console).carry_out(name, fault)
    except Exception as error:  # whatever it is, the next fault has its turn
        return FaultRow(fault=name, problems=(f"{type(error).__name__}: {error}",))


class _Drill:
    def __init__(
        self, stack: Stack, options: HarnessOptions, setting: Setting, console: Console
    ) -> None:
        self._options = options
        self._console = console
        self._config = load_sample(jobs.PROPERTIES)
        generator_options = GeneratorOptions(
            max_disorder_s=_MAX_DISORDER_S,
            late_free_s=_LATE_FREE_S,
            min_lateness_s=_MIN_LATENESS_S,
        )
        if setting.broken_share is not None:
            generator_options = replace(generator_options, broken_share=setting.broken_share)
        self._pipeline = Pipeline(
            stack,
            self._config,
            setting.job_names,
            generate(generator_options, options.seed, time.time),
            console,
            rate_per_s=setting.rate_per_s or options.rate_per_s,
            entry=options.entry,
            parallelism=PARALLELISM,
            overrides=setting.properties,
            scored_shards=_SCORED_SHARDS,
        )
        self._rig = Rig(
            self._pipeline,
            LagRecorder(lambda: self._pipeline.sender.sent, self._pipeline.recorder.through),
        )

    def carry_out(self, name: str, fault: Fault) -> FaultRow:
        pipeline, rig = self._pipeline, self._rig
        start_s = time.monotonic()
        try:
            pipeline.submit()
            pipeline.wait_until_running(_START_TIMEOUT_S)
            pipeline.follow()
            pipeline.sender.start()
            rig.lags.start()
            limits_s = self._settle()
            with self._console.status(f"{name}: breaking"):
                bite = fault(rig)
            self._console.print(f"  {name}: {bite.seen}")
            recovery_s = self._recover(bite, limits_s)
            pipeline.sender.stop()
            if recovery_s is not None:
                self._wait_until_through()
            pipeline.drain(self._options.recovery_timeout_s)
            summary = pipeline.summary(time.monotonic() - start_s)
        finally:
            if rig.lags.is_alive():
                rig.lags.stop()
            pipeline.end_threads()
        lost = None if summary.scoring is None else summary.scoring.unaccounted
        return FaultRow(
            fault=name,
            sent=summary.sent,
            lost=lost,
            truth_matches=summary.truth_matches,
            repeats=summary.repeats,
            recovery_s=recovery_s,
            passed=lost == 0
            and summary.truth_matches is True
            and summary.reconciled
            and recovery_s is not None,
            seen=bite.seen,
            problems=summary.problems,
        )

    def _settle(self) -> dict[str, float]:
        """Wait for every output and a checkpoint of it; return how far behind a job may be."""
        pipeline, rig = self._pipeline, self._rig
        with self._console.status("sending until every job has something to lose"):
            if not rig.until(lambda: all(self._counts().values()), _SETTLE_TIMEOUT_S):
                raise RunError(f"not everything has come out: {self._counts()}")
            calm_s, calm_ms = time.monotonic(), time.time() * 1000
            rig.watch(self._options.break_after_s)
            rig.until(lambda: not self._without_checkpoint(calm_ms), _CHECKPOINT_TIMEOUT_S)
            pipeline.problems += [
                f"{job} has completed no checkpoint" for job in self._without_checkpoint(calm_ms)
            ]
        limits_s = {
            job: round(rig.lags.series.highest(job, calm_s) + _TOLERANCE_S, 1)
            for job in pipeline.recorder.through()
        }
        # Of a window, less than one was seen; it is over when it ends and the watermark has come.
        windows = self._config.windows
        limits_s["review_metrics"] = (
            limits_s["review_scoring"] + windows.watermark_delay_s + WINDOW_MS / 1000
        )
        return limits_s

    def _counts(self) -> dict[str, int]:
        snapshot = self._pipeline.recorder.snapshot("", 0.0, self._pipeline.sender.sent, {})
        # Whether there are any is for the reviews to say.
        return {name: n for name, n in snapshot.counts.items() if "dead-letters" not in name}

    def _without_checkpoint(self, since_ms: float) -> list[str]:
        found = {
            job: self._rig.stack.cluster.last_checkpoint(job_id)
            for job, job_id in self._pipeline.job_ids.items()
        }
        return [
            job
            for job, checkpoint in found.items()
            if checkpoint is None or checkpoint.trigger_time_ms <= since_ms
        ]

    def _recover(self, bite: Bite, limits_s: dict[str, float]) -> float | None:
        pipeline, lags = self._pipeline, self._rig.lags
        sent = pipeline.sender.sent

        def has_recovered() -> bool:
            is_through = all(count >= sent for count in pipeline.recorder.through().values())
            return is_through and all(
                lag_s <= limits_s[job] for job, lag_s in lags.latest_s.items()
            )

        with self._console.status("waiting until every job has caught up"):
            if not self._rig.until(has_recovered, self._options.recovery_timeout_s):
                behind = {job: round(lag_s, 1) for job, lag_s in lags.latest_s.items()}
                pipeline.problems.append(
                    f"not recovered after {self._options.recovery_timeout_s:g} s: seconds behind"
                    f" {behind}, before the fault at most {limits_s}"
                )
                return None
        return round(max(0.0, lags.series.last_above(limits_s) - bite.since_s), 1)

    def _wait_until_through(self) -> None:
        pipeline = self._pipeline
        with self._console.status("waiting until all is through"):
            # What does not come is found when the counts are reconciled.
            self._rig.until(
                lambda: (
                    not pipeline.sender.is_alive()
                    and pipeline.recorder.snapshot("", 0.0, pipeline.sender.sent, {}).under_way == 0
                ),
                self._options.recovery_timeout_s,
            )


def _answered(is_so: Callable[[], bool]) -> bool:
    try:
        return is_so()
    except OSError:
        return False  # a JobManager under load; `Pipeline.check` has patience, but not forever
