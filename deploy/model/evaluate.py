"""Judge the variants of the rating model by repeated cross-validation.

`python -m deploy.model.evaluate FILE --coarse MORE --folds 5 --repeats 5 --seed 1`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from deploy.local.file_options import CategoryOption, ColumnsOption, file_options
from deploy.local.files.layouts import LayoutError
from deploy.model.data import Reviews, TrainingDataError, read_coarse, read_reviews
from deploy.model.inference import rating_probabilities
from deploy.model.report import confusion, confusion_text, figures, write_atomically
from deploy.model.train import ALL_VARIANTS, check_ratings, train
from deploy.tables import print_table

_TIMED_TEXTS = 20_000
_BATCH = 256


def cross_validate(
    reviews: Reviews,
    *,
    variant: str,
    folds: int,
    repeats: int,
    seed: int,
    coarse: Reviews | None = None,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Predict every review from the other folds, `repeats` times with folds drawn anew.

    Nothing of a fold is seen in training, its words included. Settings of the variants are fixed,
    not chosen here.

    Parameters
    ----------
    reviews
        To learn from and to judge by.
    variant
        Of `ALL_VARIANTS`.
    folds, repeats
        At least 2 and 1.
    seed
        Of the first repeat's folds; the next one has `seed + 1`.
    coarse
        Only ever learnt from, in every fold.
    step
        Called after each fold.

    Returns
    -------
    dict
        `accuracy`, `macro_f1` and `mean_absolute_error` (see `report.figures`): of all reviews
        together, mean of the repeats; `by_repeat`: the same of each repeat; `confusion`: the sum
        of the repeats' matrices.
    """
    ratings = np.array(reviews.ratings)
    by_repeat: list[dict[str, float]] = []
    counts = np.zeros((5, 5), dtype=np.int64)
    for repeat in range(repeats):
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
        probabilities = np.empty((len(ratings), 5))
        for learn, judge in splitter.split(ratings, ratings):
            model = train(
                [reviews.texts[row] for row in learn],
                ratings[learn].tolist(),
                variant=variant,
                coarse=coarse,
            )
            held_out = [reviews.texts[row] for row in judge]
            probabilities[judge] = rating_probabilities(model, held_out)
            step()
        by_repeat.append(figures(probabilities, reviews.ratings))
        counts += np.array(confusion(probabilities, reviews.ratings))
    means = {name: float(np.mean([row[name] for row in by_repeat])) for name in by_repeat[0]}
    return {**means, "by_repeat": by_repeat, "confusion": counts.tolist()}


def texts_per_s(model: Any, texts: Sequence[str], *, count: int = _TIMED_TEXTS) -> float:
    """Measure on one core how many texts a second a model rates, in requests of 256.

    Parameters
    ----------
    model
        A variant.
    texts
        Repeated until there are `count` of them.
    count
        Texts to rate; the best of three such rounds counts.
    """
    repeated = [texts[row % len(texts)] for row in range(count)]
    fastest = float("inf")
    with threadpool_limits(1):
        for _ in range(3):
            # The processor's time: what else runs on the machine does not count.
            started = time.process_time()
            for start in range(0, count, _BATCH):
                rating_probabilities(model, repeated[start : start + _BATCH])
            fastest = min(fastest, time.process_time() - started)
    return count / fastest


app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: python -m deploy.model.evaluate stars.tsv --coarse sentiment.tsv"
    " --folds 5 --repeats 5 --seed 1"
)
def main(
    data: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Rated reviews, as make run REVIEWS= takes them."),
    ],
    coarse: Annotated[
        Path | None,
        typer.Option(
            help="More reviews to learn from, with ratings of three values: 1 for 1 or 2, 3,"
            " 5 for 4 or 5."
        ),
    ] = None,
    columns: ColumnsOption = None,
    category: CategoryOption = None,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Each with other folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 1,
    output: Annotated[Path, typer.Option(help="Report to write.")] = Path(
        "build/model-evaluation.json"
    ),
) -> None:
    """Cross-validate every variant of the rating model, and time it."""
    console = Console()
    try:
        with console.status("reading") as status:
            reviews = read_reviews(
                data,
                options=file_options(columns, category),
                report=lambda progress: status.update(f"reading: {progress}"),
            )
        more = read_coarse(coarse) if coarse else None
        check_ratings(reviews.ratings, least=folds)
        results: dict[str, dict[str, Any]] = {}
        with Progress(console=console) as progress:
            for variant in ALL_VARIANTS:
                task = progress.add_task(variant, total=folds * repeats)
                results[variant] = cross_validate(
                    reviews,
                    variant=variant,
                    folds=folds,
                    repeats=repeats,
                    seed=seed,
                    coarse=more,
                    step=partial(progress.advance, task),
                )
                model = train(*reviews, variant=variant, coarse=more)
                results[variant]["texts_per_s"] = texts_per_s(model, reviews.texts)
        summary = {
            "reviews": len(reviews.texts),
            "coarse_reviews": len(more.texts) if more else 0,
            "folds": folds,
            "repeats": repeats,
            "seed": seed,
            "variants": results,
        }
        encoded = json.dumps(summary, indent=2).encode() + b"\n"
        write_atomically(output, lambda file: file.write(encoded))
    except (TrainingDataError, LayoutError, OSError) as error:
        typer.echo(f"evaluate: {error}", err=True)
        raise typer.Exit(2) from error
    table = Table("variant", title=f"{repeats} x {folds}-fold on {len(reviews.texts):,} reviews")
    for heading in ("accuracy", "macro-F1", "mean absolute error", "texts/s"):
        table.add_column(heading, justify="right")
    for variant, result in results.items():
        names = ("accuracy", "macro_f1", "mean_absolute_error")
        shown = [f"{result[name]:.3f}" for name in names]
        table.add_row(variant, *shown, f"{result['texts_per_s']:,.0f}")
    print_table(console, table)
    for variant, result in results.items():
        console.print(f"{variant}, sum of {repeats} repeats:")
        console.print(confusion_text(result["confusion"]))


if __name__ == "__main__":
    app()
