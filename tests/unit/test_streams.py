import re

import pytest

from flink_jobs import streams
from flink_jobs.config import (
    AwsConfig,
    DeliveryConfig,
    ReviewsConfig,
    ScoredReviewsConfig,
    StreamConfig,
)

LAPTOP = AwsConfig(region="us-east-1", endpoint_url="http://127.0.0.1:5000")
AWS = AwsConfig(region="us-east-1")


def options(table: streams.Table) -> dict[str, str]:
    return dict(re.findall(r"'([^']+)' = '([^']*)'", table.ddl))


@pytest.mark.parametrize(
    "table",
    [
        streams.reviews_source(AWS, ReviewsConfig(stream="reviews")),
        streams.scored_reviews_sink(AWS, ScoredReviewsConfig(stream="scored-reviews")),
        streams.scored_records_source(AWS, ScoredReviewsConfig(stream="scored-reviews")),
        streams.review_metrics_sink(AWS, StreamConfig(stream="review-metrics")),
        streams.rating_anomalies_sink(AWS, StreamConfig(stream="rating-anomalies")),
        streams.json_lines_delivery("raw", AWS, DeliveryConfig(delivery_stream="raw")),
    ],
    ids=lambda table: table.name,
)
def test_on_aws_nothing_of_the_stand_in_is_left(table: streams.Table) -> None:
    given = options(table)
    assert given["aws.region"] == "us-east-1"
    assert given["aws.credentials.provider"] == "AUTO"
    assert "aws.endpoint" not in given
    assert "aws.trust.all.certificates" not in given
    assert "sink.http-client.protocol.version" not in given


def test_on_the_laptop_sinks_speak_http_1_1() -> None:
    given = options(
        streams.scored_reviews_sink(LAPTOP, ScoredReviewsConfig(stream="scored-reviews"))
    )
    assert given["aws.endpoint"] == "http://127.0.0.1:5000"
    assert given["sink.http-client.protocol.version"] == "HTTP1_1"


def test_scored_reviews_are_partitioned_by_review_id() -> None:
    ddl = streams.scored_reviews_sink(AWS, ScoredReviewsConfig(stream="scored-reviews")).ddl
    assert "PARTITIONED BY (`review_id`)" in ddl
    assert "PARTITIONED" not in streams.dead_letters_sink(AWS, StreamConfig(stream="d")).ddl


@pytest.mark.parametrize(
    "table",
    [
        streams.reviews_source(AWS, ReviewsConfig(stream="reviews")),
        streams.scored_records_source(AWS, ScoredReviewsConfig(stream="scored-reviews")),
    ],
    ids=lambda table: table.name,
)
def test_sources_read_raw_bytes_with_identity_and_arrival(table: streams.Table) -> None:
    assert options(table)["format"] == "raw"
    for metadata in ("timestamp", "shard-id", "sequence-number"):
        assert f"METADATA FROM '{metadata}' VIRTUAL" in table.ddl


def test_an_endpoint_of_https_is_authenticated() -> None:
    inside_a_vpc = AwsConfig(region="us-east-1", endpoint_url="https://vpce-1.example.com")
    given = options(streams.scored_reviews_sink(inside_a_vpc, ScoredReviewsConfig(stream="s")))
    assert given["aws.endpoint"] == "https://vpce-1.example.com"
    assert "aws.trust.all.certificates" not in given


def test_a_batch_with_its_keys_stays_below_put_records_limit() -> None:
    given = options(streams.scored_reviews_sink(AWS, ScoredReviewsConfig(stream="s")))
    assert int(given["sink.flush-buffer.size"]) + 500 * 256 < 5 * 1024 * 1024
