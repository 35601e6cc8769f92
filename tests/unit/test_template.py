"""The CloudFormation template: its applications are those of the jobs, with sound properties."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deploy.aws.template import MAX_TEMPLATE_BYTES, Template, TemplateError, check_applications
from flink_jobs.config import (
    JOB_CONFIGS,
    MAX_RETENTION_S,
    RUN_OPTIONS_GROUP,
    ConfigError,
    DeliveryConfig,
    JobConfig,
    RatingAnomaliesConfig,
    ReviewMetricsConfig,
    ReviewScoringConfig,
    StreamConfig,
)
from udfs.core.categories import Categories, CategoryOptions


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.read()


def resources(template: Template, kind: str) -> dict[str, Any]:
    return {
        name: resource
        for name, resource in template.expanded()["Resources"].items()
        if resource["Type"] == kind
    }


def test_there_is_one_application_for_each_job(template: Template) -> None:
    applications = template.applications("test", "eu-west-1")
    assert sorted(application.job for application in applications) == sorted(JOB_CONFIGS)
    assert len({application.name for application in applications}) == len(JOB_CONFIGS)


def test_the_jobs_take_their_properties(template: Template) -> None:
    configs = {
        config.application.job: config
        for config in check_applications(template.applications("test", "eu-west-1"))
    }
    assert set(configs) == set(JOB_CONFIGS)
    scoring, anomalies = configs["review_scoring"], configs["rating_anomalies"]
    assert isinstance(scoring, ReviewScoringConfig)
    assert isinstance(anomalies, RatingAnomaliesConfig)
    assert scoring.aws.region == "eu-west-1"
    assert scoring.reviews.stream == "test-reviews"
    assert scoring.endpoint.name == "test-reviews"
    assert scoring.scored_archive.delivery_stream == "test-reviews-scored"
    assert scoring.scored_reviews.stream == anomalies.scored_reviews.stream == "test-scored-reviews"
    metrics = configs["review_metrics"]
    assert isinstance(metrics, ReviewMetricsConfig)
    assert metrics.metrics_archive.delivery_stream == "test-reviews-metrics"
    assert anomalies.alerts.topic_arn == "arn:aws:sns:eu-west-1:123456789012:test-alerts"


def test_no_event_may_be_older_than_the_longest_retention(template: Template) -> None:
    retention = template.expanded()["Parameters"]["StreamRetentionHours"]
    assert retention["MaxValue"] * 3_600 == MAX_RETENTION_S


def test_no_property_leads_to_a_laptop(template: Template) -> None:
    for application in template.applications("test", "eu-west-1"):
        assert "127.0.0.1" not in json.dumps(application.properties)
        assert "endpoint_url" not in json.dumps(application.properties)


def test_the_service_is_told_what_to_run(template: Template) -> None:
    for application in template.applications("test", "eu-west-1"):
        (options,) = (
            group["PropertyMap"]
            for group in application.properties
            if group["PropertyGroupId"] == RUN_OPTIONS_GROUP
        )
        assert options == {
            "python": "main.py",
            "jarfile": "lib/flink-aws-connectors.jar",
            "pyFiles": "python/",
        }


def test_no_group_keeps_silent_about_what_a_job_needs(template: Template) -> None:
    """Every group that names something on AWS is there, in all applications, and is the same."""
    described = template.applications("test", "eu-west-1")
    needed = {
        name
        for config in JOB_CONFIGS.values()
        for name, group in config.model_fields.items()
        if any(field.is_required() for field in group.annotation.model_fields.values())  # type: ignore[union-attr]
    }
    for application in described:
        names = [group["PropertyGroupId"] for group in application.properties]
        assert len(names) == len(set(names))
        assert needed <= set(names)
        assert application.properties[2:] == described[0].properties[2:]


def actions_on(template: Template, role: str, resource: str) -> set[str]:
    """What the policies of a role allow with a resource of the template."""
    found: set[str] = set()
    for policy in resources(template, "AWS::IAM::RolePolicy").values():
        if policy["Properties"]["RoleName"] != {"Ref": role}:
            continue
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            named = json.dumps(statement["Resource"])
            if f'"{resource}", "Arn"' in named or f'"Ref": "{resource}"' in named:
                actions = statement["Action"]
                found |= {actions} if isinstance(actions, str) else set(actions)
    return found


def pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize(("job", "config"), JOB_CONFIGS.items())
def test_each_job_may_write_where_its_properties_lead(
    template: Template, job: str, config: type[JobConfig]
) -> None:
    role = f"{pascal(job)}Role"
    for name, field in config.model_fields.items():
        if name == "dead_letters":
            continue  # every job may: in the role itself
        if field.annotation is StreamConfig:
            assert "kinesis:PutRecords" in actions_on(template, role, pascal(name)), name
        if field.annotation is DeliveryConfig:
            delivery = f"{pascal(name.removesuffix('_archive'))}Delivery"
            assert "firehose:PutRecordBatch" in actions_on(template, role, delivery), name
    source, *others = (
        ("Reviews", "ScoredReviews") if job == "review_scoring" else ("ScoredReviews", "Reviews")
    )
    assert "kinesis:GetRecords" in actions_on(template, role, source)
    assert not any("kinesis:GetRecords" in actions_on(template, role, name) for name in others)


def test_what_is_delivered_may_be_written_and_is_deleted_some_day(template: Template) -> None:
    prefixes = {
        delivery["Properties"]["ExtendedS3DestinationConfiguration"]["Prefix"]["Fn::FindInMap"][1]
        for delivery in resources(template, "AWS::KinesisFirehose::DeliveryStream").values()
    }
    mapped = template.expanded()["Mappings"]["Deliveries"]
    assert prefixes == set(mapped)
    (role,) = (
        role
        for name, role in resources(template, "AWS::IAM::Role").items()
        if name == "DeliveryRole"
    )
    (bucket,) = resources(template, "AWS::S3::Bucket").values()
    rules = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    expired = {rule["Prefix"] for rule in rules if "ExpirationInDays" in rule}
    for delivery in mapped.values():
        assert f"${{Bucket.Arn}}/{delivery['Prefix']}*" in json.dumps(role)
        assert delivery["Prefix"] in expired


def test_every_alarm_that_operators_need_is_there(template: Template) -> None:
    alarms = resources(template, "AWS::CloudWatch::Alarm")
    metrics = {
        name: set(re.findall(r'"MetricName": "(\w+)"', json.dumps(alarm["Properties"])))
        for name, alarm in alarms.items()
    }
    for job in map(pascal, JOB_CONFIGS):
        assert metrics[f"{job}Downtime"] == {"downtime"}
        assert metrics[f"{job}Restarts"] == {"fullRestarts"}
        assert metrics[f"{job}Checkpoints"] == {"numberOfFailedCheckpoints"}
        assert metrics[f"{job}BehindLatest"] == {"millisBehindLatest"}
    for stream in resources(template, "AWS::Kinesis::Stream"):
        assert metrics[f"{stream}Throttles"] == {
            "WriteProvisionedThroughputExceeded",
            "ReadProvisionedThroughputExceeded",
        }
    assert metrics["DeadLettersAlarm"] == metrics["LateShareAlarm"] == {"IncomingRecords"}


def test_categories_follow_from_the_parameters(template: Template) -> None:
    def categories(parameters: dict[str, str]) -> CategoryOptions:
        applications = template.applications("test", "eu-west-1", parameters=parameters)
        (config,) = (
            config
            for config in check_applications(applications)
            if isinstance(config, ReviewScoringConfig)
        )
        return config.categories.category_options()

    assert categories({}) == CategoryOptions(frozenset(), 1_000)
    given = {"AllowedCategories": "Books,Gift_Card", "MaxCategories": "2"}
    assert categories(given) == CategoryOptions(frozenset({"Books", "Gift_Card"}), 2)
    with pytest.raises(ConfigError, match=r"categories\.allowed has 3 names"):
        categories(given | {"AllowedCategories": "Books,Gift_Card,Toys"})


def test_no_property_is_empty(template: Template) -> None:
    """The managed service rejects empty values."""
    for application in template.applications("test", "eu-west-1"):
        for group in application.properties:
            assert all(group["PropertyMap"].values()), group


def test_the_alarm_on_categories_reads_what_the_job_logs(template: Template) -> None:
    categories = Categories(CategoryOptions(max_categories=1), clock=lambda: 0.0)
    for name in ("Books", "B001"):
        categories.effective(name)
    (log_filter,) = resources(template, "AWS::Logs::MetricFilter").values()
    phrase = log_filter["Properties"]["FilterPattern"]
    assert phrase == f'"{phrase[1:-1]}"'
    assert phrase[1:-1] in (categories.report() or "")
    assert log_filter["Properties"]["LogGroupName"] == {"Ref": "ReviewScoringLogs"}
    (written,) = log_filter["Properties"]["MetricTransformations"]
    alarm = resources(template, "AWS::CloudWatch::Alarm")["CategoriesAlarm"]["Properties"]
    assert alarm["MetricName"] == written["MetricName"]
    assert alarm["Namespace"] == written["MetricNamespace"]


def test_a_model_that_alarms_is_taken_back(template: Template) -> None:
    (endpoint,) = resources(template, "AWS::SageMaker::Endpoint").values()
    deployment = endpoint["Properties"]["DeploymentConfig"]
    named = {
        alarm["AlarmName"]["Ref"] for alarm in deployment["AutoRollbackConfiguration"]["Alarms"]
    }
    alarms = resources(template, "AWS::CloudWatch::Alarm")
    assert named == {
        name
        for name, alarm in alarms.items()
        if alarm["Properties"].get("Namespace") == "AWS/SageMaker"
    }
    routing = deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    longest_s = max(
        alarms[name]["Properties"]["Period"] * alarms[name]["Properties"]["EvaluationPeriods"]
        for name in named
    )
    assert routing["WaitIntervalInSeconds"] > longest_s


def test_everything_at_rest_is_encrypted_with_the_stacks_key(template: Template) -> None:
    places = {
        "AWS::Kinesis::Stream": "KeyId",
        "AWS::KinesisFirehose::DeliveryStream": "KeyARN",
        "AWS::SNS::Topic": "KmsMasterKeyId",
        "AWS::Logs::LogGroup": "KmsKeyId",
        "AWS::S3::Bucket": "KMSMasterKeyID",
        "AWS::SageMaker::EndpointConfig": "KmsKeyId",
    }
    for kind, place in places.items():
        found = resources(template, kind)
        assert found
        for name, resource in found.items():
            text = json.dumps(resource)
            assert f'"{place}": {{"Ref": "Key"}}' in text or (
                f'"{place}": {{"Fn::GetAtt": ["Key", "Arn"]}}' in text
            ), name


def test_wrong_properties_are_named_with_their_job(template: Template) -> None:
    broken = Template(
        template.text.replace('read_interval_ms: "600"', 'read_interval_ms: "6", colour: red')
    )
    with pytest.raises(ConfigError) as caught:
        check_applications(broken.applications("test", "eu-west-1"))
    assert len(caught.value.problems) == 2 * len(JOB_CONFIGS)
    assert any(
        problem.startswith("review_metrics: scored_reviews.colour is unknown")
        for problem in caught.value.problems
    )


def test_it_can_be_deployed_without_a_bucket(template: Template) -> None:
    assert len(template.text.encode()) <= MAX_TEMPLATE_BYTES


def test_loops_leave_nothing_behind(template: Template) -> None:
    text = json.dumps(template.expanded())
    for loop in ("Fn::ForEach", "${Job}", "${Stream}", "${Variant}", "${Delivery}", '"Transform"'):
        assert loop not in text


def test_what_there_is_follows_from_the_parameters(template: Template) -> None:
    first = template.resources({})
    assert "Reviews" in first
    assert not {"Endpoint", "ReviewScoringApplication", "AlarmsByEmail"} & set(first)
    given = {"CodeKey": "code/1.zip", "ModelHashingBayes": "model/1", "AlarmEmail": "a@example.com"}
    assert set(template.resources(given)) == set(template.expanded()["Resources"])


def test_every_role_names_what_it_may_use(template: Template) -> None:
    # Those for which AWS knows no names; each is bounded by a condition, or only reads.
    nameless = {
        "cloudwatch:PutMetricData",
        "ecr:GetAuthorizationToken",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
    }
    statements = []
    for resource in resources(template, "AWS::IAM::Role").values():
        for policy in resource["Properties"]["Policies"]:
            document = policy.get("PolicyDocument") or policy["Fn::If"][1]["PolicyDocument"]
            statements += document["Statement"]
    for resource in resources(template, "AWS::IAM::RolePolicy").values():
        statements += resource["Properties"]["PolicyDocument"]["Statement"]
    assert statements
    for statement in statements:
        actions = statement["Action"]
        actions = {actions} if isinstance(actions, str) else set(actions)
        assert not any("*" in action for action in actions), statement
        if statement["Resource"] == "*":
            assert actions <= nameless, statement


def test_every_alarm_is_explained_and_reaches_somebody(template: Template) -> None:
    operations = Path("docs/operations.md").read_text(encoding="utf-8")
    alarms = resources(template, "AWS::CloudWatch::Alarm")
    assert alarms
    for name, alarm in alarms.items():
        properties = alarm["Properties"]
        assert properties["AlarmActions"] == [{"Ref": "Alarms"}], name
        kind = properties["AlarmDescription"].rpartition("alarm ")[2].rstrip(".")
        assert f"`{kind}`" in operations, kind


def test_the_dashboard_is_sound_json(template: Template) -> None:
    (dashboard,) = resources(template, "AWS::CloudWatch::Dashboard").values()
    body = json.loads(dashboard["Properties"]["DashboardBody"]["Fn::Sub"])
    cells = [(item["x"], item["y"], item["width"], item["height"]) for item in body["widgets"]]
    assert all(x + width <= 24 for x, _, width, _ in cells)
    covered = [(x + i, y + j) for x, y, w, h in cells for i in range(w) for j in range(h)]
    assert len(covered) == len(set(covered))


SMALL = """
Parameters:
  Wanted: {Type: String, Default: "yes"}
Conditions:
  IsWanted: !Equals [!Ref Wanted, "yes"]
  IsUnwanted: !Not [!Equals [!Ref Wanted, "yes"]]
Mappings:
  Names: {First: {Job: one}, Second: {Job: two}}
Resources:
  Fn::ForEach::Loop:
    - Name
    - [First, Second]
    - "${Name}Application":
        Type: AWS::KinesisAnalyticsV2::Application
        Properties:
          ApplicationName: !Join ["-", [!Ref AWS::StackName, !FindInMap [Names, !Ref Name, Job]]]
          ApplicationConfiguration:
            EnvironmentProperties:
              PropertyGroups:
                - PropertyGroupId: application
                  PropertyMap: {job: !FindInMap [Names, !Ref Name, Job], other: %s}
"""


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("!Ref Wanted", "yes"),
        ("!If [IsWanted, !Ref Wanted, none]", "yes"),
        ("!If [IsUnwanted, !Ref Wanted, none]", "none"),
        ('!Sub "${Wanted}-${AWS::Region}"', "yes-eu-west-1"),
        ('!Sub ["${a}${Wanted}", {a: !Ref Wanted}]', "yesyes"),
        ("plain", "plain"),
    ],
)
def test_values_are_resolved_as_cloudformation_does(function: str, value: str) -> None:
    first, second = Template(SMALL % function).applications("test", "eu-west-1")
    assert (first.name, second.name) == ("test-one", "test-two")
    assert second.properties[0]["PropertyMap"] == {"job": "two", "other": value}


def test_parameters_take_the_place_of_their_defaults() -> None:
    template = Template(SMALL % "!Ref Wanted")
    (first, _) = template.applications("test", "eu-west-1", parameters={"Wanted": "no"})
    assert first.properties[0]["PropertyMap"]["other"] == "no"


@pytest.mark.parametrize("function", ["!GetAtt Some.Arn", "!ImportValue other", "!Ref Unknown"])
def test_what_is_not_known_before_it_is_deployed_is_an_error(function: str) -> None:
    with pytest.raises(TemplateError):
        Template(SMALL % function).applications("test", "eu-west-1")
