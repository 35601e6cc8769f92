"""A standalone cluster, in which one job after another is measured."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from deploy.local import jobs
from deploy.local.cluster import ENDED_STATES, FlinkCluster, JobFailedError
from deploy.local.emulator import PROJECT_ROOT, answers, direct_opener, local_environment
from deploy.local.process import Child, free_port, stop_all, wait_ready
from deploy.local.sample import load_sample
from tests.benchmarks.bench import Benchmark, Measured, Options, Parameters
from tests.benchmarks.rates import Sample, is_getting_faster

COUNTED = "Source__numbers.numRecordsOut"
"""Flink's counter of what the sources in `tests.benchmarks.sources` have given."""

OVERRIDES: dict[str, str | int] = {
    # The managed service's default. Under the laptop's five seconds every measurement would hold
    # a checkpoint or two.
    "execution.checkpointing.interval": "60 s",
    # A job that fails must not be measured on.
    "restart-strategy.type": "none",
    # The counters' age, at most, when they are asked for twice in a row.
    "metrics.fetcher.update-interval": 100,
}
"""Flink's configuration, over that of the laptop's cluster."""

# Of the warm-up: what is compiled for a job of many operators takes longer.
_MAX_WARM_UPS = 4
_SPAN_S, _GAIN = 1.5, 0.05

_ENTRY = Path(__file__).with_name("entry.py")
_POLL_S = 0.1
_START_TIMEOUT_S = 120.0
_STALL_TIMEOUT_S = 60.0
_STATE_TIMEOUT_S = 300.0


class BenchCluster:
    """A cluster, and an endpoint where the benchmark needs one, within a ``with`` block.

    One lasts for a round: of every job with Python in it some 20 MB of classes stay behind in the
    TaskManager, and after thirty jobs it has no room for more.

    Parameters
    ----------
    benchmark
        Its jobs are submitted.
    options
        How long a job is watched.
    run_dir
        Logs and temporary files; must not exist.

    Attributes
    ----------
    run_dir
        Absolute.
    flink
        The cluster.
    endpoint_url
        Address of the endpoint; empty where there is none.
    """

    def __init__(self, benchmark: Benchmark, options: Options, run_dir: Path) -> None:
        self._benchmark = benchmark
        self._options = options
        self.run_dir = run_dir.absolute()
        self._endpoint: Child | None = None
        self._sample = load_sample(jobs.PROPERTIES)
        self.endpoint_url = ""

    def __enter__(self) -> BenchCluster:
        self.run_dir.mkdir(parents=True)
        self._pyfiles = _write_pyfiles(self.run_dir / "python.zip")
        # In the place of the connectors' 74 MB, which every submission would load anew for nothing.
        self._jarfile = self.run_dir / "no-connectors.jar"
        with zipfile.ZipFile(self._jarfile, "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
        self.flink = FlinkCluster(
            self.run_dir, slots=self._benchmark.parallelism, overrides=OVERRIDES
        )
        try:
            self.flink.start()
            if self._benchmark.needs_endpoint:
                self._start_endpoint()
            self.flink.wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self.flink.stop()
        stop_all([self._endpoint] if self._endpoint else [])

    def _start_endpoint(self) -> None:
        port = free_port(8090)
        argv = [sys.executable, "-m", "tests.benchmarks.endpoint", "--port", str(port)]
        self._endpoint = Child(
            "endpoint",
            [*argv, "--name", self._sample.endpoint.name],
            log_path=self.run_dir / "logs" / "endpoint.log",
            env=local_environment(self._sample.aws.region),
            cwd=PROJECT_ROOT,
        )
        self._endpoint.start()
        self.endpoint_url = f"http://127.0.0.1:{port}"
        wait_ready([self._endpoint], lambda: answers(f"{self.endpoint_url}/ping"), 60)

    def measure(self, variant: str) -> Measured:
        """Submit a variant's job, watch it in its steady state, and cancel it.

        A client is started, watched and ended in the same way.

        Raises
        ------
        FlinkClientError
            When it cannot be submitted.
        JobFailedError
            When it fails, or does not come to handle records.
        PartDiedError
            When a client ends by itself.
        """
        description = self._benchmark.variants[variant]
        if self._endpoint is not None:
            self._put_faults(description.faults)
        if description.client is not None:
            return self._measure_client(description.client)
        with self._running(variant) as (_, counter):
            self._warm_up(counter)
            return self._watch(counter)

    def state_bytes(self, variant: str, records: int) -> dict[str, int]:
        """Submit a job, let it handle so many records at least, and return what state it keeps.

        Of each task, by its name, in a savepoint of Flink's own canonical format: keys and values,
        none of the backend's files.
        """
        with self._running(variant) as (job_id, counter):
            counter.wait_until(lambda sample: sample.count >= records, _STATE_TIMEOUT_S)
            request = {
                "target-directory": (self.run_dir / "savepoints").as_uri(),
                "formatType": "CANONICAL",
            }
            trigger = self._post(f"/jobs/{job_id}/savepoints", request)["request-id"]
            self._wait_for_savepoint(f"/jobs/{job_id}/savepoints/{trigger}")
            path = f"/jobs/{job_id}/checkpoints"
            savepoint = self.flink.get(path)["latest"]["savepoint"]["id"]
            tasks = self.flink.get(f"{path}/details/{savepoint}")["tasks"]
            vertices = self.flink.get(f"/jobs/{job_id}")["vertices"]
        names = {vertex["id"]: vertex["name"] for vertex in vertices}
        return {names[vertex]: int(task["state_size"]) for vertex, task in tasks.items()}

    def _wait_for_savepoint(self, path: str) -> None:
        deadline_s = time.monotonic() + _STATE_TIMEOUT_S
        while (found := self.flink.get(path))["status"]["id"] != "COMPLETED":
            if time.monotonic() > deadline_s:
                raise JobFailedError(f"no savepoint within {_STATE_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
        if "location" not in found["operation"]:
            raise JobFailedError(f"no savepoint: {found['operation']}")

    @contextlib.contextmanager
    def _running(self, variant: str) -> Iterator[tuple[str, _Counter]]:
        """A job that has begun to handle records; stopped at the end."""
        parameters = Parameters(
            self._benchmark.name, variant, str(jobs.PROPERTIES), self.endpoint_url
        )
        path = self.run_dir / "parameters" / f"{variant}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(parameters)), encoding="utf-8")
        job_id = self.flink.submit(
            entry=_ENTRY,
            properties=path,
            jarfile=self._jarfile,
            pyfiles=self._pyfiles,
            parallelism=self._benchmark.parallelism,
        )
        try:
            counter = _JobCounter(self.flink, job_id)
            counter.wait_until(lambda sample: sample.count > 0, _START_TIMEOUT_S)
            yield job_id, counter
        finally:
            self._stop_job(job_id)

    def _measure_client(self, name: str) -> Measured:
        argv = [sys.executable, "-m", "tests.benchmarks.clients", name]
        client = Child(
            name,
            [*argv, "--url", self.endpoint_url, "--endpoint", self._sample.endpoint.name],
            log_path=self.run_dir / "logs" / f"{name}.log",
            env=local_environment(self._sample.aws.region),
            cwd=PROJECT_ROOT,
        )
        with client:
            counter = _EndpointCounter(self.endpoint_url, client)
            begun = counter.wait_until(lambda sample: sample.count > 0, _START_TIMEOUT_S).count
            counter.wait_until(lambda sample: sample.count > begun, _STALL_TIMEOUT_S)
            self._warm_up(counter)
            return self._watch(counter)

    def _put_faults(self, faults: Mapping[str, Any]) -> None:
        request = urllib.request.Request(
            f"{self.endpoint_url}/faults", data=json.dumps(faults).encode(), method="PUT"
        )
        direct_opener().open(request, timeout=10).close()

    def _post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.flink.rest_url}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with direct_opener().open(request, timeout=30) as answer:
            return json.load(answer)

    def _warm_up(self, counter: _Counter) -> None:
        samples = [counter.last]
        start_s, warm_up_s = counter.last.at_s, self._options.warm_up_s
        while (elapsed_s := samples[-1].at_s - start_s) < _MAX_WARM_UPS * warm_up_s:
            if elapsed_s >= warm_up_s and not is_getting_faster(samples, _SPAN_S, by=_GAIN):
                return
            samples.append(counter.wait_for_move(_STALL_TIMEOUT_S))

    def _watch(self, counter: _Counter) -> Measured:
        # Both ends are moments at which the counter moves: what comes in bundles is not cut.
        samples = [counter.wait_for_move(_STALL_TIMEOUT_S)]
        before = self._busy_s()
        end_s = samples[0].at_s + self._options.seconds
        while samples[-1].at_s < end_s:
            samples.append(counter.wait_for_move(_STALL_TIMEOUT_S))
        after = self._busy_s()
        elapsed_s = after.pop("at") - before.pop("at")
        cores = {who: round((after[who] - before[who]) / elapsed_s, 2) for who in before}
        return Measured(tuple(samples), cores)

    def _busy_s(self) -> dict[str, float]:
        """Return processor seconds since any start, by who used them, and when that was."""
        task_manager = psutil.Process(self.flink.task_managers[0].pid)
        busy = {
            "jvm": _processor_s(task_manager),
            "python": sum(map(_processor_s, task_manager.children(recursive=True))),
        }
        if self._endpoint is not None:
            busy["endpoint"] = _processor_s(psutil.Process(self._endpoint.pid))
        machine = psutil.cpu_times()
        idle_s = machine.idle + getattr(machine, "iowait", 0.0)
        # Guests' time is within that of the users.
        whole_s = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0)
        return {**busy, "other": whole_s - idle_s - sum(busy.values()), "at": time.monotonic()}

    def _stop_job(self, job_id: str) -> None:
        """End a job in order: cancelled under load, it may crash the TaskManager (RocksDB)."""
        if self.flink.job_state(job_id) not in ENDED_STATES:
            self.flink.stop_job(job_id, drain=False, timeout_s=_STATE_TIMEOUT_S)


class _Counter:
    """Records that were handled, read again and again."""

    def __init__(self) -> None:
        self.last = Sample(time.monotonic(), 0)

    def wait_for_move(self, timeout_s: float) -> Sample:
        before = self.last.count
        return self.wait_until(lambda sample: sample.count > before, timeout_s)

    def wait_until(self, is_enough: Callable[[Sample], bool], timeout_s: float) -> Sample:
        deadline_s = time.monotonic() + timeout_s
        while True:
            self.last = Sample(time.monotonic(), self._read())
            if is_enough(self.last):
                return self.last
            self._check(is_too_late=time.monotonic() > deadline_s)
            time.sleep(_POLL_S)

    def _read(self) -> int:
        raise NotImplementedError

    def _check(self, *, is_too_late: bool) -> None:
        """Raise where no more is to be expected."""
        raise NotImplementedError


class _EndpointCounter(_Counter):
    """The records that the endpoint has answered for."""

    def __init__(self, endpoint_url: str, client: Child) -> None:
        super().__init__()
        self._url = f"{endpoint_url}/stats"
        self._client = client

    def _read(self) -> int:
        with direct_opener().open(self._url, timeout=10) as answer:
            return int(json.load(answer)["records"])

    def _check(self, *, is_too_late: bool) -> None:
        self._client.check()
        if is_too_late:
            raise JobFailedError(f"{self._client.name} is answered for no more records")


class _JobCounter(_Counter):
    """The records that the source of a job has given."""

    def __init__(self, flink: FlinkCluster, job_id: str) -> None:
        super().__init__()
        self._flink = flink
        self._job_id = job_id
        self._path = ""

    def _read(self) -> int:
        self._path = self._path or self._find()
        found = self._flink.get(self._path) if self._path else []
        return int(found[0]["sum"]) if found else 0

    def _check(self, *, is_too_late: bool) -> None:
        if is_too_late or self._flink.job_state(self._job_id) == "FAILED":
            why = self._flink.exceptions(self._job_id) or "no exception is recorded"
            raise JobFailedError(
                f"the job has handled {self.last.count} records and no more: {why}"
            )

    def _find(self) -> str:
        """Return the counter's address; empty until the job has it."""
        for task in self._flink.get(f"/jobs/{self._job_id}")["vertices"]:
            path = f"/jobs/{self._job_id}/vertices/{task['id']}/subtasks/metrics"
            for metric in self._flink.get(path):
                if metric["id"].endswith(COUNTED):
                    return f"{path}?{urllib.parse.urlencode({'get': metric['id']})}"
        return ""


def _processor_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _write_pyfiles(path: Path) -> Path:
    """Write the zip of what the jobs import: the project, and this package."""
    jobs.write_pyfiles(path)
    own = [
        PROJECT_ROOT / "tests" / "__init__.py",
        *sorted(Path(__file__).parent.glob("*.py")),
        *sorted((PROJECT_ROOT / "deploy").rglob("*.py")),
    ]
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for source in own:
            archive.write(source, source.relative_to(PROJECT_ROOT))
    return path
