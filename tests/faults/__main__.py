"""`python -m tests.faults`: break one thing after another, and write down what became of it."""

import json
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deploy.tables import print_table
from tests.faults.faults import FAULTS, SETTINGS
from tests.faults.harness import FaultRow, HarnessOptions, break_once

cli = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@cli.command(
    epilog="Examples: `python -m tests.faults`, `python -m tests.faults --only kill_task_manager`"
)
def main(
    only: Annotated[str, typer.Option(help="Some faults, separated by commas.")] = ",".join(FAULTS),
    rate: Annotated[float, typer.Option(min=1, help="Reviews a second.")] = 100.0,
    after_s: Annotated[
        float, typer.Option(min=1, help="Seconds of reviews through every job before the fault.")
    ] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the reviews.")] = 1,
    output: Annotated[Path, typer.Option(help="Takes the rows as JSON.")] = Path(
        "build/faults.json"
    ),
    run_dir: Annotated[Path, typer.Option(help="A directory for each fault: logs, truth.")] = Path(
        "build/faults"
    ),
) -> None:
    """Break one thing at a time in a whole pipeline; exit 1 unless nothing was lost.

    Each fault gets emulator, endpoint and a cluster of two TaskManagers of its own, and takes
    about three minutes; fifty kills take about ten.
    """
    console = Console()
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(names).difference(FAULTS))
    if unknown or not names:
        wrong = f"no such fault: {', '.join(unknown)}" if unknown else "no fault is named"
        typer.echo(f"{wrong}; faults: {', '.join(FAULTS)}", err=True)
        raise typer.Exit(2)
    # So that what was stopped or started is continued and ended then too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows: list[FaultRow] = []
    for number, name in enumerate(names, 1):
        console.print(f"{name} ({number} of {len(names)})", style="bold")
        options = HarnessOptions(rate_per_s=rate, break_after_s=after_s, seed=seed)
        row = break_once(FAULTS[name], run_dir / name, console, options, SETTINGS.get(name))
        rows.append(row)
        for problem in row.problems:
            console.print(f"  does not reconcile: {problem}", style="red", markup=False)
        # After each: a long run that is cut short leaves what it has found.
        output.parent.mkdir(parents=True, exist_ok=True)
        document = [row.as_json() for row in rows]
        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print_table(console, _table(rows))
    console.print(f"written to {output}", markup=False)
    if not all(row.passed for row in rows):
        raise typer.Exit(1)


def _table(rows: list[FaultRow]) -> Table:
    # As narrow as a terminal of 80 columns.
    table = Table(title="faults", title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for column in ("fault", "sent", "lost", "truth\nmatches", "repeats", "recovery\ns", "passed"):
        table.add_column(column, justify="left" if column == "fault" else "right", no_wrap=True)
    for row in rows:
        cells = (row.sent, row.lost, row.truth_matches, row.repeats, row.recovery_s, row.passed)
        table.add_row(row.fault, *(_cell(value) for value in cells))
    return table


def _cell(value: float | bool | None) -> str:
    if value is None:
        return "?"
    return ("yes" if value else "NO") if isinstance(value, bool) else f"{value:,}"


if __name__ == "__main__":
    cli()
