"""What the jobs that read `scored-reviews` have in common: each review once, and what is none."""

from pyflink.table import Schema, StreamTableEnvironment, TableEnvironment

from flink_jobs import bridges, streams


def create_scored_reviews(t_env: StreamTableEnvironment) -> None:
    """Define the view `scored_reviews`: the table `scored_records`, read by `read_scored`.

    The function must be there. It runs in another task than the source, and gets the records of a
    shard in their order. The time attribute is `event_time`; its watermark is the function's.
    """
    schema = Schema.new_builder()
    for name, expression in streams.READ_RECORD:
        schema.column_by_expression(name, expression)
    schema.watermark(*streams.READ_WATERMARK)
    columns = [name for name, _ in streams.SCORED_RECORD]
    bridges.start_task(t_env, "scored_reviews", "scored_records", columns, schema.build())


def create_views(t_env: TableEnvironment, records: str = "scored_reviews") -> None:
    """Define views over `records`: the view `scored_reviews`, or another with its columns.

    `unique_reviews`: the readable records, each source_id once, for as long as the engine's state
    is kept (`table.exec.state.ttl`, the property `repeat_horizon_s`).
    `unreadable_rows`: the others, in the columns of `dead_letters`. The SQL function
    `digest_payload` must be there.
    """
    create_unique_reviews(t_env, records)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW unreadable_rows AS
        SELECT {streams.names(streams.SOURCE_ID)}, 'parse' AS stage, reason, message,
               CAST(1 AS INT) AS attempts, CAST(NULL AS STRING) AS review_id, arrival_time,
               kept.payload AS payload, kept.payload_sha256 AS payload_sha256,
               kept.payload_bytes AS payload_bytes
        FROM (SELECT *, digest_payload(payload) AS kept FROM {records}
              WHERE reason IS NOT NULL)""")


def create_unique_reviews(t_env: TableEnvironment, records: str = "scored_reviews") -> None:
    """Define the view `unique_reviews`: see `create_views`."""
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW unique_reviews AS
        SELECT {streams.names(streams.SOURCE_ID)}, review_id, star_rating, product_category,
               body_length, event_time_ms, simhash, excerpt, event_time, arrival_time,
               payload, reader
        FROM (
            SELECT *, ROW_NUMBER() OVER (
                PARTITION BY {streams.names(streams.SOURCE_ID)} ORDER BY PROCTIME() ASC
            ) AS copy
            FROM {records} WHERE reason IS NULL)
        WHERE copy = 1""")
