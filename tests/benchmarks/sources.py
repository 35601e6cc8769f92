"""Reviews made inside the JVM: as many as the job takes, the same ones every time.

All of them follow from a sequence of numbers, also the event times: `REVIEWS_PER_S` of them make a
second, so that windows fire however fast the rows come. Bodies and categories are those of the
review generator.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from pyflink.common import Types, WatermarkStrategy
from pyflink.datastream import DataStream
from pyflink.datastream.connectors.number_seq import NumberSequenceSource
from pyflink.table import Schema

from deploy.local.texts import CATEGORIES, review_text
from flink_jobs import scored_reviews, streams

REVIEWS_PER_S = 10_000
"""Of event time: 50,000 reviews make a window of five seconds."""

RECORDS = 2**40
"""Six days' work at two million a second: a benchmark's job never comes to the end."""

RATED_REVIEW: streams.Columns = (
    ("review_id", "STRING"),
    ("product_category", "STRING"),
    ("star_rating", "INT"),
    ("event_time", "TIMESTAMP_LTZ(3)"),
)

_BASE_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
_EVENT_MS = f"{_BASE_MS} + f0 / {REVIEWS_PER_S // 1000}"
_SHARD = "shardId-000000000000"
_BODIES = 64
# Consecutive numbers times this differ in about half of their bits.
_ODD = 6_364_136_223_846_793_005
_SEED = 1


def create_rated_reviews(t_env: Any) -> None:
    """Define the view `rated_reviews` of the columns `RATED_REVIEW`; its watermark has no delay."""
    _create_numbers(t_env, watermark="event_time")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW rated_reviews AS
        SELECT 'R' || CAST(number AS STRING) AS review_id,
               {_one_of(CATEGORIES)} AS product_category,
               CAST(1 + MOD(number * 7, 5) AS INT) AS star_rating, event_time
        FROM numbers""")


def review_bodies() -> list[str]:
    """Return the bodies that all sources take theirs from."""
    rng = random.Random(_SEED)
    return [review_text(category, rating, rng) for category, rating in _kinds(rng)]


def create_review_texts(t_env: Any) -> None:
    """Define the view `review_texts`: `review_id STRING`, `review_body STRING`; all differ."""
    _create_numbers(t_env)
    bodies = review_bodies()
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW review_texts AS
        SELECT 'R' || CAST(number AS STRING) AS review_id,
               {_one_of(bodies)} || ' ' || CAST(number AS STRING) AS review_body
        FROM numbers""")


def create_read_reviews(t_env: Any, ids: int | None = None) -> None:
    """Define the view `scored_reviews` as `read_scored` leaves it, but made in the JVM.

    Its watermark has no delay. With `ids`, there are no more than so many reviews, all in one
    window, and they come again and again.
    """
    event_ms = _EVENT_MS if ids is None else str(_BASE_MS)
    _create_numbers(t_env, watermark="event_time", event_ms=event_ms)
    bodies = review_bodies()
    payload = _one_of([json.dumps({"review_body": body}) for body in bodies])
    number = "number" if ids is None else f"MOD(number, {ids})"
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW scored_reviews AS
        SELECT {_column("reviews")} AS source_stream, {_column(_SHARD)} AS source_shard,
               CAST(number AS STRING) AS source_sequence_number,
               CAST(NULL AS STRING) AS source_part,
               'R' || CAST(number AS STRING) AS review_id,
               CAST(1 + MOD(number * 7, 5) AS INT) AS star_rating,
               {_one_of(CATEGORIES)} AS product_category,
               CAST(20 + MOD(number, 400) AS INT) AS body_length, event_time_ms, event_time,
               number * {_ODD} AS simhash, 'R' || CAST(number AS STRING) AS excerpt,
               event_time AS arrival_time, CAST({payload} AS BYTES) AS payload, 'one' AS reader,
               CAST(NULL AS STRING) AS reason, CAST(NULL AS STRING) AS message
        FROM (SELECT {number} AS number, event_time_ms, event_time FROM numbers)""")


def _column(text: str) -> str:
    """Return SQL of the same text in every row: a literal would be no column for a function."""
    return f"CASE WHEN number < 0 THEN '' ELSE '{text}' END"


def create_reviews(t_env: Any) -> None:
    """Define the table `reviews`, of the columns of the job's source, `streams.REVIEW_RECORD`."""
    rng = random.Random(_SEED)
    kinds = [
        {"product_category": category, "review_body": review_text(category, rating, rng)}
        for category, rating in _kinds(rng)
    ]
    records = _records(t_env, streams.REVIEW_RECORD, ("review_id",), kinds)
    t_env.create_temporary_view("reviews", records, _schema(streams.REVIEW_RECORD).build())


def create_scored_records(t_env: Any) -> None:
    """Define the table `scored_records`, of the columns `streams.SCORED_RECORD`.

    The records are what `review_scoring` writes, the columns those that the source of its readers
    gets from Kinesis.
    """
    records = _scored_records(t_env)
    t_env.create_temporary_view("scored_records", records, _schema(streams.SCORED_RECORD).build())


def create_scored_reviews(t_env: Any) -> None:
    """Define the view `scored_reviews` as its readers have it, over the same records.

    The SQL function `read_scored` must be there.
    """
    create_scored_records(t_env)
    scored_reviews.create_scored_reviews(t_env)


def blackhole(name: str, columns: streams.Columns) -> str:
    """Return the statement that creates a table which takes everything and keeps nothing."""
    schema = ", ".join(f"`{column}` {sql_type}" for column, sql_type in columns)
    return f"CREATE TEMPORARY TABLE `{name}` ({schema}) WITH ('connector' = 'blackhole')"


def _create_numbers(t_env: Any, watermark: str = "", event_ms: str = _EVENT_MS) -> None:
    """Define the table `numbers`: `number BIGINT`, `event_time_ms`, `event_time`."""
    # The operator's name is that of the counter: `tests.benchmarks.cluster.COUNTED`.
    numbers = t_env.stream_env.from_source(
        NumberSequenceSource(0, RECORDS - 1),
        WatermarkStrategy.no_watermarks(),
        "numbers",
        Types.LONG(),
    )
    schema = (
        _schema((("f0", "BIGINT"),))
        .column_by_expression("number", "f0")
        .column_by_expression("event_time_ms", event_ms)
        .column_by_expression("event_time", f"TO_TIMESTAMP_LTZ({event_ms}, 3)")
    )
    if watermark:
        schema.watermark("event_time", watermark)
    t_env.create_temporary_view("numbers", numbers, schema.build())


def _scored_records(t_env: Any) -> DataStream:
    rng = random.Random(_SEED)
    kinds = [
        {
            "source_stream": "reviews",
            "source_shard": _SHARD,
            "star_rating": rating,
            "product_category": category,
            "review_body": review_text(category, rating, rng),
            "model_variant": "a",
            "policy_version": None,
            "context": None,
            "propensities": None,
            "decision_id": None,
            "inference_id": "00000000-0000-0000-0000-000000000000",
            "inference_row": 0,
            "lane": "0/1",
            "scored_at": "2026-09-21T14:13:20.000Z",
        }
        for category, rating in _kinds(rng)
    ]
    return _records(t_env, streams.SCORED_RECORD, ("review_id", "source_sequence_number"), kinds)


def _kinds(rng: random.Random) -> list[tuple[str, int]]:
    """Return category and rating of each kind of record."""
    return [(CATEGORIES[i % len(CATEGORIES)], rng.randint(1, 5)) for i in range(_BODIES)]


def _records(
    t_env: Any,
    columns: streams.Columns,
    ids: Sequence[str],
    kinds: Sequence[Mapping[str, object]],
) -> DataStream:
    """Return JSON records, with ids and event time of their own, the rest from one of `kinds`.

    A stream: the planner would write a view's expressions out in every place that uses a column,
    and make each record many times over. And only over a stream can a table be given computed
    columns and a watermark.
    """
    _create_numbers(t_env)
    own = " || ".join(f"""'"{name}": "R' || CAST(number AS STRING) || '", '""" for name in ids)
    event_time = "DATE_FORMAT(event_time, 'yyyy-MM-dd''T''HH:mm:ss.SSS''Z''')"
    rest = _one_of([json.dumps(fields).removeprefix("{") for fields in kinds])
    record = f"'{{' || {own} || '\"event_time\": \"' || {event_time} || '\", ' || {rest}"
    payload, arrival_time, shard, number = (name for name, _ in columns)
    return t_env.to_data_stream(
        t_env.sql_query(f"""
            SELECT CAST({record} AS BYTES) AS {payload}, event_time AS {arrival_time},
                   '{_SHARD}' AS {shard}, CAST(number AS STRING) AS {number}
            FROM numbers""")
    )


def _schema(columns: streams.Columns) -> Schema.Builder:
    schema = Schema.new_builder()
    for name, sql_type in columns:
        schema.column(name, sql_type)
    return schema


def _one_of(texts: Sequence[str]) -> str:
    cases = " ".join(f"WHEN {i} THEN {streams.literal(text)}" for i, text in enumerate(texts))
    return f"CASE MOD(number, {len(texts)}) {cases} END"
