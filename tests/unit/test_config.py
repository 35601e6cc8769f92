import importlib
import json
from pathlib import Path
from typing import get_args

import pytest

from flink_jobs.config import (
    JOB_CONFIGS,
    ConfigError,
    JobName,
    ReviewMetricsConfig,
    ReviewScoringConfig,
    load_config,
    load_groups,
)
from udfs.core.categories import CategoryOptions
from udfs.core.watermarks import WatermarkOptions

SAMPLE = Path("deploy/runtime_properties.json")


def groups() -> dict[str, dict[str, object]]:
    return {
        entry["PropertyGroupId"]: entry["PropertyMap"] for entry in json.loads(SAMPLE.read_text())
    }


def write(path: Path, properties: dict[str, dict[str, object]]) -> Path:
    document = [{"PropertyGroupId": name, "PropertyMap": properties[name]} for name in properties]
    path.write_text(json.dumps(document))
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(path) in str(raised.value)
    return raised.value.problems


def test_the_local_sample_is_valid() -> None:
    config = load_config(SAMPLE)
    assert isinstance(config, ReviewScoringConfig)
    assert config.reviews.parsing_options().max_body_bytes == 262_144
    assert config.endpoint.endpoint_options("eu-west-1").region == "eu-west-1"
    assert config.endpoint.scoring_options().deadline_s == 150.0


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    properties = groups()
    del properties["dead_letters"]
    properties["endpiont"] = properties.pop("endpoint")
    properties["reviews"]["strem"] = properties["reviews"].pop("stream")
    properties["reviews"]["max_body_bytes"] = "many"
    properties["reviews"]["format"] = "xml"
    properties["scored_reviews"]["stream"] = 7
    properties["aws"]["region"] = " "
    found = "\n".join(problems(write(tmp_path / "properties.json", properties)))
    for expected in (
        "group 'dead_letters' is missing; review_scoring needs it",
        "dead_letters.stream is missing",
        "group 'endpiont' is unknown; did you mean 'endpoint'?",
        "group 'endpoint' is missing",
        "endpoint.name is missing",
        "reviews.strem is unknown; did you mean 'stream'?",
        "reviews.stream is missing",
        "reviews.max_body_bytes = 'many': input should be a valid integer",
        "reviews.format = 'xml': input should be 'json' or 'tsv'",
        "scored_reviews.stream is a JSON int; the service gives all values as strings",
        "aws.region = ' ': is not an AWS region, such as eu-west-1",
    ):
        assert expected in found


def test_values_that_do_not_fit_each_other(tmp_path: Path) -> None:
    properties = groups()
    properties["application"] |= {"checkpoint_timeout_s": "100", "bundle_rows": "3000"}
    properties["endpoint"] |= {"deadline_s": "60", "attempt_timeout_s": "60"}
    found = problems(write(tmp_path / "properties.json", properties))
    assert len(found) == 3
    assert "endpoint.deadline_s = 60.0: must be at least 480.8" in found[0]
    assert "at most a third of application.checkpoint_timeout_s = 100" in found[1]
    assert "application.bundle_rows = 3000 of reviews.max_body_bytes = 262144" in found[2]


def test_categories_are_checked_and_normalised(tmp_path: Path) -> None:
    properties = groups()
    properties["categories"] = {"allowed": "Books, Gift_Card,Books", "max_categories": "2"}
    path = tmp_path / "properties.json"
    config = load_config(write(path, properties))
    assert isinstance(config, ReviewScoringConfig)
    assert config.categories.category_options() == CategoryOptions(
        frozenset({"Books", "Gift_Card"}), max_categories=2
    )
    del properties["categories"]
    config = load_config(write(path, properties))
    assert isinstance(config, ReviewScoringConfig)
    assert config.categories.category_options() == CategoryOptions(frozenset(), 1_000)


def test_categories_that_cannot_be(tmp_path: Path) -> None:
    properties = groups()
    path = tmp_path / "properties.json"
    properties["categories"] = {"allowed": "Books,, a\u202e", "max_categories": "0", "alowed": "x"}
    found = problems(write(path, properties))
    assert len(found) == 3
    assert any("name 2 is blank; name 3 " in problem for problem in found)
    properties["categories"] = {"allowed": "Books, Gift_Card", "max_categories": "1"}
    assert problems(write(path, properties)) == [
        "categories.allowed has 2 names: at most categories.max_categories = 1 are allowed"
    ]


def test_the_budget_of_dead_letters_is_bounded(tmp_path: Path) -> None:
    properties = groups()
    path = tmp_path / "properties.json"
    properties["dead_letters"]["payload_bytes_per_s"] = "0"
    assert "dead_letters.payload_bytes_per_s = '0'" in problems(write(path, properties))[0]
    del properties["dead_letters"]["payload_bytes_per_s"]
    assert load_config(write(path, properties)).dead_letters.payload_bytes_per_s == 262_144


def test_jobs_are_the_same_everywhere() -> None:
    assert set(JOB_CONFIGS) == set(get_args(JobName))
    for job in JOB_CONFIGS:
        assert callable(importlib.import_module(f"flink_jobs.{job}").build)


def test_a_group_means_the_same_to_every_job() -> None:
    models: dict[str, object] = {}
    for config in JOB_CONFIGS.values():
        for group, field in config.model_fields.items():
            assert models.setdefault(group, field.annotation) is field.annotation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ("{}", "not a JSON list"),
        ("[]", "group 'application' is missing"),
        ('[{"PropertyGroupId": "aws"}]', "entry 0 is not"),
        (
            '[{"PropertyGroupId": "aws", "PropertyMap": {"region": "a"}},'
            ' {"PropertyGroupId": "aws", "PropertyMap": {}}]',
            "group 'aws' stands twice",
        ),
    ],
)
def test_a_file_of_another_shape(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "properties.json"
    path.write_text(text)
    assert expected in "\n".join(problems(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.json") == [
        "the file cannot be read: No such file or directory"
    ]


def test_an_unknown_job_names_the_known_ones(tmp_path: Path) -> None:
    properties = groups()
    properties["application"]["job"] = "review_scorign"
    found = problems(write(tmp_path / "properties.json", properties))
    assert found == [
        "application.job = 'review_scorign': input should be 'review_scoring', 'review_metrics' or"
        " 'rating_anomalies'"
    ]


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_the_sample_configures_every_job(tmp_path: Path, job: str) -> None:
    properties = groups()
    properties["application"]["job"] = job
    assert isinstance(
        load_config(write(tmp_path / "properties.json", properties)), JOB_CONFIGS[job]
    )


def test_a_group_that_needs_nothing_may_be_missing(tmp_path: Path) -> None:
    properties = groups()
    properties["application"]["job"] = "review_metrics"
    for name in ("windows", "cloudwatch"):
        del properties[name]
    config = load_config(write(tmp_path / "properties.json", properties))
    assert isinstance(config, ReviewMetricsConfig)
    assert config.windows.watermark_options() == WatermarkOptions(10.0, 5.0, 30.0)
    assert config.cloudwatch.namespace == "kinesis/analytics/AVGStarRating"
    del properties["review_metrics"]
    assert problems(write(tmp_path / "properties.json", properties)) == [
        "group 'review_metrics' is missing; review_metrics needs it",
        "review_metrics.stream is missing",
    ]


def test_groups_of_other_jobs_are_there_and_checked_too(tmp_path: Path) -> None:
    assert set(load_groups(SAMPLE)) == set(groups()) - {"kinesis.analytics.flink.run.options"}
    properties = groups()
    properties["alerts"]["topic_arn"] = "rating-alerts"
    found = problems(write(tmp_path / "properties.json", properties))
    assert len(found) == 1
    assert found[0].startswith("alerts.topic_arn = 'rating-alerts': does not match ^arn:")


def test_publishing_must_end_well_before_a_checkpoint_does(tmp_path: Path) -> None:
    properties = groups()
    properties["publishing"] = {"attempt_timeout_s": "20", "max_attempts": "20"}
    found = problems(write(tmp_path / "properties.json", properties))
    assert len(found) == 1
    assert "publishing.max_attempts = 20 of attempt_timeout_s = 20.0 may take" in found[0]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", ""])
def test_times_are_finite_and_positive(tmp_path: Path, value: str) -> None:
    properties = groups()
    properties["endpoint"]["deadline_s"] = value
    assert "endpoint.deadline_s" in problems(write(tmp_path / "properties.json", properties))[0]


def test_a_time_zone_can_be_required(tmp_path: Path) -> None:
    properties = groups()
    properties["reviews"]["require_time_zone"] = "true"
    config = load_config(write(tmp_path / "properties.json", properties))
    assert isinstance(config, ReviewScoringConfig)
    assert config.reviews.parsing_options().require_time_zone
    properties["reviews"]["require_time_zone"] = "UTC"
    found = problems(write(tmp_path / "properties.json", properties))
    assert "reviews.require_time_zone = 'UTC': input should be a valid boolean" in found[0]


def test_only_content_types_that_are_there_can_be_asked_for(tmp_path: Path) -> None:
    properties = groups()
    properties["endpoint"]["content_type"] = "text/csv"
    config = load_config(write(tmp_path / "properties.json", properties))
    assert isinstance(config, ReviewScoringConfig)
    assert config.endpoint.endpoint_options("eu-west-1").content_type == "text/csv"
    properties["endpoint"]["content_type"] = "text/plain"
    assert "endpoint.content_type = 'text/plain': input should be" in str(
        problems(write(tmp_path / "properties.json", properties))
    )


def test_windows_are_read_by_their_grammar(tmp_path: Path) -> None:
    properties = groups()
    properties["application"]["job"] = "review_metrics"
    properties["windows"] |= {"sizes": "1 d by 1 h, 5 s", "body_lengths": "false", "top_terms": "0"}
    config = load_config(write(tmp_path / "properties.json", properties))
    assert isinstance(config, ReviewMetricsConfig)
    assert [str(spec) for spec in config.windows.sizes] == ["5 s", "1 d by 1 h"]
    assert (config.windows.body_lengths, config.windows.top_terms) == (False, 0)
    del properties["windows"]["sizes"]
    config = load_config(write(tmp_path / "properties.json", properties))
    assert isinstance(config, ReviewMetricsConfig)
    assert [str(spec) for spec in config.windows.sizes] == ["5 s"]


def test_every_problem_of_the_windows_is_named(tmp_path: Path) -> None:
    properties = groups()
    properties["windows"] |= {"sizes": "5 sec, 1 h every 7 min", "top_terms": "101"}
    found = "\n".join(problems(write(tmp_path / "properties.json", properties)))
    for expected in (
        "windows.sizes = '5 sec, 1 h every 7 min'",
        "'5 sec' is not a length",
        "1 h is not two or more times 7 min",
        "windows.top_terms = '101'",
    ):
        assert expected in found


def found_with(tmp_path: Path, group: str, **changes: str) -> str:
    properties = groups()
    properties[group] = properties.get(group, {}) | changes
    return "\n".join(problems(write(tmp_path / "properties.json", properties)))


@pytest.mark.parametrize(
    ("group", "stream", "others"),
    [
        ("dead_letters", "reviews", "reviews.stream, dead_letters.stream"),
        ("review_metrics", "scored-reviews", "scored_reviews.stream, review_metrics.stream"),
        ("scored_reviews", "reviews", "reviews.stream, scored_reviews.stream"),
        ("review_metrics", "reviews", "reviews.stream, review_metrics.stream"),
        ("dead_letters", "review-metrics", "review_metrics.stream, dead_letters.stream"),
        ("rating_anomalies", "review-metrics", "review_metrics.stream, rating_anomalies.stream"),
    ],
)
def test_no_stream_has_two_kinds_of_records(
    tmp_path: Path, group: str, stream: str, others: str
) -> None:
    assert found_with(tmp_path, group, stream=stream) == (
        f"{others} = {stream!r}: must differ, because jobs would read what they write, or records"
        " of another kind"
    )


def test_no_delivery_stream_has_two_kinds_of_records(tmp_path: Path) -> None:
    found = found_with(tmp_path, "scored_archive", delivery_stream="reviews-raw")
    assert "raw_archive.delivery_stream, scored_archive.delivery_stream = 'reviews-raw'" in found


@pytest.mark.parametrize(
    ("region", "topic_arn", "expected"),
    [
        ("eu-west-1", "arn:aws:sns:us-east-1:123456789012:a", "must be in the region of aws."),
        ("cn-north-1", "arn:aws:sns:cn-north-1:123456789012:a", "must begin with 'arn:aws-cn:'"),
        ("us-gov-west-1", "arn:aws:sns:us-gov-west-1:123456789012:a", "'arn:aws-us-gov:'"),
        ("us-east-1", "arn:aws-cn:sns:us-east-1:123456789012:a", "must begin with 'arn:aws:'"),
    ],
)
def test_a_topic_is_in_the_region_of_the_job(
    tmp_path: Path, region: str, topic_arn: str, expected: str
) -> None:
    properties = groups()
    properties["aws"]["region"] = region
    properties["alerts"]["topic_arn"] = topic_arn
    (found,) = problems(write(tmp_path / "properties.json", properties))
    assert found.startswith(f"alerts.topic_arn = {topic_arn!r}: ")
    assert expected in found


@pytest.mark.parametrize(
    ("region", "partition"),
    [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
)
def test_every_partition_is_possible(tmp_path: Path, region: str, partition: str) -> None:
    properties = groups()
    properties["aws"]["region"] = region
    properties["alerts"]["topic_arn"] = f"arn:{partition}:sns:{region}:123456789012:alerts"
    load_config(write(tmp_path / "properties.json", properties))


@pytest.mark.parametrize(
    "region", ["", "Ireland", "eu-west", "eu_west_1", "EU-WEST-1", "eu-west-1a", "eu-west-1,b", "é"]
)
def test_a_malformed_region_is_refused(tmp_path: Path, region: str) -> None:
    assert "aws.region" in found_with(tmp_path, "aws", region=region)


@pytest.mark.parametrize(
    "namespace", ["kinesis/analytics/AVGStarRating", "a b.c-d_e#f:g", "x" * 255]
)
def test_a_namespace_that_cloudwatch_takes(tmp_path: Path, namespace: str) -> None:
    properties = groups()
    properties["cloudwatch"]["namespace"] = namespace
    load_config(write(tmp_path / "properties.json", properties))


@pytest.mark.parametrize(
    "namespace", ["AWS/Reviews", "aws/x", ":a", "", " ", "Café", "a,b", "a\nb", "(a)", "x" * 256]
)
def test_a_namespace_that_cloudwatch_refuses(tmp_path: Path, namespace: str) -> None:
    assert "cloudwatch.namespace" in found_with(tmp_path, "cloudwatch", namespace=namespace)


@pytest.mark.parametrize("group", ["aws", "endpoint"])
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:0", "port 0"),
        ("http://127.0.0.1:65536", "out of range"),
        ("http://127.0.0.1:x", "not a URL"),
        ("http://:5000", "not an address"),
        ("http://[::1", "not a URL"),
        ("ftp://127.0.0.1", "not an address"),
        ("127.0.0.1:5000", "not an address"),
        ("http://a b", "not an address"),
        ("http://127.0.0.1:5000/path", "more than scheme"),
        ("http://127.0.0.1:5000?a=b", "more than scheme"),
        ("http://127.0.0.1:5000/#", "more than scheme"),
    ],
)
def test_an_address_that_cannot_work(tmp_path: Path, group: str, url: str, expected: str) -> None:
    found = found_with(tmp_path, group, endpoint_url=url)
    assert f"{group}.endpoint_url = {url!r}: " in found
    assert expected in found


def test_an_address_may_be_of_ip_version_6(tmp_path: Path) -> None:
    properties = groups()
    properties["aws"]["endpoint_url"] = "http://[::1]:65535/"
    load_config(write(tmp_path / "properties.json", properties))


@pytest.mark.parametrize(
    ("group", "key"), [("aws", "endpoint_url"), ("aws", "region"), ("reviews", "stream")]
)
def test_a_password_is_refused_and_not_shown(tmp_path: Path, group: str, key: str) -> None:
    found = found_with(tmp_path, group, **{key: "https://me:secret@example.com"})
    assert f"{group}.{key} = 'https://***@example.com'" in found
    assert "secret" not in found


FLOATS = [
    (name, key)
    for name, group in load_groups(SAMPLE).items()
    for key, field in type(group).model_fields.items()
    if field.annotation is float
]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "Infinity", "1e999", "", "1,5", "true"])
@pytest.mark.parametrize(("group", "key"), FLOATS)
def test_every_number_is_finite(tmp_path: Path, group: str, key: str, value: str) -> None:
    assert f"{group}.{key} = {value!r}: " in found_with(tmp_path, group, **{key: value})


@pytest.mark.parametrize("value", ["1e3", "1000.5", "true", "0x10", "", "9" * 5_000])
def test_whole_numbers_are_written_as_such(tmp_path: Path, value: str) -> None:
    assert "application.bundle_rows" in found_with(tmp_path, "application", bundle_rows=value)


@pytest.mark.parametrize("value", ["", "maybe", "2"])
def test_booleans_are_true_or_false(tmp_path: Path, value: str) -> None:
    assert "windows.body_lengths" in found_with(tmp_path, "windows", body_lengths=value)


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("reviews", "max_event_age_s", "31536001"),
        ("reviews", "max_event_age_s", "0"),
        ("reviews", "max_event_lead_s", "86401"),
        ("windows", "idle_timeout_s", "0.0004"),
        ("windows", "idle_timeout_s", "0.2"),
        ("windows", "watermark_delay_s", "86401"),
        ("windows", "sizes", "8 d"),
        ("endpoint", "attempt_timeout_s", "0.000001"),
        ("endpoint", "deadline_s", "86401"),
        ("publishing", "attempt_timeout_s", "0.000001"),
        ("application", "bundle_rows", "50001"),
    ],
)
def test_times_and_sizes_are_reasonable(tmp_path: Path, group: str, key: str, value: str) -> None:
    assert f"{group}.{key}" in found_with(tmp_path, group, **{key: value})


@pytest.mark.parametrize("job", JOB_CONFIGS)
@pytest.mark.parametrize("has_reviews", [True, False])
def test_no_bundle_is_larger_than_a_workers_memory(
    tmp_path: Path, job: str, has_reviews: bool
) -> None:
    properties = groups()
    properties["application"] = {"job": job, "bundle_rows": "2001"}
    if not has_reviews:
        del properties["reviews"]
    found = "\n".join(problems(write(tmp_path / "properties.json", properties)))
    assert "application.bundle_rows = 2001 of reviews.max_body_bytes = 262144 may take" in found
    properties = groups()
    properties["application"] = {"job": job, "bundle_rows": "10000"}
    properties["reviews"]["max_body_bytes"] = "50000"
    load_config(write(tmp_path / "properties.json", properties))


def test_problems_between_groups_are_named_at_once(tmp_path: Path) -> None:
    properties = groups()
    properties["dead_letters"]["stream"] = "reviews"
    properties["raw_archive"]["delivery_stream"] = "reviews-metrics"
    properties["aws"]["region"] = "eu-west-1"
    properties["application"]["bundle_rows"] = "50000"
    found = problems(write(tmp_path / "properties.json", properties))
    assert len(found) == 4
