"""The commands for AWS: `python -m deploy up|status|update|rollback|down|...`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from deploy.aws.applications import ApplicationError
from deploy.aws.artifacts import PACKAGE, PROJECT_ROOT, run_make, train_here
from deploy.aws.dead_letters import DeadLetter, Redriver, read_dead_letters
from deploy.aws.errors import DeployError, Exit
from deploy.aws.health import GRACE_S
from deploy.aws.logs import ERRORS, Logs
from deploy.aws.model import update_endpoint
from deploy.aws.release import Options
from deploy.aws.status import dashboard_address, read_status
from deploy.aws.teardown import KEPT, take_down
from deploy.aws.training import train_on_sagemaker
from deploy.console import console, fail, failures_in_words, say, upload_bar
from deploy.local.file_options import FILE_HELP, CategoryOption, ColumnsOption, file_options
from deploy.local.replay import replay
from deploy.local.sender import Sender
from deploy.show import show_letter, show_letters, show_redrive, show_status
from deploy.target import Target, number, pairs, scaling, target
from deploy.unsent import missing, read_unsent

SENT = PROJECT_ROOT / "build" / "aws" / "sent.jsonl"
"""What `send` sent last, and what it became in the stream."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="The streaming review jobs on AWS: Managed Service for Apache Flink, Kinesis, SageMaker.",
    epilog="Exit codes: 0 done; 1 failed, the message says how far it came; 2 wrong input, nothing"
    " was changed; 3 the new release was not healthy and the previous one runs again; 4 something"
    " is not healthy, somebody has to look; 130 Ctrl-C.",
)

StackOption = Annotated[
    str, typer.Option("--stack", help="Name of the stack; everything in it is named after it.")
]
RegionOption = Annotated[
    str | None, typer.Option("--region", help="AWS region; by default that of your AWS settings.")
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="Profile of your AWS settings.")
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print every call and make none; needs no credentials."),
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="NAME=VALUE",
        help="Parameter of deploy/template.yaml; may be given several times.",
    ),
]
GraceOption = Annotated[
    float,
    typer.Option(
        "--grace", help="Watch the applications for so many seconds before all is well.", min=0
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Ask nothing.")]

DEFAULT_STACK = "review-ml"


@app.command()
def up(
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    parameter: ParameterOption = None,
    grace: GraceOption = GRACE_S,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Bring everything up: streams, model, endpoint, applications, alarms; about 25 minutes.

    Where an earlier try has failed it goes on from there; where all is up already it is `update`.

    For example:

    - `python -m deploy up --dry-run`
    - `python -m deploy up --region eu-west-1 --parameter AlarmEmail=you@example.com`
    - `python -m deploy up --stack reviews-test -p EndpointMaxInstances=1 -p LogDays=7`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run, exists=False, yes=yes)
        identity = where.aws.client("sts").get_caller_identity()
        say(f"account {identity['Account']}, region {where.aws.region}, stack {stack}")
        options = Options(0 if dry_run else grace, overrides=pairs("--parameter", parameter))
        with upload_bar() as progress:
            where.deployment(progress).up(options)
        say(f"next: python -m deploy send reviews.tsv.gz --stack {stack}")
        say(f"      python -m deploy status --stack {stack}")


@app.command()
def update(
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    parameter: ParameterOption = None,
    grace: GraceOption = GRACE_S,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Stop the applications without a snapshot first, and do not roll back: for a"
            " release that fixes a broken one. They start from their latest snapshot.",
        ),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Put a new release in place: check, upload, snapshot, change, watch; else roll back.

    Code, properties and infrastructure (deploy/template.yaml) change together. Where the release
    does not become healthy, the previous one is put back and the command ends with 3.

    For example:

    - `python -m deploy update`
    - `python -m deploy update --grace 600 --parameter LogLevel=WARN`
    - `python -m deploy update --force`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run, yes=yes)
        options = Options(0 if dry_run else grace, force, pairs("--parameter", parameter))
        with upload_bar() as progress:
            where.deployment(progress).update(options)


@app.command()
def rollback(
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Go back to the state of this snapshot too: `snapshot --list`."),
    ] = None,
    grace: GraceOption = GRACE_S,
    force: Annotated[
        bool, typer.Option("--force", help="Stop the applications without a snapshot.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Go back to the release before the one that runs, code, properties and infrastructure.

    The state stays what it is, where the applications can still write it into a snapshot.

    For example:

    - `python -m deploy rollback`
    - `python -m deploy rollback --snapshot before-20260102T030405Z`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run, yes=yes)
        where.deployment().roll_back(Options(0 if dry_run else grace, force), snapshot)


@app.command()
def status(
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Show how everything is; ends with 4 where something is not well.

    For example:

    - `python -m deploy status`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run)
        found = read_status(where.aws, where.deployment().stack, where.clock, say)
        show_status(found)
    if found.problems:
        raise fail("\n".join(["not well:", *(f"  - {p}" for p in found.problems)]), Exit.UNHEALTHY)


@app.command()
def logs(
    job: Annotated[
        list[str] | None, typer.Option(help="Of this job only; may be given several times.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    minutes: Annotated[float, typer.Option(help="From so many minutes ago on.", min=0)] = 30,
    only_errors: Annotated[
        bool, typer.Option("--errors", help="Errors, failed starts and exceptions only.")
    ] = False,
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Show the applications' logs.

    For example:

    - `python -m deploy logs --errors`
    - `python -m deploy logs --job review_scoring --follow`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run)
        names = where.names(job)
        source = Logs(where.aws, where.clock)
        since = where.clock.now() - timedelta(minutes=minutes)
        pattern = ERRORS if only_errors else ""
        if follow and not dry_run:
            for name, line in source.follow(names, since, pattern):
                say(f"{name} {line}")
        lines = [(line, name) for name in names for line in source.lines(name, since, pattern)]
        for line, name in sorted(lines, key=lambda item: item[0].time):
            say(f"{name} {line}")


@app.command()
def snapshot(
    job: Annotated[
        list[str] | None, typer.Option(help="Of this job only; may be given several times.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Take none, show those there are.")] = False,
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Take a snapshot of the applications' state, or list the snapshots.

    For example:

    - `python -m deploy snapshot`
    - `python -m deploy snapshot --list --job review_metrics`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run)
        applications = where.deployment().applications
        name = f"manual-{where.clock.now():%Y%m%dT%H%M%SZ}"
        for application in where.names(job):
            if show:
                for found, time in applications.snapshots(application):
                    say(f"{application}  {time}  {found}")
                continue
            try:
                applications.take_snapshot(application, name)
            except ApplicationError as error:
                raise DeployError(
                    f"no snapshot of {application}: {error}",
                    state=["the applications run on as they did"],
                    steps=["look: python -m deploy status; python -m deploy logs --errors"],
                ) from error
            say(f"{application}: snapshot {name} is ready")


@app.command()
def scale(
    parallelism: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB=N", help="Parallelism of a job; a KPU each."),
    ] = None,
    shards: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=N", help="Shards of a stream, such as reviews=2."),
    ] = None,
    instances: Annotated[
        int | None, typer.Option(help="Most instances of each variant of the endpoint.", min=1)
    ] = None,
    grace: GraceOption = GRACE_S,
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Change parallelism, shards or the endpoint's bounds, with snapshot, watch and rollback.

    A stream's shards can at most be doubled or halved at a time.

    For example:

    - `python -m deploy scale --parallelism review_scoring=2 --shards reviews=2`
    - `python -m deploy scale --instances 8`
    """
    with failures_in_words():
        overrides = {
            **scaling("Parallelism{}", parallelism),
            **scaling("{}Shards", shards),
            **({} if instances is None else {"EndpointMaxInstances": str(instances)}),
        }
        if not overrides:
            raise DeployError(
                "nothing to scale",
                steps=["see: python -m deploy scale --help"],
                code=Exit.WRONG_INPUT,
            )
        where = target(stack, region, profile, dry_run, yes=yes)
        where.deployment().reconfigure(Options(0 if dry_run else grace, overrides=overrides))


@app.command()
def dashboard(
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Print the address of the CloudWatch dashboard.

    For example:

    - `python -m deploy dashboard`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run)
        state = where.deployment().stack.existing(may_change=True)
        say(dashboard_address(where.aws.region, state.outputs["DashboardName"]))


@app.command()
def send(
    file: Annotated[
        Path,
        typer.Argument(
            help=FILE_HELP,
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    rate: Annotated[
        float, typer.Option(help="Reviews a second; 0: as fast as the stream takes them.", min=0)
    ] = 0,
    limit: Annotated[int | None, typer.Option(help="Stop after this many reviews.", min=1)] = None,
    skip: Annotated[
        int, typer.Option(metavar="ROWS", help="Leave out the first ROWS rows of the file.", min=0)
    ] = 0,
    only: Annotated[
        Path | None,
        typer.Option(
            metavar="LIST",
            help="Send only the rows that an earlier `send` of this file listed as unsent, and of"
            " these only what the stream lacks. May be repeated.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    columns: ColumnsOption = None,
    category: CategoryOption = None,
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Send a file of reviews into the stream.

    `build/aws/sent.jsonl` says which record became which of the stream. Where sending stops,
    the rows that the stream may not have taken are listed beside it, and the message says how to
    continue.

    For example:

    - `python -m deploy send reviews.tsv.gz --limit 1000`
    - `python -m deploy send All_Beauty.jsonl.gz --rate 200`
    - `python -m deploy send shop.csv --columns review_id=ID,review_body=TEXT --category Books`
    - `python -m deploy send reviews.jsonl --skip 12500`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run)
        config = where.scoring_config()
        try:
            records = replay(file, config.reviews.format, file_options(columns, category))
            rows = None if only is None else _rows_to_send(where, config.reviews.stream, only)
        except ValueError as error:
            raise DeployError(str(error), code=Exit.WRONG_INPUT) from None
        SENT.parent.mkdir(parents=True, exist_ok=True)
        sender = Sender(
            where.aws.single_attempt_client("kinesis"),
            config.reviews.stream,
            records,
            SENT,
            rate_per_s=rate or None,
            limit=limit,
            skip=skip,
            only=rows,
        )
        is_interrupted = False
        sender.start()
        with console.status("sending") as progress:
            while sender.is_alive():
                try:
                    sender.join(0.5)
                    progress.update(f"sending: {sender.sent:,}; {records.progress(limit)}")
                except KeyboardInterrupt:
                    is_interrupted = True
                    sender.stop()
        for note in records.notes:
            say(note)
        settings = {
            "--columns": columns,
            "--category": category,
            "--stack": stack,
            "--region": region,
            "--profile": profile,
        }
        options = [part for name, value in settings.items() if value for part in (name, value)]
        if only is not None and skip:
            options += ["--skip", str(skip)]
        if rate:
            options += ["--rate", f"{rate:.15g}"]
        line = shlex.join(["python", "-m", "deploy", "send", str(file), *options])
        steps = _steps_to_continue(sender, line, only=only, skip=skip, limit=limit)
        if sender.error is not None:
            raise DeployError(
                f"sending stopped after {sender.sent:,} reviews: {sender.error}",
                state=sender.stopped_state(),
                steps=steps,
            )
        say(f"sent {sender.sent:,} to the stream {config.reviews.stream}")
        if is_interrupted:
            for step in steps:
                say(f"stopped by Ctrl-C; {step}")
        if sender.refused:
            say(f"{sender.refused:,} exceed Kinesis's 1 MiB and were not sent")


def _rows_to_send(where: Target, stream: str, path: Path) -> set[int]:
    """Return the rows of a list of unsent rows that the stream lacks."""
    listed = read_unsent(path)
    with console.status("reading") as progress:
        kinesis = where.aws.client("kinesis")
        rows = missing(kinesis, stream, listed, where.clock, progress.update)
    say(f"{len(listed) - len(rows):,} of {len(listed):,} rows are in the stream already")
    return {row.row for row in rows}


def _steps_to_continue(
    sender: Sender, line: str, *, only: Path | None, skip: int, limit: int | None
) -> list[str]:
    # Behind what cannot be read of a file is nothing to go on with.
    if isinstance(sender.error, ValueError):
        return []
    done = sender.last_row - skip if only is None else sender.sent
    bound = "" if limit is None else f" --limit {limit - done}"
    has_rest = limit is None or done < limit
    if only is not None:
        # The rows that this run has sent are found in the stream: the same list serves again.
        command = f"{line}{bound} --only {shlex.quote(str(only))}"
        return [f"send those of the list that the stream lacks: {command}"] if has_rest else []
    steps = []
    if sender.unsent_path is not None:
        command = f"{line} --only {shlex.quote(str(sender.unsent_path))}"
        steps.append(f"send those of the list that the stream lacks: {command}")
    if has_rest:
        steps.append(f"send the rows after them: {line} --skip {sender.last_row}{bound}")
    return steps


@app.command("dead-letters")
def dead_letters(
    hours: Annotated[float, typer.Option(help="Of the last so many hours.", min=0)] = 24,
    stage: Annotated[str | None, typer.Option(help="Of this stage only.")] = None,
    reason: Annotated[str | None, typer.Option(help="With this reason only.")] = None,
    show: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Show the one with this sequence number whole."),
    ] = None,
    redrive: Annotated[
        bool,
        typer.Option(
            "--redrive",
            help="Send again as reviews those that now get through: the parser takes them, the"
            " endpoint rates them, and they were not scored meanwhile. Each is sent once.",
        ),
    ] = False,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked",
            help="With --redrive: send those too of which it is not known whether they were scored"
            " or sent; they may count twice.",
        ),
    ] = False,
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """List dead letters, look into one, or send again those that now get through.

    For example:

    - `python -m deploy dead-letters --hours 2`
    - `python -m deploy dead-letters --show 4965000000000000000001`
    - `python -m deploy dead-letters --stage parse --reason oversize --redrive`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run)
        state = where.deployment().stack.existing(may_change=True)
        since = where.clock.now() - timedelta(hours=hours)
        with console.status("reading") as progress:

            def letters() -> Iterator[DeadLetter]:
                stream = state.outputs["DeadLettersStream"]
                for letter in read_dead_letters(
                    where.aws, stream, since, where.clock, progress.update
                ):
                    number = letter.source_id.sequence_number
                    if (
                        (stage is None or letter.stage == stage)
                        and (reason is None or letter.reason == reason)
                        and (show is None or show in (letter.sequence_number, number))
                    ):
                        yield letter

            if show is not None:
                found = list(letters())
                if not found:
                    raise DeployError(
                        f"no dead letter {show} in the last {hours:g} hours",
                        steps=["look further back: --hours"],
                    )
                for letter in found:
                    show_letter(letter)
            elif not redrive:
                show_letters(letters())
            else:
                redriver = Redriver(
                    where.aws,
                    where.clock,
                    where.scoring_config(),
                    state.outputs["BucketName"],
                    int(state.parameters["ArchiveDays"]),
                )
                show_redrive(redriver.redrive(letters, progress.update, is_unchecked=unchecked))


@app.command()
def down(
    with_data: Annotated[
        bool,
        typer.Option(
            "--with-data", help="Delete the archive in the bucket and the key too, for good."
        ),
    ] = False,
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Delete the stack: names what goes, and asks.

    The bucket with the archive and the key that encrypts it stay, unless --with-data is given.

    For example:

    - `python -m deploy down`
    - `python -m deploy down --with-data --yes`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run, yes=yes)
        existing = where.deployment().stack
        state = existing.existing()
        resources = existing.resources()
        for name, kind, identity in resources:
            stays = kind in KEPT and not with_data
            say(f"{'keep  ' if stays else 'delete'} {kind:45} {name:28} {identity}")
        say("snapshots of the applications and what is in the streams go with them")
        if not (yes or dry_run) and not typer.confirm(f"delete stack {stack}?", default=False):
            raise DeployError("not confirmed", state=["nothing was deleted"])
        take_down(where.aws, existing, state, say, with_data=with_data)
        say("done")


@app.command()
def package(dry_run: DryRunOption = False) -> None:
    """Build the zip of the applications: `make package`.

    For example:

    - `python -m deploy package`
    """
    with failures_in_words():
        if dry_run:
            say("$ make package")
            return
        run_make("package", say)
        say(f"built {PACKAGE}; put it in place: python -m deploy update")


@app.command()
def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            help=f"Reviews with ratings; generated ones by default. {FILE_HELP}",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    columns: ColumnsOption = None,
    category: CategoryOption = None,
    on_sagemaker: Annotated[
        bool, typer.Option("--on-sagemaker", help="Train in a SageMaker job, not on this machine.")
    ] = False,
    instance_type: Annotated[str, typer.Option(help="Of the SageMaker job.")] = "ml.m5.2xlarge",
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train the model's variants with the libraries of SageMaker's scikit-learn container.

    For example:

    - `python -m deploy train`
    - `python -m deploy train reviews.tsv.gz --on-sagemaker --instance-type ml.m5.4xlarge`
    """
    with failures_in_words():
        if data is not None:
            # Before anything is uploaded or installed.
            try:
                replay(data, "json", file_options(columns, category))
            except ValueError as error:
                raise DeployError(str(error), code=Exit.WRONG_INPUT) from None
        if not on_sagemaker:
            train_here(data, say, columns=columns, category=category, is_dry=dry_run)
            return
        if data is None:
            raise DeployError("a SageMaker job needs data", code=Exit.WRONG_INPUT)
        where = target(stack, region, profile, dry_run)
        state = where.deployment().stack.existing(may_change=True)
        train_on_sagemaker(
            where.aws,
            state,
            data,
            say,
            columns=columns,
            category=category,
            instance_type=instance_type,
        )


@app.command()
def endpoint(
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="VARIANT=N", help="Share of the requests, relative to the others'."),
    ] = None,
    stack: StackOption = DEFAULT_STACK,
    region: RegionOption = None,
    profile: ProfileOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Put the trained models and the variants' shares in place.

    SageMaker runs the new models beside the old ones, watches their alarms for ten minutes, and
    goes back by itself where one goes off; the command then ends with 3. `rollback` leads back to
    the models before at any later time.

    For example:

    - `python -m deploy endpoint`
    - `python -m deploy endpoint --weight tfidf-logistic=9 --weight hashing-bayes=1`
    """
    with failures_in_words():
        where = target(stack, region, profile, dry_run)
        weights = {name: number(value) for name, value in pairs("--weight", weight).items()}
        update_endpoint(where.aws, where.deployment().stack, where.clock, say, weights)
