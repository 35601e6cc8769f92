"""Benchmark `scoring`: the async UDF beside one call a review, and how long a review takes."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pyflink.table import DataTypes, StatementSet
from pyflink.table.udf import udf

from tests.benchmarks import sources
from tests.benchmarks.bench import Benchmark, Parameters, Variant
from tests.benchmarks.environment import create_environment
from tests.benchmarks.latency import latency_ms
from udfs.scoring import score_review

JOB = "review_scoring"

# Hashed labels: the server is measured, not a model.
QUICK: dict[str, Any] = {"labels": "hash"}
# Serves 32 at once, 32 more may wait.
SLOW: dict[str, Any] = QUICK | {
    "latency_ms": 20,
    "latency_ms_per_record": 1,
    "max_served": 32,
    "max_queued": 32,
}

RATE_PER_S = 500.0
"""Reviews a second of the run whose latencies are measured."""


# Than a measurement of throughput: the latencies' tail needs many reviews.
_LONGER = 5


def _review_texts(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, JOB)
    return _insert(t_env, "review_id STRING, review_body STRING", "SELECT * FROM review_texts")


def _constant_udf(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, JOB)
    t_env.create_temporary_system_function(
        "five_stars", udf(_five_stars, result_type=DataTypes.INT(), func_type="pandas")
    )
    query = "SELECT review_id, five_stars(review_body) FROM review_texts"
    return _insert(t_env, "review_id STRING, star_rating INT", query)


def _five_stars(review_body: pd.Series) -> pd.Series:
    return pd.Series([5] * len(review_body), dtype="int32")


def _scored(parameters: Parameters) -> StatementSet:
    t_env, config = create_environment(parameters, JOB)
    endpoint = config.endpoint
    t_env.create_temporary_system_function(
        "score_review",
        score_review(endpoint.endpoint_options(config.aws.region), endpoint.scoring_options()),
    )
    fields = {
        "star_rating": "INT",
        "model_variant": "STRING",
        "inference_id": "STRING",
        "inference_row": "INT",
        "scored_at_ms": "BIGINT",
        "reason": "STRING",
    }
    columns = ", ".join(f"{name} {sql_type}" for name, sql_type in fields.items())
    predicted = ", ".join(f"prediction.{name}" for name in fields)
    return _insert(
        t_env,
        f"review_id STRING, {columns}",
        f"""SELECT review_id, {predicted}
            FROM (SELECT review_id, score_review(review_body) AS prediction FROM review_texts)""",
    )


def _insert(t_env: Any, columns: str, query: str) -> StatementSet:
    sources.create_review_texts(t_env)
    t_env.execute_sql(f"CREATE TEMPORARY TABLE sink ({columns}) WITH ('connector' = 'blackhole')")
    statements = t_env.create_statement_set()
    statements.add_insert_sql(f"INSERT INTO sink {query}")
    return statements


def figures(cluster: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the medians by the names that they go by, and measure the latencies."""
    rows = {row["variant"]: row for row in result["rows"]}
    found: dict[str, Any] = {
        f"{name}_per_s": round(rows[name]["records_per_s"]["median"], 1)
        for name in ("sequential", "async", "no_latency", "server", "constant_udf")
        if name in rows
    }
    if "async" in rows and rows["async"]["ratio"]:
        found["speedup"] = round(rows["async"]["ratio"]["median"], 1)
    found["latency_ms"] = latency_ms(
        cluster.run_dir / "latency",
        SLOW,
        rate_per_s=RATE_PER_S,
        warm_up_s=_LONGER * result["options"]["warm_up_s"],
        seconds=_LONGER * result["options"]["seconds"],
    )
    return found


BENCHMARK = Benchmark(
    name="scoring",
    title="predictions: the async UDF beside one call a review",
    ratio="ratio",
    needs_endpoint=True,
    # As the machine's cores: one bundle is sent while the other one is waited for.
    parallelism=2,
    figures=figures,
    variants={
        "review_texts": Variant("source: ids and bodies, all different", _review_texts),
        "constant_udf": Variant("pandas UDF returning a constant", _constant_udf, "review_texts"),
        "sequential": Variant(
            "slow endpoint, one boto3 call a review", None, client="sequential", faults=SLOW
        ),
        "async": Variant("slow endpoint, the job's UDF", _scored, "sequential", faults=SLOW),
        "server": Variant(
            "quick endpoint, flooded without Flink", None, client="flood", faults=QUICK
        ),
        "no_latency": Variant("quick endpoint, the job's UDF", _scored, "server", faults=QUICK),
    },
)
