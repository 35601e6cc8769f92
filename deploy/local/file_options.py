"""Options of the commands that read a file of reviews."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.local.files.layouts import FileOptions, parse_columns

FILE_HELP = "JSON lines, JSON, TSV or CSV, plain or .gz, .bz2, .zst; columns: docs/files.md."
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="FIELD=COLUMN,...",
        help="Columns of a file of none of the known layouts: review_id, review_body and, where"
        " they are there, product_category, star_rating, event_time. By name, or by number where"
        " there is no header; review_id=A+B is a digest of several.",
    ),
]
CategoryOption = Annotated[
    str | None,
    typer.Option("--category", help="Category of the reviews of a file that has no column for it."),
]


def file_options(columns: str | None, category: str | None) -> FileOptions:
    """Return the options of a file, checked.

    Raises
    ------
    LayoutError
        Names everything that is wrong.
    """
    return FileOptions(None if columns is None else parse_columns(columns), category)
