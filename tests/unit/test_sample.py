import json
from pathlib import Path

import pytest

from deploy.local import jobs
from deploy.local.sample import load_sample
from deploy.local.stack import read_properties, write_properties
from flink_jobs.config import JOB_CONFIGS, ConfigError


def test_the_sample_serves_every_job() -> None:
    sample = load_sample(jobs.PROPERTIES)
    for config in JOB_CONFIGS.values():
        assert config.model_fields.keys() <= type(sample).model_fields.keys()
    assert sample.alerts_topic == "rating-alerts"


def test_a_group_that_has_defaults_may_be_absent(tmp_path: Path) -> None:
    properties = read_properties(jobs.PROPERTIES)
    del properties["windows"]
    write_properties(tmp_path / "p.json", properties)
    assert load_sample(tmp_path / "p.json").windows.lg_k == 12


def test_every_group_that_any_job_lacks_is_named(tmp_path: Path) -> None:
    properties = read_properties(jobs.PROPERTIES)
    for group in ("alerts", "review_metrics"):
        del properties[group]
    write_properties(tmp_path / "p.json", properties)
    with pytest.raises(ConfigError) as caught:
        load_sample(tmp_path / "p.json")
    assert sorted(caught.value.problems) == [
        "group 'alerts' is missing; rating_anomalies needs it",
        "group 'review_metrics' is missing; review_metrics needs it",
    ]


def test_what_is_wrong_in_a_group_is_named_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"PropertyGroupId": "windwos", "PropertyMap": {}}]))
    with pytest.raises(ConfigError, match="did you mean 'windows'"):
        load_sample(path)
