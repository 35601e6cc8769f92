"""Print tables so that none of their values is cut off."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

_ANY_WIDTH = 100_000


def print_table(console: Console, table: Table) -> None:
    """Print a table: as wide as its values where the output is not a terminal.

    rich takes a pipe or a file for a terminal of 80 columns, and would cut off what exceeds it.
    """
    if console.is_terminal:
        console.print(table)
        return
    width = console.width
    console.width = _ANY_WIDTH
    try:
        console.print(table)
    finally:
        console.width = width
