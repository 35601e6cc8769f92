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
        "aws.region = ' ': string should have at least 1 character",
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
    assert any("name 2: product_category is blank; name 3: " in problem for problem in found)
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
