"""Runs the application's zip as Managed Service for Apache Flink does: `make verify-package`.

The zip is unpacked into an empty folder. An environment is made that holds only what the service
has: Python 3.11, `apache-flink` and what comes with it, in the locked versions. A Flink cluster
runs in that environment, out of reach of this project's modules, beside the laptop's emulator and
endpoint. Each job of the zip is submitted with the run options of its properties file, reviews are
sent, the jobs are drained, and every record is accounted for.

One thing is not as on the service: the properties are not at
`/etc/flink/application_properties.json`, hence the entry script is told with `--properties`.
"""

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from deploy.libraries import LockError, locked_libraries
from deploy.local import jobs
from deploy.local.cluster import (
    FlinkClientError,
    JobFailedError,
    PythonEnvironment,
    foreign_environment,
)
from deploy.local.generator import GeneratorOptions, generate
from deploy.local.pipeline import Pipeline, RunError
from deploy.local.process import PartError, shown
from deploy.local.sample import load_sample
from deploy.local.stack import Stack, StackOptions, StackRunningError, read_properties
from deploy.package import (
    NAME,
    PACKAGE_DIR,
    PROJECT_ROOT,
    PYTHON_VERSION,
    PackageError,
    install_locked,
    run_uv,
    sha256,
)
from flink_jobs.config import RUN_OPTIONS_GROUP

REPORT = "report.json"

_START_TIMEOUT_S = 180.0
_STALL_TIMEOUT_S = 60.0
_IMPORT_TIMEOUT_S = 120.0
_POLL_S = 0.25
_RATE_PER_S = 100.0

# Run in the service's environment with the options' folder on PYTHONPATH: imports the entry script
# and every module of the application, and says what fails, and what was found elsewhere.
_IMPORT_ALL = """\
import importlib, json, pkgutil, runpy, sys, warnings
warnings.simplefilter("ignore")
entry, folder, *homes = sys.argv[1:]
failed, names = {}, []
for package in ("flink_jobs", "udfs"):
    names += [package]
    names += [m.name for m in pkgutil.walk_packages([f"{folder}/{package}"], f"{package}.")]
for name in names:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
try:
    runpy.run_path(entry, run_name="entry")
except Exception as error:
    failed[entry] = f"{type(error).__name__}: {error}"
homes = (folder, *homes, sys.base_prefix)
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
strangers = {name: file for name, file in files.items() if file and not file.startswith(homes)}
print(json.dumps({"failed": failed, "strangers": strangers}))
"""


class VerifyError(Exception):
    """The zip does not run as it must; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `report.json` holds.

    Attributes
    ----------
    zip_mb, sha256, entries
        Of the zip.
    jobs
        Whether the output of each job adds up.
    reconciled
        Whether everything does.
    start_seconds
        From the first `flink run` until every task of all jobs runs.
    """

    zip_mb: float
    sha256: str
    entries: int
    jobs: Mapping[str, bool]
    reconciled: bool
    start_seconds: float


def verify(package: Path, work_dir: Path, console: Console, *, limit: int = 500) -> Report:
    """Unpack a zip, run its jobs, reconcile.

    Parameters
    ----------
    package
        The zip.
    work_dir
        Emptied first; takes the unpacked zip, the environment, logs. No blank may be in its path.
    console
        Takes progress.
    limit
        How many reviews are sent.

    Raises
    ------
    VerifyError
        When a library is missing from the zip (says which), or a job does not run.
    PackageError
        When there is no such zip, or the service's environment cannot be made.
    PartError, StackRunningError, OSError
        As of `Stack`.
    """
    if not package.is_file():
        raise PackageError(f"no {shown(package)}; run: make package")
    with _alone(work_dir):
        return _verified(package, work_dir, console, limit=limit)


@contextlib.contextmanager
def _alone(work_dir: Path) -> Iterator[None]:
    """Keep a second verification from removing what the first one works with."""
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with work_dir.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise VerifyError(f"{shown(work_dir)} is in use by another verification") from None
        yield


def _verified(package: Path, work_dir: Path, console: Console, *, limit: int) -> Report:
    shutil.rmtree(work_dir, ignore_errors=True)
    unpacked = work_dir / "unpacked"
    try:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(unpacked)
            entries = len(archive.infolist())
    except zipfile.BadZipFile as error:
        raise PackageError(f"{shown(package)} is no zip: {error}; run: make package") from error
    console.print(f"  unpacked {shown(package)}: {entries:,} files")
    python = service_environment(work_dir)
    console.print("  the service's environment is made")
    options = read_properties(jobs.PROPERTIES)[RUN_OPTIONS_GROUP]
    # A library that the client lacks is found in seconds, and all of them at once.
    check_imports(unpacked, options, python)
    console.print("  every module of the zip can be imported")
    stack_options = StackOptions(
        model_dir=jobs.MODEL_DIR,
        properties=jobs.PROPERTIES,
        flink_python=python,
        # A job that fails must say why, not try again.
        flink_overrides={"restart-strategy.type": "none"},
    )
    config = load_sample(jobs.PROPERTIES)
    with (
        _missing_named(),
        Stack(
            work_dir / "run", stack_options, on_progress=lambda line: console.print(f"  {line}")
        ) as stack,
    ):
        pipeline = Pipeline(
            stack,
            config,
            jobs.JOBS,
            generate(GeneratorOptions(max_body_bytes=config.reviews.max_body_bytes), 1, time.time),
            console,
            rate_per_s=_RATE_PER_S,
            limit=limit,
            entry=unpacked / options["python"],
            jarfile=unpacked / options["jarfile"],
            pyfiles=unpacked / options["pyFiles"],
        )
        try:
            start_seconds, summary = _carry_through(pipeline, console)
        finally:
            pipeline.end_threads()
    for problem in summary.problems:
        console.print(f"does not reconcile: {problem}", style="red", markup=False)
    return Report(
        zip_mb=round(package.stat().st_size / 1e6, 1),
        sha256=sha256(package),
        entries=entries,
        jobs={job: job not in summary.faulty_jobs for job in jobs.JOBS},
        reconciled=summary.reconciled,
        start_seconds=round(start_seconds, 1),
    )


def service_environment(work_dir: Path) -> PythonEnvironment:
    """Make an environment with what the service has, and an empty directory to run in.

    Raises
    ------
    PackageError
        When it cannot be made.
    """
    venv, cwd = work_dir / "python", work_dir / "empty"
    cwd.mkdir(parents=True)
    try:
        libraries = locked_libraries(
            PROJECT_ROOT / "pyproject.toml", PROJECT_ROOT / "requirements.lock"
        )
    except LockError as error:
        raise PackageError(str(error)) from error
    run_uv("venv", "--python", sys.executable, str(venv))
    executable = venv / "bin" / "python"
    install_locked(libraries.service, "--python", str(executable))
    home = venv / "lib" / f"python{PYTHON_VERSION}" / "site-packages" / "pyflink"
    return PythonEnvironment(executable, home, cwd)


def check_imports(unpacked: Path, options: Mapping[str, str], python: PythonEnvironment) -> None:
    """Import every module of an unpacked zip in the service's environment.

    Raises
    ------
    VerifyError
        Names every library that is missing, or the first module that fails otherwise, or that was
        found outside of zip and environment.
    """
    folder = unpacked / options["pyFiles"]
    venv = python.executable.parents[1]
    told = (unpacked / options["python"], folder, venv)
    try:
        result = subprocess.run(
            [str(python.executable), "-c", _IMPORT_ALL, *(str(path) for path in told)],
            cwd=python.cwd,
            env={**foreign_environment(os.environ), "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as expired:
        raise VerifyError(
            f"the modules of the zip were not imported within {_IMPORT_TIMEOUT_S:g} s"
        ) from expired
    if result.returncode != 0:
        raise VerifyError(f"the modules of the zip cannot be imported:\n{result.stderr}")
    found: dict[str, dict[str, str]] = json.loads(result.stdout.splitlines()[-1])
    failed, strangers = found["failed"], found["strangers"]
    if words := missing_libraries("\n".join(failed.values())):
        raise VerifyError(words)
    for name, error in (failed or strangers).items():
        how = f"fails: {error}" if failed else f"is not from the zip or the service, but {error}"
        raise VerifyError(f"the import of {name} {how}")


def missing_libraries(text: str) -> str:
    """Return which libraries an output says are missing, as import and distribution; or nothing.

    Examples
    --------
    >>> missing_libraries("ModuleNotFoundError: No module named 'river.stats'")
    'missing from the zip: river (import river.stats)'
    >>> missing_libraries("ValueError: 3")
    ''
    """
    distributions = importlib.metadata.packages_distributions()
    imports = dict.fromkeys(re.findall(r"No module named \\?'([\w.]+)\\?'", text))
    names = [
        f"{' or '.join(sorted(set(distributions.get(name.split('.')[0], ['?']))))} (import {name})"
        for name in imports
    ]
    return f"missing from the zip: {', '.join(names)}" if names else ""


@contextlib.contextmanager
def _missing_named() -> Iterator[None]:
    """Turn what a client or a job says of its failure into what is missing."""
    try:
        yield
    except (FlinkClientError, JobFailedError, RunError) as error:
        words = missing_libraries(str(error))
        raise VerifyError(f"{words}\n{error}" if words else str(error)) from error


def _carry_through(pipeline: Pipeline, console: Console) -> tuple[float, Any]:
    start_s = time.monotonic()
    pipeline.submit()
    pipeline.wait_until_running(_START_TIMEOUT_S)
    start_seconds = time.monotonic() - start_s
    pipeline.follow()
    pipeline.sender.start()
    start_s = progress_s = time.monotonic()
    before: Mapping[str, int] = {}
    with console.status("sending reviews, waiting until all are through"):
        while True:
            is_sending = pipeline.sender.is_alive()
            pipeline.check()
            now_s = time.monotonic()
            snapshot = pipeline.recorder.snapshot("", 0.0, pipeline.sender.sent, {})
            if snapshot.counts != before:
                before, progress_s = snapshot.counts, now_s
            if not is_sending and snapshot.under_way == 0:
                break
            if now_s - progress_s > _STALL_TIMEOUT_S:
                pipeline.problems.append(f"nothing came through for {_STALL_TIMEOUT_S:g} s")
                break
            time.sleep(_POLL_S)
    for leak in _leaks(pipeline.stack):
        raise VerifyError(leak)
    seconds = time.monotonic() - start_s
    pipeline.drain(_STALL_TIMEOUT_S)
    summary = pipeline.summary(seconds)
    console.print(f"  {summary.sent:,} reviews sent, all jobs drained")
    return start_seconds, summary


def _leaks(stack: Stack) -> Iterator[str]:
    """Yield what the workers' Python could find of this project outside of the zip."""
    ours = [str(PROJECT_ROOT / name) for name in (".venv", "deploy", "flink_jobs", "udfs")]
    workers = 0
    for manager in stack.cluster.task_managers:
        for process in psutil.Process(manager.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if not any("pyflink.fn_execution" in word for word in process.cmdline()):
                    continue
                workers += 1
                looked_in = process.environ().get("PYTHONPATH", "").split(os.pathsep)
                for path in [process.cwd(), *looked_in]:
                    if Path(path) == PROJECT_ROOT or path.startswith(tuple(ours)):
                        yield f"a Python worker looks for modules in {path}"
    if workers == 0:
        yield "no Python worker was found"


def main(arguments: list[str] | None = None) -> int:
    """Verify the zip, write the report; return 0 if every record is accounted for."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.verify_package",
        description=(__doc__ or "").splitlines()[0],
        epilog="For example: python -m deploy.verify_package --limit 2000",
    )
    parser.add_argument(
        "--package",
        type=Path,
        default=PACKAGE_DIR / NAME,
        metavar="ZIP",
        help=f"what `make package` built (default: build/package/{NAME})",
    )
    parser.add_argument(
        "--limit", type=int, default=500, metavar="N", help="reviews to send (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    # As after Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    path = PACKAGE_DIR / REPORT
    path.unlink(missing_ok=True)
    console = Console()
    try:
        report = verify(
            options.package.absolute(), PACKAGE_DIR / "verify", console, limit=options.limit
        )
    except (VerifyError, PackageError, PartError, StackRunningError, OSError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    path.write_text(json.dumps(vars(report), indent=2) + "\n", encoding="utf-8")
    console.print_json(data=vars(report))
    console.print(f"written to {shown(path)}", markup=False)
    return 0 if report.reconciled else 1


if __name__ == "__main__":
    sys.exit(main())
