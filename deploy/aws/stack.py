"""The CloudFormation stack: created and changed through change sets, so that changes show first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from deploy.aws.clock import Clock, poll
from deploy.aws.errors import DeployError
from deploy.aws.session import Aws, Say

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

# An endpoint's new model alone is watched for ten minutes.
_TIMEOUT_S = 3600.0
_CHANGE_SET_TIMEOUT_S = 300.0
_CAPABILITIES: Any = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")


@dataclass(frozen=True)
class StackState:
    """What CloudFormation says of a stack.

    Attributes
    ----------
    status, reason
        Its status, and why it is so where CloudFormation says it.
    parameters, outputs
        Values by name.
    """

    status: str
    reason: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def is_changing(self) -> bool:
        """Whether an operation is under way."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    @property
    def is_settled(self) -> bool:
        """Whether the last operation, or taking it back, worked out."""
        return self.status in (
            "CREATE_COMPLETE",
            "UPDATE_COMPLETE",
            "UPDATE_ROLLBACK_COMPLETE",
            "IMPORT_COMPLETE",
        )


@dataclass(frozen=True)
class Change:
    """A resource that a change set changes."""

    action: str
    name: str
    kind: str
    is_replaced: bool

    def __str__(self) -> str:
        replaced = ", by a new one" if self.is_replaced else ""
        return f"{self.action.lower()} {self.name} ({self.kind}){replaced}"

    @property
    def loses_something(self) -> bool:
        """Whether a resource that exists goes."""
        return self.action == "Remove" or self.is_replaced


class Stack:
    """One stack.

    Parameters
    ----------
    aws, name
        Where, and which.
    clock, say
        For waiting, and for telling the user.
    """

    def __init__(self, aws: Aws, name: str, clock: Clock, say: Say) -> None:
        self.name = name
        self._aws = aws
        self._clock = clock
        self._say = say

    @property
    def _client(self) -> CloudFormationClient:
        client: CloudFormationClient = self._aws.client("cloudformation")
        return client

    def state(self) -> StackState | None:
        """Return what there is, None where there is no such stack."""
        try:
            (found,) = self._client.describe_stacks(StackName=self.name)["Stacks"]
        except ClientError as error:
            if "does not exist" in error.response["Error"].get("Message", ""):
                return None
            raise
        if found["StackStatus"] in ("DELETE_COMPLETE", "REVIEW_IN_PROGRESS"):
            return None
        return StackState(
            found["StackStatus"],
            found.get("StackStatusReason", ""),
            {item["ParameterKey"]: item["ParameterValue"] for item in found.get("Parameters", [])},
            {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])},
        )

    def existing(self, *, may_change: bool = False) -> StackState:
        """Return the state of a stack that must be there.

        Parameters
        ----------
        may_change
            Whether an operation may be under way.

        Raises
        ------
        DeployError
            There is none, or CloudFormation is at work on it and may not be.
        """
        state = self.state()
        if state is None:
            raise DeployError(
                f"there is no stack {self.name} in {self._aws.region}",
                steps=["create it: python -m deploy up", "or name another: --stack, --region"],
            )
        if state.is_changing and not may_change:
            raise DeployError(
                f"stack {self.name} is being changed: {state.status}",
                steps=["wait until it is through: python -m deploy status"],
            )
        return state

    def template(self) -> str:
        """Return the template as it was given when the stack was last changed."""
        body: Any = self._client.get_template(StackName=self.name, TemplateStage="Original")[
            "TemplateBody"
        ]
        if isinstance(body, str):
            return body
        return json.dumps(body)

    def apply(
        self,
        template: str,
        parameters: Mapping[str, str],
        *,
        is_new: bool,
        confirm: Callable[[Sequence[Change]], bool] = lambda changes: True,
    ) -> bool:
        """Create or change the stack, and wait until that is through.

        Parameters
        ----------
        template
            Its text.
        parameters
            All that differ from their defaults.
        is_new
            Whether the stack is to be created.
        confirm
            Asked with the changes before they are made.

        Returns
        -------
        bool
            Whether there was anything to change.

        Raises
        ------
        DeployError
            CloudFormation refuses, or fails, with what it says about it.
        """
        change_set = f"change-{self._clock.now():%Y%m%dT%H%M%S}"
        try:
            self._client.create_change_set(
                StackName=self.name,
                ChangeSetName=change_set,
                ChangeSetType="CREATE" if is_new else "UPDATE",
                TemplateBody=template,
                Parameters=[
                    {"ParameterKey": key, "ParameterValue": value}
                    for key, value in sorted(parameters.items())
                ],
                Capabilities=_CAPABILITIES,
            )
        except ClientError as error:
            raise self._refused(error, is_new) from error
        changes = self._changes(change_set, is_new)
        if changes is None:
            self._client.delete_change_set(StackName=self.name, ChangeSetName=change_set)
            return False
        for change in changes:
            self._say(f"  {change}")
        if not confirm(changes):
            self._client.delete_change_set(StackName=self.name, ChangeSetName=change_set)
            raise DeployError("not confirmed", state=[self._unchanged(is_new)])
        started = self._clock.now()
        try:
            self._client.execute_change_set(StackName=self.name, ChangeSetName=change_set)
        except ClientError as error:
            raise self._refused(error, is_new) from error
        self.wait(started, "CREATE_COMPLETE" if is_new else "UPDATE_COMPLETE")
        return True

    def _changes(self, change_set: str, is_new: bool) -> list[Change] | None:
        """Return the changes of a change set that is ready, None where there are none."""

        def probe() -> Any:
            answer = self._client.describe_change_set(StackName=self.name, ChangeSetName=change_set)
            return answer if answer["Status"] in ("CREATE_COMPLETE", "FAILED") else None

        answer = poll(self._clock, probe, timeout_s=_CHANGE_SET_TIMEOUT_S, every_s=3)
        if answer is None:
            raise DeployError(
                f"CloudFormation has not worked out change set {change_set} in"
                f" {_CHANGE_SET_TIMEOUT_S:.0f} s",
                state=[self._unchanged(is_new)],
                steps=["try again"],
            )
        reason = answer.get("StatusReason", "")
        if answer["Status"] == "FAILED":
            if any(text in reason for text in _NO_CHANGES):
                return None
            raise DeployError(
                f"CloudFormation cannot make this change: {reason}",
                state=[self._unchanged(is_new)],
                steps=["fix deploy/template.yaml or the parameters"],
            )
        found = [*answer.get("Changes", [])]
        while answer.get("NextToken"):
            answer = self._client.describe_change_set(
                StackName=self.name, ChangeSetName=change_set, NextToken=answer["NextToken"]
            )
            found += answer.get("Changes", [])
        changes = [item["ResourceChange"] for item in found]
        return [
            Change(
                change["Action"],
                change["LogicalResourceId"],
                change["ResourceType"],
                change.get("Replacement") == "True",
            )
            for change in changes
        ]

    def _refused(self, error: ClientError, is_new: bool) -> DeployError:
        return DeployError(
            f"CloudFormation refuses: {error.response['Error']['Message']}",
            state=[self._unchanged(is_new)],
            steps=["fix deploy/template.yaml or the parameters: make check-template"],
        )

    def _unchanged(self, is_new: bool) -> str:
        return f"stack {self.name} {'was not created' if is_new else 'is as it was'}"

    def wait(self, started: datetime, wanted: str) -> None:
        """Wait until an operation is through, telling of each resource.

        Raises
        ------
        DeployError
            It ended in another status than `wanted`, or not at all.
        """
        told: set[str] = set()

        def probe() -> str | None:
            self._tell_events(started, told)
            state = self.state()
            if state is None:
                return "DELETE_COMPLETE"
            return None if state.is_changing else state.status

        status = poll(self._clock, probe, timeout_s=_TIMEOUT_S)
        if status == wanted:
            return
        if status is None:
            raise DeployError(
                f"stack {self.name} has not come to {wanted} in {_TIMEOUT_S / 60:.0f} minutes",
                state=["CloudFormation is still at work on it"],
                steps=["look again later: python -m deploy status"],
            )
        failures = self._failures(started)
        raise DeployError(
            f"stack {self.name} ended in {status}, not in {wanted}",
            state=[*failures, _meaning(status)],
            steps=_remedies(status, self.name),
        )

    def _events(self, started: datetime) -> list[Any]:
        events: list[Any] = []
        for page in self._client.get_paginator("describe_stack_events").paginate(
            StackName=self.name
        ):
            for event in page["StackEvents"]:
                if event["Timestamp"] < started:
                    return events[::-1]
                events.append(event)
        return events[::-1]

    def _tell_events(self, started: datetime, told: set[str]) -> None:
        try:
            events = self._events(started)
        except ClientError:  # the stack has gone meanwhile
            return
        for event in events:
            status = event.get("ResourceStatus", "")
            if event["EventId"] not in told and not status.endswith("IN_PROGRESS"):
                reason = event.get("ResourceStatusReason", "")
                line = f"  {event.get('LogicalResourceId', '')}: {status.lower().replace('_', ' ')}"
                self._say(f"{line}: {reason}" if reason and "FAILED" in status else line)
            told.add(event["EventId"])

    def _failures(self, started: datetime) -> list[str]:
        try:
            events = self._events(started)
        except ClientError:
            return []
        # What was cancelled failed because of the first ones.
        return [
            f"{event.get('LogicalResourceId')}: {event.get('ResourceStatusReason')}"
            for event in events
            if event.get("ResourceStatus", "").endswith("FAILED")
            and "cancelled" not in event.get("ResourceStatusReason", "")
        ]

    def delete(self) -> None:
        """Delete the stack and wait until it is gone.

        Raises
        ------
        DeployError
            Something of it could not be deleted.
        """
        started = self._clock.now()
        self._client.delete_stack(StackName=self.name)
        self.wait(started, "DELETE_COMPLETE")

    def resources(self) -> list[tuple[str, str, str]]:
        """Return logical name, type and name on AWS of all that belongs to the stack."""
        found = []
        for page in self._client.get_paginator("list_stack_resources").paginate(
            StackName=self.name
        ):
            found += [
                (
                    item["LogicalResourceId"],
                    item["ResourceType"],
                    item.get("PhysicalResourceId", ""),
                )
                for item in page["StackResourceSummaries"]
            ]
        return found


def _meaning(status: str) -> str:
    return {
        "ROLLBACK_COMPLETE": "CloudFormation has deleted what it had created",
        "UPDATE_ROLLBACK_COMPLETE": "CloudFormation has taken all changes back",
        "UPDATE_ROLLBACK_FAILED": "CloudFormation could not take all changes back",
        "DELETE_FAILED": "some resources could not be deleted; the others are gone",
    }.get(status, f"the stack is in {status}")


def _remedies(status: str, name: str) -> list[str]:
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"):
        return [
            "fix the cause",
            f"remove what is left: python -m deploy down --stack {name}",
            f"then again: python -m deploy up --stack {name}",
        ]
    if status == "UPDATE_ROLLBACK_FAILED":
        return [
            "fix the cause",
            f"aws cloudformation continue-update-rollback --stack-name {name}",
            f"then look: python -m deploy status --stack {name}",
        ]
    if status == "DELETE_FAILED":
        return ["fix the cause", f"again: python -m deploy down --stack {name}"]
    return ["fix the cause and try again"]
