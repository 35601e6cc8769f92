"""What a command is about: which stack, where, or an imagined one; and the user's NAME=VALUEs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from deploy.aws.clock import Clock, ImaginedClock, SystemClock
from deploy.aws.dry_run import ImaginedWorld
from deploy.aws.errors import DeployError, Exit
from deploy.aws.release import Deployment
from deploy.aws.session import Aws, DryRun
from deploy.aws.template import Application, Template, check_applications
from deploy.console import confirm_changes, say
from flink_jobs.config import ReviewScoringConfig


@dataclass(frozen=True)
class Target:
    """Which stack, where; or an imagined one."""

    stack: str
    aws: Aws
    clock: Clock
    template: Template
    yes: bool = False

    def deployment(self, progress: Callable[[int], None] | None = None) -> Deployment:
        """Return what works on it."""
        return Deployment(
            self.aws,
            self.stack,
            self.clock,
            say,
            template=self.template,
            confirm=partial(confirm_changes, self.yes or self.aws.is_dry),
            progress=progress,
        )

    def applications(self) -> list[Application]:
        """Return the applications of the stack as it runs, with their properties."""
        stack = self.deployment().stack
        state = stack.existing(may_change=True)
        return Template(stack.template()).applications(
            self.stack, self.aws.region, parameters=state.parameters
        )

    def names(self, jobs: Sequence[str] | None) -> list[str]:
        """Return the names of the applications of some jobs, of all for none.

        Raises
        ------
        DeployError
            There is no such job.
        """
        names = {application.job: application.name for application in self.applications()}
        unknown = sorted(set(jobs or ()) - set(names))
        if unknown:
            raise DeployError(
                f"there is no job {', '.join(unknown)}",
                steps=[f"there are: {', '.join(names)}"],
                code=Exit.WRONG_INPUT,
            )
        return [names[job] for job in jobs or names]

    def scoring_config(self) -> ReviewScoringConfig:
        """Return the configuration with which the job `review_scoring` runs."""
        for config in check_applications(self.applications()):
            if isinstance(config, ReviewScoringConfig):
                return config
        raise DeployError(f"stack {self.stack} does not run the job review_scoring")


def target(
    stack: str,
    region: str | None,
    profile: str | None,
    dry_run: bool,
    *,
    exists: bool = True,
    yes: bool = False,
) -> Target:
    """Return the target of a command.

    Parameters
    ----------
    stack, region, profile, dry_run, yes
        The user's options.
    exists
        Whether a dry run imagines that the stack exists.
    """
    template = Template.read()
    if not dry_run:
        aws = Aws(region, profile=profile)
        if not aws.region:
            raise DeployError(
                "no AWS region", steps=["name one: --region, or AWS_REGION"], code=Exit.WRONG_INPUT
            )
        return Target(stack, aws, SystemClock(), template, yes)
    world = ImaginedWorld(template, stack, region or "us-east-1", exists=exists)
    say("dry run: these calls would be made; nothing is done")
    clock = ImaginedClock(SystemClock().now())
    return Target(stack, Aws(region, dry_run=DryRun(world, say)), clock, template, yes)


def pairs(option: str, values: Sequence[str] | None) -> dict[str, str]:
    """Read the values `NAME=VALUE` of an option.

    Raises
    ------
    DeployError
        One has no `=`.

    Examples
    --------
    >>> pairs("--parameter", ["LogLevel=WARN"])
    {'LogLevel': 'WARN'}
    """
    found = {}
    for value in values or ():
        name, equals, text = value.partition("=")
        if not (equals and name.strip()):
            raise DeployError(f"{option} {value}: NAME=VALUE is meant", code=Exit.WRONG_INPUT)
        found[name.strip()] = text.strip()
    return found


def number(text: str) -> float:
    """Read a number that is not negative.

    Raises
    ------
    DeployError
        It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DeployError(f"{text!r} is no number from 0 on", code=Exit.WRONG_INPUT)
    return value


def scaling(form: str, values: Sequence[str] | None) -> dict[str, str]:
    """Return the stack's parameters for numbers by job or stream.

    Examples
    --------
    >>> scaling("{}Shards", ["scored-reviews=4"])
    {'ScoredReviewsShards': '4'}
    """
    found = {}
    for name, text in pairs("--parallelism or --shards", values).items():
        if not text.isdecimal() or int(text) < 1:
            raise DeployError(f"{name}={text}: a number from 1 on is meant", code=Exit.WRONG_INPUT)
        parts = name.replace("-", "_").split("_")
        found[form.format("".join(part.capitalize() for part in parts))] = text
    return found
