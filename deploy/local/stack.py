"""The whole laptop's AWS: emulator, endpoint and Flink cluster, started and ended together.

`Stack` belongs to a run that owns it. A stack to play with lives in a process of its own:
`start_detached` starts it, `attach` finds it, `stop_detached` ends it. That process is
``python -m deploy.local.stack --run-dir DIR --model-dir DIR --properties FILE``.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil
from botocore.config import Config

from deploy.local.cluster import (
    STOP_TIMEOUT_S,
    WEB_UI_PORT,
    FlinkClient,
    FlinkCluster,
    PythonEnvironment,
)
from deploy.local.emulator import (
    CLIENT_CONFIG,
    PROJECT_ROOT,
    answers,
    create_resources,
    emulator,
    local_environment,
    session,
)
from deploy.local.process import (
    Child,
    PartDiedError,
    PartError,
    PartNotReadyError,
    free_port,
    shown,
    stop_all,
    wait_ready,
)
from deploy.local.sample import load_sample
from flink_jobs.config import (
    ConfigError,
    DeliveryConfig,
    ReviewsConfig,
    ScoredReviewsConfig,
    StreamConfig,
)

BUCKET = "review-archive"
EMULATOR_PORT, ENDPOINT_PORT = 5000, 8090
"""Preferred; where one is taken, another is used and said."""

TRUTH = "truth.jsonl"
"""In the run directory: what was sent, as `Sender` writes it."""

SUMMARY = "summary.json"
"""In the run directory: what became of it."""

_MODULE = "deploy.local.stack"
_POLL_S = 0.2
# Of a run; logs stay for whoever wants to know what happened.
_TRANSIENT = ("checkpoints", "savepoints", "tmp")
_RESULTS = (TRUTH, SUMMARY)

Properties = dict[str, dict[str, str]]


class StackRunningError(RuntimeError):
    """Another stack uses the run directory."""


class NoStackError(RuntimeError):
    """No detached stack runs in the run directory."""


@dataclass(frozen=True)
class StackOptions:
    """What a stack is made of.

    Attributes
    ----------
    model_dir
        The trained model that the endpoint serves.
    properties
        The sample of runtime properties; region, endpoint name, streams and topic to create
        are read from it.
    shards, scored_shards
        Shards of the streams of reviews and of scored reviews, at least 1; the other streams have
        one.
    task_managers, slots
        TaskManagers, and slots of each; a job of parallelism 1 takes one slot.
    heartbeat_timeout_s
        After how many seconds a silent TaskManager counts as lost.
    flink_overrides
        Flink configuration by flat key, over the cluster's own.
    flink_python
        What Flink runs in; None: this environment.
    endpoint_arguments
        Further arguments of the endpoint server.
    """

    model_dir: Path
    properties: Path
    shards: int = 2
    scored_shards: int = 1
    task_managers: int = 1
    slots: int = 4
    heartbeat_timeout_s: float = 20.0
    flink_overrides: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    flink_python: PythonEnvironment | None = None
    endpoint_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class StackInfo:
    """Where a running stack is, and what one needs to use it.

    Attributes
    ----------
    pid
        The process that owns it.
    run_dir
        Logs, configuration and the jobs' property files are below it.
    properties
        The sample of runtime properties that it was started with.
    region
        AWS region.
    emulator_url, endpoint_url, web_ui_url
        Addresses on 127.0.0.1; the web UI's is also that of Flink's REST API.
    """

    pid: int
    run_dir: Path
    properties: Path
    region: str
    emulator_url: str
    endpoint_url: str
    web_ui_url: str

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses by name, as messages show them; a port that was taken is named."""
        usual = {
            "Flink web UI": (self.web_ui_url, WEB_UI_PORT),
            "AWS emulator": (self.emulator_url, EMULATOR_PORT),
            "endpoint": (self.endpoint_url, ENDPOINT_PORT),
        }
        return {
            name: url if url.endswith(f":{port}") else f"{url} (port {port} is taken)"
            for name, (url, port) in usual.items()
        }

    def flink(self) -> FlinkClient:
        """Return a client of the cluster."""
        return FlinkClient(self.run_dir, self.web_ui_url, self.region)

    def client(self, service: str, *, attempts: int | None = None) -> Any:
        """Return a boto3 client of the emulator, for instance for ``"kinesis"``.

        It makes so many attempts a call; None: as many as boto3 does by default.
        """
        config = CLIENT_CONFIG
        if attempts is not None:
            config = config.merge(Config(retries={"total_max_attempts": attempts}))
        return session(self.region).client(  # type: ignore[call-overload]
            service, endpoint_url=self.emulator_url, config=config
        )

    def properties_for(
        self, job: str, overrides: Mapping[str, Mapping[str, str]] | None = None
    ) -> Path:
        """Write the runtime properties of one job: the sample with this stack's addresses.

        Parameters
        ----------
        job
            Goes into ``application.job`` and names the file.
        overrides
            Values by group and key, over the sample and the addresses.

        Returns
        -------
        Path
            ``run_dir/properties/JOB.json``, overwritten where it exists.
        """
        properties = _with_values(
            read_properties(self.properties),
            {
                "application": {"job": job},
                "aws": {"endpoint_url": self.emulator_url},
                "endpoint": {"endpoint_url": self.endpoint_url},
            },
        )
        path = self.run_dir / "properties" / f"{job}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_properties(path, _with_values(properties, overrides or {}))
        return path


class Stack:
    """A stack that lives as long as its ``with`` block.

    Enter it on the main thread: the processes end with the thread that started them.

    Parameters
    ----------
    run_dir
        Logs, configuration, checkpoints. One stack at a time uses it; what an earlier one left
        is removed on entering.
    options
        What it is made of.
    on_progress
        Called with a line for each part that is ready.

    Attributes
    ----------
    info
        Its addresses; the clients made from it are usable inside the block.
    cluster
        Its Flink cluster.
    parts
        All processes.

    Raises
    ------
    FileNotFoundError
        On construction, when there is no model.
    ConfigError
        On construction, when the sample of properties is unusable.
    OSError
        On entering, when Flink cannot work below `run_dir`.
    StackRunningError
        On entering, when another stack uses `run_dir`.
    PartDiedError, PartNotReadyError
        On entering, when a part ends or is not ready in time; nothing is left running then.

    Examples
    --------
    ::

        options = StackOptions(Path("build/model"), Path("deploy/runtime_properties.json"))
        with Stack(Path("build/run"), options, on_progress=print) as stack:
            stack.client("kinesis").list_streams()["StreamNames"]
    """

    def __init__(
        self,
        run_dir: Path,
        options: StackOptions,
        *,
        on_progress: Callable[[str], None] = lambda _: None,
    ):
        if not options.model_dir.is_dir():
            raise FileNotFoundError(f"no model in {shown(options.model_dir)}")
        self._options = options
        self._on_progress = on_progress
        self._config = load_sample(options.properties)
        self._run_dir = run_dir.absolute()
        self._lock: TextIO | None = None
        self.parts: list[Child] = []

    def __enter__(self) -> Stack:
        self._lock = _locked(self._run_dir)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        options, logs_dir = self._options, self._run_dir / "logs"
        for name in (*_TRANSIENT, "logs", "conf", "properties"):
            shutil.rmtree(self._run_dir / name, ignore_errors=True)
        # A run that fails must not be taken for the one before it.
        for name in _RESULTS:
            (self._run_dir / name).unlink(missing_ok=True)
        region = self._config.aws.region
        emulator_port, endpoint_port = free_port(EMULATOR_PORT), free_port(ENDPOINT_PORT)
        self.cluster = FlinkCluster(
            self._run_dir,
            task_managers=options.task_managers,
            slots=options.slots,
            region=region,
            heartbeat_timeout_s=options.heartbeat_timeout_s,
            python=options.flink_python,
            overrides=options.flink_overrides,
        )
        self.info = StackInfo(
            pid=os.getpid(),
            run_dir=self._run_dir,
            properties=options.properties.absolute(),
            region=region,
            emulator_url=f"http://127.0.0.1:{emulator_port}",
            endpoint_url=f"http://127.0.0.1:{endpoint_port}",
            web_ui_url=self.cluster.rest_url,
        )
        aws = emulator(emulator_port, logs_dir / "emulator.log", region)
        endpoint = self._endpoint(endpoint_port, logs_dir / "endpoint.log", region)
        # All at once, and the slowest first.
        self.parts = [*self.cluster.parts, aws, endpoint]
        self.cluster.start()
        aws.start()
        endpoint.start()

        self._on_progress("starting AWS emulator, endpoint and Flink cluster")
        wait_ready(self.parts, lambda: answers(f"{self.info.emulator_url}/moto-api/"), 60)
        self._create_resources()
        self._on_progress(f"AWS emulator: {self.info.addresses['AWS emulator']}")
        wait_ready(self.parts, lambda: answers(f"{self.info.endpoint_url}/ping"), 60)
        self._on_progress(f"endpoint: {self.info.addresses['endpoint']}")
        wait_ready(self.parts, self.cluster.has_all_slots, 90)
        self._on_progress(f"Flink web UI: {self.info.addresses['Flink web UI']}")

    def _endpoint(self, port: int, log_path: Path, region: str) -> Child:
        argv = [sys.executable, "-m", "deploy.local.endpoint", "--name", self._config.endpoint.name]
        argv += ["--port", str(port), "--model-dir", str(self._options.model_dir.absolute())]
        return Child(
            "endpoint",
            [*argv, *self._options.endpoint_arguments],
            log_path=log_path,
            env=local_environment(region),
            cwd=PROJECT_ROOT,
        )

    def _create_resources(self) -> None:
        shards = {
            ReviewsConfig: self._options.shards,
            ScoredReviewsConfig: self._options.scored_shards,
        }
        create_resources(
            self.info.emulator_url,
            self.info.region,
            streams={
                group.stream: shards.get(type(group), 1)
                for _, group in self._config
                if isinstance(group, ReviewsConfig | ScoredReviewsConfig | StreamConfig)
            },
            bucket=BUCKET,
            delivery_streams={
                group.delivery_stream: f"{name.removesuffix('_archive')}/"
                for name, group in self._config
                if isinstance(group, DeliveryConfig)
            },
            topics=[self._config.alerts_topic],
        )

    def properties_for(
        self, job: str, overrides: Mapping[str, Mapping[str, str]] | None = None
    ) -> Path:
        """Write the runtime properties of one job; see `StackInfo.properties_for`."""
        return self.info.properties_for(job, overrides)

    def client(self, service: str, *, attempts: int | None = None) -> Any:
        """Return a boto3 client of the emulator; see `StackInfo.client`."""
        return self.info.client(service, attempts=attempts)

    def check(self) -> None:
        """Do nothing while all parts run.

        Raises
        ------
        PartDiedError
            Naming the first part that has ended, and its log.
        """
        for part in self.parts:
            part.check()

    def close(self) -> None:
        """End all parts and remove what only they needed; the logs stay.

        Raises
        ------
        KeyboardInterrupt
            When Ctrl-C arrived meanwhile: the parts were killed then, none is left.
        """
        try:
            stop_all(self.parts[::-1], STOP_TIMEOUT_S)
        finally:
            for name in _TRANSIENT:
                shutil.rmtree(self._run_dir / name, ignore_errors=True)
            if self._lock is not None:
                self._lock.close()
                self._lock = None


def read_properties(path: Path) -> Properties:
    """Read a runtime properties file as it is: values by group and key.

    `flink_jobs.config.load_config` says what is wrong with a file; this function does not.
    """
    groups = json.loads(path.read_text(encoding="utf-8"))
    return {group["PropertyGroupId"]: group["PropertyMap"] for group in groups}


def write_properties(path: Path, properties: Mapping[str, Mapping[str, str]]) -> None:
    """Write a runtime properties file as `read_properties` reads it."""
    groups = [
        {"PropertyGroupId": group, "PropertyMap": values} for group, values in properties.items()
    ]
    path.write_text(json.dumps(groups, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _with_values(properties: Properties, values: Mapping[str, Mapping[str, str]]) -> Properties:
    groups = [*properties, *(group for group in values if group not in properties)]
    return {group: {**properties.get(group, {}), **values.get(group, {})} for group in groups}


def _locked(run_dir: Path) -> TextIO:
    """Take the run directory for this process; the kernel gives it back when that ends."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        message = f"{shown(run_dir)} is in use by process {owner}"
        if owner.isdecimal() and _detached_process(int(owner), run_dir) is not None:
            message += "; end it with: make stop"
        raise StackRunningError(message) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def attach(run_dir: Path) -> StackInfo:
    """Find the detached stack of a run directory.

    Raises
    ------
    NoStackError
        When none runs there.
    """
    run_dir = run_dir.absolute()
    try:
        stored = json.loads(_info_path(run_dir).read_text(encoding="utf-8"))
        paths = {name: Path(stored[name]) for name in ("run_dir", "properties")}
        info = StackInfo(**{**stored, **paths})
    except (OSError, ValueError, TypeError, KeyError):
        info = None
    if info is None or _detached_process(info.pid, run_dir) is None:
        raise NoStackError(f"no cluster runs in {shown(run_dir)}")
    return info


def start_detached(
    run_dir: Path,
    *,
    model_dir: Path,
    properties: Path,
    shards: int = 2,
    task_managers: int = 1,
    slots: int = 4,
    timeout_s: float = 180.0,
) -> StackInfo:
    """Start a stack that outlives this process; returns when all of it is ready.

    Parameters
    ----------
    run_dir
        As of `Stack`.
    model_dir, properties, shards, task_managers, slots
        As of `StackOptions`.
    timeout_s
        How long it may take, in seconds.

    Raises
    ------
    StackRunningError
        When one runs there already.
    PartDiedError, PartNotReadyError
        When it ends before it is ready, or is not ready in time; nothing is left of it then.
    """
    run_dir = run_dir.absolute()
    with contextlib.suppress(NoStackError):
        info = attach(run_dir)
        raise StackRunningError(
            f"a cluster runs already: process {info.pid}, web UI {info.web_ui_url};"
            " end it with: make stop"
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    _info_path(run_dir).unlink(missing_ok=True)
    argv = [sys.executable, "-m", _MODULE, "--run-dir", str(run_dir)]
    argv += ["--model-dir", str(model_dir.absolute()), "--properties", str(properties.absolute())]
    argv += ["--shards", str(shards)]
    argv += ["--task-managers", str(task_managers), "--slots", str(slots)]
    # Not in logs/, which the stack empties.
    with (run_dir / "stack.log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=PROJECT_ROOT,
            start_new_session=True,
        )
    try:
        _wait_announced(process, run_dir, timeout_s)
        return attach(run_dir)
    except BaseException:
        if process.poll() is None:
            _end(psutil.Process(process.pid))
        raise


def _wait_announced(process: subprocess.Popen[bytes], run_dir: Path, timeout_s: float) -> None:
    name, log_path = "the cluster's process", run_dir / "stack.log"
    deadline = time.monotonic() + timeout_s
    while not _info_path(run_dir).exists():
        if process.poll() is not None:
            raise PartDiedError(name, process.returncode, log_path)
        if time.monotonic() > deadline:
            raise PartNotReadyError([name], timeout_s, [log_path])
        time.sleep(_POLL_S)


def stop_detached(run_dir: Path) -> bool:
    """End the detached stack of a run directory and wait until it is gone.

    Returns
    -------
    bool
        Whether there was one.
    """
    try:
        info = attach(run_dir)
    except NoStackError:
        _info_path(run_dir).unlink(missing_ok=True)
        return False
    process = _detached_process(info.pid, run_dir.absolute())
    if process is not None:
        _end(process)
    _info_path(run_dir).unlink(missing_ok=True)
    return True


def _info_path(run_dir: Path) -> Path:
    return run_dir / "stack.json"


def _detached_process(pid: int, run_dir: Path) -> psutil.Process | None:
    """Return the process `pid` if it is the stack of `run_dir`: numbers are used again."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        command = process.cmdline()
        if _MODULE in command and str(run_dir) in command:
            return process
    return None


def _end(process: psutil.Process, timeout_s: float = 20.0) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(timeout_s)
        except psutil.TimeoutExpired:
            process.kill()  # its parts end with it
            process.wait(timeout_s)


def main() -> None:
    """Run a stack until SIGTERM or SIGINT, or until a part of it ends."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="logs, checkpoints, ...")
    parser.add_argument("--model-dir", type=Path, required=True, help="the model to serve")
    parser.add_argument("--properties", type=Path, required=True, help="sample of properties")
    parser.add_argument("--shards", type=int, default=2, help="of reviews; default: %(default)s")
    parser.add_argument("--task-managers", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--slots", type=int, default=4, help="of each; default: %(default)s")
    arguments = parser.parse_args()
    options = StackOptions(
        model_dir=arguments.model_dir,
        properties=arguments.properties,
        shards=arguments.shards,
        task_managers=arguments.task_managers,
        slots=arguments.slots,
    )
    run_dir: Path = arguments.run_dir.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stack(run_dir, options, on_progress=_say) as stack, _announced(stack.info):
            while True:
                stack.check()
                time.sleep(1)
    except KeyboardInterrupt:
        pass
    except (ConfigError, PartError, StackRunningError, OSError) as error:
        sys.exit(str(error))


def _say(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def _announced(info: StackInfo) -> Iterator[None]:
    path = _info_path(info.run_dir)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(info), default=str, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)  # whoever waits for it finds it whole
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
