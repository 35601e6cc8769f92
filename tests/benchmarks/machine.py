"""Where and with what a benchmark was run."""

import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from deploy.local.emulator import PROJECT_ROOT

_PACKAGES = (
    "apache-flink",
    "apache-beam",
    "pyarrow",
    "pandas",
    "numpy",
    "pydantic",
    "aiobotocore",
    "aiohttp",
    "datasketches",
    "river",
)


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions(ask_flink: Callable[[str], Any]) -> dict[str, str]:
    """Return the versions of what the figures depend on.

    Parameters
    ----------
    ask_flink
        Answers a GET of a path of Flink's REST API.
    """
    return {
        "flink": ask_flink("/config")["flink-version"],
        "java": ask_flink("/jobmanager/environment")["jvm"]["version"],
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def commit() -> dict[str, Any]:
    """Return the commit that was checked out, and whether files differed from it.

    Both are None outside of a git repository.
    """
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
