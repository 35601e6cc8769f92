"""The table environment, the same on a laptop and on the managed service."""

from pyflink.table import EnvironmentSettings, TableEnvironment

from flink_jobs.config import ApplicationConfig


def create_environment(application: ApplicationConfig) -> TableEnvironment:
    """Return a streaming table environment for one job.

    Parallelism, checkpoint interval, state backend and restart strategy are the cluster's own: on
    the managed service they are set there.
    """
    t_env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for key, value in engine_options(application).items():
        t_env.get_config().set(key, value)
    return t_env


def engine_options(application: ApplicationConfig) -> dict[str, str]:
    """Return the engine's options that belong to the application, not to the cluster."""
    return {
        "pipeline.name": application.job,
        # The same plan gives the same operator ids, so that state finds its operator again.
        "table.exec.uid.generation": "ALWAYS",
        # Plan views that several sinks share once, with all their columns: the planner would
        # prune them for each sink apart, and call the endpoint again for each shape.
        "table.optimizer.reuse-optimize-block-with-digest-enabled": "true",
        "table.local-time-zone": "UTC",
        "execution.checkpointing.timeout": f"{application.checkpoint_timeout_s} s",
        "python.fn-execution.bundle.size": str(application.bundle_rows),
        "python.fn-execution.bundle.time": str(application.bundle_time_ms),
        "python.fn-execution.arrow.batch.size": str(application.bundle_rows),
    }
