"""Windows of the archive, merged: `python -m deploy.windows --help`."""

import base64
import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from deploy.archive import (
    ArchivedWindow,
    ArchiveError,
    Merged,
    Span,
    merge,
    read_folder,
    read_s3,
    windows_within,
)
from deploy.tables import print_table
from udfs.core.summaries import LENGTH_QUANTILES
from udfs.core.windows import WindowKind, parse_window

_HELP = """Distinct reviews, ratings, lengths and terms of any range, from the archive of windows.

Reads what `review_metrics` has archived, merges the tumbling windows that lie in the range, and
never reads a review. Every moment counts once, also where windows overlap.

Distinct reviews of a week, by category:

    python -m deploy.windows s3://my-bucket/metrics/ \\
      --from 2026-09-14 --to 2026-09-21 --by category

Day by day, of all categories, as JSON with the merged sketches:

    python -m deploy.windows s3://my-bucket/metrics/ --from 2026-09-14 \\
      --by "1 d" --json

After `make cluster` or during `make run`, from the AWS emulator:

    export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local
    python -m deploy.windows s3://review-archive/metrics/ \\
      --endpoint-url http://127.0.0.1:5000 --by category
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
console = Console()
errors = Console(stderr=True)


@app.command(help=_HELP)
def windows(
    source: Annotated[
        str, typer.Argument(help="s3://BUCKET/PREFIX, or a folder with the same objects.")
    ],
    start: Annotated[
        datetime | None,
        typer.Option("--from", help="UTC; by default from the beginning.", show_default=False),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--to", help="UTC, exclusive; by default to the end.", show_default=False),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="A row for each: `category`, or a length such as `1 h` or `1 d`; may be repeated."
        ),
    ] = None,
    top_terms: Annotated[int, typer.Option(help="Terms of a row.", min=0, max=100)] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each row, with its sketches.")
    ] = False,
    region: Annotated[str, typer.Option(help="AWS region.")] = "us-east-1",
    endpoint_url: Annotated[
        str | None, typer.Option(help="Another address for S3, such as the emulator's.")
    ] = None,
) -> None:
    """Print the windows of a range, merged."""
    by_category, period = _grouping(by or [])
    span = Span(
        (start or datetime.min).replace(tzinfo=UTC), (end or datetime.max).replace(tzinfo=UTC)
    )
    if span.start >= span.end:
        raise typer.BadParameter("--from is not before --to")
    with _failures_in_words(), _progress() as progress:
        task = progress.add_task("objects read")

        def archived() -> Iterator[ArchivedWindow]:
            lines = _lines(source, span, region, endpoint_url, lambda: progress.advance(task))
            return windows_within(lines, span)

        rows = merge(archived, by_category=by_category, period=period)
        read = int(progress.tasks[0].completed)
    if not rows:
        errors.print(
            f"no window of {source} lies in the range: {read} objects were read",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(_as_json(row, top_terms), ensure_ascii=False) + "\n")
    else:
        print_table(console, _table(rows, top_terms))


def _grouping(by: list[str]) -> tuple[bool, timedelta | None]:
    periods = [text for text in by if text != "category"]
    if len(periods) > 1:
        raise typer.BadParameter(f"--by takes one length, not {' and '.join(periods)}")
    if not periods:
        return "category" in by, None
    try:
        spec = parse_window(periods[0])
    except ValueError as error:
        raise typer.BadParameter(f"--by takes 'category' or a length: {error}") from None
    if spec.kind is not WindowKind.TUMBLING:
        raise typer.BadParameter(f"--by takes 'category' or a length, not {periods[0]!r}")
    return "category" in by, timedelta(seconds=spec.size_s)


def _lines(
    source: str, span: Span, region: str, endpoint_url: str | None, on_object: Any
) -> Iterator[str]:
    if not source.startswith("s3://"):
        return read_folder(Path(source), on_object)
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    s3 = boto3.client("s3", region_name=region, endpoint_url=endpoint_url)
    since = span.start if span.start.year > 1 else datetime(1970, 1, 2, tzinfo=UTC)
    return read_s3(s3, bucket, prefix, since, on_object)


def _progress() -> Progress:
    columns = SpinnerColumn(), TextColumn("{task.description}: {task.completed:,.0f}")
    return Progress(*columns, console=errors, transient=True)


@contextlib.contextmanager
def _failures_in_words() -> Iterator[None]:
    try:
        yield
    except (ArchiveError, BotoCoreError, ClientError, OSError) as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _as_json(row: Merged, top_terms: int) -> dict[str, Any]:
    summary = row.summary
    lower, upper = summary.review_ids.bounds
    document = {
        "from": row.span.start.isoformat(),
        "to": row.span.end.isoformat(),
        "product_category": row.category,
        "windows": row.windows,
        "reviews": summary.reviews,
        "avg_star_rating": summary.average,
        "rating_counts": summary.counts,
        "distinct_reviews": summary.review_ids.estimate,
        "distinct_lower": lower,
        "distinct_upper": upper,
        "sketch": _base64(summary.review_ids.to_bytes()),
    }
    if summary.lengths is not None:
        quantiles = summary.lengths.quantiles([*LENGTH_QUANTILES.values()])
        document["body_length"] = dict(zip(LENGTH_QUANTILES, quantiles, strict=True))
        document["body_length_sketch"] = _base64(summary.lengths.to_bytes())
    if summary.terms is not None:
        document["top_terms"] = [
            {"term": term.text, "reviews_lower": term.lower, "reviews_upper": term.upper}
            for term in summary.terms.top(top_terms)
        ]
        document["terms_sketch"] = _base64(summary.terms.to_bytes())
    return document


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _table(rows: list[Merged], top_terms: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("from (UTC)", "to", "category"):
        table.add_column(name, no_wrap=True)
    for name in ("windows", "reviews", "average", "distinct reviews", "length p50"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("terms")
    for row in rows:
        summary = row.summary
        lower, upper = summary.review_ids.bounds
        lengths = summary.lengths.quantiles([0.5]) if summary.lengths else []
        terms = summary.terms.top(top_terms) if summary.terms else []
        table.add_row(
            f"{row.span.start:%Y-%m-%d %H:%M:%S}",
            f"{row.span.end:%Y-%m-%d %H:%M:%S}",
            # Text, not markup: a category may hold brackets.
            Text(row.category),
            f"{row.windows:,}",
            f"{summary.reviews:,}",
            f"{summary.average:.3f}",
            f"{summary.review_ids.estimate:,.0f} ({lower:,.0f} to {upper:,.0f})",
            "".join(f"{length:,}" for length in lengths),
            " ".join(term.text for term in terms),
        )
    return table


if __name__ == "__main__":
    app()
