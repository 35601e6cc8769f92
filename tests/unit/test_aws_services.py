"""Each call to AWS: against moto where it knows the service, else against botocore's Stubber."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from deploy.aws import artifacts
from deploy.aws.applications import ApplicationError, Applications
from deploy.aws.artifacts import Artifact, model_archive, upload
from deploy.aws.clock import ImaginedClock
from deploy.aws.errors import DeployError, Exit
from deploy.aws.health import Health, Readings
from deploy.aws.history import History, Release
from deploy.aws.logs import Logs, log_group
from deploy.aws.model import (
    EndpointState,
    VariantState,
    container_image,
    endpoint_state,
    weight_parameters,
)
from deploy.aws.session import Aws
from deploy.aws.stack import Stack, StackState
from deploy.aws.status import alarms
from deploy.aws.teardown import take_down
from deploy.aws.training import fetch, train_on_sagemaker

REGION = "eu-west-1"
NOW = datetime.now(UTC)
ACCOUNT_ROLE = "arn:aws:iam::123456789012:role/model"

STACK = """
Parameters:
  Shards: {Type: Number, Default: 1}
Resources:
  Stream:
    Type: AWS::Kinesis::Stream
    Properties: {Name: test-reviews, ShardCount: !Ref Shards}
"""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An account of moto's; nothing can reach a real one."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield Aws(REGION)


@pytest.fixture
def clock() -> ImaginedClock:
    return ImaginedClock(NOW)


@pytest.fixture
def bucket(aws: Aws) -> str:
    aws.client("s3").create_bucket(
        Bucket="test-bucket", CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    return "test-bucket"


def stub(aws: Aws, service: str) -> Stubber:
    stubber = Stubber(aws.client(service))
    stubber.activate()
    return stubber


class TestStack:
    def test_it_is_created_changed_and_deleted(self, aws: Aws, clock: ImaginedClock) -> None:
        said: list[str] = []
        stack = Stack(aws, "test", clock, said.append)
        assert stack.state() is None
        assert stack.apply(STACK, {}, is_new=True)
        assert "  add Stream (AWS::Kinesis::Stream)" in said
        state = stack.existing()
        assert state.status == "CREATE_COMPLETE"
        assert state.is_settled
        assert state.parameters == {"Shards": "1"}
        assert stack.template() == STACK
        assert ("Stream", "AWS::Kinesis::Stream", "test-reviews") in stack.resources()

        assert stack.apply(STACK, {"Shards": "2"}, is_new=False)
        assert stack.existing().parameters == {"Shards": "2"}
        stream = aws.client("kinesis").describe_stream_summary(StreamName="test-reviews")
        assert stream["StreamDescriptionSummary"]["OpenShardCount"] == 2

        stack.delete()
        assert stack.state() is None
        assert aws.client("kinesis").list_streams()["StreamNames"] == []

    def test_what_does_not_exist_is_said(self, aws: Aws, clock: ImaginedClock) -> None:
        with pytest.raises(DeployError, match="there is no stack test in eu-west-1") as caught:
            Stack(aws, "test", clock, print).existing()
        assert any("deploy up" in step for step in caught.value.steps)

    def test_a_template_that_is_refused_leaves_no_stack(
        self, aws: Aws, clock: ImaginedClock
    ) -> None:
        stack = Stack(aws, "test", clock, print)
        broken = STACK.replace("!Ref Shards", "!GetAtt Nothing.Arn")
        with pytest.raises(DeployError):
            stack.apply(broken, {}, is_new=True)
        state = stack.state()
        assert state is None or not state.is_settled

    @pytest.mark.parametrize(
        ("status", "reason", "has_changes"),
        [
            ("FAILED", "The submitted information didn't contain changes. Submit...", False),
            ("FAILED", "No updates are to be performed.", False),
            ("CREATE_COMPLETE", "", True),
        ],
    )
    def test_what_changes_nothing_is_no_failure(
        self, aws: Aws, clock: ImaginedClock, status: str, reason: str, has_changes: bool
    ) -> None:
        with stub(aws, "cloudformation") as cloudformation:
            cloudformation.add_response("create_change_set", {})
            cloudformation.add_response("describe_change_set", {"Status": "CREATE_IN_PROGRESS"})
            cloudformation.add_response(
                "describe_change_set", {"Status": status, "StatusReason": reason, "Changes": []}
            )
            if has_changes:
                cloudformation.add_response("execute_change_set", {})
                cloudformation.add_response("describe_stack_events", {"StackEvents": []})
                cloudformation.add_response("describe_stacks", self.stacks("UPDATE_COMPLETE"))
            else:
                cloudformation.add_response("delete_change_set", {})
            stack = Stack(aws, "test", clock, print)
            assert stack.apply(STACK, {}, is_new=False) == has_changes
            cloudformation.assert_no_pending_responses()

    def test_changes_of_all_pages_are_asked_for(self, aws: Aws, clock: ImaginedClock) -> None:
        def page(name: str, token: str | None) -> dict[str, Any]:
            change = {
                "Action": "Remove",
                "LogicalResourceId": name,
                "ResourceType": "AWS::Kinesis::Stream",
            }
            found: dict[str, Any] = {
                "Status": "CREATE_COMPLETE",
                "Changes": [{"Type": "Resource", "ResourceChange": change}],
            }
            return found if token is None else found | {"NextToken": token}

        asked: list[str] = []

        def refuse(changes: Any) -> bool:
            asked.extend(change.name for change in changes)
            return False

        with stub(aws, "cloudformation") as cloudformation:
            cloudformation.add_response("create_change_set", {})
            cloudformation.add_response("describe_change_set", page("First", "more"))
            cloudformation.add_response("describe_change_set", page("Second", None))
            cloudformation.add_response("delete_change_set", {})
            with pytest.raises(DeployError, match="not confirmed"):
                Stack(aws, "test", clock, print).apply(STACK, {}, is_new=False, confirm=refuse)
            cloudformation.assert_no_pending_responses()
        assert asked == ["First", "Second"]

    def test_a_change_that_cannot_be_made_leaves_the_stack_as_it_was(
        self, aws: Aws, clock: ImaginedClock
    ) -> None:
        with stub(aws, "cloudformation") as cloudformation:
            cloudformation.add_response("create_change_set", {})
            cloudformation.add_response(
                "describe_change_set", {"Status": "FAILED", "StatusReason": "Circular dependency"}
            )
            with pytest.raises(DeployError, match="Circular dependency") as caught:
                Stack(aws, "test", clock, print).apply(STACK, {}, is_new=False)
        assert caught.value.state == ("stack test is as it was",)

    def test_a_change_set_that_never_comes_is_given_up(
        self, aws: Aws, clock: ImaginedClock
    ) -> None:
        with stub(aws, "cloudformation") as cloudformation:
            cloudformation.add_response("create_change_set", {})
            for _ in range(200):
                cloudformation.add_response("describe_change_set", {"Status": "CREATE_PENDING"})
            with pytest.raises(DeployError, match="300 s"):
                Stack(aws, "test", clock, print).apply(STACK, {}, is_new=False)

    def test_events_are_told_once_and_failures_with_their_reason(
        self, aws: Aws, clock: ImaginedClock
    ) -> None:
        said: list[str] = []
        events = [
            self.event("2", "Endpoint", "CREATE_FAILED", "no more instances"),
            self.event("3", "Other", "CREATE_FAILED", "Resource creation cancelled"),
            self.event("1", "Stream", "CREATE_COMPLETE", ""),
            self.event("0", "Stream", "CREATE_IN_PROGRESS", ""),
        ]
        with stub(aws, "cloudformation") as cloudformation:
            for status in ("CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE"):
                cloudformation.add_response("describe_stack_events", {"StackEvents": events})
                cloudformation.add_response("describe_stacks", self.stacks(status))
            cloudformation.add_response("describe_stack_events", {"StackEvents": events})
            with pytest.raises(DeployError) as caught:
                Stack(aws, "test", clock, said.append).wait(NOW, "CREATE_COMPLETE")
        assert said == [
            "  Stream: create complete",
            "  Other: create failed: Resource creation cancelled",
            "  Endpoint: create failed: no more instances",
        ]
        assert "Endpoint: no more instances" in caught.value.state
        assert not any("cancelled" in line for line in caught.value.state)
        assert any("deploy down --stack test" in step for step in caught.value.steps)

    def test_an_operation_under_way_is_not_disturbed(self, aws: Aws, clock: ImaginedClock) -> None:
        with stub(aws, "cloudformation") as cloudformation:
            cloudformation.add_response("describe_stacks", self.stacks("UPDATE_IN_PROGRESS"))
            with pytest.raises(DeployError, match="is being changed"):
                Stack(aws, "test", clock, print).existing()

    @staticmethod
    def stacks(status: str) -> dict[str, Any]:
        return {"Stacks": [{"StackName": "test", "CreationTime": NOW, "StackStatus": status}]}

    @staticmethod
    def event(number: str, name: str, status: str, reason: str) -> dict[str, Any]:
        return {
            "StackId": "test",
            "EventId": number,
            "StackName": "test",
            "LogicalResourceId": name,
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
            "Timestamp": NOW + timedelta(seconds=1),
        }


class TestApplications:
    NAME = "test-review-scoring"

    @pytest.fixture
    def flink(self, aws: Aws) -> Iterator[Stubber]:
        with stub(aws, "kinesisanalyticsv2") as stubber:
            yield stubber
            stubber.assert_no_pending_responses()

    def test_it_is_described(self, aws: Aws, clock: ImaginedClock) -> None:
        # moto has creating and describing, and no more.
        aws.client("kinesisanalyticsv2").create_application(
            ApplicationName=self.NAME,
            RuntimeEnvironment="FLINK-1_20",
            ServiceExecutionRole=ACCOUNT_ROLE,
            ApplicationConfiguration={
                "ApplicationCodeConfiguration": {
                    "CodeContentType": "ZIPFILE",
                    "CodeContent": {
                        "S3ContentLocation": {
                            "BucketARN": "arn:aws:s3:::test-bucket",
                            "FileKey": "code/1.zip",
                        }
                    },
                },
                "FlinkApplicationConfiguration": {
                    "MonitoringConfiguration": {"ConfigurationType": "DEFAULT"},
                    "ParallelismConfiguration": {"ConfigurationType": "CUSTOM", "Parallelism": 4},
                },
            },
        )
        state = Applications(aws, clock).state(self.NAME)
        assert state is not None
        assert (state.status, state.version) == ("STARTING", 1)
        assert (state.code_key, state.parallelism) == ("code/1.zip", 4)
        assert state.is_changing

    def test_what_does_not_exist_is_none(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        flink.add_client_error("describe_application", "ResourceNotFoundException")
        assert Applications(aws, clock).state(self.NAME) is None

    def test_without_snapshots_it_starts_without_state(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        self.expect_snapshots(flink)
        self.expect_start(flink, {"ApplicationRestoreType": "SKIP_RESTORE_FROM_SNAPSHOT"})
        Applications(aws, clock).start(self.NAME)

    def test_it_starts_from_its_latest_snapshot(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        self.expect_snapshots(flink, ("one", "READY", 1))
        self.expect_start(flink, {"ApplicationRestoreType": "RESTORE_FROM_LATEST_SNAPSHOT"})
        Applications(aws, clock).start(self.NAME)

    def test_it_starts_from_the_snapshot_that_is_named(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        self.expect_start(
            flink,
            {"ApplicationRestoreType": "RESTORE_FROM_CUSTOM_SNAPSHOT", "SnapshotName": "one"},
        )
        Applications(aws, clock).start(self.NAME, "one")

    def test_only_snapshots_that_are_ready_count_the_latest_first(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        self.expect_snapshots(
            flink, ("old", "READY", 1), ("failed", "FAILED", 2), ("new", "READY", 3)
        )
        found = Applications(aws, clock).snapshots(self.NAME)
        assert [name for name, _ in found] == ["new", "old"]

    @pytest.mark.parametrize("force", [True, False])
    def test_it_is_stopped(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber, force: bool
    ) -> None:
        flink.add_response("stop_application", {}, {"ApplicationName": self.NAME, "Force": force})
        self.expect_states(flink, "STOPPING", "READY")
        Applications(aws, clock).stop(self.NAME, force=force)

    def test_it_goes_back_a_version(self, aws: Aws, clock: ImaginedClock, flink: Stubber) -> None:
        flink.add_response(
            "rollback_application",
            {"ApplicationDetail": self.detail("ROLLING_BACK")},
            {"ApplicationName": self.NAME, "CurrentApplicationVersionId": 4},
        )
        self.expect_states(flink, "ROLLING_BACK", "RUNNING")
        Applications(aws, clock).roll_back(self.NAME, 4)

    @pytest.mark.parametrize("operation", ["start", "stop", "roll_back", "take_snapshot"])
    def test_a_refusal_is_told_in_the_services_words(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber, operation: str
    ) -> None:
        call, arguments = {
            "start": ("start_application", ["one"]),
            "stop": ("stop_application", []),
            "roll_back": ("rollback_application", [1]),
            "take_snapshot": ("create_application_snapshot", ["one"]),
        }[operation]
        flink.add_client_error(call, "ResourceInUseException", "being updated")
        with pytest.raises(ApplicationError, match="ResourceInUseException: being updated"):
            getattr(Applications(aws, clock), operation)(self.NAME, *arguments)

    def test_a_snapshot_is_waited_for(self, aws: Aws, clock: ImaginedClock, flink: Stubber) -> None:
        flink.add_response(
            "create_application_snapshot", {}, {"ApplicationName": self.NAME, "SnapshotName": "s"}
        )
        for status in ("CREATING", "CREATING", "READY"):
            self.expect_snapshot(flink, status)
        Applications(aws, clock).take_snapshot(self.NAME, "s")
        assert clock.now() - NOW == timedelta(seconds=20)

    def test_a_snapshot_that_fails_is_explained(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        flink.add_response("create_application_snapshot", {})
        self.expect_snapshot(flink, "FAILED")
        self.expect_failure(flink, "the job is restarting")
        with pytest.raises(ApplicationError, match="is FAILED: the job is restarting"):
            Applications(aws, clock).take_snapshot(self.NAME, "s")

    def test_a_snapshot_is_not_waited_for_forever(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        flink.add_response("create_application_snapshot", {})
        for _ in range(91):
            self.expect_snapshot(flink, "CREATING")
        flink.add_response("list_application_operations", {"ApplicationOperationInfoList": []})
        with pytest.raises(ApplicationError, match="not ready in time"):
            Applications(aws, clock).take_snapshot(self.NAME, "s")

    def test_what_does_not_come_up_is_explained(
        self, aws: Aws, clock: ImaginedClock, flink: Stubber
    ) -> None:
        self.expect_states(flink, "STARTING", "READY")
        self.expect_failure(flink, "main.py ended with status 2")
        with pytest.raises(ApplicationError, match="is READY, not RUNNING: main"):
            Applications(aws, clock).wait_for(self.NAME, "RUNNING")

    def test_what_hangs_is_given_up(self, aws: Aws, clock: ImaginedClock, flink: Stubber) -> None:
        self.expect_states(flink, *["UPDATING"] * 3)
        flink.add_client_error("list_application_operations", "UnsupportedOperationException")
        with pytest.raises(ApplicationError, match="still on its way after"):
            Applications(aws, clock).wait_for(self.NAME, "RUNNING", timeout_s=20)

    def expect_start(self, flink: Stubber, restore: dict[str, str]) -> None:
        flink.add_response(
            "start_application",
            {},
            {
                "ApplicationName": self.NAME,
                "RunConfiguration": {"ApplicationRestoreConfiguration": restore},
            },
        )

    def expect_states(self, flink: Stubber, *statuses: str) -> None:
        for status in statuses:
            flink.add_response(
                "describe_application",
                {"ApplicationDetail": self.detail(status)},
                {"ApplicationName": self.NAME},
            )

    def expect_snapshot(self, flink: Stubber, status: str) -> None:
        flink.add_response(
            "describe_application_snapshot",
            {
                "SnapshotDetails": {
                    "SnapshotName": "s",
                    "SnapshotStatus": status,
                    "ApplicationVersionId": 1,
                }
            },
            {"ApplicationName": self.NAME, "SnapshotName": "s"},
        )

    def expect_snapshots(self, flink: Stubber, *snapshots: tuple[str, str, int]) -> None:
        summaries = [
            {
                "SnapshotName": name,
                "SnapshotStatus": status,
                "ApplicationVersionId": 1,
                "SnapshotCreationTimestamp": NOW + timedelta(hours=hour),
            }
            for name, status, hour in snapshots
        ]
        # In two pages.
        flink.add_response(
            "list_application_snapshots",
            {"SnapshotSummaries": summaries[:1], "NextToken": "more"},
            {"ApplicationName": self.NAME},
        )
        flink.add_response(
            "list_application_snapshots",
            {"SnapshotSummaries": summaries[1:]},
            {"ApplicationName": self.NAME, "NextToken": "more"},
        )

    def expect_failure(self, flink: Stubber, text: str) -> None:
        operation = {
            "Operation": "StartApplication",
            "OperationId": "o1",
            "StartTime": NOW,
            "EndTime": NOW,
            "OperationStatus": "FAILED",
        }
        flink.add_response(
            "list_application_operations", {"ApplicationOperationInfoList": [operation]}
        )
        details = {name: value for name, value in operation.items() if name != "OperationId"}
        details["OperationFailureDetails"] = {"ErrorInfo": {"ErrorString": text}}  # type: ignore[assignment]
        flink.add_response(
            "describe_application_operation",
            {"ApplicationOperationInfoDetails": details},
            {"ApplicationName": self.NAME, "OperationId": "o1"},
        )

    def detail(self, status: str) -> dict[str, Any]:
        return {
            "ApplicationARN": f"arn:aws:kinesisanalytics:{REGION}:123456789012:application/x",
            "ApplicationName": self.NAME,
            "RuntimeEnvironment": "FLINK-1_20",
            "ApplicationStatus": status,
            "ApplicationVersionId": 4,
        }


class TestLogs:
    NAME = "test-review-scoring"

    def write(self, aws: Aws, *messages: str, at: datetime = NOW) -> None:
        client = aws.client("logs")
        group = log_group(self.NAME)
        if not client.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
            client.create_log_group(logGroupName=group)
            client.create_log_stream(logGroupName=group, logStreamName="application")
        client.put_log_events(
            logGroupName=group,
            logStreamName="application",
            logEvents=[
                {"timestamp": int(at.timestamp() * 1000) + number, "message": message}
                for number, message in enumerate(messages)
            ],
        )

    def test_lines_are_read_as_people_do(self, aws: Aws, clock: ImaginedClock) -> None:
        record = {"messageType": "WARN", "message": "slow", "throwableInformation": "at x\n at y"}
        self.write(aws, json.dumps(record), "plain\n", '["no object"]')
        lines = list(Logs(aws, clock).lines(self.NAME, NOW - timedelta(minutes=1)))
        assert [line.message for line in lines] == [
            "slow\nat x\n at y",
            "plain",
            '["no object"]',
        ]
        assert str(lines[0]).endswith("WARN  slow\nat x\n at y")

    def test_following_tells_each_line_once(self, aws: Aws, clock: ImaginedClock) -> None:
        self.write(aws, "one", "two")
        lines = Logs(aws, clock).follow([self.NAME], NOW - timedelta(minutes=1))
        assert [next(lines)[1].message for _ in range(2)] == ["one", "two"]
        self.write(aws, "three", at=NOW + timedelta(seconds=2))
        name, line = next(lines)
        assert (name, line.message) == (self.NAME, "three")

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (
                'x APPLICATION START FAILED {"error": "2 problems in f", "problems": ["a", "b"]}',
                "2 problems in f:\n  - a\n  - b",
            ),
            (
                'APPLICATION START FAILED {"error": "E: x", "traceback": "Traceback\\nE: x\\n"}',
                "Traceback\nE: x",
            ),
            ("APPLICATION START FAILED {cut off", "{cut off"),
            (
                "Traceback (most recent call last):\n  File x\nKeyError: 1",
                "Traceback (most recent call last):\n  File x\nKeyError: 1",
            ),
        ],
    )
    def test_why_it_did_not_start_is_found(
        self, aws: Aws, clock: ImaginedClock, message: str, reason: str
    ) -> None:
        self.write(aws, "starting", json.dumps({"messageType": "ERROR", "message": message}))
        assert Logs(aws, clock).start_failure(self.NAME, NOW - timedelta(minutes=1)) == reason

    def test_what_is_older_does_not_count(self, aws: Aws, clock: ImaginedClock) -> None:
        self.write(aws, "APPLICATION START FAILED {}", at=NOW - timedelta(hours=1))
        assert Logs(aws, clock).start_failure(self.NAME, NOW - timedelta(minutes=1)) is None

    def test_without_a_log_there_is_no_reason(self, aws: Aws, clock: ImaginedClock) -> None:
        assert Logs(aws, clock).start_failure(self.NAME, NOW) is None


class TestHealth:
    def test_metrics_are_read(self, aws: Aws, clock: ImaginedClock) -> None:
        with stub(aws, "cloudwatch") as cloudwatch:
            cloudwatch.add_response(
                "get_metric_data",
                {
                    "MetricDataResults": [
                        {"Id": "m0", "Values": [1.0, 2.0]},
                        {"Id": "m1", "Values": [0.0]},
                        {"Id": "m2", "Values": []},
                        {"Id": "behind", "Values": [7.0]},
                    ]
                },
            )
            found = Health(aws, clock, print).readings("test-review-scoring", NOW)
        assert found == Readings(
            uptime_ms=[1.0, 2.0], restarts=[0.0], failed_checkpoints=[], behind_ms=[7.0]
        )

    def test_alarms_that_have_gone_off_are_named(self, aws: Aws) -> None:
        client = aws.client("cloudwatch")
        for name in ("test-downtime", "test-restarts", "other-downtime"):
            client.put_metric_alarm(
                AlarmName=name,
                Namespace="AWS/KinesisAnalytics",
                MetricName="downtime",
                Statistic="Maximum",
                Period=60,
                EvaluationPeriods=1,
                Threshold=0,
                ComparisonOperator="GreaterThanThreshold",
            )
        for name in ("test-downtime", "other-downtime"):
            client.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="down")
        assert alarms(aws, "test") == (("test-downtime", "down"),)


class TestArtifacts:
    def test_what_is_there_already_is_not_sent_again(
        self, aws: Aws, bucket: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "application.zip"
        path.write_bytes(b"zip" * 1000)
        sent: list[int] = []
        artifact = Artifact(path, "code/1.zip")
        assert upload(aws, bucket, artifact, print, sent.append)
        assert sum(sent) == 3000
        assert not upload(aws, bucket, artifact, print, sent.append)
        body = aws.client("s3").get_object(Bucket=bucket, Key="code/1.zip")["Body"].read()
        assert body == path.read_bytes()

    def test_an_upload_that_fails_says_what_is_there(self, aws: Aws, tmp_path: Path) -> None:
        path = tmp_path / "application.zip"
        path.write_bytes(b"zip")
        with pytest.raises(DeployError, match="NoSuchBucket") as caught:
            upload(aws, "no-such-bucket", Artifact(path, "code/1.zip"), print)
        assert "applications and endpoint are as they were" in caught.value.state

    def test_the_same_content_has_the_same_key(
        self, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[str] = []
        monkeypatch.setattr(artifacts, "run_make", lambda target, say: made.append(target))
        first, second = tmp_path / "a.zip", tmp_path / "b.zip"
        first.write_bytes(b"zip")
        second.write_bytes(b"zip")
        keys = [artifacts.package(aws, print, path).key for path in (first, second)]
        assert keys[0] == keys[1]
        second.write_bytes(b"zap")
        assert artifacts.package(aws, print, second).key != keys[0]
        assert made == ["package"] * 3

    def test_a_model_is_packed_as_the_container_wants_it(self, tmp_path: Path) -> None:
        model = tmp_path / "model.joblib"
        model.write_bytes(b"model")
        packed = model_archive(model)
        assert packed == model_archive(model)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            assert archive.getnames() == ["model.joblib", "code/inference.py"]
            handler = archive.extractfile("code/inference.py")
            assert handler is not None
            assert handler.read() == Path("deploy/model/inference.py").read_bytes()

    def test_a_failed_build_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(artifacts, "PROJECT_ROOT", Path("/nonexistent").parent)
        with pytest.raises(DeployError, match="make no-such-target failed") as caught:
            artifacts.run_make("no-such-target", print)
        assert "nothing was changed on AWS" in caught.value.state


class TestHistory:
    def test_the_release_before_is_found(self, aws: Aws, bucket: str) -> None:
        history = History(aws, bucket)
        one = Release("20260101T000000Z", "template", {"CodeKey": "code/1.zip"})
        two = Release("20260102T000000Z", "template", {"CodeKey": "code/2.zip"})
        again = Release("20260103T000000Z", "template", {"CodeKey": "code/2.zip"})
        assert history.before(two) is None
        for release in (one, two, again):
            history.add(release)
        assert history.ids() == [again.id, two.id, one.id]
        assert history.before(again) == one
        # Going back once more does not lead to the release that one came back from.
        assert history.before(one) is None
        once_more = Release("20260104T000000Z", "template", {"CodeKey": "code/1.zip"})
        history.add(once_more)
        assert history.before(one) == again
        unrecorded = Release("current", "template", {"CodeKey": "code/3.zip"})
        assert history.before(unrecorded) == once_more


class TestModel:
    def test_the_containers_image_is_known_without_asking(self) -> None:
        image = container_image(REGION)
        assert ".dkr.ecr.eu-west-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3" in image

    def test_a_region_without_the_container_is_wrong_input(self) -> None:
        with pytest.raises(DeployError) as caught:
            container_image("mars-north-1")
        assert caught.value.code == Exit.WRONG_INPUT

    @pytest.mark.parametrize("weights", [{"bert": 1.0}, {"hashing-bayes": 0.0}])
    def test_weights_must_make_sense(self, weights: dict[str, float]) -> None:
        with pytest.raises(DeployError) as caught:
            weight_parameters(weights)
        assert caught.value.code == Exit.WRONG_INPUT

    def test_the_endpoint_is_described(self, aws: Aws) -> None:
        assert endpoint_state(aws, "test-reviews") is None
        client = aws.client("sagemaker")
        client.create_model(ModelName="m", ExecutionRoleArn=ACCOUNT_ROLE)
        client.create_endpoint_config(
            EndpointConfigName="c",
            ProductionVariants=[
                {
                    "VariantName": "hashing-bayes",
                    "ModelName": "m",
                    "InitialVariantWeight": 2,
                    "InitialInstanceCount": 1,
                    "InstanceType": "ml.m5.large",
                }
            ],
        )
        client.create_endpoint(EndpointName="test-reviews", EndpointConfigName="c")
        found = endpoint_state(aws, "test-reviews")
        assert isinstance(found, EndpointState)
        assert found.status == "InService"
        assert found.variants == (VariantState("hashing-bayes", 2, 1),)

    def test_a_training_job_is_asked_for_and_its_models_fetched(
        self, aws: Aws, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # moto ends a job at once, without a log or a model.
        from sagemaker import Session

        monkeypatch.setattr(Session, "logs_for_job", lambda *_, **__: None)
        data = tmp_path / "reviews.tsv"
        data.write_text("star_rating\treview_body\n5\tgood\n")
        key = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
        outputs = {"BucketName": bucket, "KeyArn": key, "ModelRoleArn": ACCOUNT_ROLE}
        state = StackState("UPDATE_COMPLETE", "", {}, outputs)
        archives: list[str] = []
        monkeypatch.setattr(
            "deploy.aws.training.fetch", lambda aws, bucket, key, output: archives.append(key)
        )
        train_on_sagemaker(
            aws, state, data, print, instance_type="ml.m5.large", output=tmp_path / "models"
        )
        client = aws.client("sagemaker")
        (summary,) = client.list_training_jobs()["TrainingJobSummaries"]
        job = client.describe_training_job(TrainingJobName=summary["TrainingJobName"])
        assert job["RoleArn"] == ACCOUNT_ROLE
        assert job["OutputDataConfig"] == {
            "S3OutputPath": f"s3://{bucket}/training",
            "KmsKeyId": key,
        }
        assert job["InputDataConfig"][0]["ChannelName"] == "training"
        (archive,) = archives
        assert archive.startswith("training/")

    def test_models_without_a_variant_are_refused(
        self, aws: Aws, bucket: str, tmp_path: Path
    ) -> None:
        def archive(*names: str) -> bytes:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for name in names:
                    tar.addfile(tarfile.TarInfo(name))
            return gzip.compress(buffer.getvalue())

        client = aws.client("s3")
        names = [f"{variant}/model.joblib" for variant in artifacts.VARIANTS]
        client.put_object(Bucket=bucket, Key="all", Body=archive(*names))
        client.put_object(Bucket=bucket, Key="one", Body=archive(names[0]))
        fetch(aws, bucket, "all", tmp_path)
        assert all((tmp_path / name).exists() for name in names)
        with pytest.raises(DeployError, match="lacks the models hashing-bayes"):
            fetch(aws, bucket, "one", tmp_path)


class TestTeardown:
    def up(
        self, aws: Aws, clock: ImaginedClock, bucket: str, key: str = "no-such-key"
    ) -> tuple[Stack, StackState]:
        stack = Stack(aws, "test", clock, print)
        stack.apply(STACK, {}, is_new=True)
        # moto tells no outputs of a stack that a change set has made.
        outputs = {"BucketName": bucket, "KeyArn": key}
        return stack, replace(stack.existing(), outputs=outputs)

    def test_data_are_kept_unless_they_are_to_go(
        self, aws: Aws, clock: ImaginedClock, bucket: str
    ) -> None:
        stack, state = self.up(aws, clock, bucket)
        said: list[str] = []
        take_down(aws, stack, state, said.append, with_data=False)
        assert stack.state() is None
        assert any(bucket in line for line in said)
        aws.client("s3").head_bucket(Bucket=bucket)

    def test_with_data_every_version_goes(
        self, aws: Aws, clock: ImaginedClock, bucket: str
    ) -> None:
        client, kms = aws.client("s3"), aws.client("kms")
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        for body in (b"1", b"2"):
            client.put_object(Bucket=bucket, Key="raw/1", Body=body)
        client.delete_object(Bucket=bucket, Key="raw/1")
        key = kms.create_key()["KeyMetadata"]["KeyId"]  # moto takes no ARN here
        stack, state = self.up(aws, clock, bucket, key)
        take_down(aws, stack, state, print, with_data=True)
        assert bucket not in [item["Name"] for item in client.list_buckets()["Buckets"]]
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingDeletion"

    def test_data_that_cannot_go_are_named(self, aws: Aws, clock: ImaginedClock) -> None:
        stack, state = self.up(aws, clock, "no-such-bucket")
        with pytest.raises(DeployError, match="not all data") as caught:
            take_down(aws, stack, state, print, with_data=True)
        assert "no-such-bucket" in caught.value.state[0]
        assert any("s3 rb" in step for step in caught.value.steps)


def test_a_session_finds_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert Aws().region == boto3.Session().region_name == "eu-central-1"
