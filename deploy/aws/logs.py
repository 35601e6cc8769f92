"""The applications' logs: lines as people read them, and why an application did not start.

The service logs one JSON object an event (Managed Service for Apache Flink, "Logging").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from deploy.aws.clock import Clock
from deploy.aws.session import Aws

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

START_FAILED = "APPLICATION START FAILED"
"""By this `main.py` marks the record that says why it did not start."""

ERRORS = f'?ERROR ?"{START_FAILED}" ?Traceback'
"""Filter pattern of what went wrong."""

# Events may appear in the log a little later than their time says.
_OVERLAP = timedelta(seconds=15)
_EVERY_S = 3.0


@dataclass(frozen=True)
class LogLine:
    """One event of a log.

    Attributes
    ----------
    id
        Of the event.
    time
        When it was written, in UTC.
    level
        `INFO`, `WARN` and so on; empty where the event has none.
    message
        What it says, with the exception that came with it.
    """

    id: str
    time: datetime
    level: str
    message: str

    def __str__(self) -> str:
        level = f"{self.level:5} " if self.level else ""
        return f"{self.time:%Y-%m-%d %H:%M:%S} {level}{self.message}"


def log_group(application: str) -> str:
    """Return the log group of an application, as the template names it."""
    return f"/aws/kinesis-analytics/{application}"


class Logs:
    """Logs of applications.

    Parameters
    ----------
    aws, clock
        Where, and how to wait.
    """

    def __init__(self, aws: Aws, clock: Clock) -> None:
        self._aws = aws
        self._clock = clock

    @property
    def _client(self) -> CloudWatchLogsClient:
        client: CloudWatchLogsClient = self._aws.client("logs")
        return client

    def lines(self, application: str, since: datetime, pattern: str = "") -> Iterator[LogLine]:
        """Yield an application's lines from a time on, the oldest first.

        Parameters
        ----------
        application, since
            Whose, and from when.
        pattern
            CloudWatch's filter pattern; empty for all.
        """
        pages = self._client.get_paginator("filter_log_events").paginate(
            logGroupName=log_group(application),
            startTime=_milliseconds(since),
            **({"filterPattern": pattern} if pattern else {}),  # type: ignore[arg-type]
        )
        for page in pages:
            for event in page.get("events", []):
                yield _line(event)

    def follow(
        self, applications: Sequence[str], since: datetime, pattern: str = ""
    ) -> Iterator[tuple[str, LogLine]]:
        """Yield the lines of applications, and go on with what comes; ends never."""
        told: dict[str, datetime] = {}
        while True:
            for application in applications:
                for line in self.lines(application, since, pattern):
                    if line.id not in told:
                        told[line.id] = line.time
                        yield application, line
            # What is older than the next question's start will not come again.
            since = max(since, self._clock.now() - _OVERLAP)
            told = {event: time for event, time in told.items() if time >= since}
            self._clock.sleep(_EVERY_S)

    def start_failure(self, application: str, since: datetime) -> str | None:
        """Return why an application has not started, None where its log does not say.

        Returns
        -------
        str or None
            The configuration's problems, or the Python exception with its traceback.
        """
        found = None
        for pattern in (f'"{START_FAILED}"', '"Traceback (most recent call last)"'):
            try:
                for line in self.lines(application, since, pattern):
                    found = line
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceNotFoundException":
                    raise
            if found is not None:
                return _reason(found.message)
        return None


def _reason(message: str) -> str:
    _, marker, record = message.partition(START_FAILED)
    if not marker:
        return message
    try:
        details = json.loads(record)
    except ValueError:
        return record.strip()
    if details.get("problems"):
        problems = "\n".join(f"  - {problem}" for problem in details["problems"])
        return f"{details['error']}:\n{problems}"
    return str(details.get("traceback") or details.get("error", record)).strip()


def _line(event: Any) -> LogLine:
    time = datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
    text = event["message"]
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or "message" not in record:
        return LogLine(event["eventId"], time, "", text.rstrip())
    message = str(record["message"])
    if thrown := record.get("throwableInformation"):
        message += f"\n{thrown}"
    return LogLine(event["eventId"], time, str(record.get("messageType", "")), message)


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
