"""A release onto AWS: up from nothing, update with a way back, and the way back by hand.

The stack is the only owner of everything that it describes: code, properties and infrastructure
change together, in one change set, and go back together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from deploy.aws import artifacts
from deploy.aws.applications import ApplicationError, Applications
from deploy.aws.clock import Clock
from deploy.aws.errors import DeployError, Exit
from deploy.aws.health import GRACE_S, Health, Verdict
from deploy.aws.history import History, Release, release_id
from deploy.aws.logs import Logs
from deploy.aws.model import container_image
from deploy.aws.progress import Progress, broken_off_in_words
from deploy.aws.session import Aws, Say
from deploy.aws.stack import Change, Stack, StackState
from deploy.aws.template import MAX_TEMPLATE_BYTES, Application, Template, check_applications

_UNTOUCHED = "nothing that runs was changed"

Confirm = Callable[[Sequence[Change]], bool]


@dataclass(frozen=True)
class Options:
    """How to go about it.

    Attributes
    ----------
    grace_s
        How long the applications are watched before a release counts as healthy, in seconds.
    force
        Stop the applications without a snapshot first: for a release that fixes a broken one.
    overrides
        Parameters of the stack to set.
    """

    grace_s: float = GRACE_S
    force: bool = False
    overrides: Mapping[str, str] | None = None


class Deployment:
    """What runs, or is to run, under the name of one stack.

    Parameters
    ----------
    aws, name
        Where, and the stack's name.
    clock, say
        For waiting, and for telling the user.
    template
        What is to run.
    confirm
        Asked before a resource that exists goes.
    progress
        Called with the number of bytes that an upload has sent.
    """

    def __init__(
        self,
        aws: Aws,
        name: str,
        clock: Clock,
        say: Say,
        *,
        template: Template,
        confirm: Confirm = lambda changes: True,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._aws = aws
        self._name = name
        self._clock = clock
        self._say = say
        self._template = template
        self._confirm = confirm
        self._progress = progress
        self.stack = Stack(aws, name, clock, say)
        self.applications = Applications(aws, clock)
        self.health = Health(aws, clock, say)
        self._logs = Logs(aws, clock)

    def up(self, options: Options) -> None:
        """Bring everything up, from nothing or from wherever an earlier try has come to.

        Raises
        ------
        ConfigError
            The properties are wrong; nothing was changed.
        DeployError
            It did not work out.
        """
        overrides = dict(options.overrides or {})
        self.check(overrides)
        state = self.stack.state()
        if state is not None and state.parameters.get("CodeKey"):
            self._say(f"stack {self._name} exists: this is an update")
            self.update(options)
            return
        again = "go on from here: python -m deploy up"
        with broken_off_in_words("nothing was changed on AWS", again) as progress:
            self._up(options, state, progress, again)

    def _up(
        self, options: Options, state: StackState | None, progress: Progress, again: str
    ) -> None:
        overrides = dict(options.overrides or {})
        package = artifacts.package(self._aws, self._say)
        models = artifacts.models(self._aws, self._say)
        image = container_image(self._aws.region)
        if state is None:
            self._say(f"creating stack {self._name}: streams, bucket, topics, alarms")
            progress.now(f"the stack {self._name} was being created", again)
            self.stack.apply(self._template.text, overrides, is_new=True)
        state = self._settled()
        bucket = state.outputs["BucketName"]
        progress.now("streams, bucket, topics and alarms are in place, nothing runs yet", again)
        for artifact in (package, *models.values()):
            artifacts.upload(self._aws, bucket, artifact, self._say, self._progress)
        parameters = {
            **self._kept(state.parameters),
            **overrides,
            "CodeKey": package.key,
            "ModelImage": image,
            **{artifacts.VARIANTS[variant]: model.key for variant, model in models.items()},
        }
        self._say("adding the endpoint (about ten minutes) and the applications")
        progress.now("endpoint and applications were being added to the stack", again)
        self.stack.apply(self._template.text, parameters, is_new=False, confirm=self._confirm)
        begun = self._clock.now()
        progress.now("all is in place; whether the applications run well is not known", again)
        names = [application.name for application in self._described(parameters)]
        self._start_or_tell(names, begun, options.grace_s)
        self._record(bucket, Release(release_id(begun), self._template.text, parameters))

    def update(self, options: Options) -> None:
        """Put a new release in place of the one that runs, and go back if it is not healthy.

        Raises
        ------
        ConfigError
            The properties are wrong; nothing was changed.
        DeployError
            It did not work out: with the code `ROLLED_BACK` where the previous release runs again.
        """
        state = self._settled()
        if not state.parameters.get("CodeKey"):
            raise DeployError(
                f"stack {self._name} has no applications yet",
                steps=["bring them up: python -m deploy up"],
            )
        overrides = dict(options.overrides or {})
        self.check({**self._kept(state.parameters), **overrides})
        check_shards(state.parameters, overrides)
        bucket = state.outputs["BucketName"]
        with broken_off_in_words(_UNTOUCHED, "again: python -m deploy update"):
            package = artifacts.package(self._aws, self._say)
            artifacts.upload(self._aws, bucket, package, self._say, self._progress)
        parameters = {
            **self._kept(state.parameters),
            **overrides,
            "CodeKey": package.key,
        }
        previous = Release("previous", self.stack.template(), state.parameters)
        self._change_over(
            previous,
            Release(release_id(self._clock.now()), self._template.text, parameters),
            bucket,
            options,
        )

    def reconfigure(self, options: Options) -> None:
        """Change parameters of the stack and nothing else, with the same care as a release.

        Raises
        ------
        DeployError
            As `update`.
        """
        state = self._settled()
        previous = Release("previous", self.stack.template(), state.parameters)
        known = Template(previous.template).parameters
        unknown = sorted(set(options.overrides or {}) - set(known))
        if unknown:
            raise DeployError(
                f"the stack has no parameter {', '.join(unknown)}",
                steps=[f"there are: {', '.join(known)}"],
                code=Exit.WRONG_INPUT,
            )
        check_shards(state.parameters, options.overrides or {})
        parameters = {**state.parameters, **(options.overrides or {})}
        self._change_over(
            previous,
            Release(release_id(self._clock.now()), previous.template, parameters),
            state.outputs["BucketName"],
            options,
        )

    def roll_back(self, options: Options, snapshot: str | None = None) -> None:
        """Go back to the release before the one that runs.

        Parameters
        ----------
        options
            How; `force` stops the applications without taking a snapshot.
        snapshot
            The state to go back to; None keeps the state where the applications can still write
            it, else takes the latest one.

        Raises
        ------
        DeployError
            There is no release to go back to, or it did not work out.
        """
        state = self._settled()
        bucket = state.outputs["BucketName"]
        current = Release("current", self.stack.template(), state.parameters)
        target = History(self._aws, bucket).before(current)
        if target is None:
            raise DeployError(
                "there is no earlier release on record",
                state=["the current one runs as it did"],
                steps=["check out the code to go back to, then: python -m deploy update"],
            )
        self._say(f"going back to release {target.id}, {target.code_key}")
        with broken_off_in_words(_UNTOUCHED, "again: python -m deploy rollback") as progress:
            self._change_back(current, target, options, snapshot, progress)

    def _change_back(
        self,
        current: Release,
        target: Release,
        options: Options,
        snapshot: str | None,
        progress: Progress,
    ) -> None:
        again = "again: python -m deploy rollback"
        running = self._running(current)
        stopped = []
        for name in running:
            if snapshot is None and not options.force:
                try:
                    self._snapshot(name, f"before-{release_id(self._clock.now())}")
                    continue
                except ApplicationError as error:
                    self._say(f"  {name}: no snapshot: {error}")
            self._say(f"  stopping {name}")
            progress.now("applications were being stopped; the release is still the old one", again)
            self._stop(name, running)
            stopped.append(name)
        begun = self._clock.now()
        progress.now("the stack was being changed back", again)
        try:
            self.stack.apply(
                target.template, target.parameters, is_new=False, confirm=self._confirm
            )
        except DeployError as error:
            raise self._unchanged(error, current, running, begun) from error
        progress.now("the release before is in place; whether it runs well is not known", again)
        names = self._names(target)
        self._start_or_tell(names, begun, options.grace_s, dict.fromkeys(stopped, snapshot))

    def check(self, overrides: Mapping[str, str] | None = None) -> list[Application]:
        """Check template and properties with the jobs' own code, as far as that goes without AWS.

        Raises
        ------
        ConfigError
            Names every problem of every application's properties.
        DeployError
            A parameter that the template does not have, or a template that is too long.
        """
        unknown = sorted(set(overrides or {}) - set(self._template.parameters))
        if unknown:
            raise DeployError(
                f"the template has no parameter {', '.join(unknown)}",
                steps=[f"there are: {', '.join(self._template.parameters)}"],
                code=Exit.WRONG_INPUT,
            )
        if len(self._template.text.encode()) > MAX_TEMPLATE_BYTES:
            raise DeployError(
                f"deploy/template.yaml has more than {MAX_TEMPLATE_BYTES} bytes",
                steps=["CloudFormation takes no more without a bucket: shorten it"],
                code=Exit.WRONG_INPUT,
            )
        found = self._described(overrides or {})
        check_applications(found)
        self._say(f"properties checked: {', '.join(item.job for item in found)}")
        return found

    def _change_over(self, previous: Release, new: Release, bucket: str, options: Options) -> None:
        with broken_off_in_words(_UNTOUCHED, "again, with the same command") as progress:
            self._change(previous, new, bucket, options, progress)

    def _change(
        self, previous: Release, new: Release, bucket: str, options: Options, progress: Progress
    ) -> None:
        by_hand = f"or go back: python -m deploy rollback --snapshot {_snapshot_before(new)}"
        before = {name: self.applications.state(name) for name in self._names(previous)}
        running = [name for name, state in before.items() if state and state.status == "RUNNING"]
        if options.force:
            by_hand = "or go back: python -m deploy rollback --force"
            progress.now("applications were being stopped", "again, with the same command")
            for name in running:
                self._say(f"stopping {name} without a snapshot")
                self._stop(name, running)
        else:
            self._snapshots(running, _snapshot_before(new))
        self._say("changing the stack")
        progress.now("the stack was being changed to the new release", by_hand)
        begun = self._clock.now()
        try:
            is_changed = self.stack.apply(
                new.template, new.parameters, is_new=False, confirm=self._confirm
            )
        except DeployError as error:
            raise self._unchanged(error, previous, running, begun) from error
        progress.now("the new release is in place; whether it runs well is not known", by_hand)
        names = self._names(new)
        if not is_changed:
            self._say("the stack is as it should be already")
        verdict = Verdict(self._start(names, begun))
        if verdict.is_healthy:
            self._say(f"watching {', '.join(names)} for {options.grace_s:.0f} s")
            verdict = self.health.watch(names, begun, self._clock.now(), options.grace_s)
            verdict = self._with_codes(verdict, new)
        if verdict.is_healthy:
            self._say("healthy")
            self._record(bucket, new)
            return
        if options.force or not is_changed or not running:
            raise _unhealthy(verdict, "it was not rolled back: nothing sound ran before")
        versions = {name: state.version for name, state in before.items() if state}
        progress.now("the new release is not healthy, and was being rolled back", by_hand)
        self._go_back(previous, new, {name: versions[name] for name in running}, verdict, options)

    def _go_back(
        self,
        previous: Release,
        new: Release,
        versions: Mapping[str, int],
        verdict: Verdict,
        options: Options,
    ) -> None:
        """Put the previous release back: the applications first, so that data flow again."""
        self._say("not healthy:")
        for name, problem in verdict.problems.items():
            self._say(f"  {name} {problem}")
        self._say("rolling back")
        snapshot = _snapshot_before(new)
        begun = self._clock.now()
        failures: dict[str, str] = {}
        for name, version in versions.items():
            try:
                self._put_back(name, version, previous, new)
            except ApplicationError as error:
                failures[name] = str(error)
        # The stack has to follow, or its next change would bring the bad release back.
        try:
            self.stack.apply(previous.template, previous.parameters, is_new=False)
        except DeployError as error:
            failures["the stack"] = str(error)
        failures |= self._start(versions, begun, dict.fromkeys(versions, snapshot))
        if not failures:
            failures = self.health.watch(
                list(versions), begun, self._clock.now(), options.grace_s
            ).problems
        causes = [f"{name} {problem}" for name, problem in verdict.problems.items()]
        if failures:
            raise DeployError(
                "the new release is not healthy, and rolling back did not work out",
                state=[
                    *causes,
                    *(f"rolling back: {name}: {text}" for name, text in failures.items()),
                    *self._states(versions),
                    f"snapshots from before the update: {snapshot}",
                ],
                steps=[
                    "look: python -m deploy status; python -m deploy logs --errors",
                    f"go back by hand: python -m deploy rollback --snapshot {snapshot}",
                    "or fix it: python -m deploy update --force",
                ],
                code=Exit.UNHEALTHY,
            )
        raise DeployError(
            "the new release is not healthy; the previous one runs again",
            state=[*causes, *self._states(versions)],
            steps=["fix the cause, then: python -m deploy update"],
            code=Exit.ROLLED_BACK,
        )

    def _put_back(self, name: str, version: int, previous: Release, new: Release) -> None:
        """Put an application back to what it was at a version, or stop it.

        Raises
        ------
        ApplicationError
            It can be neither put back nor stopped.
        """
        state = self.applications.state(name)
        if state is None or state.status == "READY":
            return
        if state.version == version:
            return
        if state.code_key == previous.code_key != new.code_key:
            self._say(f"  {name}: the service has put it back already")
            return
        try:
            self._say(f"  {name}: back from version {state.version}")
            self.applications.roll_back(name, state.version)
        except ApplicationError as error:
            self._say(f"  {name}: {error}; stopping it")
            now = self.applications.state(name)
            if now is not None and now.status != "READY":
                self.applications.stop(name, force=True)

    def _with_codes(self, verdict: Verdict, release: Release) -> Verdict:
        """Add the applications that the service has put back to their old code by itself."""
        problems = dict(verdict.problems)
        for name in self._names(release):
            state = self.applications.state(name)
            if state is not None and state.code_key != release.code_key:
                problems.setdefault(name, f"was put back to {state.code_key} by the service")
        return Verdict(problems)

    def _unchanged(
        self, error: DeployError, previous: Release, running: Sequence[str], begun: datetime
    ) -> DeployError:
        """Say of a change that CloudFormation did not make what the applications do now."""
        # Those that were stopped for it.
        problems = self._start(running, begun)
        states = [self.applications.state(name) for name in running]
        is_back = not problems and all(
            state is not None and state.code_key == previous.code_key for state in states
        )
        reasons = [
            f"{name}: {reason}"
            for name in running
            if (reason := self._logs.start_failure(name, begun)) is not None
        ]
        return DeployError(
            error.problem,
            state=[*error.state, *reasons, *problems.values(), *self._states(running)],
            steps=error.steps,
            code=Exit.ROLLED_BACK if is_back else Exit.UNHEALTHY,
        )

    def _snapshots(self, names: Sequence[str], snapshot: str) -> None:
        for name in names:
            try:
                self._snapshot(name, snapshot)
            except ApplicationError as error:
                raise DeployError(
                    f"no snapshot of {name}: {error}",
                    state=["nothing was changed; the new zip lies in the bucket"],
                    steps=[
                        "look why: python -m deploy status; python -m deploy logs --errors",
                        "where the application is broken and this release fixes it:"
                        " python -m deploy update --force",
                    ],
                ) from error

    def _snapshot(self, name: str, snapshot: str) -> None:
        self._say(f"snapshot {snapshot} of {name}")
        self.applications.take_snapshot(name, snapshot)

    def _stop(self, name: str, all_names: Sequence[str]) -> None:
        try:
            self.applications.stop(name, force=True)
        except ApplicationError as error:
            raise DeployError(
                f"{name} does not stop: {error}",
                state=self._states(all_names),
                steps=["look: python -m deploy status, then try again"],
                code=Exit.UNHEALTHY,
            ) from error

    def _start(
        self,
        names: Iterable[str],
        begun: datetime,
        snapshots: Mapping[str, str | None] | None = None,
    ) -> dict[str, str]:
        """Start those that do not run, all at once, and wait for all.

        Returns
        -------
        dict
            Of those that do not come up: why, with the Python exception.
        """
        names = list(names)
        problems: dict[str, str] = {}
        for name in names:
            state = self.applications.state(name)
            if state is not None and state.status == "READY":
                self._say(f"starting {name}")
                try:
                    self.applications.start(name, (snapshots or {}).get(name))
                except ApplicationError as error:
                    problems[name] = str(error)
        for name in names:
            if name not in problems:
                try:
                    self.applications.wait_for(name, "RUNNING")
                except ApplicationError as error:
                    problems[name] = str(error)
        return {name: self._with_exception(name, text, begun) for name, text in problems.items()}

    def _with_exception(self, name: str, problem: str, begun: datetime) -> str:
        reason = self._logs.start_failure(name, begun)
        return problem if reason is None else f"{problem}\n{reason}"

    def _start_or_tell(
        self,
        names: Sequence[str],
        begun: datetime,
        grace_s: float,
        snapshots: Mapping[str, str | None] | None = None,
    ) -> None:
        """Start and watch the applications.

        Raises
        ------
        DeployError
            One does not come up, or is not healthy.
        """
        problems = self._start(names, begun, snapshots)
        if problems:
            raise DeployError(
                "not every application runs",
                state=[
                    *(f"{name}: {problem}" for name, problem in problems.items()),
                    *self._states(names),
                    "stack, streams and endpoint are in place; the streams keep what comes in",
                ],
                steps=[
                    "read on: python -m deploy logs --errors",
                    "fix it, then: python -m deploy update --force",
                ],
                code=Exit.UNHEALTHY,
            )
        self._verify_or_tell(names, begun, grace_s)

    def _verify_or_tell(self, names: Sequence[str], begun: datetime, grace_s: float) -> None:
        self._say(f"watching {', '.join(names)} for {grace_s:.0f} s")
        verdict = self.health.watch(names, begun, self._clock.now(), grace_s)
        if not verdict.is_healthy:
            raise _unhealthy(verdict, "everything else is in place")
        self._say("healthy")

    def _settled(self) -> StackState:
        state = self.stack.existing()
        if not state.is_settled:
            raise DeployError(
                f"stack {self._name} is in {state.status}: {state.reason}",
                state=["nothing was changed"],
                steps=[
                    f"remove what is left: python -m deploy down --stack {self._name}",
                    f"then again: python -m deploy up --stack {self._name}",
                ]
                if state.status.startswith(("ROLLBACK", "CREATE"))
                else [
                    "fix the cause, then:"
                    f" aws cloudformation continue-update-rollback --stack-name {self._name}"
                ],
            )
        return state

    def _kept(self, parameters: Mapping[str, str]) -> dict[str, str]:
        """Return the parameters that the template still has."""
        return {key: value for key, value in parameters.items() if key in self._template.parameters}

    def _described(self, parameters: Mapping[str, str]) -> list[Application]:
        return self._template.applications(self._name, self._aws.region, parameters=parameters)

    def _names(self, release: Release) -> list[str]:
        return [
            application.name
            for application in Template(release.template).applications(
                self._name, self._aws.region, parameters=release.parameters
            )
        ]

    def _running(self, release: Release) -> list[str]:
        states = [self.applications.state(name) for name in self._names(release)]
        return [state.name for state in states if state and state.status == "RUNNING"]

    def _states(self, names: Iterable[str]) -> list[str]:
        lines = []
        for name in names:
            state = self.applications.state(name)
            lines.append(
                f"{name}: does not exist"
                if state is None
                else f"{name}: {state.status}, version {state.version}, {state.code_key}"
            )
        return lines

    def _record(self, bucket: str, release: Release) -> None:
        History(self._aws, bucket).add(release)


def check_shards(now: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse what Kinesis refuses: more than twice or less than half the shards at a time.

    Raises
    ------
    DeployError
        Names the stream's parameter and how far one can go.

    Examples
    --------
    >>> check_shards({"ReviewsShards": "3"}, {"ReviewsShards": "6", "LogLevel": "WARN"})
    """
    for name, text in wanted.items():
        if not name.endswith("Shards") or not text.isdecimal() or name not in now:
            continue
        shards, there = int(text), int(now[name])
        least, most = (there + 1) // 2, 2 * there
        if not least <= shards <= most:
            raise DeployError(
                f"{name}: {there} shards can become {least} to {most} at a time, not {shards}",
                steps=[f"first to {most if shards > most else least}, then on"],
                code=Exit.WRONG_INPUT,
            )


def _unhealthy(verdict: Verdict, state: str) -> DeployError:
    return DeployError(
        "not every application is healthy",
        state=[*(f"{name} {problem}" for name, problem in verdict.problems.items()), state],
        steps=[
            "read on: python -m deploy logs --errors",
            "fix it, then: python -m deploy update --force",
        ],
        code=Exit.UNHEALTHY,
    )


def _snapshot_before(release: Release) -> str:
    return f"before-{release.id}"
