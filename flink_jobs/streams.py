"""Every table over a stream: schema, and every connector option there is.

To change a connector or one of its options, change this module. Connector documentation: Apache
Flink, "Amazon Kinesis Data Streams SQL" and "Amazon Kinesis Data Firehose SQL".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flink_jobs.config import (
    AwsConfig,
    DeliveryConfig,
    ReviewsConfig,
    ScoredReviewsConfig,
    StreamConfig,
)

Columns = Sequence[tuple[str, str]]
"""Names and SQL types, in order."""

SOURCE_ID: Columns = (
    ("source_stream", "STRING"),
    ("source_shard", "STRING"),
    ("source_sequence_number", "STRING"),
    ("source_part", "STRING"),
)
"""Identity of a review: the `reviews` record that it stands in, and which part of it it is."""

SCORED_REVIEW: Columns = (
    *SOURCE_ID,
    ("review_id", "STRING"),
    ("star_rating", "INT"),
    ("product_category", "STRING"),
    ("reported_category", "STRING"),
    ("review_body", "STRING"),
    ("model_variant", "STRING"),
    ("requested_variant", "STRING"),
    ("policy_version", "BIGINT"),
    ("context", "ARRAY<DOUBLE>"),
    ("propensities", "MAP<STRING, DOUBLE>"),
    ("decision_id", "STRING"),
    ("inference_id", "STRING"),
    ("inference_row", "INT"),
    ("lane", "STRING"),
    ("event_time", "TIMESTAMP_LTZ(3)"),
    ("scored_at", "TIMESTAMP_LTZ(3)"),
)

DEAD_LETTER: Columns = (
    *SOURCE_ID,
    ("stage", "STRING"),
    ("reason", "STRING"),
    ("message", "STRING"),
    ("attempts", "INT"),
    ("review_id", "STRING"),
    ("arrival_time", "TIMESTAMP_LTZ(3)"),
    ("payload", "BYTES"),
    ("payload_sha256", "STRING"),
    ("payload_bytes", "INT"),
)

REVIEW_RECORD: Columns = (
    ("payload", "BYTES"),
    ("arrival_time", "TIMESTAMP_LTZ(3)"),
    ("source_shard", "STRING"),
    ("source_sequence_number", "STRING"),
)

SCORED_RECORD: Columns = (
    ("payload", "BYTES"),
    ("arrival_time", "TIMESTAMP_LTZ(3)"),
    ("record_shard", "STRING"),
    ("record_sequence_number", "STRING"),
)

RAW_RECORD: Columns = (
    *SOURCE_ID,
    ("arrival_time", "TIMESTAMP_LTZ(3)"),
    ("payload", "BYTES"),
)

# Of a summary; the names and types are those of `udfs.summaries.FIGURES`.
WINDOW_FIGURES: Columns = (
    ("reviews", "BIGINT"),
    ("avg_star_rating", "DOUBLE"),
    ("median_star_rating", "INT"),
    ("rating_counts", "ARRAY<BIGINT>"),
    ("distinct_reviews", "DOUBLE"),
    ("distinct_lower", "DOUBLE"),
    ("distinct_upper", "DOUBLE"),
    ("sketch", "BYTES"),
    ("body_length", "ROW<p50 INT, p90 INT, p99 INT>"),
    ("body_length_sketch", "BYTES"),
    ("top_terms", "ARRAY<ROW<term STRING, reviews_lower BIGINT, reviews_upper BIGINT>>"),
    ("terms_sketch", "BYTES"),
)

REVIEW_METRIC: Columns = (
    ("window", "STRING"),
    ("window_kind", "STRING"),
    ("window_start", "TIMESTAMP_LTZ(3)"),
    ("window_end", "TIMESTAMP_LTZ(3)"),
    ("product_category", "STRING"),
    *WINDOW_FIGURES,
)

RATING_ANOMALY: Columns = (
    *SOURCE_ID,
    ("review_id", "STRING"),
    ("product_category", "STRING"),
    ("event_time", "TIMESTAMP_LTZ(3)"),
    ("anomaly_score", "DOUBLE"),
    ("threshold", "DOUBLE"),
    ("is_anomaly", "BOOLEAN"),
    ("explanation", "STRING"),
    ("event_id", "STRING"),
)

_READ_SCORED = f"read_scored({', '.join(name for name, _ in SCORED_RECORD)})"
# Of what it returns.
_SCORED_FIELDS = (
    *(name for name, _ in SOURCE_ID),
    "review_id",
    "star_rating",
    "product_category",
    "body_length",
    "event_time_ms",
    "simhash",
    "excerpt",
    "watermark_ms",
    "reader",
    "reason",
    "message",
)

READ_RECORD: Columns = (
    *((name, f"{_READ_SCORED}.{name}") for name in _SCORED_FIELDS),
    ("event_time", f"TO_TIMESTAMP_LTZ({_READ_SCORED}.event_time_ms, 3)"),
)
"""What is computed from a `SCORED_RECORD`: names and expressions.

The function is non-deterministic, and is still called once a record: every column takes its field
from the same call.
"""

READ_WATERMARK = ("event_time", "TO_TIMESTAMP_LTZ(watermark_ms, 3)")
"""The time attribute among them, and its watermark."""

_JSON = {"format": "json", "json.timestamp-format.standard": "ISO-8601"}


@dataclass(frozen=True)
class Table:
    """A table over a stream: its name and the statement that creates it."""

    name: str
    ddl: str


def reviews_source(aws: AwsConfig, reviews: ReviewsConfig) -> Table:
    """Return the table `reviews`: raw bytes, arrival time, shard and sequence number."""
    return _raw_source("reviews", REVIEW_RECORD, aws, reviews)


def scored_records_source(aws: AwsConfig, source: ScoredReviewsConfig) -> Table:
    """Return the table `scored_records`: `scored-reviews` as raw bytes, with what `reviews` has."""
    return _raw_source("scored_records", SCORED_RECORD, aws, source)


def scored_reviews_sink(aws: AwsConfig, sink: ScoredReviewsConfig) -> Table:
    """Return the table `scored_reviews`: JSON, partitioned by review id."""
    return _kinesis_sink("scored_reviews", SCORED_REVIEW, aws, sink, "review_id")


def dead_letters_sink(aws: AwsConfig, sink: StreamConfig) -> Table:
    """Return the table `dead_letters`: JSON (payload in base64), partitioned at random."""
    return _kinesis_sink("dead_letters", DEAD_LETTER, aws, sink)


def review_metrics_sink(aws: AwsConfig, sink: StreamConfig) -> Table:
    """Return the table `review_metrics`: JSON (sketches in base64), partitioned by category."""
    return _kinesis_sink("review_metrics", REVIEW_METRIC, aws, sink, "product_category")


def rating_anomalies_sink(aws: AwsConfig, sink: StreamConfig) -> Table:
    """Return the table `rating_anomalies`: JSON, partitioned by category."""
    return _kinesis_sink("rating_anomalies", RATING_ANOMALY, aws, sink, "product_category")


def json_lines_delivery(name: str, aws: AwsConfig, sink: DeliveryConfig) -> Table:
    """Return a table of one column `line`, delivered as it is by Firehose.

    Firehose puts records one behind the other, so each must end in its own line break: see
    `json_line`.
    """
    return _table(
        name,
        (("line", "STRING"),),
        {
            "connector": "firehose",
            "delivery-stream": sink.delivery_stream,
            "sink.flush-buffer.timeout": "1000",
            "format": "raw",
            **_sink_aws(aws),
        },
    )


def json_object(columns: Columns) -> str:
    """Return the SQL expression of a row as JSON text; BYTES become base64.

    >>> json_object((("a", "INT"), ("b", "STRING")))
    "JSON_OBJECT(KEY 'a' VALUE `a`, KEY 'b' VALUE `b` NULL ON NULL)"
    """
    pairs = ", ".join(f"KEY '{name}' VALUE `{name}`" for name, _ in columns)
    return f"JSON_OBJECT({pairs} NULL ON NULL)"


def json_line(columns: Columns) -> str:
    """Return the SQL expression of a row as one line of JSON."""
    return f"{json_object(columns)} || CHR(10)"


def names(columns: Columns) -> str:
    """Return the column names, separated by commas."""
    return ", ".join(name for name, _ in columns)


def _raw_source(
    name: str, columns: Columns, aws: AwsConfig, source: ReviewsConfig | ScoredReviewsConfig
) -> Table:
    (payload, sql_type), *others = columns
    metadata = [
        (column, f"{column_type} NOT NULL METADATA FROM '{key}' VIRTUAL")
        for (column, column_type), key in zip(
            others, ("timestamp", "shard-id", "sequence-number"), strict=True
        )
    ]
    return _table(name, ((payload, sql_type), *metadata), _kinesis_source(aws, source))


def _kinesis_source(aws: AwsConfig, source: ReviewsConfig | ScoredReviewsConfig) -> dict[str, str]:
    return {
        "connector": "kinesis",
        "stream": source.stream,
        "scan.stream.initpos": source.initial_position,
        "scan.shard.getrecords.intervalmillis": str(source.read_interval_ms),
        # As much as a shard takes in a second: no shard is read far ahead of another.
        "scan.shard.getrecords.maxrecordcount": "1000",
        # Other readers of the shard may take its five reads a second; three tries, the default,
        # would fail the job.
        "scan.shard.getrecords.maxretries": "20",
        "format": "raw",
        **_source_aws(aws),
    }


def _kinesis_sink(
    name: str,
    columns: Columns,
    aws: AwsConfig,
    sink: StreamConfig | ScoredReviewsConfig,
    partition_key: str = "",
) -> Table:
    return _table(
        name,
        columns,
        {
            "connector": "kinesis",
            "stream": sink.stream,
            # A fifth of a second of waiting in the last operator, not the default five.
            "sink.flush-buffer.timeout": "200",
            # PutRecords takes 5 MiB with the partition keys, which the connector does not count.
            "sink.flush-buffer.size": str(4 * 1024 * 1024),
            **_JSON,
            **_sink_aws(aws),
        },
        partition_key,
    )


def _source_aws(aws: AwsConfig) -> dict[str, str]:
    options = {"aws.region": aws.region, "aws.credentials.provider": "AUTO"}
    if aws.endpoint_url is not None:
        options["aws.endpoint"] = aws.endpoint_url
    return options


def _sink_aws(aws: AwsConfig) -> dict[str, str]:
    options = _source_aws(aws)
    # Of records up to 1 MiB each: the default of 10,000 is more than a TaskManager's memory.
    options["sink.requests.max-buffered"] = "1000"
    if aws.endpoint_url is not None and aws.endpoint_url.startswith("http://"):
        # A stand-in for AWS; the connector asks for HTTP/2 and a certificate otherwise.
        options["sink.http-client.protocol.version"] = "HTTP1_1"
        options["aws.trust.all.certificates"] = "true"
    return options


def _table(
    name: str,
    columns: Columns,
    options: Mapping[str, str],
    partition_key: str = "",
) -> Table:
    schema = ",\n  ".join(f"`{column}` {sql_type}" for column, sql_type in columns)
    partitioned = f" PARTITIONED BY (`{partition_key}`)" if partition_key else ""
    settings = ",\n  ".join(f"{literal(key)} = {literal(options[key])}" for key in options)
    return Table(
        name,
        f"CREATE TEMPORARY TABLE `{name}` (\n  {schema}\n){partitioned} WITH (\n  {settings}\n)",
    )


def literal(text: str) -> str:
    """Return a text as SQL writes it.

    >>> literal("it's")
    "'it''s'"
    """
    escaped = text.replace("'", "''")
    return f"'{escaped}'"
