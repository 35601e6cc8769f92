"""Fixtures of all layers."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

PROJECT_ROOT = Path(__file__).parents[1]
# Relative paths in the tests and in what they start are meant from here; the Python workers of an
# embedded Flink import the project too.
os.chdir(PROJECT_ROOT)
os.environ["PYTHONPATH"] = str(PROJECT_ROOT)
# A shell starts its background jobs with Ctrl-C ignored, and so would be all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail what is right.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


@pytest.fixture
def t_env() -> Any:
    return embedded_environment()


def embedded_environment() -> Any:
    """Return a table environment as the jobs have it, on an embedded Flink of parallelism 1."""
    from flink_jobs.config import load_config
    from flink_jobs.environment import create_environment

    environment = create_environment(load_config(Path("deploy/runtime_properties.json")))
    environment.get_config().set("parallelism.default", "1")
    environment.get_config().set("python.fn-execution.bundle.time", "100")
    return environment
