"""Job `review_metrics`: ratings, distinct reviews, lengths and terms, by category and window.

Input: the Kinesis stream `scored-reviews`; repeats are dropped by source_id.
Output: `review-metrics` (Kinesis) and its archive (S3, by Firehose), a record for each window and
category, `All` being every category; two CloudWatch metrics of each; `dead-letters` (Kinesis) for
every review that comes too late for its pane (stage `late`), every invalid scored review
(stage `parse`) and every window that CloudWatch did not take (stage `publish`).
Key: window and category.
Time attribute: `event_time` of the review; the watermark follows each shard, see
`udfs.core.watermarks`.
Guarantee: at least once into every sink. Every scored review is in all windows of its category and
of `All` that its event time lies in, or in `dead-letters` with stage `late`, hence in none.
After a failure, windows that closed since the last checkpoint are published again.

Batches of reviews are summarised by pane, and the windows of every length merge these summaries:
see `udfs.core.summaries` and decision 9.
"""

from pyflink.table import StatementSet, StreamTableEnvironment, TableEnvironment

from flink_jobs import bridges, scored_reviews, streams
from flink_jobs.config import ReviewMetricsConfig, WindowsConfig
from udfs.core.summaries import ALL
from udfs.core.windows import WindowKind, WindowSpec, pane_of
from udfs.dead_letters import digest_payload
from udfs.publishing import publish_metrics
from udfs.scored_records import read_scored
from udfs.summaries import merge_summaries, read_summary, summarise_reviews


def build(t_env: StreamTableEnvironment, config: ReviewMetricsConfig) -> StatementSet:
    """Return the job as one statement set, not yet submitted."""
    windows, publishing = config.windows, config.publishing.publishing_options(config.aws)
    for name, function in (
        ("read_scored", read_scored(config.scored_reviews.stream, windows.watermark_options())),
        (
            "digest_payload",
            digest_payload(config.dead_letters.payload_bytes_per_s / bridges.parallelism(t_env)),
        ),
        ("publish_metrics", publish_metrics(publishing, config.cloudwatch.namespace)),
    ):
        t_env.create_temporary_system_function(name, function)
    for table in (
        streams.scored_records_source(config.aws, config.scored_reviews),
        streams.review_metrics_sink(config.aws, config.review_metrics),
        streams.json_lines_delivery("metrics_archive", config.aws, config.metrics_archive),
        streams.dead_letters_sink(config.aws, config.dead_letters),
    ):
        t_env.execute_sql(table.ddl)
    scored_reviews.create_scored_reviews(t_env)
    scored_reviews.create_views(t_env)
    create_views(t_env, config.windows, config.review_metrics.stream)
    return inserts(t_env)


def create_views(t_env: TableEnvironment, windows: WindowsConfig, metrics_stream: str) -> None:
    """Define the transform from the view `unique_reviews` to rows of the sinks.

    Views: `judged_reviews` (every review, with whether it is late), `window_rows` in the sink's
    columns, `late_rows` and `unpublished_rows` in those of `dead_letters`. The SQL functions
    `publish_metrics` and `digest_payload` must be there.
    """
    create_judged_reviews(t_env, pane_of(windows.sizes))
    create_window_rows(t_env, windows)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW late_rows AS
        SELECT {streams.names(streams.SOURCE_ID)}, 'late' AS stage, 'late' AS reason,
               'the pane of ' || CAST(event_time AS STRING) || ' is closed' AS message,
               CAST(1 AS INT) AS attempts, review_id, arrival_time, kept.payload AS payload,
               kept.payload_sha256 AS payload_sha256, kept.payload_bytes AS payload_bytes
        FROM (SELECT *, digest_payload(payload) AS kept FROM judged_reviews WHERE is_late)""")
    instant = "DATE_FORMAT({}, 'yyyy-MM-dd''T''HH:mm:ss''Z''')"
    start, end = (instant.format(f"window_{edge}") for edge in ("start", "end"))
    name = f"{start} || '/' || {end} || '/' || `window`"
    window = streams.json_object(streams.REVIEW_METRIC)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW unpublished_rows AS
        SELECT source_stream, source_shard, source_sequence_number,
               CAST(NULL AS STRING) AS source_part, 'publish' AS stage, reason,
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
                SELECT *, publish_metrics(`window`, window_end, product_category, avg_star_rating,
                                          distinct_reviews) AS published
                FROM window_rows)
            WHERE published.reason IS NOT NULL)""")


def create_judged_reviews(t_env: TableEnvironment, pane: WindowSpec) -> None:
    """Define `judged_reviews`: late is what comes when its pane is closed.

    The watermark says which panes are closed, but not after a restart from a checkpoint, when it
    begins anew. Hence each pane, when it closes, sends its end to where lateness is judged, and
    the latest of these is kept as state: `closed_ms`. For a reader (one source subtask in one
    run) counts what was closed when its first review came: what closes later may overtake reviews
    that are still on their way, and the watermark judges it. See decision 5.
    """
    tumble, pane_ms = _group_window(pane), pane.size_s * 1_000
    pane_end_ms = f"event_time_ms - MOD(event_time_ms, {pane_ms}) + {pane_ms}"
    # Of all records, repeats too: they change no maximum.
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW closed_panes AS
        SELECT MAX(pane_end_ms) AS pane_end_ms, {_edge(tumble, "ROWTIME")} AS event_time
        FROM (SELECT {pane_end_ms} AS pane_end_ms, event_time
              FROM scored_reviews WHERE reason IS NULL)
        GROUP BY {tumble}""")
    review = (
        *streams.SOURCE_ID,
        ("review_id", "STRING"),
        ("star_rating", "INT"),
        ("product_category", "STRING"),
        ("body_length", "INT"),
        ("event_time_ms", "BIGINT"),
        ("arrival_time", "TIMESTAMP_LTZ(3)"),
        ("payload", "BYTES"),
        ("reader", "STRING"),
    )
    no_review = ", ".join(f"CAST(NULL AS {sql_type}) AS {name}" for name, sql_type in review)
    so_far = "ORDER BY judged_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW judged_reviews AS
        SELECT {streams.names(review)}, event_time,
               pane_end_ms <= closed_before_ms
               OR (TO_TIMESTAMP_LTZ(pane_end_ms - 1, 3) <= CURRENT_WATERMARK(event_time))
               IS TRUE AS is_late
        FROM (
            SELECT *, FIRST_VALUE(closed_ms) OVER (PARTITION BY reader {so_far})
                      AS closed_before_ms
            FROM (
                SELECT {streams.names(review)}, event_time, pane_end_ms, judged_at,
                       COALESCE(MAX(closed_end_ms) OVER ({so_far}), 0) AS closed_ms
                FROM (
                    SELECT {streams.names(review)}, event_time, {pane_end_ms} AS pane_end_ms,
                           CAST(NULL AS BIGINT) AS closed_end_ms, PROCTIME() AS judged_at
                    FROM unique_reviews
                    UNION ALL
                    SELECT {no_review}, event_time, CAST(NULL AS BIGINT) AS pane_end_ms,
                           pane_end_ms AS closed_end_ms, PROCTIME() AS judged_at
                    FROM closed_panes))
            WHERE pane_end_ms IS NOT NULL)""")


def create_window_rows(t_env: TableEnvironment, windows: WindowsConfig) -> None:
    """Define `window_rows`: all windows of each category and of all, from `judged_reviews`.

    What is judged as late is left out. Defines the SQL functions that it needs.
    """
    pane_ms = pane_of(windows.sizes).size_s * 1_000
    columns = ["product_category", "event_time_ms", "review_id", "star_rating"]
    columns += ["body_length"] if windows.body_lengths else []
    # The text is in there; beside it, it would be carried twice through everything before.
    columns += ["payload"] if windows.top_terms else []
    summarise = summarise_reviews(
        pane_ms, windows.lg_k, has_lengths=windows.body_lengths, has_terms=windows.top_terms > 0
    )
    for name, function in (
        ("summarise_reviews", summarise),
        ("merge_summaries", merge_summaries()),
        ("read_summary", read_summary(windows.top_terms)),
    ):
        t_env.create_temporary_system_function(name, function)
    # Of a batch, one row for each category and pane goes on, and one for each pane of all of them;
    # its time is that of a review of it. Both halves take the same columns, or the planner would
    # call the function for each.
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW summarised_reviews AS
        SELECT product_category, event_time,
               summarise_reviews({", ".join(columns)}) AS summaries
        FROM judged_reviews WHERE NOT is_late""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW summaries AS
        SELECT product_category, event_time, summaries.pane_ms AS pane_ms,
               summaries.of_category AS summary
        FROM summarised_reviews
        WHERE summaries.of_category IS NOT NULL AND product_category <> '{ALL}'
        UNION ALL
        SELECT CAST('{ALL}' AS STRING) AS product_category, event_time,
               summaries.pane_ms AS pane_ms, summaries.of_all AS summary
        FROM summarised_reviews
        WHERE summaries.of_all IS NOT NULL AND product_category IS NOT NULL""")
    queries = " UNION ALL ".join(_windows(spec) for spec in windows.sizes)
    figures = ", ".join(f"figures.{name} AS {name}" for name, _ in streams.WINDOW_FIGURES)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW window_rows AS
        SELECT `window`, window_kind, window_start, window_end, product_category, {figures}
        FROM (SELECT *, read_summary(summary) AS figures FROM ({queries}))""")


def _windows(spec: WindowSpec) -> str:
    """Return the query of the windows of one kind and length."""
    window, start, period = _group_window(spec), "window_start", "CAST(0 AS BIGINT)"
    condition = "TRUE"
    if spec.kind is WindowKind.CUMULATIVE:
        # The steps so far, as a hopping window of the whole size less what belongs to the period
        # before. Where there is nothing else in it, there is no such window.
        period = f"pane_ms - MOD(pane_ms, {spec.size_s * 1_000})"
        start = "TO_TIMESTAMP_LTZ(merged.period_ms, 3)"
        condition = f"{start} >= window_start"
    return f"""
        SELECT '{spec}' AS `window`, '{spec.kind}' AS window_kind, {start} AS window_start,
               window_end, product_category, merged.summary AS summary
        FROM (
            SELECT CAST({_edge(window, "START")} AS TIMESTAMP_LTZ(3)) AS window_start,
                   CAST({_edge(window, "END")} AS TIMESTAMP_LTZ(3)) AS window_end,
                   product_category, merge_summaries({period}, summary) AS merged
            FROM summaries GROUP BY product_category, {window})
        WHERE {condition}"""


def _group_window(spec: WindowSpec) -> str:
    """Return the group window over `event_time`; of cumulative ones, that of all their steps.

    >>> _group_window(WindowSpec(WindowKind.HOPPING, 300, 60))
    "HOP(event_time, INTERVAL '60' SECOND(6), INTERVAL '300' SECOND(6))"
    """
    size, slide = (f"INTERVAL '{length}' SECOND(6)" for length in (spec.size_s, spec.slide_s))
    if spec.kind is WindowKind.TUMBLING:
        return f"TUMBLE(event_time, {size})"
    return f"HOP(event_time, {slide}, {size})"


def _edge(window: str, edge: str) -> str:
    """Return the expression of a group window's START, END or ROWTIME.

    >>> _edge("TUMBLE(event_time, INTERVAL '5' SECOND)", "END")
    "TUMBLE_END(event_time, INTERVAL '5' SECOND)"
    """
    return window.replace("(", f"_{edge}(", 1)


def inserts(t_env: TableEnvironment) -> StatementSet:
    """Connect the views to the sinks."""
    statements = t_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO review_metrics SELECT * FROM window_rows")
    line = streams.json_line(streams.REVIEW_METRIC)
    statements.add_insert_sql(f"INSERT INTO metrics_archive SELECT {line} FROM window_rows")
    statements.add_insert_sql("""
        INSERT INTO dead_letters
        SELECT * FROM unreadable_rows
        UNION ALL SELECT * FROM late_rows
        UNION ALL SELECT * FROM unpublished_rows""")
    return statements
