"""The table environment of a benchmark's job."""

from pathlib import Path
from typing import Any

from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from deploy.local.sample import load_sample
from flink_jobs.config import JOB_CONFIGS
from flink_jobs.environment import engine_options
from tests.benchmarks.bench import Parameters


def create_environment(parameters: Parameters, job: str) -> tuple[StreamTableEnvironment, Any]:
    """Return the table environment as `job` has it, and the job's configuration."""
    sample = load_sample(Path(parameters.properties))
    groups = {name: getattr(sample, name) for name in JOB_CONFIGS[job].model_fields}
    groups["application"] = groups["application"].model_copy(update={"job": job})
    if "endpoint" in groups:
        groups["endpoint"] = groups["endpoint"].model_copy(
            update={"endpoint_url": parameters.endpoint_url}
        )
    config = JOB_CONFIGS[job].model_validate(groups)
    env = StreamExecutionEnvironment.get_execution_environment()
    t_env = StreamTableEnvironment.create(env)
    for key, value in engine_options(config).items():
        t_env.get_config().set(key, value)
    t_env.get_config().set("pipeline.name", parameters.variant)
    # PyFlink has no way from the one to the other.
    t_env.stream_env = env
    return t_env, config
