"""The table environment, the same on a laptop and on the managed service."""

from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from flink_jobs.config import JobConfig, ReviewMetricsConfig, ReviewScoringConfig


def create_environment(config: JobConfig) -> StreamTableEnvironment:
    """Return a streaming table environment for one job.

    Parallelism, checkpoint interval, state backend and restart strategy are the cluster's own: on
    the managed service they are set there.
    """
    t_env = StreamTableEnvironment.create(StreamExecutionEnvironment.get_execution_environment())
    for key, value in engine_options(config).items():
        t_env.get_config().set(key, value)
    return t_env


def engine_options(config: JobConfig) -> dict[str, str]:
    """Return the engine's options that belong to the application, not to the cluster."""
    application = config.application
    options = {
        "pipeline.name": application.job,
        # The same plan gives the same operator ids, so that state finds its operator again.
        "table.exec.uid.generation": "ALWAYS",
        # Plan views that several sinks share once, with all their columns: the planner would
        # prune them for each sink apart, and call the endpoint again for each shape.
        "table.optimizer.reuse-optimize-block-with-digest-enabled": "true",
        "table.local-time-zone": "UTC",
        "execution.checkpointing.timeout": f"{application.checkpoint_timeout_s} s",
        # A barrier that overtook rows would break decisions 5 and 8.
        "execution.checkpointing.unaligned.enabled": "false",
        "python.fn-execution.bundle.size": str(application.bundle_rows),
        "python.fn-execution.bundle.time": str(application.bundle_time_ms),
        "python.fn-execution.arrow.batch.size": str(application.bundle_rows),
    }
    if not isinstance(config, ReviewScoringConfig):
        # With the heap's, Python aggregates lose open windows in a restart: see decision 3.
        options["state.backend.type"] = "rocksdb"
        options["table.exec.state.ttl"] = f"{config.scored_reviews.repeat_horizon_s} s"
    if isinstance(config, ReviewMetricsConfig):
        idle_timeout_ms = round(config.windows.idle_timeout_s * 1000)
        options["table.exec.source.idle-timeout"] = f"{idle_timeout_ms} ms"
    return options
