"""Releases: up from nothing, updates that work, and each failure in the middle."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.aws import artifacts, model, release
from deploy.aws.artifacts import Artifact
from deploy.aws.errors import DeployError, Exit
from deploy.aws.release import Deployment, Options
from deploy.aws.stack import Stack
from deploy.aws.template import Template
from flink_jobs.config import ConfigError
from tests.aws_world import NEW, OLD, STACK, FakeAws, refusal, session

OPTIONS = Options(grace_s=300)
EXCEPTION = (
    'APPLICATION START FAILED {"error": "ModuleNotFoundError: No module named \'river\'",'
    ' "traceback": "Traceback (most recent call last):\\nModuleNotFoundError: river"}'
)


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts that need no building."""
    monkeypatch.setattr(artifacts, "package", lambda aws, say: Artifact(Path("new.zip"), NEW))
    monkeypatch.setattr(
        artifacts,
        "models",
        lambda aws, say: {
            variant: Artifact(Path("model.tar.gz"), f"model/{variant}-1.tar.gz")
            for variant in artifacts.VARIANTS
        },
    )
    monkeypatch.setattr(release, "container_image", lambda region: f"image-of-{region}")


def deployment(world: FakeAws, template: Template | None = None) -> tuple[Deployment, list[str]]:
    aws, clock = session(world)
    said: list[str] = []
    return Deployment(aws, STACK, clock, said.append, template=template or Template.read()), said


def failed(call: Any, *arguments: Any) -> DeployError:
    with pytest.raises(DeployError) as caught:
        call(*arguments)
    assert caught.value.state, "the user must be told what state things are in"
    assert caught.value.steps, "the user must be told what to do next"
    return caught.value


def test_up_brings_everything_up_from_nothing() -> None:
    world = FakeAws(exists=False)
    deployment(world)[0].up(Options(overrides={"LogDays": "7"}))
    assert world.statuses == {("RUNNING", NEW)}
    assert len(world.applications) == 3
    assert world.parameters["CodeKey"] == NEW
    assert world.parameters["LogDays"] == "7"
    assert world.parameters["ModelHashingBayes"] == "model/hashing-bayes-1.tar.gz"
    assert world.parameters["ModelImage"] == "image-of-eu-west-1"
    assert world.calls.count("ExecuteChangeSet") == 2
    assert [key for key in world.objects if key.startswith("releases/")]


def test_up_goes_on_where_an_upload_has_failed() -> None:
    world = FakeAws(exists=False)
    world.refuse["PutObject"] = refusal("slow down", "SlowDown")
    error = failed(deployment(world)[0].up, OPTIONS)
    assert "slow down" in error.problem
    assert "nothing runs yet" in error.state[0]
    assert "go on from here: python -m deploy up" in error.steps
    assert world.applications == {}
    del world.refuse["PutObject"]
    deployment(world)[0].up(OPTIONS)
    assert world.statuses == {("RUNNING", NEW)}
    assert world.calls.count("ExecuteChangeSet") == 2


def test_up_of_what_runs_is_an_update() -> None:
    world = FakeAws()
    _, said = (up := deployment(world))
    up[0].up(OPTIONS)
    assert world.statuses == {("RUNNING", NEW)}
    assert "stack test exists: this is an update" in said


def test_a_stack_that_could_not_be_created_is_explained() -> None:
    world = FakeAws(exists=False)
    world.stack_ends = ["ROLLBACK_COMPLETE"]
    error = failed(deployment(world)[0].up, OPTIONS)
    assert "Endpoint: the account may have no more instances" in error.state
    assert "CloudFormation has deleted what it had created" in error.state
    assert any("deploy down" in step for step in error.steps)
    # And again, without cleaning up.
    again = failed(deployment(world)[0].up, OPTIONS)
    assert "ROLLBACK_COMPLETE" in again.problem
    assert any("deploy down" in step for step in again.steps)


def test_a_failed_start_shows_the_python_exception() -> None:
    world = FakeAws(exists=False)
    world.unstartable, world.log = {NEW}, EXCEPTION
    error = failed(deployment(world)[0].up, OPTIONS)
    assert error.code == Exit.UNHEALTHY
    assert "ModuleNotFoundError: river" in str(error)
    assert "test-review-scoring: READY, version 1, code/new.zip" in error.state


def test_a_start_that_is_refused_is_told_of() -> None:
    world = FakeAws(exists=False)
    world.refuse["StartApplication test-review-metrics"] = refusal("too many KPUs")
    error = failed(deployment(world)[0].up, OPTIONS)
    assert any("too many KPUs" in line for line in error.state)
    assert world.applications["test-review-scoring"].status == "RUNNING"


def test_up_is_not_fooled_by_an_application_that_only_looks_healthy() -> None:
    world = FakeAws(exists=False)
    world.dead, world.log = {NEW}, EXCEPTION
    error = failed(deployment(world)[0].up, OPTIONS)
    assert error.code == Exit.UNHEALTHY
    assert "has not started" in str(error)
    assert "ModuleNotFoundError: river" in str(error)


def test_an_update_takes_snapshots_and_replaces_the_release() -> None:
    world = FakeAws()
    deployment(world)[0].update(OPTIONS)
    assert world.statuses == {("RUNNING", NEW)}
    snapshots = [call for call in world.calls if call.startswith("CreateApplicationSnapshot")]
    assert len(snapshots) == 3
    assert world.calls.index(snapshots[-1]) < world.calls.index("ExecuteChangeSet")
    assert world.calls.index("PutObject") < world.calls.index(snapshots[0])
    # What was not asked to change stays.
    assert world.parameters["ModelHashingBayes"] == "model/hashing-bayes-the-running-one.tar.gz"
    (record,) = (key for key in world.objects if key.startswith("releases/"))
    assert json.loads(world.objects[record])["parameters"]["CodeKey"] == NEW


def test_wrong_properties_change_nothing() -> None:
    world = FakeAws()
    text = Template.read().text.replace('read_interval_ms: "600"', 'read_interval_ms: "6"')
    with pytest.raises(ConfigError, match="read_interval_ms"):
        deployment(world, Template(text))[0].update(OPTIONS)
    assert world.calls == []


def test_an_unknown_parameter_changes_nothing() -> None:
    world = FakeAws()
    with pytest.raises(DeployError, match="no parameter Colour") as caught:
        deployment(world)[0].update(Options(overrides={"Colour": "red"}))
    assert caught.value.code == Exit.WRONG_INPUT
    assert world.calls == []


def test_a_template_that_is_too_long_changes_nothing() -> None:
    world = FakeAws(exists=False)
    text = Template.read().text + "#" * 51_200
    with pytest.raises(DeployError, match="51200 bytes"):
        deployment(world, Template(text))[0].up(OPTIONS)
    assert world.calls == []


@pytest.mark.parametrize("command", ["update", "reconfigure", "roll_back"])
def test_without_a_stack_there_is_nothing_to_update(command: str) -> None:
    with pytest.raises(DeployError, match="there is no stack test") as caught:
        getattr(deployment(FakeAws(exists=False))[0], command)(OPTIONS)
    assert any("deploy up" in step for step in caught.value.steps)


def test_an_upload_that_fails_leaves_what_runs() -> None:
    world = FakeAws()
    world.refuse["PutObject"] = refusal("no", "AccessDenied")
    error = failed(deployment(world)[0].update, OPTIONS)
    assert "AccessDenied" in error.problem
    assert error.state == ("nothing that runs was changed",)
    assert error.code == Exit.FAILED
    assert world.statuses == {("RUNNING", OLD)}
    assert world.calls == ["PutObject"]


def test_without_a_snapshot_nothing_is_updated() -> None:
    world = FakeAws()
    world.refuse["CreateApplicationSnapshot test-review-metrics"] = refusal("it is restarting")
    error = failed(deployment(world)[0].update, OPTIONS)
    assert "no snapshot of test-review-metrics" in error.problem
    assert "it is restarting" in error.problem
    assert any("update --force" in step for step in error.steps)
    assert "ExecuteChangeSet" not in world.calls
    assert world.statuses == {("RUNNING", OLD)}


def test_an_update_that_cloudformation_refuses_changes_nothing() -> None:
    world = FakeAws()
    world.refuse["CreateChangeSet"] = refusal("Template error: x", "ValidationError")
    error = failed(deployment(world)[0].update, OPTIONS)
    assert "Template error: x" in error.problem
    assert "stack test is as it was" in error.state
    assert "test-review-scoring: RUNNING, version 3, code/old.zip" in error.state
    assert error.code == Exit.ROLLED_BACK


def test_an_update_that_cloudformation_takes_back_is_explained() -> None:
    world = FakeAws()
    world.stack_ends = ["UPDATE_ROLLBACK_COMPLETE"]
    error = failed(deployment(world)[0].update, OPTIONS)
    assert "Endpoint: the account may have no more instances" in error.state
    assert "CloudFormation has taken all changes back" in error.state
    assert error.code == Exit.ROLLED_BACK
    assert world.statuses == {("RUNNING", OLD)}


def test_an_update_that_cloudformation_cannot_take_back_says_what_to_do() -> None:
    world = FakeAws()
    world.stack_ends = ["UPDATE_ROLLBACK_FAILED"]
    error = failed(deployment(world)[0].update, OPTIONS)
    assert any("continue-update-rollback" in step for step in error.steps)


@pytest.mark.parametrize("fault", ["sick", "dead"])
def test_a_release_that_is_not_healthy_is_rolled_back(fault: str) -> None:
    world = FakeAws()
    setattr(world, fault, {NEW})
    world.log = EXCEPTION
    error = failed(deployment(world)[0].update, OPTIONS)
    assert error.code == Exit.ROLLED_BACK
    assert "the previous one runs again" in error.problem
    assert "ModuleNotFoundError: river" in str(error)
    assert world.statuses == {("RUNNING", OLD)}
    # The stack's record follows, or its next change would bring the bad release back.
    assert world.parameters["CodeKey"] == OLD
    rollback = world.calls.index("RollbackApplication test-review-scoring")
    assert "ExecuteChangeSet" in world.calls[rollback:]
    assert not [key for key in world.objects if key.startswith("releases/")]


def test_a_release_that_cannot_start_is_rolled_back_from_the_snapshot() -> None:
    world = FakeAws()
    world.unstartable, world.log = {NEW}, EXCEPTION
    error = failed(deployment(world)[0].update, OPTIONS)
    assert error.code == Exit.ROLLED_BACK
    assert world.statuses == {("RUNNING", OLD)}
    assert "ModuleNotFoundError: river" in str(error)


def test_where_the_service_cannot_roll_back_the_snapshot_is_used() -> None:
    world = FakeAws()
    world.sick = {NEW}
    world.refuse["RollbackApplication test-rating-anomalies"] = refusal("no snapshot")
    error = failed(deployment(world)[0].update, OPTIONS)
    assert error.code == Exit.ROLLED_BACK
    assert world.statuses == {("RUNNING", OLD)}
    stop = world.calls.index("StopApplication test-rating-anomalies")
    assert "StartApplication test-rating-anomalies" in world.calls[stop:]


def test_a_rollback_that_fails_names_state_snapshot_and_remedy() -> None:
    world = FakeAws()
    world.sick = {NEW}
    world.refuse["RollbackApplication test-rating-anomalies"] = refusal("no snapshot")
    world.refuse["StopApplication test-rating-anomalies"] = refusal("internal failure")
    error = failed(deployment(world)[0].update, OPTIONS)
    assert error.code == Exit.UNHEALTHY
    assert "rolling back did not work out" in error.problem
    assert any(
        line.startswith("rolling back: test-rating-anomalies: InvalidRequestException: internal")
        for line in error.state
    )
    assert any("rollback --snapshot before-20261124T" in step for step in error.steps)
    # The others run again.
    assert world.applications["test-review-scoring"].status == "RUNNING"


def test_where_the_stack_does_not_follow_the_applications_run_all_the_same() -> None:
    world = FakeAws()
    world.sick = {NEW}
    aws_update = deployment(world)[0]
    original = world.on_RollbackApplication

    def and_break_the_stack(parameters: Any) -> Any:
        world.stack_ends = ["UPDATE_ROLLBACK_FAILED"]
        return original(parameters)

    world.on_RollbackApplication = and_break_the_stack  # type: ignore[method-assign]
    error = failed(aws_update.update, OPTIONS)
    assert error.code == Exit.UNHEALTHY
    assert any(line.startswith("rolling back: the stack: ") for line in error.state)
    assert world.statuses == {("RUNNING", OLD)}


EXPIRED = refusal("The security token included in the request is expired", "ExpiredToken")


@pytest.mark.parametrize(
    ("operation", "state", "code"),
    [
        ("DescribeApplicationSnapshot", "nothing that runs was changed", Exit.FAILED),
        ("DescribeChangeSet", "the stack was being changed to the new release", Exit.UNHEALTHY),
        ("GetMetricData", "the new release is in place; whether it", Exit.UNHEALTHY),
    ],
)
def test_credentials_that_end_in_the_middle_leave_nobody_in_the_dark(
    operation: str, state: str, code: Exit
) -> None:
    world = FakeAws()
    world.refuse[operation] = EXPIRED
    error = failed(deployment(world)[0].update, OPTIONS)
    assert "ExpiredToken" in error.problem
    assert error.state[0].startswith(state)
    assert error.code == code
    assert error.steps[0].endswith("python -m deploy status")


def test_credentials_that_end_while_it_goes_back_are_told_of() -> None:
    world = FakeAws()
    world.sick = {NEW}
    original = world.on_RollbackApplication

    def and_end(parameters: Any) -> Any:
        world.refuse["DescribeApplication"] = EXPIRED
        return original(parameters)

    world.on_RollbackApplication = and_end  # type: ignore[method-assign]
    error = failed(deployment(world)[0].update, OPTIONS)
    assert error.state == ("the new release is not healthy, and was being rolled back",)
    assert any("rollback --snapshot before-20261124T" in step for step in error.steps)


def test_credentials_that_end_while_it_comes_up_are_told_of() -> None:
    world = FakeAws(exists=False)
    world.refuse["GetMetricData"] = EXPIRED
    error = failed(deployment(world)[0].up, OPTIONS)
    assert error.state[0].startswith("all is in place")
    assert error.code == Exit.UNHEALTHY


def test_an_application_that_does_not_stop_is_named_beside_those_that_have() -> None:
    world = FakeAws()
    world.refuse["StopApplication test-review-metrics"] = refusal("internal failure")
    error = failed(deployment(world)[0].update, Options(force=True))
    assert "test-review-metrics does not stop" in error.problem
    assert "test-review-scoring: READY, version 3, code/old.zip" in error.state
    assert "ExecuteChangeSet" not in world.calls


def test_force_mends_what_is_broken_without_a_snapshot() -> None:
    world = FakeAws()
    world.sick = {OLD}
    deployment(world)[0].update(Options(force=True))
    assert world.statuses == {("RUNNING", NEW)}
    assert not any(call.startswith("CreateApplicationSnapshot") for call in world.calls)
    assert world.calls.index("StopApplication test-review-scoring") < world.calls.index(
        "ExecuteChangeSet"
    )


def test_force_does_not_go_back_to_what_was_broken() -> None:
    world = FakeAws()
    world.sick = {OLD, NEW}
    error = failed(deployment(world)[0].update, Options(force=True))
    assert error.code == Exit.UNHEALTHY
    assert "RollbackApplication test-review-scoring" not in world.calls


def test_where_nothing_ran_before_there_is_nothing_to_go_back_to() -> None:
    world = FakeAws()
    for application in world.applications.values():
        application.status = "READY"
    world.dead, world.log = {NEW}, EXCEPTION
    error = failed(deployment(world)[0].update, OPTIONS)
    assert error.code == Exit.UNHEALTHY
    assert "it was not rolled back: nothing sound ran before" in error.state
    assert world.parameters["CodeKey"] == NEW


def test_scaling_is_watched_and_rolled_back_like_a_release() -> None:
    world = FakeAws()
    deployment(world)[0].reconfigure(Options(overrides={"ReviewsShards": "2"}))
    assert world.parameters["ReviewsShards"] == "2"
    assert world.statuses == {("RUNNING", OLD)}
    world.sick = {OLD}
    error = failed(deployment(world)[0].reconfigure, Options(overrides={"ReviewsShards": "4"}))
    assert world.parameters["ReviewsShards"] == "2"
    assert "RollbackApplication test-review-scoring" in world.calls
    # Here the old one is as sick as the new one.
    assert error.code == Exit.UNHEALTHY


def test_scaling_what_does_not_exist_changes_nothing() -> None:
    world = FakeAws()
    with pytest.raises(DeployError, match="no parameter TeapotShards"):
        deployment(world)[0].reconfigure(Options(overrides={"TeapotShards": "4"}))
    assert world.calls == []


def test_rollback_by_hand_goes_to_the_release_before() -> None:
    world = FakeAws()
    deployment(world)[0].reconfigure(Options(overrides={"LogLevel": "WARN"}))
    deployment(world)[0].update(OPTIONS)
    assert world.statuses == {("RUNNING", NEW)}
    world.calls.clear()
    deployment(world)[0].roll_back(OPTIONS)
    assert world.statuses == {("RUNNING", OLD)}
    assert world.parameters["CodeKey"] == OLD
    assert world.parameters["LogLevel"] == "WARN"
    assert "CreateApplicationSnapshot test-review-scoring" in world.calls
    assert "StopApplication test-review-scoring" not in world.calls


def test_rollback_by_hand_stops_what_can_take_no_snapshot() -> None:
    world = FakeAws()
    deployment(world)[0].reconfigure(Options(overrides={"LogLevel": "WARN"}))
    deployment(world)[0].update(OPTIONS)
    world.refuse["CreateApplicationSnapshot test-review-scoring"] = refusal("it is restarting")
    world.calls.clear()
    deployment(world)[0].roll_back(OPTIONS)
    assert world.statuses == {("RUNNING", OLD)}
    assert "StopApplication test-review-scoring" in world.calls
    assert "StopApplication test-review-metrics" not in world.calls


def test_rollback_to_a_snapshot_starts_all_from_it() -> None:
    world = FakeAws()
    deployment(world)[0].reconfigure(Options(overrides={"LogLevel": "WARN"}))
    deployment(world)[0].update(OPTIONS)
    started: list[Any] = []
    original = world.on_StartApplication

    def noted(parameters: Any) -> Any:
        started.append(parameters["RunConfiguration"]["ApplicationRestoreConfiguration"])
        return original(parameters)

    world.on_StartApplication = noted  # type: ignore[method-assign]
    deployment(world)[0].roll_back(OPTIONS, "before-1")
    assert started == 3 * [
        {"ApplicationRestoreType": "RESTORE_FROM_CUSTOM_SNAPSHOT", "SnapshotName": "before-1"}
    ]
    assert world.statuses == {("RUNNING", OLD)}


def test_a_rollback_that_cloudformation_refuses_leaves_nothing_stopped() -> None:
    world = FakeAws()
    deployment(world)[0].reconfigure(Options(overrides={"LogLevel": "WARN"}))
    deployment(world)[0].update(OPTIONS)
    world.refuse["CreateChangeSet"] = refusal("Template error: x", "ValidationError")
    error = failed(deployment(world)[0].roll_back, OPTIONS, "before-1")
    assert "Template error: x" in error.problem
    assert "test-review-scoring: RUNNING, version 5, code/new.zip" in error.state
    assert world.statuses == {("RUNNING", NEW)}


def test_without_an_earlier_release_there_is_no_way_back() -> None:
    world = FakeAws()
    error = failed(deployment(world)[0].roll_back, OPTIONS)
    assert "no earlier release" in error.problem
    assert world.calls == []


def test_what_would_lose_something_is_asked_for() -> None:
    world = FakeAws()
    aws, clock = session(world)
    original = world.answer

    def with_a_loss(service: str, operation: str, parameters: Any) -> Any:
        if operation == "DescribeChangeSet":
            change = {
                "Action": "Modify",
                "LogicalResourceId": "Reviews",
                "ResourceType": "AWS::Kinesis::Stream",
                "Replacement": "True",
            }
            return {
                "Status": "CREATE_COMPLETE",
                "Changes": [{"Type": "Resource", "ResourceChange": change}],
            }
        return original(service, operation, parameters)

    world.answer = with_a_loss  # type: ignore[method-assign]
    asked: list[str] = []

    def refuse(changes: Any) -> bool:
        asked.extend(str(change) for change in changes if change.loses_something)
        return False

    careful = Deployment(
        aws, STACK, clock, lambda line: None, template=Template.read(), confirm=refuse
    )
    with pytest.raises(DeployError, match="not confirmed"):
        careful.update(OPTIONS)
    assert asked == ["modify Reviews (AWS::Kinesis::Stream), by a new one"]
    assert "ExecuteChangeSet" not in world.calls
    assert world.statuses == {("RUNNING", OLD)}


def test_a_new_model_changes_the_endpoint_and_no_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "container_image", lambda region: f"image-of-{region}")
    world = FakeAws()
    aws, clock = session(world)
    said: list[str] = []
    stack = Stack(aws, STACK, clock, said.append)
    model.update_endpoint(aws, stack, clock, said.append, {"tfidf-logistic": 9})
    assert world.parameters["ModelTfidfLogistic"] == "model/tfidf-logistic-1.tar.gz"
    assert world.parameters["WeightTfidfLogistic"] == "9"
    assert world.parameters["CodeKey"] == OLD
    assert not any("Application" in call for call in world.calls)
    assert "endpoint test-reviews is updated" in said
    # And there is a way back to the model before.
    (record,) = (key for key in world.objects if key.startswith("releases/"))
    assert json.loads(world.objects[record])["parameters"] == world.parameters


def test_a_model_that_an_alarm_takes_back_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "container_image", lambda region: f"image-of-{region}")
    world = FakeAws()
    world.stack_ends = ["UPDATE_ROLLBACK_COMPLETE"]
    aws, clock = session(world)
    stack = Stack(aws, STACK, clock, lambda line: None)
    error = failed(model.update_endpoint, aws, stack, clock, lambda line: None, {})
    assert error.code == Exit.ROLLED_BACK
    assert "endpoint test-reviews is InService" in error.state
    assert not [key for key in world.objects if key.startswith("releases/")]
    assert "CloudFormation has taken all changes back" in error.state


def test_credentials_that_end_while_a_model_is_put_in_place_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "container_image", lambda region: f"image-of-{region}")
    world = FakeAws()
    world.refuse["DescribeChangeSet"] = EXPIRED
    aws, clock = session(world)
    stack = Stack(aws, STACK, clock, lambda line: None)
    error = failed(model.update_endpoint, aws, stack, clock, lambda line: None, {})
    assert "ExpiredToken" in error.problem
