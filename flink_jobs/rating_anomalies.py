"""Job `rating_anomalies`: how unusual is what is said about a category right now.

Input: the Kinesis stream `scored-reviews`; repeats are dropped by source_id.
Output: `rating-anomalies` (Kinesis), a record for each scored review; an alert to SNS for each
anomaly event, when it opens; `dead-letters` (Kinesis) for every invalid scored review
(stage `parse`) and every alert that SNS did not take (stage `publish`).
Key: the category, each with a detector of its own.
Time attribute: none; reviews are judged in the order of their arrival, whatever their event times.
Guarantee: at least once into every sink and to SNS; repeats come only after a failure. Detectors
and event numbers are in checkpoints and savepoints: a restart loses none of what was learned. But
if reviews come in another order when they are read again, from several shards, the records that are
written again may have other scores, and an event may open at another review, with the same id.
"""

from dataclasses import fields

from pyflink.table import StatementSet, StreamTableEnvironment, Table

from flink_jobs import bridges, scored_reviews, streams
from flink_jobs.config import RatingAnomaliesConfig
from udfs.anomaly import JUDGED_REVIEW, TrackAnomalies, gather_reviews
from udfs.core.scored_records import ScoredReview
from udfs.core.watermarks import WatermarkOptions
from udfs.dead_letters import digest_payload
from udfs.publishing import publish_alert
from udfs.scored_records import read_scored

_TRACKED = ", ".join(field.name for field in fields(ScoredReview))


def build(t_env: StreamTableEnvironment, config: RatingAnomaliesConfig) -> StatementSet:
    """Return the job as one statement set, not yet submitted."""
    publishing = config.publishing.publishing_options(config.aws)
    for name, function in (
        # Nothing here waits for the watermark.
        (
            "read_scored",
            read_scored(config.scored_reviews.stream, WatermarkOptions(), has_text=True),
        ),
        (
            "digest_payload",
            digest_payload(config.dead_letters.payload_bytes_per_s / bridges.parallelism(t_env)),
        ),
        ("publish_alert", publish_alert(publishing, config.alerts.topic_arn)),
    ):
        t_env.create_temporary_system_function(name, function)
    for table in (
        streams.scored_records_source(config.aws, config.scored_reviews),
        streams.rating_anomalies_sink(config.aws, config.rating_anomalies),
        streams.dead_letters_sink(config.aws, config.dead_letters),
    ):
        t_env.execute_sql(table.ddl)
    scored_reviews.create_scored_reviews(t_env)
    # The detector and the sinks are planned apart. Through a stream both have the same records;
    # from the view each would have `read_scored` called for itself.
    read_once = t_env.to_data_stream(t_env.from_path("scored_reviews"))
    t_env.create_temporary_view("scored_once", read_once)
    scored_reviews.create_views(t_env, "scored_once")
    create_views(t_env, config.anomalies.threshold, config.anomalies.warm_up_reviews)
    return inserts(t_env)


def create_views(t_env: StreamTableEnvironment, threshold: float, warm_up_reviews: int) -> None:
    """Define the transform from the view `unique_reviews` to rows of the sinks.

    Views: those of `create_anomaly_rows`, and `unpublished_rows` in the columns of `dead_letters`.
    The SQL functions `publish_alert` and `digest_payload` must be there.
    """
    create_anomaly_rows(t_env, threshold, warm_up_reviews)
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW unpublished_rows AS
        SELECT {streams.names(streams.SOURCE_ID)}, 'publish' AS stage, reason, message, attempts,
               review_id, CAST(NULL AS TIMESTAMP_LTZ(3)) AS arrival_time, kept.payload AS payload,
               kept.payload_sha256 AS payload_sha256, kept.payload_bytes AS payload_bytes
        FROM (
            SELECT {streams.names(streams.SOURCE_ID)}, review_id, published.reason AS reason,
                   published.message AS message, published.attempts AS attempts,
                   digest_payload(CAST(alert AS BYTES)) AS kept
            FROM (
                SELECT *, publish_alert(event_id, alert) AS published
                FROM judged_reviews WHERE alert IS NOT NULL)
            WHERE published.reason IS NOT NULL)""")


def create_anomaly_rows(
    t_env: StreamTableEnvironment, threshold: float, warm_up_reviews: int
) -> None:
    """Define `judged_reviews` (see `JUDGED_REVIEW`) and `anomaly_rows` in the sink's columns.

    From the view `unique_reviews`. Defines the SQL function that it needs.
    """
    t_env.create_temporary_system_function("gather_reviews", gather_reviews())
    t_env.create_temporary_view(
        "judged_reviews", _judged_reviews(t_env, TrackAnomalies(threshold, warm_up_reviews))
    )
    columns = streams.names(streams.RATING_ANOMALY).replace(
        "event_time", "TO_TIMESTAMP_LTZ(event_time_ms, 3) AS event_time"
    )
    t_env.execute_sql(f"CREATE TEMPORARY VIEW anomaly_rows AS SELECT {columns} FROM judged_reviews")


def _judged_reviews(t_env: StreamTableEnvironment, track_anomalies: TrackAnomalies) -> Table:
    """Return the reviews of the view `unique_reviews` with what their categories' trackers say."""
    gathered = t_env.sql_query(f"""
        SELECT product_category, message
        FROM (SELECT product_category, gather_reviews({_TRACKED}) AS message FROM unique_reviews)
        WHERE message IS NOT NULL""")
    judged = (
        t_env.to_data_stream(gathered)
        .key_by(lambda message: message[0])
        .process(track_anomalies, output_type=JUDGED_REVIEW)
        # State finds its operator again by this, also in another release.
        .uid("track_anomalies")
        .name("track_anomalies")
    )
    return t_env.from_data_stream(judged)


def inserts(t_env: StreamTableEnvironment) -> StatementSet:
    """Connect the views to the sinks."""
    statements = t_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO rating_anomalies SELECT * FROM anomaly_rows")
    statements.add_insert_sql("""
        INSERT INTO dead_letters
        SELECT * FROM unreadable_rows UNION ALL SELECT * FROM unpublished_rows""")
    return statements
