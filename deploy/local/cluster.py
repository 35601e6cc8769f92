"""A standalone Flink cluster from the `apache-flink` wheel, as child processes.

One JobManager and any number of TaskManagers, with a configuration directory of their own
below the run directory; jobs are submitted and stopped by the wheel's own ``bin/flink``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy.local.emulator import PROJECT_ROOT, direct_opener, local_environment
from deploy.local.process import (
    Child,
    free_port,
    is_stack_frame,
    shown,
    stop_all,
    wait_ready,
)
from deploy.main import START_FAILED

_HOST = "127.0.0.1"
_REST_TIMEOUT_S = 10.0
_POLL_S = 0.2

# A TaskManager without its JobManager takes 5 s to give up, and there is nothing it could save.
STOP_TIMEOUT_S = 2.0

# For the short-lived and the lightly loaded JVMs: a quick start counts, not the code's speed.
_QUICK_START_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"

# To the console only: the one log file of a part is its standard output.
_CONSOLE_LOG = """\
appender.main.name = Main
appender.main.type = CONSOLE
"""
# To a file: on its console the client says what matters to whoever typed the command.
_CLIENT_LOG = """\
appender.main.name = Main
appender.main.type = FILE
appender.main.append = true
appender.main.fileName = ${sys:log.file}
"""
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.main.ref = Main
appender.main.layout.type = PatternLayout
appender.main.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n
logger.netty.name = org.jboss.netty.channel.DefaultChannelPipeline
logger.netty.level = OFF
"""


ENDED_STATES = frozenset({"FINISHED", "FAILED", "CANCELED"})
"""States of a job that it never leaves."""


WEB_UI_PORT = 8081
"""Preferred port of web UI and REST API; Flink's own default."""


MEASURES_AGE_S = 3.0
"""What `FlinkClient.unread` says may be so old: ask for so long, then it holds for now."""


class FlinkClientError(RuntimeError):
    """``bin/flink`` failed; the message holds what it printed, less the Java stack frames."""


class JobFailedError(RuntimeError):
    """A job did not reach the state that was waited for; the message says why."""


@dataclass(frozen=True)
class Job:
    """A job as the cluster lists it.

    Attributes
    ----------
    job_id
        32 hexadecimal digits.
    name
        Its name in the web UI.
    state
        ``RUNNING``, ``RESTARTING``, ``FINISHED``, ``FAILED``, ``CANCELED``, ...
    """

    job_id: str
    name: str
    state: str

    @property
    def has_ended(self) -> bool:
        """Whether it will never run again."""
        return self.state in ENDED_STATES


@dataclass(frozen=True)
class Failure:
    """A failure of a job, after which it may have been restarted.

    Attributes
    ----------
    time_ms
        When, from the epoch.
    why
        Its stack trace, less the Java stack frames.
    """

    time_ms: int
    why: str


@dataclass(frozen=True)
class Checkpoint:
    """A completed checkpoint of a job.

    Attributes
    ----------
    trigger_time_ms
        When it began, from the epoch: it covers what had come through by then.
    path
        What `FlinkClient.submit` takes as `savepoint` while Flink keeps it.
    """

    trigger_time_ms: int
    path: str


@dataclass(frozen=True)
class PythonEnvironment:
    """Another environment than this one, for Flink and all that it runs.

    Whatever would let this process's modules be found there is kept from it.

    Attributes
    ----------
    executable
        Its interpreter.
    home
        The directory of the Flink distribution inside its `apache-flink` wheel.
    cwd
        Where Flink's processes run; Python looks for modules there too.
    """

    executable: Path
    home: Path
    cwd: Path


def flink_home() -> Path:
    """Return the directory of the Flink distribution inside this environment's wheel.

    Raises
    ------
    FileNotFoundError
        When `apache-flink` is not installed.
    """
    # Found, not imported: importing PyFlink takes seconds.
    spec = importlib.util.find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("apache-flink is not installed in this environment")
    return Path(spec.origin).parent


def cluster_config(
    run_dir: Path,
    *,
    rest_port: int,
    rpc_port: int,
    slots: int,
    heartbeat_timeout_s: float,
    python: PythonEnvironment | None = None,
    overrides: Mapping[str, str | int | float | bool] | None = None,
) -> dict[str, str | int | float | bool]:
    """Return the cluster's configuration: Flink's flat keys with their values.

    Parameters
    ----------
    run_dir
        Absolute; checkpoints, savepoints and temporary files go below it.
    rest_port, rpc_port
        Ports of the JobManager on 127.0.0.1.
    slots
        Slots of each TaskManager.
    heartbeat_timeout_s
        After how many seconds without a heartbeat a TaskManager counts as lost, at least 1.
    python
        What runs scripts and workers; None: this environment.
    overrides
        Replace or add keys.

    Examples
    --------
    >>> config = cluster_config(
    ...     Path("/run"), rest_port=8081, rpc_port=6123, slots=4, heartbeat_timeout_s=20,
    ...     overrides={"parallelism.default": 2},
    ... )
    >>> config["rest.port"], config["parallelism.default"]
    (8081, 2)
    """
    executable = sys.executable if python is None else str(python.executable)
    home = flink_home() if python is None else python.home
    config: dict[str, str | int | float | bool] = {
        # Without the shipped exports and opens Flink does not run on Java 17.
        "env.java.opts.all": f"{_shipped_java_options(home)} -Djava.io.tmpdir={run_dir / 'tmp'}",
        "env.java.opts.jobmanager": _QUICK_START_OPTIONS,
        "env.java.opts.client": _QUICK_START_OPTIONS,
        "rest.address": _HOST,
        "rest.bind-address": _HOST,
        "rest.port": rest_port,
        "rest.bind-port": rest_port,
        "jobmanager.rpc.address": _HOST,
        "jobmanager.rpc.port": rpc_port,
        "jobmanager.bind-host": _HOST,
        "taskmanager.host": _HOST,
        "taskmanager.bind-host": _HOST,
        "blob.server.port": 0,
        "taskmanager.rpc.port": 0,
        "taskmanager.data.port": 0,
        "metrics.internal.query-service.port": 0,
        # Jobs come from `flink run`; a page open in a browser must not be able to send one.
        "web.submit.enable": False,
        "web.log.path": str(run_dir / "logs" / "jobmanager.log"),
        # Together with several Python workers these fit a machine of 16 GB.
        "jobmanager.memory.process.size": "1g",
        "taskmanager.memory.process.size": "4g",
        # Each submission loads the connectors' classes anew.
        "taskmanager.memory.jvm-metaspace.size": "512m",
        # So does each one's gRPC, whose buffers outlive the job: three jobs stopped and started
        # again were too much for the default of none.
        "taskmanager.memory.task.off-heap.size": "512m",
        "taskmanager.jvm-exit-on-oom": True,
        "taskmanager.numberOfTaskSlots": slots,
        "parallelism.default": 1,
        "io.tmp.dirs": str(run_dir / "tmp"),
        "python.executable": executable,
        "python.client.executable": executable,
        "execution.checkpointing.interval": "5 s",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": (run_dir / "checkpoints").as_uri(),
        "execution.checkpointing.savepoint-dir": (run_dir / "savepoints").as_uri(),
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "10 s",
        "heartbeat.interval": round(heartbeat_timeout_s * 1000 / 4),
        "heartbeat.timeout": round(heartbeat_timeout_s * 1000),
        # JobManager and TaskManagers start together; 10 s between attempts by default.
        "cluster.registration.error-delay": 200,
        "rest.retry.delay": 500,
        # Measures asked for are those of the last time that somebody asked; 10 s old by default.
        "metrics.fetcher.update-interval": 1000,
        # The JobManager asks all TaskManagers for their measures, and again when all have answered
        # or this time is up: one that was killed does not answer.
        "web.timeout": 30_000,
    }
    return config | dict(overrides or {})


def _shipped_java_options(home: Path) -> str:
    shipped = YAML(typ="safe").load(home / "conf" / "config.yaml")
    options: str = shipped["env"]["java"]["opts"]["all"]
    return options


def foreign_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment less what would show another Python the modules of this one.

    Examples
    --------
    >>> foreign_environment({"PATH": "/bin", "PYTHONPATH": "/src", "VIRTUAL_ENV": "/src/.venv"})
    {'PATH': '/bin'}
    """
    return {
        key: value
        for key, value in environment.items()
        if not key.startswith(("PYTHON", "PYFLINK_", "FLINK_")) and key != "VIRTUAL_ENV"
    }


class FlinkClient:
    """What one asks of a running cluster; safe to use from several threads.

    Parameters
    ----------
    run_dir
        The cluster's run directory, which holds its configuration.
    rest_url
        Address of its REST API, which is also that of its web UI.
    region
        AWS region that a job's script is told.
    python
        What Flink runs in; None: this environment, in the project's directory.
    """

    def __init__(
        self,
        run_dir: Path,
        rest_url: str,
        region: str,
        python: PythonEnvironment | None = None,
    ):
        self.run_dir = run_dir.absolute()
        self.logs_dir = self.run_dir / "logs"
        self.rest_url = rest_url
        self._home = flink_home() if python is None else python.home
        self._cwd = PROJECT_ROOT if python is None else python.cwd
        self._conf_dir = self.run_dir / "conf"
        inherited = local_environment(region)
        if python is not None:
            inherited = foreign_environment(inherited)
        self._env = inherited | {
            "FLINK_CONF_DIR": str(self._conf_dir),
            "FLINK_LOG_DIR": str(self.logs_dir),
            "FLINK_IDENT_STRING": "local",  # in the name of the client's log
            "FLINK_PID_DIR": str(self.run_dir / "tmp"),
        }

    def command_line(self, *, entry: Path, properties: Path, jarfile: Path, pyfiles: Path) -> str:
        """Return the shell line that submits a job to this cluster, as messages show it."""
        flink = shlex.join(["bash", shown(self._home / "bin" / "flink")])
        run = self._run_arguments(
            Path(shown(entry)), Path(shown(properties)), Path(shown(jarfile)), Path(shown(pyfiles))
        )
        return f"FLINK_CONF_DIR={shlex.quote(shown(self._conf_dir))} {flink} {shlex.join(run)}"

    @staticmethod
    def _run_arguments(
        entry: Path,
        properties: Path,
        jarfile: Path,
        pyfiles: Path,
        savepoint: str | None = None,
        parallelism: int | None = None,
    ) -> list[str]:
        options = [] if savepoint is None else ["--fromSavepoint", savepoint]
        options += [] if parallelism is None else ["--parallelism", str(parallelism)]
        return [
            *["run", "-d", *options, "--python", str(entry), "--pyFiles", str(pyfiles)],
            *["--jarfile", str(jarfile), "--properties", str(properties)],
        ]

    def submit(
        self,
        *,
        entry: Path,
        properties: Path,
        jarfile: Path,
        pyfiles: Path,
        savepoint: str | None = None,
        parallelism: int | None = None,
        timeout_s: float = 120.0,
    ) -> str:
        """Submit a job with ``flink run -d``; returns when the cluster has accepted it.

        Parameters
        ----------
        entry
            The Python script that builds the job.
        properties
            The runtime properties, handed to the script as ``--properties``.
        jarfile
            The connectors' jar.
        pyfiles
            A zip of the packages that script and workers import.
        savepoint
            Path or URI of a savepoint, as `stop_job` returns it, whose state the job takes over;
            None: it starts without state.
        parallelism
            Of every operator that may have more than one subtask; None: the cluster's default.
        timeout_s
            How long the client may take, in seconds.

        Returns
        -------
        str
            The job's id.

        Raises
        ------
        FlinkClientError
            When the client fails or submits no job; holds its output, the script's included.
        """
        arguments = self._run_arguments(entry, properties, jarfile, pyfiles, savepoint, parallelism)
        output = self._flink(f"submit-{properties.stem}", arguments, timeout_s)
        submitted = re.search(r"Job has been submitted with JobID ([0-9a-f]{32})", output)
        if submitted is None:
            raise FlinkClientError(f"{shown(entry)} submitted no job:\n{readable(output)}")
        return submitted[1]

    def stop_job(self, job_id: str, *, drain: bool = True, timeout_s: float = 120.0) -> str:
        """Stop a job with ``flink stop`` and wait until it is ``FINISHED``.

        Parameters
        ----------
        job_id
            As `submit` returned it.
        drain
            Whether to send the final watermark first, so that the last windows fire. With or
            without it, a job that starts from the savepoint goes on behind the last record read.
        timeout_s
            For the client and again for the job to finish, in seconds.

        Returns
        -------
        str
            URI of the savepoint that was taken.

        Raises
        ------
        FlinkClientError
            When the client fails, for instance because a task of the job is not running.
        JobFailedError
            When the job ends otherwise, or not in time.
        """
        savepoints = (self.run_dir / "savepoints").as_uri()
        drains = ["--drain"] if drain else []
        arguments = ["stop", *drains, "--savepointPath", savepoints, job_id]
        output = self._flink(f"stop-{job_id}", arguments, timeout_s)
        savepoint = re.search(r"Savepoint completed\. Path: (\S+)", output)
        if savepoint is None:
            raise FlinkClientError(f"job {job_id} gave no savepoint:\n{readable(output)}")
        deadline = time.monotonic() + timeout_s
        while (state := self.job_state(job_id)) != "FINISHED":
            if state in ("FAILED", "CANCELED") or time.monotonic() > deadline:
                why = self.exceptions(job_id) or "no exception is recorded"
                raise JobFailedError(f"job {job_id} is {state} after its stop: {why}")
            time.sleep(_POLL_S)
        return savepoint[1]

    def jobs(self) -> list[Job]:
        """Return the jobs that the cluster knows, ended ones included.

        Raises
        ------
        OSError
            When the JobManager does not answer.
        """
        overview = self.get("/jobs/overview")
        return [Job(job["jid"], job["name"], job["state"]) for job in overview["jobs"]]

    def job_state(self, job_id: str) -> str:
        """Return a job's state, for instance ``RUNNING``."""
        return str(self.get(f"/jobs/{job_id}")["state"])

    def exceptions(self, job_id: str) -> str:
        """Return why a job failed last, less the Java stack frames; empty if it never did."""
        failures = self.failures(job_id)
        return failures[0].why if failures else ""

    def failures(self, job_id: str) -> list[Failure]:
        """Return the last failures of a job, the newest first; Flink keeps 16 of them."""
        history = self.get(f"/jobs/{job_id}/exceptions")["exceptionHistory"]["entries"]
        return [Failure(entry["timestamp"], readable(entry["stacktrace"])) for entry in history]

    def is_running(self, job_id: str) -> bool:
        """Return whether every task of a job runs: ``flink run -d`` returns long before."""
        tasks = self.get(f"/jobs/{job_id}")["vertices"]
        return bool(tasks) and all(task["status"] == "RUNNING" for task in tasks)

    def unread(self, job_id: str, stream: str, shards: int) -> dict[str, str]:
        """Return what speaks against a job having taken in all that a Kinesis stream holds.

        By the source's own measures: the last read of each shard found nothing and was not behind.
        They may be old, see `MEASURES_AGE_S`.

        Parameters
        ----------
        job_id
            Of a job that reads the stream.
        stream, shards
            Its name and how many shards it has.

        Returns
        -------
        dict of str to str
            Measures that are not 0, or not there, by shard and name, least and most of all
            subtasks; empty where all was read.
        """
        wanted = {
            f"{stream}.shardId.shardId-{shard:012}.{measure}": f"shard {shard} {measure}"
            for shard in range(shards)
            for measure in ("millisBehindLatest", "numberOfAggregatedRecordsPerFetch")
        }
        found = dict.fromkeys(wanted.values(), "unknown")
        for task in self.get(f"/jobs/{job_id}")["vertices"]:
            path = f"/jobs/{job_id}/vertices/{task['id']}/subtasks/metrics"
            names = {
                metric["id"]: metric["id"].partition(".KinesisConsumer.stream.")[2]
                for metric in self.get(path)
            }
            ids = [name for name, measure in names.items() if measure in wanted]
            if ids:
                query = urllib.parse.urlencode({"get": ",".join(ids)})
                for metric in self.get(f"{path}?{query}"):
                    name = wanted[names[metric["id"]]]
                    found[name] = f"{metric['min']:g}..{metric['max']:g}"
        return {name: value for name, value in found.items() if value != "0..0"}

    def last_checkpoint(self, job_id: str) -> Checkpoint | None:
        """Return a job's newest completed checkpoint, None before the first."""
        latest = self.get(f"/jobs/{job_id}/checkpoints")["latest"]["completed"]
        return latest and Checkpoint(latest["trigger_timestamp"], latest["external_path"])

    def get(self, path: str) -> Any:
        """Return what the REST API answers to a GET of `path`."""
        with direct_opener().open(self.rest_url + path, timeout=_REST_TIMEOUT_S) as response:
            return json.load(response)

    def _flink(self, name: str, arguments: list[str], timeout_s: float) -> str:
        log_path = self.logs_dir / f"{name}.log"
        log_path.unlink(missing_ok=True)
        argv = ["bash", str(self._home / "bin" / "flink"), *arguments]
        # A child like the parts, for the client starts processes of its own too.
        with Child(name, argv, log_path=log_path, env=self._env, cwd=self._cwd) as client:
            try:
                status = client.wait(timeout_s)
                how = f"ended with status {status}"
            except TimeoutError:
                status = 1
                how = f"did not end within {timeout_s:g} s"
        output = log_path.read_text(encoding="utf-8", errors="replace")
        if status != 0:
            raise FlinkClientError(f"flink {arguments[0]} {how}:\n{readable(output)}")
        return output


class FlinkCluster(FlinkClient):
    """A standalone cluster; nothing runs before `start`.

    Parameters
    ----------
    run_dir
        Configuration, logs, checkpoints and savepoints go below it. No blank may be in it:
        Flink's scripts do not quote their paths.
    task_managers
        How many TaskManagers, at least 1.
    slots
        Slots of each TaskManager; a job of parallelism 1 takes one.
    region
        AWS region that the jobs' clients are told.
    heartbeat_timeout_s
        After how many seconds a silent TaskManager counts as lost. One that was killed is
        noticed in about half of it.
    python
        What Flink runs in; None: this environment.
    overrides
        Flink configuration by flat key, over that of `cluster_config`.

    Attributes
    ----------
    rest_url
        Web UI and REST API.
    job_manager, task_managers
        The processes.

    Examples
    --------
    ::

        cluster = FlinkCluster(Path("build/run"))
        try:
            cluster.start()
            cluster.wait_ready()
            cluster.jobs()
        finally:
            cluster.stop()
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        task_managers: int = 1,
        slots: int = 4,
        region: str = "us-east-1",
        heartbeat_timeout_s: float = 20.0,
        python: PythonEnvironment | None = None,
        overrides: Mapping[str, str | int | float | bool] | None = None,
    ):
        rest_port = free_port(WEB_UI_PORT)
        super().__init__(run_dir, f"http://{_HOST}:{rest_port}", region, python)
        for path in (self.run_dir, self._home):
            if re.search(r"\s", str(path)):
                raise OSError(f"Flink's scripts cannot work below a path with blanks: {path}")
        self._slots_total = task_managers * slots
        self._config = cluster_config(
            self.run_dir,
            rest_port=rest_port,
            rpc_port=free_port(6123),
            slots=slots,
            heartbeat_timeout_s=heartbeat_timeout_s,
            python=python,
            overrides=overrides,
        )
        self.job_manager = self._part("jobmanager", ["jobmanager.sh", "start-foreground"])
        self.task_managers = [
            self._task_manager(f"taskmanager-{number}") for number in range(1, task_managers + 1)
        ]

    def _part(self, name: str, script: list[str]) -> Child:
        return Child(
            name,
            ["bash", str(self._home / "bin" / script[0]), *script[1:]],
            log_path=self.logs_dir / f"{name}.log",
            env=self._env,
            cwd=self._cwd,
        )

    def _task_manager(self, name: str) -> Child:
        log_path = self.logs_dir / f"{name}.log"
        options = [f"-Dtaskmanager.resource-id={name}", f"-Dtaskmanager.log.path={log_path}"]
        return self._part(name, ["taskmanager.sh", "start-foreground", *options])

    @property
    def parts(self) -> list[Child]:
        """The processes, JobManager first."""
        return [self.job_manager, *self.task_managers]

    def start(self) -> None:
        """Write the configuration and start all processes; returns before they are ready."""
        for directory in (self._conf_dir, self.run_dir / "tmp", self.run_dir / "savepoints"):
            directory.mkdir(parents=True, exist_ok=True)
        with (self._conf_dir / "config.yaml").open("w", encoding="utf-8") as file:
            # One key a line, never folded: Flink's scripts read it line by line.
            yaml = YAML(typ="safe", pure=True)
            yaml.default_flow_style = False
            yaml.width = 1_000_000
            yaml.dump(self._config, file)
        for file_name, appender in (
            ("log4j-console.properties", _CONSOLE_LOG),
            ("log4j-cli.properties", _CLIENT_LOG),
        ):
            (self._conf_dir / file_name).write_text(_LOG4J + appender, encoding="utf-8")
        for part in self.parts:
            part.start()

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        """Wait until every slot is registered.

        Raises
        ------
        PartDiedError, PartNotReadyError
            When a process ends, or after `timeout_s`.
        """
        wait_ready(self.parts, self.has_all_slots, timeout_s)

    def has_all_slots(self) -> bool:
        """Return whether every TaskManager of this cluster has registered all its slots.

        Raises
        ------
        OSError
            While the JobManager does not answer.
        """
        # Another server may have taken the port between the choice and the start.
        try:
            config = {entry["key"]: entry["value"] for entry in self.get("/jobmanager/config")}
        except (ValueError, TypeError, KeyError):
            return False
        if config.get("web.log.path") != self._config["web.log.path"]:
            return False
        return bool(self.get("/overview")["slots-total"] >= self._slots_total)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End all processes; returns when none is left."""
        stop_all(self.parts[::-1], timeout_s)


# What the Java client adds around the Python script's own words.
_NOISE = re.compile(
    r"WARNING: |SLF4J|-{20,}$|\s*The program finished with the following exception:$"
    r"|(Caused by: )?(org\.apache\.flink\.client\.program\.ProgramAbortException"
    r"|java\.lang\.RuntimeException: Python process exits with code)"
)


def readable(output: str) -> str:
    r"""Return a client's output less Java's stack frames and banners.

    What the entry script says of a failed start on one line, it says on several.

    Examples
    --------
    >>> readable("no property aws.region\n\n-----\nCaused by: java.io.IOException: no\n\tat a.B(C)")
    'no property aws.region\n-----\nCaused by: java.io.IOException: no'
    >>> print(readable(f'{START_FAILED} {{"error": "1 problem in p.json", "problems": ["a.b"]}}'))
    APPLICATION START FAILED: 1 problem in p.json
      - a.b
    """
    lines = (line.rstrip() for line in _START_FAILURE.sub(_in_lines, output).splitlines())
    kept = [line for line in lines if line and not _NOISE.match(line) and not is_stack_frame(line)]
    return "\n".join(kept)


_START_FAILURE = re.compile(rf"^.*{START_FAILED} (\{{.*\}})$", re.MULTILINE)


def _in_lines(record: re.Match[str]) -> str:
    try:
        failure = json.loads(record[1])
    except ValueError:
        return record[0]
    problems = [f"  - {problem}" for problem in failure.get("problems", ())]
    said = [f"{START_FAILED}: {failure['error']}", *problems, failure.get("traceback", "")]
    return "\n".join(said)
