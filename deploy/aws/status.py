"""How everything is: stack, applications, endpoint, alarms."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from deploy.aws.applications import Applications, ApplicationState
from deploy.aws.clock import Clock
from deploy.aws.health import Health, Readings, judged
from deploy.aws.model import EndpointState, endpoint_state
from deploy.aws.session import Aws, Say
from deploy.aws.stack import Stack, StackState
from deploy.aws.template import Template

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient

_WINDOW = timedelta(minutes=15)


@dataclass(frozen=True)
class ApplicationStatus:
    """An application: what the service says, its metrics, and what is wrong with it, if anything.

    Attributes
    ----------
    job, name
        The job, and the application's name.
    state
        None where it does not exist.
    readings
        Of the last 15 minutes.
    problem
        None for none.
    """

    job: str
    name: str
    state: ApplicationState | None
    readings: Readings
    problem: str | None


@dataclass(frozen=True)
class Status:
    """All of it.

    Attributes
    ----------
    stack, applications, endpoint
        Each as its service says.
    alarms
        Names and reasons of those that have gone off.
    """

    stack: StackState
    applications: tuple[ApplicationStatus, ...]
    endpoint: EndpointState | None
    alarms: tuple[tuple[str, str], ...]

    @property
    def problems(self) -> list[str]:
        """What somebody should look at, a line each."""
        found = [] if self.stack.is_settled else [f"the stack is in {self.stack.status}"]
        found += [f"{app.name} {app.problem}" for app in self.applications if app.problem]
        if self.endpoint is None:
            found.append("there is no endpoint")
        elif self.endpoint.status != "InService":
            found.append(f"the endpoint is {self.endpoint.status} {self.endpoint.reason}".rstrip())
        return found + [f"alarm {name}: {reason}" for name, reason in self.alarms]


def read_status(aws: Aws, stack: Stack, clock: Clock, say: Say) -> Status:
    """Ask all services how things are.

    Raises
    ------
    DeployError
        There is no such stack.
    """
    state = stack.existing(may_change=True)
    template = Template(stack.template())
    applications, health = Applications(aws, clock), Health(aws, clock, say)
    since = clock.now() - _WINDOW
    found = []
    for application in template.applications(stack.name, aws.region, parameters=state.parameters):
        now = applications.state(application.name)
        readings = Readings() if now is None else health.readings(application.name, since)
        found.append(
            ApplicationStatus(
                application.job, application.name, now, readings, _problem(now, readings)
            )
        )
    return Status(
        state,
        tuple(found),
        endpoint_state(aws, state.outputs["EndpointName"]) if state.outputs else None,
        alarms(aws, stack.name),
    )


def alarms(aws: Aws, stack: str) -> tuple[tuple[str, str], ...]:
    """Return name and reason of each alarm of the stack that has gone off."""
    client: CloudWatchClient = aws.client("cloudwatch")
    found = []
    pages = client.get_paginator("describe_alarms")
    for page in pages.paginate(AlarmNamePrefix=f"{stack}-", StateValue="ALARM"):
        found += [
            (alarm["AlarmName"], alarm.get("StateReason", ""))
            for alarm in page["MetricAlarms"]
            if alarm["StateValue"] == "ALARM"
        ]
    return tuple(found)


def dashboard_address(region: str, name: str) -> str:
    """Return where the CloudWatch dashboard is.

    >>> dashboard_address("eu-west-1", "review-ml")
    'https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#dashboards/dashboard/review-ml'
    """
    return (
        f"https://{region}.console.aws.amazon.com/cloudwatch/home"
        f"?region={region}#dashboards/dashboard/{name}"
    )


def _problem(state: ApplicationState | None, readings: Readings) -> str | None:
    if state is None:
        return "does not exist"
    if state.status != "RUNNING":
        return f"is {state.status}"
    # What failed before these 15 minutes is past.
    growth = max(readings.restarts, default=0) - min(readings.restarts, default=0)
    if growth > 0:
        return f"has restarted {growth:.0f} times in 15 minutes"
    failed = [value - min(readings.failed_checkpoints) for value in readings.failed_checkpoints]
    return judged(Readings(readings.uptime_ms, (), failed, readings.behind_ms))
