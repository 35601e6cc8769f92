"""What can be broken, one thing at a time; each asserts that it was."""

import contextlib
import os
import signal
import time

import psutil

from deploy.local.emulator import answers
from deploy.local.process import Child, wait_ready
from deploy.local.stack import Stack
from tests import kills
from tests.faults.harness import PARALLELISM, Bite, Fault, NoBiteError, Rig, Setting
from tests.workers import python_workers

_AWAY_S = 20.0
_NOTICE_TIMEOUT_S = 60.0
_AIMED_KILLS = 50
_OTHER_PARALLELISM = PARALLELISM - 1


def kill_task_manager(rig: Rig) -> Bite:
    """Kill -9 of one of two TaskManagers, with its Python workers."""
    victim = rig.stack.cluster.task_managers[-1]
    since_s, since_ms = time.monotonic(), time.time() * 1000
    victim.kill()
    return Bite(f"{victim.name} killed; {_restarts(rig, since_ms)}", since_s)


def kill_python_workers(rig: Rig) -> Bite:
    """Kill -9 of every Python worker."""
    workers = python_workers(rig.stack)
    if not workers:
        raise NoBiteError("there is no Python worker")
    since_s, since_ms = time.monotonic(), time.time() * 1000
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    return Bite(f"{len(workers)} Python workers killed; {_restarts(rig, since_ms)}", since_s)


def rescale(rig: Rig) -> Bite:
    """Stop every job with a savepoint and start it from there with another parallelism."""
    pipeline, cluster = rig.pipeline, rig.stack.cluster
    since_s = time.monotonic()
    for job in pipeline.job_names:
        # It need not run while it is stopped.
        savepoint = cluster.stop_job(pipeline.job_ids.pop(job), drain=False)
        pipeline.submit_job(job, savepoint=savepoint, parallelism=_OTHER_PARALLELISM)
    pipeline.wait_until_running(_NOTICE_TIMEOUT_S)
    for job, job_id in pipeline.job_ids.items():
        tasks = cluster.get(f"/jobs/{job_id}")["vertices"]
        restored = cluster.get(f"/jobs/{job_id}/checkpoints")["latest"]["restored"]
        if {task["parallelism"] for task in tasks} != {_OTHER_PARALLELISM}:
            raise NoBiteError(f"{job} has not parallelism {_OTHER_PARALLELISM}")
        if restored is None or not restored["is_savepoint"]:
            raise NoBiteError(f"{job} did not start from its savepoint")
    return Bite(
        f"all jobs restored from savepoints with parallelism {_OTHER_PARALLELISM}"
        f" instead of {PARALLELISM}",
        since_s,
    )


def endpoint_away(rig: Rig) -> Bite:
    """Nothing listens on the endpoint's port for 20 s."""
    endpoint = _part(rig.stack, "endpoint")
    url = f"{rig.stack.info.endpoint_url}/ping"
    began_s = time.monotonic()
    endpoint.kill()
    rig.watch(_AWAY_S)
    if _is_there(url):
        raise NoBiteError("the endpoint still answers")
    lag_s = _standstill_s(rig, began_s)
    endpoint.start()
    wait_ready([endpoint], lambda: answers(url), _NOTICE_TIMEOUT_S)
    return Bite(f"no endpoint for {_AWAY_S:g} s; scoring {lag_s:.0f} s behind", time.monotonic())


def emulator_away(rig: Rig) -> Bite:
    """Kinesis, Firehose, CloudWatch and SNS take connections and say nothing for 20 s."""
    emulator = _part(rig.stack, "emulator")
    url = f"{rig.stack.info.emulator_url}/moto-api/"
    began_s = time.monotonic()
    os.kill(emulator.pid, signal.SIGSTOP)
    try:
        rig.watch(_AWAY_S)
        if _is_there(url):
            raise NoBiteError("the emulator still answers")
        lag_s = _standstill_s(rig, began_s)
    finally:
        os.kill(emulator.pid, signal.SIGCONT)
    return Bite(f"no AWS for {_AWAY_S:g} s; scoring {lag_s:.0f} s behind", time.monotonic())


def kill_worker_in_checkpoint(rig: Rig) -> Bite:
    """Kill -9 of every Python worker while a checkpoint waits for their bundles, 50 times."""
    [job_id] = rig.pipeline.job_ids.values()
    with kills.slow_endpoint(rig.stack):
        for number in range(1, _AIMED_KILLS + 1):
            if not rig.until(lambda: kills.is_moment(rig.stack, job_id), _NOTICE_TIMEOUT_S):
                raise NoBiteError(f"no checkpoint has waited for a bundle before kill {number}")
            _restarts(rig, kills.kill_workers(rig.stack))
    return Bite(
        f"all Python workers killed {_AIMED_KILLS} times, each while a checkpoint was in progress"
        " and the endpoint had requests in hand; the job failed and was restarted each time",
        time.monotonic(),
    )


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_task_manager,
        kill_python_workers,
        kill_worker_in_checkpoint,
        rescale,
        endpoint_away,
        emulator_away,
    )
}
"""All of them, by name."""

SETTINGS: dict[str, Setting] = {
    kill_worker_in_checkpoint.__name__: Setting(
        # It is their operators that wait for an answer; the others would only start more slowly.
        job_names=("review_scoring",),
        # Of these the endpoint, which is slow meanwhile, answers most between two kills.
        rate_per_s=20.0,
        broken_share=0.0,
        properties=kills.PROPERTIES,
        flink_overrides=kills.FLINK_OVERRIDES,
    )
}
"""Of the faults that need one of their own."""


def _restarts(rig: Rig, since_ms: float) -> str:
    expected = set(rig.pipeline.job_ids)
    if not rig.until(lambda: rig.restarted(since_ms) == expected, _NOTICE_TIMEOUT_S):
        unharmed = expected - rig.restarted(since_ms)
        raise NoBiteError(f"{', '.join(sorted(unharmed))} did not fail")
    return "every job failed and was restarted"


def _standstill_s(rig: Rig, began_s: float) -> float:
    lag_s = rig.lags.series.highest("review_scoring", began_s)
    if lag_s < _AWAY_S / 2:
        raise NoBiteError(f"scoring was at most {lag_s:.1f} s behind")
    return lag_s


def _part(stack: Stack, name: str) -> Child:
    return next(part for part in stack.parts if part.name == name)


def _is_there(url: str) -> bool:
    try:
        return answers(url)
    except OSError:
        return False
