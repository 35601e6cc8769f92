"""Whether an application really works: the service calls one `RUNNING` whose job never started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from deploy.aws.applications import Applications
from deploy.aws.clock import Clock
from deploy.aws.logs import Logs
from deploy.aws.session import Aws, Say

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient

NAMESPACE = "AWS/KinesisAnalytics"
GRACE_S = 300.0
"""So long an application is watched by default; its metrics come once a minute, a minute late."""

_EVERY_S = 30.0
_BEHIND_MS = 60_000.0
_METRICS = ("uptime", "fullRestarts", "numberOfFailedCheckpoints")


@dataclass(frozen=True)
class Readings:
    """The metrics of an application since a time, the oldest value first; empty: none yet.

    Attributes
    ----------
    uptime_ms
        How long its job has been running without a break.
    restarts
        Of the job, since it was submitted.
    failed_checkpoints
        Of the job, since it was submitted.
    behind_ms
        How far it is behind its source.
    """

    uptime_ms: Sequence[float] = ()
    restarts: Sequence[float] = ()
    failed_checkpoints: Sequence[float] = ()
    behind_ms: Sequence[float] = ()


@dataclass(frozen=True)
class Verdict:
    """What was found out about some applications.

    Attributes
    ----------
    problems
        What is wrong, by application; empty where all are healthy.
    """

    problems: dict[str, str] = field(default_factory=dict)

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class Health:
    """Judges applications.

    Parameters
    ----------
    aws, clock, say
        Where, how to wait, and whom to tell.
    """

    def __init__(self, aws: Aws, clock: Clock, say: Say) -> None:
        self._aws = aws
        self._clock = clock
        self._say = say
        self._applications = Applications(aws, clock)
        self._logs = Logs(aws, clock)

    def readings(self, application: str, since: datetime) -> Readings:
        """Ask CloudWatch for an application's metrics since a time."""
        client: CloudWatchClient = self._aws.client("cloudwatch")
        dimensions = f'Application="{application}"'
        queries: Any = [
            {
                "Id": f"m{number}",
                "MetricStat": {
                    "Metric": {
                        "Namespace": NAMESPACE,
                        "MetricName": metric,
                        "Dimensions": [{"Name": "Application", "Value": application}],
                    },
                    "Period": 60,
                    "Stat": "Maximum",
                },
            }
            for number, metric in enumerate(_METRICS)
        ]
        queries.append(
            {
                "Id": "behind",
                "Expression": (
                    f"MAX(SEARCH('{{{NAMESPACE},Application,Flow,Id}}"
                    f" MetricName=\"millisBehindLatest\" {dimensions}', 'Maximum', 60))"
                ),
            }
        )
        answer = client.get_metric_data(
            MetricDataQueries=queries,
            StartTime=since,
            EndTime=self._clock.now() + timedelta(minutes=1),
            ScanBy="TimestampAscending",
        )
        values = {item["Id"]: item.get("Values", []) for item in answer["MetricDataResults"]}
        return Readings(
            uptime_ms=values.get("m0", []),
            restarts=values.get("m1", []),
            failed_checkpoints=values.get("m2", []),
            behind_ms=values.get("behind", []),
        )

    def watch(
        self,
        applications: Sequence[str],
        begun: datetime,
        since: datetime,
        grace_s: float = GRACE_S,
    ) -> Verdict:
        """Watch applications for a while; ends at once where one has failed.

        Parameters
        ----------
        applications
            Their names.
        begun
            When starting or changing them began: their logs count from then on.
        since
            When that was through: their metrics count from then on, those of another job do not.
        grace_s
            How long to watch, in seconds.

        Returns
        -------
        Verdict
            Healthy where each of them runs, has not restarted, has had no checkpoint fail, and
            is not falling behind.
        """
        end = self._clock.now() + timedelta(seconds=grace_s)
        while True:
            left_s = (end - self._clock.now()).total_seconds()
            problems = {}
            for application in applications:
                problem = self._problem(application, begun, since, is_over=left_s <= 0)
                if problem is not None:
                    problems[application] = problem
            if problems or left_s <= 0:
                return Verdict(problems)
            self._say(f"  no failure so far; {left_s:.0f} s to go")
            self._clock.sleep(min(_EVERY_S, left_s))

    def _problem(
        self, application: str, begun: datetime, since: datetime, *, is_over: bool
    ) -> str | None:
        state = self._applications.state(application)
        if state is None:
            return "does not exist"
        reason = self._logs.start_failure(application, begun)
        if state.status == "READY":
            return f"has stopped{_because(reason)}"
        # What is logged alone is no failure: what matters is that the job restarts or is missing.
        readings = self.readings(application, since)
        if readings.restarts and max(readings.restarts) > 0:
            return f"has restarted {max(readings.restarts):.0f} times{_because(reason)}"
        if reason is not None and not any(readings.uptime_ms):
            return f"has not started{_because(reason)}"
        weakness = judged(readings) if is_over else None
        return None if weakness is None else f"{weakness}{_because(reason)}"


def judged(readings: Readings) -> str | None:
    """Return what is wrong with an application that has run for a while, None for nothing.

    Examples
    --------
    >>> judged(Readings(uptime_ms=[30_000.0], behind_ms=[90_000.0, 5_000.0]))
    >>> judged(Readings())
    'has no job that was seen running'
    """
    if not any(readings.uptime_ms):
        return "has no job that was seen running"
    if readings.failed_checkpoints and max(readings.failed_checkpoints) > 0:
        return f"has had {max(readings.failed_checkpoints):.0f} checkpoints fail"
    behind = readings.behind_ms
    if behind and behind[-1] > _BEHIND_MS and behind[-1] >= behind[0]:
        return f"is {behind[-1] / 1000:.0f} s behind its source, and does not catch up"
    return None


def _because(reason: str | None) -> str:
    return f":\n{reason}" if reason else ""
