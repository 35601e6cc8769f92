"""An AWS for tests of whole commands: a stack whose applications behave, or do not.

Every call and every answer is checked against the services' own models, as botocore's Stubber does.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.response import StreamingBody

from deploy.aws.clock import ImaginedClock
from deploy.aws.dry_run import ImaginedWorld
from deploy.aws.session import Aws, DryRun
from deploy.aws.template import Template

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
STACK, REGION = "test", "eu-west-1"
OLD, NEW = "code/old.zip", "code/new.zip"


def refusal(message: str, code: str = "InvalidRequestException") -> dict[str, Any]:
    return {"Error": {"Code": code, "Message": message}}


@dataclass
class FakeApplication:
    status: str
    version: int
    code_key: str
    previous: str = ""


class FakeAws(ImaginedWorld):
    """A stack that runs `OLD`, or does not exist yet.

    Attributes
    ----------
    calls
        Names of the operations that change something, in order.
    refuse
        What an operation is refused with, by its name; by `Operation name` for one application.
    sick
        Objects of zips whose jobs restart all the time.
    dead
        Objects of zips whose jobs never start, though the application is `RUNNING`.
    unstartable
        Objects of zips with which the service cannot start an application.
    log
        Why, as the application's log has it.
    stack_ends
        Statuses that the next changes of the stack end in, instead of working out.
    """

    def __init__(self, *, exists: bool = True) -> None:
        super().__init__(Template.read(), STACK, REGION, exists=exists)
        self.clock = ImaginedClock(START)
        self.calls: list[str] = []
        self.refuse: dict[str, dict[str, Any]] = {}
        self.sick: set[str] = set()
        self.dead: set[str] = set()
        self.unstartable: set[str] = set()
        self.log = ""
        self.stack_ends: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.applications: dict[str, FakeApplication] = {}
        if exists:
            self._parameters["CodeKey"] = OLD
            for name in self.names():
                self.applications[name] = FakeApplication("RUNNING", 3, OLD)

    def names(self) -> list[str]:
        return [application.name for application in self._template.applications(STACK, REGION)]

    @property
    def parameters(self) -> Mapping[str, str]:
        return self._parameters

    @property
    def statuses(self) -> set[tuple[str, str]]:
        return {(app.status, app.code_key) for app in self.applications.values()}

    def answer(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        name = parameters.get("ApplicationName", "")
        if not operation.startswith(("Describe", "List", "Get", "Filter", "Head")):
            self.calls.append(f"{operation} {name}".strip())
        for key in (operation, f"{operation} {name}"):
            if key in self.refuse:
                return self.refuse[key]
        own = getattr(self, f"on_{operation}", None)
        if own is not None:
            answer: dict[str, Any] = own(parameters)
            return answer
        return super().answer(service, operation, parameters)

    def on_ExecuteChangeSet(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        if self.stack_ends:
            self._status = self.stack_ends.pop(0)
            return {}
        answer = super().answer("cloudformation", "ExecuteChangeSet", parameters)
        code_key = self._parameters["CodeKey"]
        for name in self.names() if code_key else []:
            app = self.applications.setdefault(name, FakeApplication("READY", 0, ""))
            app.previous, app.code_key, app.version = app.code_key, code_key, app.version + 1
            if app.status == "RUNNING" and code_key in self.unstartable:
                app.status = "READY"
        return answer

    def on_DescribeStackEvents(self, _: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        if not self._status.endswith(("FAILED", "ROLLBACK_COMPLETE")):
            return {"StackEvents": []}
        event = {
            "StackId": "STACK",
            "EventId": "1",
            "StackName": STACK,
            "LogicalResourceId": "Endpoint",
            "ResourceStatus": "UPDATE_FAILED",
            "ResourceStatusReason": "the account may have no more instances",
            "Timestamp": datetime(2027, 1, 1, tzinfo=UTC),
        }
        return {"StackEvents": [event]}

    def on_DescribeApplication(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = parameters["ApplicationName"]
        if name not in self.applications:
            return refusal("no such application", "ResourceNotFoundException")
        app = self.applications[name]
        detail = self._application(name)
        detail |= {"ApplicationStatus": app.status, "ApplicationVersionId": app.version}
        code = detail["ApplicationConfigurationDescription"][
            "ApplicationCodeConfigurationDescription"
        ]["CodeContentDescription"]
        code["S3ApplicationCodeLocationDescription"]["FileKey"] = app.code_key
        return {"ApplicationDetail": detail}

    def on_StartApplication(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        app = self.applications[parameters["ApplicationName"]]
        app.status = "READY" if app.code_key in self.unstartable else "RUNNING"
        return {}

    def on_StopApplication(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.applications[parameters["ApplicationName"]].status = "READY"
        return {}

    def on_RollbackApplication(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        app = self.applications[parameters["ApplicationName"]]
        assert parameters["CurrentApplicationVersionId"] == app.version
        app.code_key, app.version, app.status = app.previous, app.version + 1, "RUNNING"
        return self.on_DescribeApplication(parameters)

    def on_ListApplicationOperations(self, _: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"ApplicationOperationInfoList": []}

    def on_GetMetricData(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        (name,) = {
            dimension["Value"]
            for query in parameters["MetricDataQueries"]
            if "MetricStat" in query
            for dimension in query["MetricStat"]["Metric"]["Dimensions"]
        }
        code_key = self.applications[name].code_key
        values = {"m0": [30_000.0, 90_000.0], "m1": [0.0], "m2": [0.0], "behind": [900.0, 20.0]}
        if code_key in self.sick:
            values |= {"m0": [100.0], "m1": [1.0, 4.0]}
        if code_key in self.dead:
            values = {}
        return {
            "MetricDataResults": [
                {"Id": query["Id"], "Values": values.get(query["Id"], [])}
                for query in parameters["MetricDataQueries"]
            ]
        }

    def on_FilterLogEvents(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = parameters["logGroupName"].rpartition("/")[2]
        app = self.applications.get(name)
        bad = self.sick | self.dead | self.unstartable
        if not self.log or app is None or app.code_key not in bad:
            return {"events": []}
        return {
            "events": [
                {
                    "eventId": "1",
                    "timestamp": int(START.timestamp() * 1000),
                    "message": json.dumps({"messageType": "ERROR", "message": self.log}),
                }
            ]
        }

    def on_PutObject(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.objects[parameters["Key"]] = bytes(parameters["Body"])
        return {}

    def on_ListObjectsV2(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        keys = [key for key in self.objects if key.startswith(parameters["Prefix"])]
        return {"Contents": [{"Key": key} for key in sorted(keys)]}

    def on_GetObject(self, parameters: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        body = self.objects[parameters["Key"]]
        return {"Body": StreamingBody(io.BytesIO(body), len(body))}


class Stage:
    """Whichever world a test has put on it: clients take too long to make for each test."""

    world: FakeAws

    def answer(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return self.world.answer(service, operation, parameters)


STAGE = Stage()
AWS = Aws(REGION, dry_run=DryRun(STAGE, lambda line: None))


def session(world: FakeAws) -> tuple[Aws, ImaginedClock]:
    """Put a world on the stage, an hour after the last time that it was there."""
    STAGE.world = world
    world.clock.sleep(3600)
    return AWS, world.clock
