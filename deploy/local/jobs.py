"""The jobs that a laptop can run, and what `flink run` is given for them."""

import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from deploy.local.emulator import PROJECT_ROOT
from flink_jobs.config import JobName

JOBS: tuple[str, ...] = get_args(JobName)
"""All jobs, in the order of the data flow: a job's readers come after it."""

ENTRY = PROJECT_ROOT / "deploy" / "main.py"
JAR = PROJECT_ROOT / "build" / "flink-aws-connectors.jar"
PYFILES = PROJECT_ROOT / "build" / "python.zip"
PROPERTIES = PROJECT_ROOT / "deploy" / "runtime_properties.json"
MODEL_DIR = PROJECT_ROOT / "build" / "model"

_PACKAGES = ("flink_jobs", "udfs")


def chosen(names: str | None) -> tuple[str, ...]:
    """Return the jobs of a list such as `a,b`, all of them for None, in data-flow order.

    Raises
    ------
    ValueError
        Names every unknown job.
    """
    if names is None:
        return JOBS
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    unknown = sorted(wanted.difference(JOBS))
    if unknown or not wanted:
        raise ValueError(f"no such job: {', '.join(unknown) or '(none)'}; jobs: {', '.join(JOBS)}")
    return tuple(job for job in JOBS if job in wanted)


def write_pyfiles(path: Path = PYFILES) -> Path:
    """Write the zip of the packages that script and workers import, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A job that is being submitted may read the old file: replace it in one step.
    with (
        tempfile.NamedTemporaryFile(dir=path.parent, suffix=".zip", delete=False) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for source in _sources():
            archive.write(source, source.relative_to(PROJECT_ROOT))
    Path(draft.name).replace(path)
    return path


def _sources() -> Iterable[Path]:
    for package in _PACKAGES:
        yield from sorted((PROJECT_ROOT / package).rglob("*.py"))
