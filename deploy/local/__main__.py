"""The laptop's commands: `python -m deploy.local run|cluster|submit|send|stop`.

The Makefile's targets of these names set everything up and call them.
"""

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from deploy.local import jobs, texts
from deploy.local.cluster import FlinkClientError
from deploy.local.file_options import FILE_HELP, CategoryOption, ColumnsOption, file_options
from deploy.local.generator import GeneratorOptions, generate
from deploy.local.pipeline import RunError
from deploy.local.process import PartError, shown
from deploy.local.records import Outgoing
from deploy.local.replay import Replay, replay
from deploy.local.run import RunOptions
from deploy.local.run import run as carry_through
from deploy.local.sample import load_sample
from deploy.local.sender import Sender
from deploy.local.stack import (
    TRUTH,
    NoStackError,
    StackRunningError,
    attach,
    start_detached,
    stop_detached,
)
from flink_jobs.config import ConfigError, ReviewsConfig

RUN_DIR = Path("build/run")

_PROGRESS_S = 0.5
_DEFAULTS = GeneratorOptions()

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Reviews, AWS and a Flink cluster on this machine.",
)
console = Console()
errors = Console(stderr=True)

_GENERATOR = "Generator (where no file is given)"

ReviewsOption = Annotated[
    Path | None,
    typer.Option(
        help=f"Replay this file: {FILE_HELP}",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
RateOption = Annotated[float, typer.Option(help="Reviews a second; 0: as fast as it goes.", min=0)]
LimitOption = Annotated[int | None, typer.Option(help="Send so many and end.", min=1)]
DurationOption = Annotated[
    float | None, typer.Option(help="Send for so many seconds and end.", min=0.1)
]
SeedOption = Annotated[int, typer.Option(help="Seed.", rich_help_panel=_GENERATOR)]
LateShareOption = Annotated[
    float,
    typer.Option(
        help="Share of reviews at least a minute beyond the watermark delay, 0 to 0.5.",
        rich_help_panel=_GENERATOR,
    ),
]
BrokenShareOption = Annotated[
    float, typer.Option(help="Share of broken records, 0 to 0.5.", rich_help_panel=_GENERATOR)
]
CategoriesOption = Annotated[
    str | None,
    typer.Option(
        help=f"Comma-separated; all by default: {', '.join(texts.CATEGORIES)}.",
        rich_help_panel=_GENERATOR,
    ),
]
BurstEveryOption = Annotated[
    int, typer.Option(help="A burst of outrage every so many records.", rich_help_panel=_GENERATOR)
]
BurstReviewsOption = Annotated[
    int, typer.Option(help="Reviews of a burst; 0: no bursts.", rich_help_panel=_GENERATOR)
]
ShardsOption = Annotated[int, typer.Option(help="Shards of the stream of reviews.", min=1, max=100)]
JobsOption = Annotated[str | None, typer.Option("--jobs", help="Comma-separated; all by default.")]


def _fail(error: object, code: int) -> typer.Exit:
    errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(code)


@contextlib.contextmanager
def _failures_in_words() -> Iterator[None]:
    """End the command with one clear message: status 2 for the user's input, else 1."""
    try:
        yield
    except ConfigError as error:
        raise _fail(error, 2) from None
    except NoStackError as error:
        raise _fail(f"{error}; start one with: make cluster", 1) from None
    except (
        RunError,
        PartError,
        FlinkClientError,
        StackRunningError,
        BotoCoreError,
        ClientError,
        OSError,
    ) as error:
        raise _fail(error, 1) from None


def _chosen(names: str | None) -> tuple[str, ...]:
    try:
        return jobs.chosen(names)
    except ValueError as error:
        raise _fail(error, 2) from None


def _records(
    config: ReviewsConfig,
    file: Path | None,
    columns: str | None,
    category: str | None,
    seed: int,
    late_share: float,
    broken_share: float,
    categories: str | None,
    burst_every: int,
    burst_reviews: int,
) -> Iterator[Outgoing]:
    if file is None and (columns or category):
        raise _fail("--columns and --category are for a file: give --reviews", 2)
    try:
        if file is not None:
            return replay(file, config.format, file_options(columns, category))
        options = GeneratorOptions(
            format=config.format,
            categories=texts.CATEGORIES
            if categories is None
            else [name.strip() for name in categories.split(",")],
            late_share=late_share,
            broken_share=broken_share,
            burst_every=burst_every,
            burst_reviews=burst_reviews,
            max_body_bytes=config.max_body_bytes,
        )
        return generate(options, seed, time.time)
    except (ValueError, OSError) as error:
        raise _fail(error, 2) from None


def _sending(sent: int, records: Iterator[Outgoing], limit: int | None) -> str:
    of_file = f"; {records.progress(limit)}" if isinstance(records, Replay) else ""
    return f"sending: {sent:,}{of_file}"


def _say_notes(records: Iterator[Outgoing]) -> None:
    for note in records.notes if isinstance(records, Replay) else ():
        console.print(note, markup=False, highlight=False, soft_wrap=True)


@app.command()
def run(
    reviews: ReviewsOption = None,
    columns: ColumnsOption = None,
    category: CategoryOption = None,
    rate: RateOption = 200.0,
    limit: LimitOption = None,
    duration: DurationOption = None,
    only_jobs: JobsOption = None,
    shards: ShardsOption = 2,
    seed: SeedOption = 1,
    late_share: LateShareOption = _DEFAULTS.late_share,
    broken_share: BrokenShareOption = _DEFAULTS.broken_share,
    categories: CategoriesOption = None,
    burst_every: BurstEveryOption = _DEFAULTS.burst_every,
    burst_reviews: BurstReviewsOption = _DEFAULTS.burst_reviews,
    run_dir: Annotated[Path, typer.Option(help="Logs, truth and summary.")] = RUN_DIR,
) -> None:
    """Run everything: emulator, endpoint, cluster, jobs, reviews.

    Without a file, a limit or a duration it runs until Ctrl-C. Exits with 1 where the counts do
    not reconcile.

    For example:

    - `python -m deploy.local run`
    - `python -m deploy.local run --limit 2000 --seed 7 --shards 4`
    - `python -m deploy.local run --reviews reviews.tsv.gz --rate 500`
    - `python -m deploy.local run --reviews shop.csv --columns review_id=ID,review_body=TEXT
      --category Books`
    - `python -m deploy.local run --duration 60 --late-share 0.02 --broken-share 0.1`
    """
    # As after Ctrl-C twice: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _failures_in_words():
        config = load_sample(jobs.PROPERTIES)
        chosen = _chosen(only_jobs)
        records = _records(
            config.reviews,
            reviews,
            columns,
            category,
            seed,
            late_share,
            broken_share,
            categories,
            burst_every,
            burst_reviews,
        )
        options = RunOptions(
            run_dir=run_dir,
            rate_per_s=rate or None,
            limit=limit,
            duration_s=duration,
            shards=shards,
            jobs=chosen,
        )
        try:
            summary = carry_through(options, config, records, console)
        except KeyboardInterrupt:
            raise _fail("ended by Ctrl-C; nothing is left running", 130) from None
        _say_notes(records)
    raise typer.Exit(0 if summary.reconciled else 1)


@app.command()
def cluster(
    shards: ShardsOption = 2,
    run_dir: Annotated[Path, typer.Option(help="Logs and state.")] = RUN_DIR,
) -> None:
    """Start emulator, endpoint and cluster, and leave them running.

    For example:

    - `python -m deploy.local cluster`
    - `python -m deploy.local cluster --shards 4`
    """
    with _failures_in_words():
        load_sample(jobs.PROPERTIES)
        with console.status("starting AWS emulator, endpoint and Flink cluster"):
            info = start_detached(
                run_dir, model_dir=jobs.MODEL_DIR, properties=jobs.PROPERTIES, shards=shards
            )
        # So that flink run works by hand too.
        jobs.write_pyfiles()
        for job in jobs.JOBS:
            info.properties_for(job)
    for name, address in info.addresses.items():
        console.print(f"{name:14}{address}", highlight=False)
    send_line = shlex.join([shown(Path(sys.executable)), "-m", "deploy.local", "send"])
    console.print(
        f"next: make submit, then {send_line} --limit 500; when done: make stop",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def submit(
    only_jobs: JobsOption = None,
    run_dir: Annotated[Path, typer.Option(help="That of the cluster.")] = RUN_DIR,
) -> None:
    """Submit jobs to the running cluster with plain `flink run`, and show that line.

    For example:

    - `python -m deploy.local submit`
    - `python -m deploy.local submit --jobs review_scoring`
    """
    chosen = _chosen(only_jobs)
    with _failures_in_words():
        info = attach(run_dir)
        load_sample(info.properties)
        flink = info.flink()
        running = {job.name: job for job in flink.jobs() if not job.has_ended}
        for job in chosen:
            if job in running:
                # Two of them would each score everything.
                raise _fail(
                    f"{job} runs already: job {running[job].job_id},"
                    f" {info.web_ui_url}/#/job/{running[job].job_id}/overview",
                    1,
                )
        pyfiles = jobs.write_pyfiles()
        for job in chosen:
            properties = info.properties_for(job)
            console.print(
                flink.command_line(
                    entry=jobs.ENTRY, properties=properties, jarfile=jobs.JAR, pyfiles=pyfiles
                ),
                markup=False,
                soft_wrap=True,
            )
            with console.status(f"submitting {job}"):
                job_id = flink.submit(
                    entry=jobs.ENTRY, properties=properties, jarfile=jobs.JAR, pyfiles=pyfiles
                )
            console.print(
                f"{job}: job {job_id}, {info.web_ui_url}/#/job/{job_id}/overview", soft_wrap=True
            )


@app.command()
def send(
    reviews: ReviewsOption = None,
    columns: ColumnsOption = None,
    category: CategoryOption = None,
    rate: RateOption = 200.0,
    limit: LimitOption = None,
    duration: DurationOption = None,
    seed: SeedOption = 1,
    late_share: LateShareOption = _DEFAULTS.late_share,
    broken_share: BrokenShareOption = _DEFAULTS.broken_share,
    categories: CategoriesOption = None,
    burst_every: BurstEveryOption = _DEFAULTS.burst_every,
    burst_reviews: BurstReviewsOption = _DEFAULTS.burst_reviews,
    run_dir: Annotated[Path, typer.Option(help="That of the cluster.")] = RUN_DIR,
) -> None:
    """Send reviews into the stream of the running cluster.

    Without a file, a limit or a duration it sends until Ctrl-C. `truth.jsonl` in the run
    directory says what was sent last.

    For example:

    - `python -m deploy.local send --limit 500`
    - `python -m deploy.local send --reviews reviews.tsv.gz --rate 0`
    - `python -m deploy.local send --duration 60 --seed 2 --broken-share 0.1`
    """
    with _failures_in_words():
        info = attach(run_dir)
        config = load_sample(info.properties)
        records = _records(
            config.reviews,
            reviews,
            columns,
            category,
            seed,
            late_share,
            broken_share,
            categories,
            burst_every,
            burst_reviews,
        )
        sender = Sender(
            info.client("kinesis", attempts=1),
            config.reviews.stream,
            records,
            info.run_dir / TRUTH,
            rate_per_s=rate or None,
            limit=limit,
            duration_s=duration,
        )
        sender.start()
        with console.status("sending") as status:
            while sender.is_alive():
                try:
                    sender.join(_PROGRESS_S)
                    status.update(_sending(sender.sent, records, limit))
                except KeyboardInterrupt:
                    sender.stop()
        _say_notes(records)
        if sender.error is not None:
            lines = [f"sending stopped after {sender.sent:,} reviews: {sender.error}"]
            lines += [f"  - {line}" for line in sender.stopped_state()]
            raise _fail("\n".join(lines), 1)
    console.print(f"sent {sender.sent:,} to the stream {config.reviews.stream}", highlight=False)
    if sender.refused:
        console.print(f"{sender.refused:,} exceed Kinesis's 1 MiB and were not sent")


@app.command()
def stop(run_dir: Annotated[Path, typer.Option(help="That of the cluster.")] = RUN_DIR) -> None:
    """End what `cluster` started, jobs included.

    For example:

    - `python -m deploy.local stop`
    """
    with console.status("stopping"):
        was_running = stop_detached(run_dir)
    console.print("stopped" if was_running else f"no cluster runs in {shown(run_dir)}")


if __name__ == "__main__":
    app()
