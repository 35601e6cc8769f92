"""Job `review_scoring`: each review gets the star rating that a model predicts for it.

Input: the Kinesis stream `reviews`, as raw bytes.
Output: `scored-reviews` (Kinesis) and the same through Firehose to S3; `dead-letters` (Kinesis) for
every review that is invalid (stage `parse`) or got no prediction (stage `score`); the raw reviews
through Firehose to S3, except oversize ones.
Key: the source_id of the review (stream, shard and sequence number of its record, and which part of
the record it is), carried along.
Time attribute: none here; `event_time` is the record's own or else its arrival time.
Guarantee: at least once into every sink, repeats only after a failure and with the same source_id.
A record of `reviews` holds one review, or several with `reviews.several_per_record`. Each review
ends in exactly one of `scored-reviews` and `dead-letters`. An endpoint that stays away fails the
job, in `endpoint_guard`: it restarts and reads the same records again.
"""

from pyflink.table import StatementSet, StreamTableEnvironment, TableEnvironment

from flink_jobs import bridges, streams
from flink_jobs.config import ReviewScoringConfig
from udfs.core.parsing import ParseReason
from udfs.core.predictions import ScoreReason
from udfs.dead_letters import digest_payload
from udfs.parsing import parse_review, split_record
from udfs.scoring import score_review


def build(t_env: StreamTableEnvironment, config: ReviewScoringConfig) -> StatementSet:
    """Return the job as one statement set, not yet submitted."""
    options = config.reviews.parsing_options()
    t_env.create_temporary_system_function(
        "parse_review", parse_review(options, config.categories.category_options())
    )
    t_env.create_temporary_system_function(
        "score_review",
        score_review(
            config.endpoint.endpoint_options(config.aws.region), config.endpoint.scoring_options()
        ),
    )
    t_env.create_temporary_system_function(
        "digest_payload",
        digest_payload(config.dead_letters.payload_bytes_per_s / bridges.parallelism(t_env)),
    )
    for table in (
        streams.reviews_source(config.aws, config.reviews),
        streams.scored_reviews_sink(config.aws, config.scored_reviews),
        streams.dead_letters_sink(config.aws, config.dead_letters),
        streams.json_lines_delivery("raw_archive", config.aws, config.raw_archive),
        streams.json_lines_delivery("scored_archive", config.aws, config.scored_archive),
    ):
        t_env.execute_sql(table.ddl)
    several_per_record = config.reviews.several_per_record
    if several_per_record:
        t_env.create_temporary_system_function("split_record", split_record(options))
    create_views(t_env, config.reviews.stream, several_per_record=several_per_record)
    return inserts(t_env)


def create_views(
    t_env: StreamTableEnvironment, stream: str, *, several_per_record: bool = False
) -> None:
    """Define the transform from the table `reviews` to rows of the sinks.

    Views: `laned_reviews` (every record, with its lane), `separate_reviews` (every review of
    them), `parsed_reviews` and `scored` (every parsed or valid one, with its outcome as a ROW),
    `endpoint_guard` (never a row), `raw_rows`, `scored_rows` and `dead_rows` in the sinks'
    columns. The SQL functions `parse_review`, `score_review`, `digest_payload` and, where a record
    may hold several reviews, `split_record` must be there.
    """
    source_id = streams.names(streams.SOURCE_ID)
    columns = [name for name, _ in streams.REVIEW_RECORD]
    bridges.spread_over_lanes(t_env, "laned_reviews", "reviews", columns, "source_sequence_number")
    separated = (
        "piece AS payload, place"
        " FROM laned_reviews, LATERAL TABLE(split_record(payload)) AS split(piece, place)"
        if several_per_record
        else "payload, CAST(NULL AS INT) AS place FROM laned_reviews"
    )
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW separate_reviews AS
        SELECT source_shard, source_sequence_number, lane, arrival_time, {separated}""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW parsed_reviews AS
        SELECT {streams.literal(stream)} AS source_stream, source_shard, source_sequence_number,
               review.source_part AS source_part, lane, arrival_time, payload, review
        FROM (SELECT *, parse_review(payload, arrival_time, place) AS review
              FROM separate_reviews)""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW scored AS
        SELECT {source_id}, lane, arrival_time, payload, review,
               score_review(review.review_body) AS prediction
        FROM parsed_reviews WHERE review.reason IS NULL""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW raw_rows AS
        SELECT {streams.names(streams.RAW_RECORD)} FROM parsed_reviews
        WHERE review.reason IS DISTINCT FROM '{ParseReason.OVERSIZE}'""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW scored_rows AS
        SELECT {source_id}, review.review_id AS review_id, prediction.star_rating AS star_rating,
               review.product_category AS product_category,
               review.reported_category AS reported_category, review.review_body AS review_body,
               prediction.model_variant AS model_variant,
               prediction.requested_variant AS requested_variant,
               CAST(NULL AS BIGINT) AS policy_version,
               CAST(NULL AS ARRAY<DOUBLE>) AS context,
               CAST(NULL AS MAP<STRING, DOUBLE>) AS propensities,
               CAST(NULL AS STRING) AS decision_id,
               prediction.inference_id AS inference_id, prediction.inference_row AS inference_row,
               lane,
               TO_TIMESTAMP_LTZ(review.event_time_ms, 3) AS event_time,
               TO_TIMESTAMP_LTZ(prediction.scored_at_ms, 3) AS scored_at
        FROM scored WHERE prediction.reason IS NULL""")
    # Partitioned for the exchange that it takes: the cast, which fails and says the message, is in
    # another task than the UDF, with no UDF ahead of it. That task gets the rows ahead of the next
    # checkpoint's barrier, so no checkpoint completes with reviews behind it that have no answer.
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW endpoint_guard AS
        SELECT *, CAST(message AS INT) AS attempts FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY source_shard ORDER BY processed_at) AS place
            FROM (
                SELECT {source_id},
                       prediction.reason AS reason, prediction.message AS message,
                       review.review_id AS review_id, arrival_time, PROCTIME() AS processed_at
                FROM scored WHERE prediction.reason = '{ScoreReason.ENDPOINT_UNAVAILABLE}'))
        WHERE place = 1""")
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW dead_rows AS
        SELECT {source_id}, stage, reason, message,
               attempts, review_id, arrival_time, kept.payload AS payload,
               kept.payload_sha256 AS payload_sha256, kept.payload_bytes AS payload_bytes
        FROM (
            SELECT *, digest_payload(payload) AS kept FROM (
                SELECT {source_id}, 'parse' AS stage,
                       review.reason AS reason, review.message AS message,
                       CAST(1 AS INT) AS attempts, review.review_id AS review_id, arrival_time,
                       payload
                FROM parsed_reviews WHERE review.reason IS NOT NULL
                UNION ALL
                SELECT {source_id}, 'score' AS stage,
                       prediction.reason AS reason, prediction.message AS message,
                       prediction.attempts AS attempts, review.review_id AS review_id,
                       arrival_time, payload
                FROM scored
                WHERE prediction.reason <> '{ScoreReason.ENDPOINT_UNAVAILABLE}'))
        UNION ALL
        SELECT {source_id}, 'score' AS stage, reason,
               message, attempts, review_id, arrival_time, CAST(NULL AS BYTES) AS payload,
               CAST(NULL AS STRING) AS payload_sha256, CAST(NULL AS INT) AS payload_bytes
        FROM endpoint_guard""")


def inserts(t_env: TableEnvironment) -> StatementSet:
    """Connect the views to the sinks of their names."""
    statements = t_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO scored_reviews SELECT * FROM scored_rows")
    statements.add_insert_sql("INSERT INTO dead_letters SELECT * FROM dead_rows")
    raw_line = streams.json_line(streams.RAW_RECORD)
    statements.add_insert_sql(f"INSERT INTO raw_archive SELECT {raw_line} FROM raw_rows")
    scored_line = streams.json_line(streams.SCORED_REVIEW)
    statements.add_insert_sql(f"INSERT INTO scored_archive SELECT {scored_line} FROM scored_rows")
    return statements
