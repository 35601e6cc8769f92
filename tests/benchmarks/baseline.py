"""Benchmark `baseline`: what the engine can do, and what the jobs do today."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor
from pyflink.table import DataTypes, StatementSet
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from flink_jobs import rating_anomalies, review_metrics, review_scoring, scored_reviews, streams
from tests.benchmarks import sources
from tests.benchmarks.bench import Benchmark, Parameters, Variant
from tests.benchmarks.environment import create_environment
from udfs.core.watermarks import WatermarkOptions
from udfs.dead_letters import digest_payload
from udfs.parsing import parse_review
from udfs.publishing import PUBLISH_RESULT
from udfs.scored_records import read_scored
from udfs.scoring import score_review

# The engine's own figures are taken with this job's options: Flink's default state backend, and
# bundles of the size that all jobs have.
_PLAIN = "review_scoring"

_FLINKS_BUNDLES = {
    "python.fn-execution.bundle.size": "100000",
    "python.fn-execution.bundle.time": "1000",
    "python.fn-execution.arrow.batch.size": "10000",
}


def _rated_reviews(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, _PLAIN)
    sources.create_rated_reviews(t_env)
    return _insert(t_env, sources.RATED_REVIEW, "SELECT * FROM rated_reviews")


def _pandas_udf(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, _PLAIN)
    return _constant(t_env)


def _pandas_udf_batched(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, _PLAIN)
    for key, value in _FLINKS_BUNDLES.items():
        t_env.get_config().set(key, value)
    return _constant(t_env)


def _constant(t_env: Any) -> StatementSet:
    sources.create_rated_reviews(t_env)
    t_env.create_temporary_system_function(
        "five_stars", udf(_five_stars, result_type=DataTypes.INT(), func_type="pandas")
    )
    query = "SELECT five_stars(review_id) FROM rated_reviews"
    return _insert(t_env, (("star_rating", "INT"),), query)


def _five_stars(review_id: pd.Series) -> pd.Series:
    return pd.Series([5] * len(review_id), dtype="int32")


def _average(parameters: Parameters) -> StatementSet:
    return _window(parameters, "AVG(CAST(star_rating AS DOUBLE))", "DOUBLE")


def _count_distinct(parameters: Parameters) -> StatementSet:
    return _window(parameters, "COUNT(DISTINCT review_id)", "BIGINT")


def _window(parameters: Parameters, aggregate: str, sql_type: str) -> StatementSet:
    t_env, _ = create_environment(parameters, _PLAIN)
    sources.create_rated_reviews(t_env)
    window = "TABLE rated_reviews, DESCRIPTOR(event_time), INTERVAL '5' SECOND"
    return _insert(
        t_env,
        (("window_end", "TIMESTAMP(3)"), ("product_category", "STRING"), ("figure", sql_type)),
        f"""SELECT window_end, product_category, {aggregate} FROM TABLE(TUMBLE({window}))
            GROUP BY window_start, window_end, product_category""",
    )


def _keyed(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, _PLAIN)
    sources.create_rated_reviews(t_env)
    return count_by_category(t_env, "rated_reviews")


def count_by_category(t_env: Any, reviews: str) -> StatementSet:
    """Return a job that hands the categories of a view through an empty keyed function."""
    counted = (
        t_env.to_data_stream(t_env.sql_query(f"SELECT product_category FROM {reviews}"))
        .key_by(lambda review: review[0])
        .process(Count(), output_type=Types.ROW_NAMED(["product_category"], [Types.STRING()]))
    )
    t_env.create_temporary_view("counted", t_env.from_data_stream(counted))
    return _insert(t_env, (("product_category", "STRING"),), "SELECT * FROM counted")


class Count(KeyedProcessFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Counts the rows of its key in pickled state, and hands each on."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self._count = runtime_context.get_state(
            ValueStateDescriptor("count", Types.PICKLED_BYTE_ARRAY())
        )

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        self._count.update((self._count.value() or 0) + 1)
        yield value


def _review_records(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, _PLAIN)
    sources.create_reviews(t_env)
    return _insert(t_env, streams.REVIEW_RECORD, "SELECT * FROM reviews")


def _scored_records(parameters: Parameters) -> StatementSet:
    t_env, _ = create_environment(parameters, _PLAIN)
    sources.create_scored_records(t_env)
    return _insert(t_env, streams.SCORED_RECORD, "SELECT * FROM scored_records")


def _review_scoring(parameters: Parameters) -> StatementSet:
    t_env, config = create_environment(parameters, "review_scoring")
    endpoint = config.endpoint
    for name, function in (
        (
            "parse_review",
            parse_review(config.reviews.parsing_options(), config.categories.category_options()),
        ),
        (
            "score_review",
            score_review(endpoint.endpoint_options(config.aws.region), endpoint.scoring_options()),
        ),
        ("digest_payload", digest_payload()),
    ):
        t_env.create_temporary_system_function(name, function)
    sources.create_reviews(t_env)
    line = (("line", "STRING"),)
    _create_blackholes(
        t_env,
        scored_reviews=streams.SCORED_REVIEW,
        dead_letters=streams.DEAD_LETTER,
        raw_archive=line,
        scored_archive=line,
    )
    review_scoring.create_views(t_env, config.reviews.stream)
    return review_scoring.inserts(t_env)


def _review_metrics(parameters: Parameters) -> StatementSet:
    t_env, config = create_environment(parameters, "review_metrics")
    windows = config.windows
    for name, function in (
        ("read_scored", read_scored(config.scored_reviews.stream, windows.watermark_options())),
        ("digest_payload", digest_payload()),
        ("publish_metrics", _published()),
    ):
        t_env.create_temporary_system_function(name, function)
    sources.create_scored_reviews(t_env)
    _create_blackholes(
        t_env,
        review_metrics=streams.REVIEW_METRIC,
        metrics_archive=(("line", "STRING"),),
        dead_letters=streams.DEAD_LETTER,
    )
    scored_reviews.create_views(t_env)
    review_metrics.create_views(t_env, windows, config.review_metrics.stream)
    return review_metrics.inserts(t_env)


def _rating_anomalies(parameters: Parameters) -> StatementSet:
    t_env, config = create_environment(parameters, "rating_anomalies")
    for name, function in (
        (
            "read_scored",
            read_scored(config.scored_reviews.stream, WatermarkOptions(), has_text=True),
        ),
        ("digest_payload", digest_payload()),
        ("publish_alert", _published()),
    ):
        t_env.create_temporary_system_function(name, function)
    sources.create_scored_reviews(t_env)
    _create_blackholes(
        t_env, rating_anomalies=streams.RATING_ANOMALY, dead_letters=streams.DEAD_LETTER
    )
    # As the job does it: both sinks have the same source then.
    once = t_env.to_data_stream(t_env.from_path("scored_reviews"))
    t_env.create_temporary_view("scored_once", once)
    scored_reviews.create_views(t_env, "scored_once")
    anomalies = config.anomalies
    rating_anomalies.create_views(t_env, anomalies.threshold, anomalies.warm_up_reviews)
    return rating_anomalies.inserts(t_env)


class Published(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """In the place of a function that publishes: all is well, at once."""

    def is_deterministic(self) -> bool:
        return False

    def eval(self, first: pd.Series, *others: pd.Series) -> pd.DataFrame:
        columns = PUBLISH_RESULT.field_names()
        return pd.DataFrame([(None, None, None)] * len(first), columns=columns, dtype=object)


def _published() -> UserDefinedScalarFunctionWrapper:
    return udf(Published(), result_type=PUBLISH_RESULT, func_type="pandas", deterministic=False)


def _create_blackholes(t_env: Any, **tables: streams.Columns) -> None:
    for name, columns in tables.items():
        t_env.execute_sql(sources.blackhole(name, columns))


def _insert(t_env: Any, columns: streams.Columns, query: str) -> StatementSet:
    _create_blackholes(t_env, sink=columns)
    statements = t_env.create_statement_set()
    statements.add_insert_sql(f"INSERT INTO sink {query}")
    return statements


BENCHMARK = Benchmark(
    name="baseline",
    title="what the engine can do, and what the jobs do today",
    ratio="of its source",
    needs_endpoint=True,
    variants={
        "rated_reviews": Variant("source: ids, categories, ratings", _rated_reviews),
        "pandas_udf": Variant("pandas UDF returning a constant", _pandas_udf, "rated_reviews"),
        "pandas_udf_batched": Variant(
            "the same, Flink's default bundles of 100,000 rows",
            _pandas_udf_batched,
            "rated_reviews",
        ),
        "average": Variant("built-in `AVG` in a 5 s window", _average, "rated_reviews"),
        "count_distinct": Variant(
            "built-in exact `COUNT(DISTINCT)` in a 5 s window", _count_distinct, "rated_reviews"
        ),
        "keyed": Variant("empty keyed function, pickled state", _keyed, "rated_reviews"),
        "review_records": Variant("source: records of `reviews`", _review_records),
        "review_scoring": Variant("job `review_scoring`", _review_scoring, "review_records"),
        "scored_records": Variant("source: records of `scored-reviews`", _scored_records),
        "review_metrics": Variant("job `review_metrics`", _review_metrics, "scored_records"),
        "rating_anomalies": Variant("job `rating_anomalies`", _rating_anomalies, "scored_records"),
    },
)
