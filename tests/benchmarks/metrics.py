"""Benchmark `metrics`: windows of sketches beside Flink's own aggregates, their error, their state.

The reviews are made in the JVM: what it costs to read records is in the benchmark `baseline`.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyflink.table import StatementSet

from flink_jobs import review_metrics, scored_reviews, streams
from flink_jobs.config import WindowsConfig
from tests.benchmarks import report, sources
from tests.benchmarks.bench import Benchmark, Parameters, Variant
from tests.benchmarks.environment import create_environment
from udfs.core.summaries import Reviews, Summary
from udfs.core.windows import pane_of

LG_K = 12
ERROR_WINDOWS, ERROR_IDS = 1_000, 50_000
STATE_IDS = (10_000, 100_000, 1_000_000)

BUNDLE_ROWS = 10_000
"""A summary is made of each bundle: the more rows, the fewer summaries."""

_COUNT = {"sizes": "5 s", "lg_k": str(LG_K), "body_lengths": "false", "top_terms": "0"}
_BATCH = 1_000


def _source(parameters: Parameters) -> StatementSet:
    t_env = _environment(parameters)
    query = f"SELECT {streams.names(sources.RATED_REVIEW)} FROM scored_reviews"
    return _insert(t_env, reviews=(sources.RATED_REVIEW, query))


def _built_in(
    parameters: Parameters,
    aggregate: str,
    sql_type: str,
    *,
    phases: str = "ONE_PHASE",
    has_all: bool = True,
) -> StatementSet:
    t_env = _environment(parameters)
    t_env.get_config().set("table.optimizer.agg-phase-strategy", phases)
    columns = (("window_end", "TIMESTAMP(3)"), ("product_category", "STRING"), ("figure", sql_type))
    window = "TABLE scored_reviews, DESCRIPTOR(event_time), INTERVAL '5' SECOND"
    categories = "GROUPING SETS ((product_category), ())" if has_all else "product_category"
    query = f"""
        SELECT window_end, product_category, {aggregate} FROM TABLE(TUMBLE({window}))
        GROUP BY window_start, window_end, {categories}"""
    return _insert(t_env, windows=(columns, query))


def _windows(
    parameters: Parameters,
    windows: Mapping[str, str],
    *,
    is_judged: bool = False,
    bundle_rows: int = BUNDLE_ROWS,
    ids: int | None = None,
) -> StatementSet:
    """Return the job's own views between what is read and what is written."""
    t_env = _environment(parameters, bundle_rows, ids)
    config = WindowsConfig.model_validate(windows)
    inserts = {"windows": (streams.REVIEW_METRIC, "SELECT * FROM window_rows")}
    if is_judged:
        scored_reviews.create_unique_reviews(t_env)
        review_metrics.create_judged_reviews(t_env, pane_of(config.sizes))
        late = (("review_id", "STRING"),)
        inserts["late"] = (late, "SELECT review_id FROM judged_reviews WHERE is_late")
    else:
        create_judged_reviews(t_env)
    review_metrics.create_window_rows(t_env, config)
    return _insert(t_env, **inserts)


def create_judged_reviews(t_env: Any) -> None:
    """Define the view `judged_reviews`: nothing is late, and nothing a repeat."""
    t_env.execute_sql("""
        CREATE TEMPORARY VIEW judged_reviews AS
        SELECT *, FALSE AS is_late FROM scored_reviews""")


def _environment(
    parameters: Parameters, bundle_rows: int = BUNDLE_ROWS, ids: int | None = None
) -> Any:
    t_env, _ = create_environment(parameters, "review_metrics")
    for option in ("bundle.size", "arrow.batch.size"):
        t_env.get_config().set(f"python.fn-execution.{option}", str(bundle_rows))
    sources.create_read_reviews(t_env, ids)
    return t_env


def _insert(t_env: Any, **inserts: tuple[streams.Columns, str]) -> StatementSet:
    statements = t_env.create_statement_set()
    for name, (columns, query) in inserts.items():
        t_env.execute_sql(sources.blackhole(f"{name}_sink", columns))
        statements.add_insert_sql(f"INSERT INTO {name}_sink {query}")
    return statements


def figures(cluster: Any, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return rates by the names that readers look for, the error of the counts, and the state."""
    median = partial(report.median, result)
    states = {ids: cluster.state_bytes(f"state_{ids}", 2 * ids + 100_000) for ids in STATE_IDS}
    return {
        "source_per_s": median("source"),
        "builtin_avg_per_s": median("average"),
        "exact_distinct_per_s": median("count_distinct"),
        "ours_per_s": median("windows"),
        "ratio_to_builtin": median("windows", "ratio"),
        "ours_with_dedupe_and_late_routing_per_s": median("windows_judged"),
        "ratio_to_builtin_with_dedupe_and_late_routing": median("windows_judged", "ratio"),
        "relative_error_rms": relative_error_rms(ERROR_WINDOWS, ERROR_IDS),
        "state_bytes": {
            str(ids): _of(tasks, "PythonGroupWindowAggregate") for ids, tasks in states.items()
        },
        "deduplication_state_bytes": {
            str(ids): _of(tasks, "Deduplicate") for ids, tasks in states.items()
        },
    }


def relative_error_rms(windows: int, ids: int) -> float:
    """Return the root mean square of the estimates' relative errors, at `LG_K`.

    Each window is made as the job makes it, of summaries of batches, from ids of its own.
    """
    squares = 0.0
    for number in range(windows):
        window = Summary.of(Reviews([], []), LG_K)
        for start in range(0, ids, _BATCH):
            review_ids = [f"R{number}-{i}" for i in range(start, start + _BATCH)]
            batch = Summary.of(Reviews(review_ids, [5] * _BATCH), LG_K)
            window.merge(Summary.from_bytes(batch.to_bytes()))
        squares += (window.review_ids.estimate / ids - 1) ** 2
    return math.sqrt(squares / windows)


def _of(tasks: Mapping[str, int], operator: str) -> int:
    return sum(size for name, size in tasks.items() if operator in name)


_AVERAGE = {"aggregate": "AVG(CAST(star_rating AS DOUBLE))", "sql_type": "DOUBLE"}
_DISTINCT = {"aggregate": "COUNT(DISTINCT review_id)", "sql_type": "BIGINT"}

BENCHMARK = Benchmark(
    name="metrics",
    title="windows of sketches beside Flink's own aggregates",
    ratio="of built-in AVG",
    variants={
        "source": Variant("source: ids, categories, ratings", _source, "average"),
        "average": Variant("built-in `AVG`, by category and `All`", partial(_built_in, **_AVERAGE)),
        "average_by_category": Variant(
            "the same without `All`", partial(_built_in, **_AVERAGE, has_all=False), "average"
        ),
        "average_two_phase": Variant(
            "without `All`, in two phases, which lose rows of idle sources",
            partial(_built_in, **_AVERAGE, has_all=False, phases="TWO_PHASE"),
            "average",
        ),
        "count_distinct": Variant(
            "built-in exact `COUNT(DISTINCT)`, by category and `All`",
            partial(_built_in, **_DISTINCT),
            "average",
        ),
        "windows": Variant(
            "ours: count, average, distinct ids, by category and `All`",
            partial(_windows, windows=_COUNT),
            "average",
        ),
        "windows_bundle_1000": Variant(
            "the same, bundles of 1,000 rows",
            partial(_windows, windows=_COUNT, bundle_rows=1_000),
            "average",
        ),
        "windows_lengths": Variant(
            "ours, body lengths too",
            partial(_windows, windows=_COUNT | {"body_lengths": "true"}),
            "average",
        ),
        "windows_all": Variant(
            "ours, body lengths and terms too",
            partial(_windows, windows={"sizes": "5 s"}),
            "average",
        ),
        "windows_judged": Variant(
            "ours, with dedupe and late routing",
            partial(_windows, windows=_COUNT, is_judged=True),
            "average",
        ),
    },
    others={
        f"state_{ids}": Variant(
            f"{ids} ids in a window", partial(_windows, windows={}, is_judged=True, ids=ids)
        )
        for ids in STATE_IDS
    },
    figures=figures,
)
