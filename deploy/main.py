"""Entry point of every application: reads the runtime properties and submits the job they name.

    flink run -py deploy/main.py --properties deploy/runtime_properties.json

On Managed Service for Apache Flink there are no arguments; the service mounts the properties.

Nothing of the application is imported before `main` runs: a library that is missing must be told
of like any other failure.
"""

import argparse
import importlib
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

START_FAILED = "APPLICATION START FAILED"
"""What a log search finds a failed start by; a JSON object follows it on the same line."""

# A log event on the service holds 256 KB, a character has up to four bytes.
_ERROR_CHARACTERS, _TRACEBACK_CHARACTERS = 2_000, 60_000


def main(arguments: list[str] | None = None) -> int:
    """Submit one job.

    Returns
    -------
    int
        2 where the configuration is at fault, before anything starts; 1 where anything else fails
        before the job is submitted. One log record says why: see `failure_record`.
    """
    try:
        _submit(arguments)
    except Exception as error:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        logging.critical("%s %s", START_FAILED, failure_record(error))
        return 1 if _problems(error) is None else 2
    return 0


def _submit(arguments: list[str] | None) -> None:
    config_module = importlib.import_module("flink_jobs.config")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--properties",
        type=Path,
        default=config_module.MANAGED_PROPERTIES,
        metavar="FILE",
        help="runtime properties in the managed service's JSON shape (default: %(default)s)",
    )
    config = config_module.load_config(parser.parse_args(arguments).properties)
    environment = importlib.import_module("flink_jobs.environment")
    # Each job is a module of its own name.
    job = importlib.import_module(f"flink_jobs.{config.application.job}")
    job.build(environment.create_environment(config), config).execute()


def failure_record(error: Exception) -> str:
    r"""Return a failure as JSON on one line: the service logs each line as an event of its own.

    Its keys: `error`, in words; `problems`, each with its `group.key`, where the configuration is
    at fault, else `traceback`.

    Examples
    --------
    >>> json.loads(failure_record(ModuleNotFoundError("No module named 'river'")))["error"]
    "ModuleNotFoundError: No module named 'river'"
    """
    record: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}
    if (problems := _problems(error)) is not None:
        record = {"error": str(error).partition(":\n")[0], "problems": problems}
    else:
        lines = "".join(traceback.format_exception(error))
        record["traceback"] = lines[-_TRACEBACK_CHARACTERS:]
    return json.dumps(record, ensure_ascii=False)


def _problems(error: Exception) -> list[str] | None:
    """Return those of a `ConfigError`, whose module may be what could not be imported."""
    return getattr(error, "problems", None)


if __name__ == "__main__":
    sys.exit(main())
