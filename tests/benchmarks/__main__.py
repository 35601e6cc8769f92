"""`python -m tests.benchmarks NAME`: measure; `... docs`: write the figures down."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from deploy.local.cluster import FlinkClientError, JobFailedError
from deploy.local.process import PartError
from deploy.tables import print_table
from tests.benchmarks import report
from tests.benchmarks.bench import Benchmark, Measure, Measured, Measurement, Options, measurements
from tests.benchmarks.cluster import OVERRIDES, BenchCluster
from tests.benchmarks.machine import commit, machine, versions

RESULTS = Path("build/bench")
DOCS = Path("docs/benchmarks.md")
NAMES = ("baseline", "scoring", "metrics", "anomaly")
"""All benchmarks: modules of this package that hold a `BENCHMARK`."""

cli = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)


@cli.callback()
def about() -> None:
    """Measure how many records a second the engine and the jobs take."""


def _add_command(
    name: str, about: str, *, example: str, default_seconds: float, default_warm_up: float
) -> None:
    """Add the command of a benchmark; `example` is one of `--only`."""

    @cli.command(
        name,
        help=about,
        epilog=f"Examples: `python -m tests.benchmarks {name} --rounds 1 --seconds 3`,"
        f" `python -m tests.benchmarks {name} --only {example}`",
    )
    def measure(
        rounds: Annotated[int, typer.Option(min=1, help="Each measures every variant once.")] = 3,
        seconds: Annotated[float, typer.Option(min=1, help="Of a measurement.")] = default_seconds,
        warm_up: Annotated[
            float, typer.Option(min=0, help="Seconds before it, at least.")
        ] = default_warm_up,
        only: Annotated[str, typer.Option(help="Some variants, separated by commas.")] = "",
        output: Annotated[Path, typer.Option(help="Takes figures and samples as JSON.")] = RESULTS
        / f"{name}.json",
        run_dir: Annotated[Path, typer.Option(help="Logs.")] = RESULTS / "run",
    ) -> None:
        run(name, Options(rounds, seconds, warm_up), only, output, run_dir)


_add_command(
    "baseline",
    "What the engine can do, and what the jobs do today; about twelve minutes.",
    example="rated_reviews,pandas_udf",
    default_seconds=4.0,
    default_warm_up=3.0,
)
_add_command(
    "scoring",
    "The async UDF beside one call a review, and its latency; about eight minutes.",
    example="sequential,async",
    default_seconds=6.0,
    default_warm_up=4.0,
)
_add_command(
    "metrics",
    "The windows' aggregates beside Flink's own, their error and state; about twelve minutes.",
    example="average,windows",
    default_seconds=4.0,
    default_warm_up=3.0,
)
_add_command(
    "anomaly",
    "Detectors side by side, calibration, and rates; about fifteen minutes.",
    example="keyed_noop,anomalies",
    default_seconds=6.0,
    default_warm_up=6.0,
)


@cli.command(epilog="Examples: `python -m tests.benchmarks docs`, `... docs baseline`")
def docs(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; all by default.")] = None,
    results: Annotated[Path, typer.Option(help="Holds NAME.json of each.")] = RESULTS,
    path: Annotated[Path, typer.Option(help="The document.")] = DOCS,
) -> None:
    """Write figures of benchmarks that were run into docs/benchmarks.md, between their marks."""
    chosen = names or [name for name in NAMES if (results / f"{name}.json").exists()]
    if not chosen:
        _end(f"no figures in {results}; make them with make bench-{NAMES[0]}")
    text = path.read_text(encoding="utf-8")
    for name in chosen:
        try:
            result = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
            text = report.with_figures(text, result)
        except FileNotFoundError:
            _end(f"no figures of {name}; make them with make bench-{name}")
        except report.DocsError as error:
            _end(f"{path}: {error}")
    path.write_text(text, encoding="utf-8")
    typer.echo(f"{path}: {', '.join(chosen)}")


def run(name: str, options: Options, only: str, output: Path, run_dir: Path) -> None:
    """Measure one benchmark, write its file and print its table.

    Raises
    ------
    typer.Exit
        With 2 where there is no such variant, with 1 where a job fails.
    """
    console = Console()
    # So that all that was started is ended then too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Takes seconds, for it imports PyFlink; `--help` must not wait for it.
    with console.status("loading PyFlink"):
        benchmark = _restricted(importlib.import_module(f"tests.benchmarks.{name}").BENCHMARK, only)
    try:
        result = _measured(benchmark, options, output, run_dir, console)
    except (FlinkClientError, JobFailedError, PartError, OSError) as error:
        _end(f"{name}: {error}\nlogs: {run_dir}", 1)
    print_table(console, report.table(result))
    for sentence in report.unsteady(result):
        console.print(f"not steady: {sentence}", style="yellow", highlight=False)
    console.print(
        f"written to {output}; python -m tests.benchmarks docs {name} puts it into {DOCS}",
        markup=False,
        highlight=False,
    )


def _measured(
    benchmark: Benchmark, options: Options, output: Path, run_dir: Path, console: Console
) -> report.Document:
    total = options.rounds * len(benchmark.variants)
    measured: list[Measurement] = []
    result: report.Document = {}
    facts: dict[str, Any] = {
        "command": _command(benchmark.name, sys.argv[2:]),
        **commit(),
        "machine": machine(),
        "flink_overrides": OVERRIDES,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run_dir, ignore_errors=True)
    with console.status("") as status:

        @contextlib.contextmanager
        def open_round(number: int) -> Iterator[Measure]:
            status.update(f"starting the cluster of round {number}")
            with BenchCluster(benchmark, options, run_dir / f"round-{number}") as cluster:
                facts["versions"] = versions(cluster.flink.get)

                def measure(variant: str) -> Measured:
                    status.update(f"{len(measured) + 1} of {total}: {variant}")
                    return cluster.measure(variant)

                yield measure

        for one in measurements(benchmark, options, open_round):
            measured.append(one)
            console.print(
                f"{len(measured):3} of {total}  {one.variant:<20}"
                f" {one.records_per_s:11,.0f} {benchmark.unit}/s",
                highlight=False,
            )
            # After each: a run that is cut short leaves what it has found.
            result = report.document(benchmark, options, measured, **facts)
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if benchmark.figures is not None:
            status.update("further figures")
            with BenchCluster(benchmark, options, run_dir / "figures") as cluster:
                figures = benchmark.figures(cluster, result)
            result |= {**figures, "figures": list(figures)}
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _restricted(benchmark: Benchmark, only: str) -> Benchmark:
    names = [name.strip() for name in only.split(",") if name.strip()] or [*benchmark.variants]
    if unknown := sorted(set(names).difference(benchmark.variants)):
        _end(f"no such variant: {', '.join(unknown)}; variants: {', '.join(benchmark.variants)}")
    chosen = {name: variant for name, variant in benchmark.variants.items() if name in names}
    return dataclasses.replace(benchmark, variants=chosen)


def _command(name: str, arguments: list[str]) -> str:
    return f"make bench-{name}" + (f' ARGS="{shlex.join(arguments)}"' if arguments else "")


def _end(message: str, status: int = 2) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    cli()
