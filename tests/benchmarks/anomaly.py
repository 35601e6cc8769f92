"""Benchmark `anomaly`: what the detector finds, beside others, and how many reviews it takes.

The reviews are made in the JVM: what it costs to read records is in the benchmark `baseline`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pyflink.table import StatementSet

from flink_jobs import rating_anomalies, scored_reviews, streams
from tests.benchmarks import report, sources
from tests.benchmarks.baseline import count_by_category
from tests.benchmarks.bench import Benchmark, Parameters, Variant
from tests.benchmarks.environment import create_environment

STATE_REVIEWS = 100_000


def _environment(parameters: Parameters) -> tuple[Any, Any]:
    t_env, config = create_environment(parameters, "rating_anomalies")
    sources.create_read_reviews(t_env)
    return t_env, config


def _source(parameters: Parameters) -> StatementSet:
    t_env, _ = _environment(parameters)
    columns = (("product_category", "STRING"), ("review_id", "STRING"), ("simhash", "BIGINT"))
    t_env.execute_sql(sources.blackhole("sink", columns))
    statements = t_env.create_statement_set()
    statements.add_insert_sql(
        f"INSERT INTO sink SELECT {streams.names(columns)} FROM scored_reviews"
    )
    return statements


def _keyed_noop(parameters: Parameters) -> StatementSet:
    t_env, _ = _environment(parameters)
    return count_by_category(t_env, "scored_reviews")


def _anomalies(parameters: Parameters, *, has_dedupe: bool = False) -> StatementSet:
    """Return the job's own views between what is read and what is written."""
    t_env, config = _environment(parameters)
    t_env.execute_sql(sources.blackhole("rating_anomalies", streams.RATING_ANOMALY))
    if has_dedupe:
        scored_reviews.create_unique_reviews(t_env)
    else:
        t_env.execute_sql("CREATE TEMPORARY VIEW unique_reviews AS SELECT * FROM scored_reviews")
    rating_anomalies.create_anomaly_rows(
        t_env, config.anomalies.threshold, config.anomalies.warm_up_reviews
    )
    statements = t_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO rating_anomalies SELECT * FROM anomaly_rows")
    return statements


def figures(cluster: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return rates by the names that readers look for, the state, and what the detectors found."""
    median = partial(report.median, result)
    # Here, for the workers of the jobs do not have it.
    from tests.anomalies import quality

    tasks = cluster.state_bytes("state", STATE_REVIEWS)
    categories = len(sources.CATEGORIES)
    state = sum(size for name, size in tasks.items() if "track_anomalies" in name)
    return {
        "flink_per_s": median("anomalies"),
        "keyed_noop_per_s": median("keyed_noop"),
        "ratio_to_keyed_noop": median("anomalies", "ratio"),
        "with_dedupe_per_s": median("anomalies_deduplicated"),
        "state_bytes": round(state / categories),
        **quality.figures(),
    }


BENCHMARK = Benchmark(
    name="anomaly",
    title="anomalies by category, beside a keyed function that does nothing",
    ratio="of the empty keyed function",
    variants={
        "source": Variant("source: reviews as they are read", _source, "keyed_noop"),
        "keyed_noop": Variant("empty keyed function, a review at a time", _keyed_noop),
        "anomalies": Variant("ours: reviews gathered, judged, told", _anomalies, "keyed_noop"),
        "anomalies_deduplicated": Variant(
            "ours, with dedupe", partial(_anomalies, has_dedupe=True), "keyed_noop"
        ),
    },
    others={"state": Variant("reviews judged, for the size of the state", _anomalies)},
    figures=figures,
)
