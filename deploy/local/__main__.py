"""The laptop's commands: `python -m deploy.local run|cluster|submit|stop`.

The Makefile's targets of these names set everything up and call them.
"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.local import jobs
from deploy.local.process import PartError, shown
from deploy.local.stack import (
    NoStackError,
    StackRunningError,
    attach,
    start_detached,
    stop_detached,
)
from flink_jobs.config import ConfigError

RUN_DIR = Path("build/run")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reviews, AWS and a Flink cluster on this machine.",
)
console = Console()


def _fail(error: object, code: int) -> typer.Exit:
    console.print(str(error), style="red", markup=False, soft_wrap=True)
    return typer.Exit(code)


@app.command()
def run(
    reviews: Annotated[
        Path | None,
        typer.Option(help="Replay this file: 15- or 4-column TSV (plain or .gz), JSON lines."),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Reviews a second; 0: as fast as it goes.", min=0)
    ] = 200.0,
    limit: Annotated[int | None, typer.Option(help="Send so many and end.", min=1)] = None,
    duration: Annotated[
        float | None, typer.Option(help="Send for so many seconds and end.", min=0.1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 1,
    only_jobs: Annotated[
        str | None, typer.Option("--jobs", help="Comma-separated; all by default.")
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="Logs, truth and summary.")] = RUN_DIR,
) -> None:
    """Run everything: emulator, endpoint, cluster, jobs, reviews.

    Without a file, a limit or a duration it runs until Ctrl-C. Exits with 1 where the counts do
    not reconcile.

    Examples: `make run`, `make run LIMIT=2000 SEED=7`, `make run REVIEWS=reviews.tsv.gz RATE=500`
    """
    from deploy.local.cluster import FlinkClientError, JobFailedError
    from deploy.local.run import RunError, RunOptions
    from deploy.local.run import run as carry_through

    # As after Ctrl-C twice: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        summary = carry_through(
            RunOptions(
                run_dir=run_dir,
                reviews=reviews,
                rate_per_s=rate or None,
                limit=limit,
                duration_s=duration,
                seed=seed,
                jobs=jobs.chosen(only_jobs),
            ),
            console,
        )
    except (ConfigError, ValueError) as error:
        raise _fail(error, 2) from None
    except (
        RunError,
        PartError,
        FlinkClientError,
        JobFailedError,
        StackRunningError,
        OSError,
    ) as error:
        raise _fail(error, 1) from None
    except KeyboardInterrupt:
        raise _fail("ended by Ctrl-C; nothing is left running", 130) from None
    raise typer.Exit(0 if summary.reconciled else 1)


@app.command()
def cluster(run_dir: Annotated[Path, typer.Option(help="Logs and state.")] = RUN_DIR) -> None:
    """Start emulator, endpoint and cluster, and leave them running. Then: `make submit`."""
    try:
        with console.status("starting AWS emulator, endpoint and Flink cluster"):
            info = start_detached(run_dir, model_dir=jobs.MODEL_DIR, properties=jobs.PROPERTIES)
    except (PartError, StackRunningError, OSError, ValueError) as error:
        raise _fail(error, 1) from None
    # So that flink run works by hand too.
    jobs.write_pyfiles()
    for job in jobs.JOBS:
        info.properties_for(job)
    console.print(f"Flink web UI  {info.web_ui_url}", highlight=False)
    console.print(f"AWS emulator  {info.emulator_url}", highlight=False)
    console.print(f"endpoint      {info.endpoint_url}", highlight=False)
    console.print("next: make submit; when done: make stop")


@app.command()
def submit(
    only_jobs: Annotated[
        str | None, typer.Option("--jobs", help="Comma-separated; all by default.")
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="That of the cluster.")] = RUN_DIR,
) -> None:
    """Submit jobs to the running cluster with plain `flink run`, and show that line."""
    from deploy.local.cluster import FlinkClientError

    try:
        info = attach(run_dir)
        for job in jobs.chosen(only_jobs):
            flink = info.flink()
            properties, pyfiles = info.properties_for(job), jobs.write_pyfiles()
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
    except NoStackError as error:
        raise _fail(f"{error}; start one with: make cluster", 1) from None
    except ValueError as error:
        raise _fail(error, 2) from None
    except (FlinkClientError, PartError, OSError) as error:
        raise _fail(error, 1) from None


@app.command()
def stop(run_dir: Annotated[Path, typer.Option(help="That of the cluster.")] = RUN_DIR) -> None:
    """End what `make cluster` started, jobs included."""
    with console.status("stopping"):
        was_running = stop_detached(run_dir)
    console.print("stopped" if was_running else f"no cluster runs in {shown(run_dir)}")


if __name__ == "__main__":
    app()
