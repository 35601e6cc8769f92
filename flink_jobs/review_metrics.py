"""Job `review_metrics`: average rating and distinct reviews, by category, every five seconds.

Input: the Kinesis stream `scored-reviews`; repeats are dropped by source_id.
Output: `review-metrics` (Kinesis) and two CloudWatch metrics for each window and category, `All`
being every category; `dead-letters` (Kinesis) for every review that comes too late for its window
(stage `late`), every record that is no scored review (stage `parse`) and every window that
CloudWatch did not take (stage `publish`).
Key: window and category.
Time attribute: `event_time` of the review; the watermark follows each shard, see
`udfs.core.watermarks`.
Guarantee: at least once into every sink. Every scored review is in the windows of its category and
of `All`, or in `dead-letters` with stage `late`. After a failure, windows that closed since the
last checkpoint are published again.
"""

from pyflink.table import StatementSet, TableEnvironment

from flink_jobs import scored_reviews, streams
from flink_jobs.config import ReviewMetricsConfig
from udfs.dead_letters import digest_payload
from udfs.publishing import publish_metrics
from udfs.scored_records import read_scored
from udfs.sketches import approx_distinct

WINDOW_S = 5
"""Length of a window, in seconds; windows begin at whole multiples of it since the epoch."""

ALL = "All"
"""The category of the windows over all categories; a review of this name is in no other."""

_WINDOW_MS = WINDOW_S * 1000


def build(t_env: TableEnvironment, config: ReviewMetricsConfig) -> StatementSet:
    """Return the job as one statement set, not yet submitted."""
    windows, publishing = config.windows, config.publishing.publishing_options(config.aws)
    for name, function in (
        ("read_scored", read_scored(config.scored_reviews.stream, windows.watermark_options())),
        ("approx_distinct", approx_distinct(windows.lg_k)),
        ("digest_payload", digest_payload()),
        ("publish_metrics", publish_metrics(publishing, config.cloudwatch.namespace)),
    ):
        t_env.create_temporary_system_function(name, function)
    for table in (
        streams.scored_reviews_source(config.aws, config.scored_reviews),
        streams.review_metrics_sink(config.aws, config.review_metrics),
        streams.dead_letters_sink(config.aws, config.dead_letters),
    ):
        t_env.execute_sql(table.ddl)
    scored_reviews.create_views(t_env)
    create_views(t_env, config.review_metrics.stream)
    return inserts(t_env)


def create_views(t_env: TableEnvironment, metrics_stream: str) -> None:
    """Define the transform from the view `unique_reviews` to rows of the sinks.

    Views: `judged_reviews` (every review, with whether it is late), `window_rows` in the sink's
    columns, `late_rows` and `unpublished_rows` in those of `dead_letters`.
    """
    _create_judged_reviews(t_env)
    _create_window_rows(t_env)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW late_rows AS
        SELECT {streams.names(streams.SOURCE_ID)}, 'late' AS stage, 'late' AS reason,
               'the window of ' || CAST(event_time AS STRING) || ' is closed' AS message,
               CAST(1 AS INT) AS attempts, review_id, arrival_time, kept.payload AS payload,
               kept.payload_sha256 AS payload_sha256, kept.payload_bytes AS payload_bytes
        FROM (SELECT *, digest_payload(payload) AS kept FROM judged_reviews WHERE is_late)""")
    instant = "DATE_FORMAT({}, 'yyyy-MM-dd''T''HH:mm:ss''Z''')"
    name = f"{instant.format('window_start')} || '/' || {instant.format('window_end')}"
    window = streams.json_object(streams.REVIEW_METRIC)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW unpublished_rows AS
        SELECT source_stream, source_shard, source_sequence_number, 'publish' AS stage, reason,
               message, attempts, CAST(NULL AS STRING) AS review_id,
               CAST(NULL AS TIMESTAMP_LTZ(3)) AS arrival_time, kept.payload AS payload,
               kept.payload_sha256 AS payload_sha256, kept.payload_bytes AS payload_bytes
        FROM (
            SELECT {streams.literal(metrics_stream)} AS source_stream,
                   product_category AS source_shard, {name} AS source_sequence_number,
                   published.reason AS reason, published.message AS message,
                   published.attempts AS attempts,
                   digest_payload(CAST({window} AS BYTES)) AS kept
            FROM (
                SELECT *, publish_metrics(window_start, product_category, avg_star_rating,
                                          distinct_reviews) AS published
                FROM window_rows)
            WHERE published.reason IS NOT NULL)""")


def _create_judged_reviews(t_env: TableEnvironment) -> None:
    """Define `judged_reviews`: late is what comes when its window is closed.

    The watermark says which windows are closed, but not after a restart from a checkpoint, when it
    begins anew. Hence each window, when it closes, sends its end to where lateness is judged, and
    the latest of these is kept as state: `closed_ms`. For a reader (one source subtask in one
    run) counts what was closed when its first review came: what closes later may overtake reviews
    that are still on their way, and the watermark judges it. See decision 5.
    """
    tumble = f"TUMBLE(event_time, INTERVAL '{WINDOW_S}' SECOND)"
    window_end_ms = f"event_time_ms - MOD(event_time_ms, {_WINDOW_MS}) + {_WINDOW_MS}"
    # Of all records, repeats too: they change no maximum.
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW closed_windows AS
        SELECT MAX(window_end_ms) AS window_end_ms, {_edge(tumble, "ROWTIME")} AS event_time
        FROM (SELECT {window_end_ms} AS window_end_ms, event_time
              FROM scored_reviews WHERE reason IS NULL)
        GROUP BY {tumble}""")
    review = (
        *streams.SOURCE_ID,
        ("review_id", "STRING"),
        ("star_rating", "INT"),
        ("product_category", "STRING"),
        ("arrival_time", "TIMESTAMP_LTZ(3)"),
        ("payload", "BYTES"),
        ("reader", "STRING"),
    )
    no_review = ", ".join(f"CAST(NULL AS {sql_type}) AS {name}" for name, sql_type in review)
    so_far = "ORDER BY judged_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW judged_reviews AS
        SELECT {streams.names(review)}, event_time,
               window_end_ms <= closed_before_ms
               OR (TO_TIMESTAMP_LTZ(window_end_ms - 1, 3) <= CURRENT_WATERMARK(event_time))
               IS TRUE AS is_late
        FROM (
            SELECT *, FIRST_VALUE(closed_ms) OVER (PARTITION BY reader {so_far})
                      AS closed_before_ms
            FROM (
                SELECT {streams.names(review)}, event_time, window_end_ms, judged_at,
                       COALESCE(MAX(closed_end_ms) OVER ({so_far}), 0) AS closed_ms
                FROM (
                    SELECT {streams.names(review)}, event_time, {window_end_ms} AS window_end_ms,
                           CAST(NULL AS BIGINT) AS closed_end_ms, PROCTIME() AS judged_at
                    FROM unique_reviews
                    UNION ALL
                    SELECT {no_review}, event_time, CAST(NULL AS BIGINT) AS window_end_ms,
                           window_end_ms AS closed_end_ms, PROCTIME() AS judged_at
                    FROM closed_windows))
            WHERE window_end_ms IS NOT NULL)""")


def _create_window_rows(t_env: TableEnvironment) -> None:
    """Define `window_rows`: the windows of each category, and those of all."""
    tumble = f"TUMBLE(event_time, INTERVAL '{WINDOW_S}' SECOND)"
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW window_rows AS
        SELECT window_start, window_end, product_category, reviews, avg_star_rating,
               counted.estimate AS distinct_reviews, counted.lower_bound AS distinct_lower,
               counted.upper_bound AS distinct_upper, counted.sketch AS sketch
        FROM (
            SELECT CAST({_edge(tumble, "START")} AS TIMESTAMP_LTZ(3)) AS window_start,
                   CAST({_edge(tumble, "END")} AS TIMESTAMP_LTZ(3)) AS window_end, product_category,
                   COUNT(*) AS reviews, AVG(CAST(star_rating AS DOUBLE)) AS avg_star_rating,
                   approx_distinct(review_id) AS counted
            FROM (
                SELECT review_id, star_rating, product_category, event_time
                FROM judged_reviews WHERE NOT is_late AND product_category <> '{ALL}'
                UNION ALL
                SELECT review_id, star_rating, '{ALL}' AS product_category, event_time
                FROM judged_reviews WHERE NOT is_late)
            GROUP BY product_category, {tumble})""")


def _edge(tumble: str, edge: str) -> str:
    """Return the expression of a group window's START, END or ROWTIME.

    >>> _edge("TUMBLE(event_time, INTERVAL '5' SECOND)", "END")
    "TUMBLE_END(event_time, INTERVAL '5' SECOND)"
    """
    return tumble.replace("TUMBLE(", f"TUMBLE_{edge}(", 1)


def inserts(t_env: TableEnvironment) -> StatementSet:
    """Connect the views to the sinks."""
    statements = t_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO review_metrics SELECT * FROM window_rows")
    statements.add_insert_sql("""
        INSERT INTO dead_letters
        SELECT * FROM unreadable_rows
        UNION ALL SELECT * FROM late_rows
        UNION ALL SELECT * FROM unpublished_rows""")
    return statements
