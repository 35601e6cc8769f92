"""Entry point of every application: reads the runtime properties and submits the job they name.

    flink run -py deploy/main.py --properties deploy/runtime_properties.json

On Managed Service for Apache Flink there are no arguments; the service mounts the properties.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyflink.table import StatementSet, TableEnvironment

from flink_jobs import rating_anomalies, review_metrics, review_scoring
from flink_jobs.config import MANAGED_PROPERTIES, ConfigError, JobName, load_config
from flink_jobs.environment import create_environment

# Each takes the configuration of its own job.
JOBS: dict[JobName, Callable[[TableEnvironment, Any], StatementSet]] = {
    "review_scoring": review_scoring.build,
    "review_metrics": review_metrics.build,
    "rating_anomalies": rating_anomalies.build,
}


def main(arguments: list[str] | None = None) -> int:
    """Submit one job; return 2 where the configuration is at fault, before anything starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--properties",
        type=Path,
        default=MANAGED_PROPERTIES,
        metavar="FILE",
        help="runtime properties in the managed service's JSON shape (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.properties)
    except ConfigError as error:
        print(f"Configuration error: {error}", file=sys.stderr)
        return 2
    t_env = create_environment(config)
    JOBS[config.application.job](t_env, config).execute()
    return 0


if __name__ == "__main__":
    sys.exit(main())
