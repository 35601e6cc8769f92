"""What the jobs that read `scored-reviews` have in common: each review once, and what is none."""

from pyflink.table import TableEnvironment

from flink_jobs import streams


def create_views(t_env: TableEnvironment, records: str = "scored_reviews") -> None:
    """Define views over `records`: the table `scored_reviews`, or a view with its columns.

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
