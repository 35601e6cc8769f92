"""The applications on Managed Service for Apache Flink: start, stop, snapshots, versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from deploy.aws.clock import Clock, poll
from deploy.aws.session import Aws

if TYPE_CHECKING:
    from mypy_boto3_kinesisanalyticsv2 import KinesisAnalyticsV2Client

START_TIMEOUT_S = 900.0
SNAPSHOT_TIMEOUT_S = 900.0
_EVERY_S = 10.0

_CHANGING = frozenset(
    {"STARTING", "STOPPING", "UPDATING", "AUTOSCALING", "FORCE_STOPPING", "ROLLING_BACK"}
    | {"ROLLED_BACK", "MAINTENANCE", "DELETING"}
)


class ApplicationError(Exception):
    """An application did not do as it was told; the message is the service's own."""


@dataclass(frozen=True)
class ApplicationState:
    """What the service says of an application.

    Attributes
    ----------
    name
        Its name.
    status
        `RUNNING`, `READY` (not running), or a transition.
    version
        Number of its configuration; each change makes a new one.
    code_key
        Object of its zip.
    parallelism
        What it runs with now.
    """

    name: str
    status: str
    version: int
    code_key: str
    parallelism: int

    @property
    def is_changing(self) -> bool:
        """Whether it is on the way from one state to another."""
        return self.status in _CHANGING


class Applications:
    """The applications of one account and region.

    Parameters
    ----------
    aws, clock
        Where, and how to wait.
    """

    def __init__(self, aws: Aws, clock: Clock) -> None:
        self._aws = aws
        self._clock = clock

    @property
    def _client(self) -> KinesisAnalyticsV2Client:
        client: KinesisAnalyticsV2Client = self._aws.client("kinesisanalyticsv2")
        return client

    def state(self, name: str) -> ApplicationState | None:
        """Return what there is, None where there is no such application."""
        try:
            detail: Any = self._client.describe_application(ApplicationName=name)[
                "ApplicationDetail"
            ]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return None
            raise
        config = detail.get("ApplicationConfigurationDescription", {})
        code = config.get("ApplicationCodeConfigurationDescription", {}).get(
            "CodeContentDescription", {}
        )
        parallelism = config.get("FlinkApplicationConfigurationDescription", {}).get(
            "ParallelismConfigurationDescription", {}
        )
        return ApplicationState(
            name=name,
            status=detail["ApplicationStatus"],
            version=detail["ApplicationVersionId"],
            code_key=code.get("S3ApplicationCodeLocationDescription", {}).get("FileKey", ""),
            parallelism=parallelism.get("CurrentParallelism", parallelism.get("Parallelism", 0)),
        )

    def start(self, name: str, snapshot: str | None = None) -> None:
        """Tell an application to start; `wait_for` says when it runs.

        Parameters
        ----------
        name
            The application.
        snapshot
            The one to start from; None for its latest, or without state where it has none.

        Raises
        ------
        ApplicationError
            The service refuses.
        """
        if snapshot is not None:
            restore: dict[str, str] = {
                "ApplicationRestoreType": "RESTORE_FROM_CUSTOM_SNAPSHOT",
                "SnapshotName": snapshot,
            }
        elif self.snapshots(name):
            restore = {"ApplicationRestoreType": "RESTORE_FROM_LATEST_SNAPSHOT"}
        else:
            restore = {"ApplicationRestoreType": "SKIP_RESTORE_FROM_SNAPSHOT"}
        configuration: Any = {"ApplicationRestoreConfiguration": restore}
        self._do(
            lambda: self._client.start_application(
                ApplicationName=name, RunConfiguration=configuration
            )
        )

    def stop(self, name: str, *, force: bool = False) -> None:
        """Stop an application (with a snapshot, unless forced) and wait until it has stopped.

        Raises
        ------
        ApplicationError
            It does not stop.
        """
        self._do(lambda: self._client.stop_application(ApplicationName=name, Force=force))
        self.wait_for(name, "READY")

    def roll_back(self, name: str, version: int) -> None:
        """Go back to the version before `version`, with the state of the latest snapshot.

        Raises
        ------
        ApplicationError
            The service refuses, or the application does not run again.
        """
        self._do(
            lambda: self._client.rollback_application(
                ApplicationName=name, CurrentApplicationVersionId=version
            )
        )
        self.wait_for(name, "RUNNING")

    def wait_for(self, name: str, wanted: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until an application is in a status.

        Raises
        ------
        ApplicationError
            It came to rest in another one, or not in time.
        """

        def probe() -> str | None:
            state = self.state(name)
            if state is None:
                return "gone"
            return None if state.is_changing else state.status

        status = poll(self._clock, probe, timeout_s=timeout_s, every_s=_EVERY_S)
        if status != wanted:
            where = status or f"still on its way after {timeout_s / 60:.0f} minutes"
            raise ApplicationError(f"{name} is {where}, not {wanted}{self._last_failure(name)}")

    def take_snapshot(self, name: str, snapshot: str) -> None:
        """Take a snapshot and wait until it is ready.

        Raises
        ------
        ApplicationError
            The service refuses, or it fails.
        """
        self._do(
            lambda: self._client.create_application_snapshot(
                ApplicationName=name, SnapshotName=snapshot
            )
        )

        def probe() -> str | None:
            detail = self._client.describe_application_snapshot(
                ApplicationName=name, SnapshotName=snapshot
            )["SnapshotDetails"]
            status: str = detail["SnapshotStatus"]
            return None if status == "CREATING" else status

        status = poll(self._clock, probe, timeout_s=SNAPSHOT_TIMEOUT_S, every_s=_EVERY_S)
        if status != "READY":
            raise ApplicationError(
                f"snapshot {snapshot} of {name} is {status or 'not ready in time'}"
                f"{self._last_failure(name)}"
            )

    def snapshots(self, name: str) -> list[tuple[str, str]]:
        """Return name and time of the snapshots that can be started from, the latest first."""
        found: list[Any] = []
        pages = self._client.get_paginator("list_application_snapshots")
        for page in pages.paginate(ApplicationName=name):
            found += page.get("SnapshotSummaries", [])
        ready = [item for item in found if item["SnapshotStatus"] == "READY"]
        ready.sort(key=lambda item: str(item.get("SnapshotCreationTimestamp", "")), reverse=True)
        return [
            (item["SnapshotName"], str(item.get("SnapshotCreationTimestamp", ""))) for item in ready
        ]

    def _do(self, call: Any) -> None:
        try:
            call()
        except ClientError as error:
            detail = error.response["Error"]
            raise ApplicationError(f"{detail['Code']}: {detail['Message']}") from error

    def _last_failure(self, name: str) -> str:
        """Return what the service says about the latest operation, where that failed."""
        try:
            operations = self._client.list_application_operations(ApplicationName=name, Limit=1)[
                "ApplicationOperationInfoList"
            ]
            if not operations or operations[0].get("OperationStatus") != "FAILED":
                return ""
            details: Any = self._client.describe_application_operation(
                ApplicationName=name, OperationId=operations[0]["OperationId"]
            )["ApplicationOperationInfoDetails"]
        except ClientError:
            return ""
        error = details.get("OperationFailureDetails", {}).get("ErrorInfo", {}).get("ErrorString")
        return f": {error}" if error else ""
