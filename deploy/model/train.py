"""Train the variants of the rating model and write them where the endpoint finds them.

`python -m deploy.model.train` learns from generated reviews, `python -m deploy.model.train FILE`
from real ones. What the variants are worth: docs/model.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import joblib
import numpy as np
import sklearn
import typer
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from deploy.local.file_options import CategoryOption, ColumnsOption, file_options
from deploy.local.files.layouts import LayoutError
from deploy.model.data import COARSE_BOUNDS, Reviews, TrainingDataError, read_coarse, read_reviews
from deploy.model.inference import MODEL_FILE, rating_probabilities
from deploy.model.ordinal import Censored, fit_ordinal
from deploy.model.report import (
    confusion,
    confusion_text,
    draw_confusion,
    figures,
    write_atomically,
)
from deploy.tables import print_table

METRICS_FILE = "metrics.json"
CONFUSION_TEXT_FILE = "confusion.txt"
CONFUSION_PICTURE_FILE = "confusion.png"

ORDINAL = "tfidf-ordinal"
VARIANTS = ("tfidf-logistic", "hashing-bayes")
"""Those of generated reviews."""
ALL_VARIANTS = (ORDINAL, *VARIANTS)

_HELD_OUT_SHARE = 0.2
# Fewer, and the held-out part would not have every rating.
_MIN_REVIEWS_PER_RATING = 5
_GENERATED_ROWS = 6000


def train(
    texts: Sequence[str],
    ratings: Sequence[int],
    *,
    variant: str,
    coarse: Reviews | None = None,
) -> Pipeline:
    """Fit one variant.

    Parameters
    ----------
    texts
        Review bodies, length n.
    ratings
        Star ratings in 1..5, length n, at least two different ones.
    variant
        `tfidf-ordinal`: words and pairs of words that occur in three reviews or more, a logistic
        regression that knows the ratings' order. `tfidf-logistic`: those in two reviews or more,
        plain logistic regression. `hashing-bayes`: hashed words, naive Bayes; no vocabulary, twice
        as fast.
    coarse
        Further reviews, whose ratings are 1 for 1 or 2, 3, and 5 for 4 or 5. Only `tfidf-ordinal`
        learns from them; the others pass them over.

    Returns
    -------
    Pipeline
        Texts in, ratings out. It holds scikit-learn's own classes only, so that it unpickles
        wherever that is installed. The same input gives the same model.

    Raises
    ------
    ValueError
        No such variant, or data that scikit-learn cannot learn from.

    Examples
    --------
    >>> model = train(["so good", "so bad"] * 5, [5, 1] * 5, variant="tfidf-logistic")
    >>> model.predict(["good", "bad"]).tolist()
    [5, 1]
    """
    # The matrices are small: on a busy machine threads cost many times what they gain.
    with threadpool_limits(1):
        if variant == ORDINAL:
            return _tfidf_ordinal(texts, ratings, coarse or Reviews([], []))
        if variant in _LIBRARY_VARIANTS:
            return _LIBRARY_VARIANTS[variant]().fit(texts, ratings)
    raise ValueError(f"no variant {variant!r}, there are {', '.join(ALL_VARIANTS)}")


def _tfidf_ordinal(texts: Sequence[str], ratings: Sequence[int], coarse: Reviews) -> Pipeline:
    all_texts = [*texts, *coarse.texts]
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        # Words of one letter, with their apostrophes, and what is shouted or asked.
        token_pattern=r"\b\w[\w']*|[!?]",
        min_df=min(3, len(all_texts)),
        sublinear_tf=True,
        dtype=np.float32,
    )
    features = vectorizer.fit_transform(all_texts)
    bounds = [(rating, rating) for rating in ratings]
    bounds += [COARSE_BOUNDS[rating] for rating in coarse.ratings]
    lowest, highest = np.array(bounds).T
    source = np.repeat([0, 1], [len(texts), len(coarse.texts)])
    model = fit_ordinal(
        features,
        Censored(lowest, highest, source),
        penalty=0.08,
        degree_scales=(1.0, 0.7, 0.5, 0.5),
    )
    return make_pipeline(vectorizer, model)


def _tfidf_logistic() -> Pipeline:
    return make_pipeline(
        # No class weights: a text of unknown words gets the most frequent rating.
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32),
        LogisticRegression(C=4.0, max_iter=300),
    )


def _hashing_bayes() -> Pipeline:
    return make_pipeline(
        # Naive Bayes needs counts, so no sign and no norm. More features did worse on real reviews.
        HashingVectorizer(n_features=2**14, alternate_sign=False, norm=None),
        TfidfTransformer(sublinear_tf=True),
        MultinomialNB(alpha=0.3, fit_prior=False),
    )


_LIBRARY_VARIANTS: dict[str, Callable[[], Pipeline]] = {
    "tfidf-logistic": _tfidf_logistic,
    "hashing-bayes": _hashing_bayes,
}


def evaluate(model: Any, texts: Sequence[str], ratings: Sequence[int]) -> dict[str, float]:
    """Compare the predictions for `texts`, kept out of training, with their ratings.

    Returns
    -------
    dict
        `accuracy` and `macro_f1` of the mode in 0..1, `mean_absolute_error` of the median in
        stars.
    """
    return figures(rating_probabilities(model, texts), ratings)


def train_and_save(
    texts: Sequence[str],
    ratings: Sequence[int],
    output: Path,
    *,
    seed: int,
    variants: Sequence[str] = VARIANTS,
    coarse: Reviews | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, float]]:
    """Train variants on four fifths of the reviews, judge them by the rest, write them.

    Writes for each variant `model.joblib`, `confusion.txt` and `confusion.png` into
    `output/VARIANT`, then `output/metrics.json`, each of them whole or not at all: a reader sees
    the old file until the new one is complete.

    Parameters
    ----------
    texts
        Review bodies, length n.
    ratings
        Star ratings in 1..5, length n.
    output
        Directory; made where it is missing.
    seed
        Decides which reviews are held out.
    variants
        Of `ALL_VARIANTS`.
    coarse
        As `train` has them; none is held out.
    report
        Called with one line before each variant.

    Returns
    -------
    dict
        What `evaluate` says of each variant.

    Raises
    ------
    TrainingDataError
        Fewer than two different ratings, fewer than five reviews of one of them, or texts without
        words.
    OSError
        The files cannot be written.
    """
    check_ratings(ratings)
    train_texts, test_texts, train_ratings, test_ratings = train_test_split(
        texts, ratings, test_size=_HELD_OUT_SHARE, stratify=ratings, random_state=seed
    )
    models: dict[str, Pipeline] = {}
    metrics: dict[str, dict[str, float]] = {}
    confusions: dict[str, list[list[int]]] = {}
    coarse_rows = len(coarse.texts) if coarse else 0
    for variant in variants:
        also = f" and {coarse_rows:,} coarse ones" if coarse_rows and variant == ORDINAL else ""
        report(f"Training {variant} on {len(train_texts):,} reviews{also}")
        try:
            model = train(train_texts, train_ratings, variant=variant, coarse=coarse)
        except ValueError as error:  # such as an empty vocabulary
            raise TrainingDataError(f"{variant}: {error}") from error
        probabilities = rating_probabilities(model, test_texts)
        models[variant] = model
        metrics[variant] = figures(probabilities, test_ratings)
        confusions[variant] = confusion(probabilities, test_ratings)
    for variant, model in models.items():
        directory, counts = output / variant, confusions[variant]
        text = confusion_text(counts).encode()
        draw = partial(draw_confusion, counts, f"{variant}, held-out reviews")
        write_atomically(directory / CONFUSION_TEXT_FILE, partial(_write, text))
        write_atomically(directory / CONFUSION_PICTURE_FILE, draw)
        write_atomically(directory / MODEL_FILE, partial(joblib.dump, model))
    summary = {
        "sklearn_version": sklearn.__version__,
        "seed": seed,
        "training_rows": len(train_texts),
        "coarse_rows": coarse_rows,
        "held_out_rows": len(test_texts),
        "variants": metrics,
        "confusion": confusions,
    }
    encoded = json.dumps(summary, indent=2).encode() + b"\n"
    write_atomically(output / METRICS_FILE, partial(_write, encoded))
    return metrics


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def check_ratings(ratings: Sequence[int], *, least: int = _MIN_REVIEWS_PER_RATING) -> None:
    """Raise `TrainingDataError` unless there are two ratings, each of `least` reviews or more."""
    counts = Counter(ratings)
    if len(counts) < 2:
        raise TrainingDataError("the reviews need at least two different ratings")
    rating, fewest = min(counts.items(), key=lambda item: item[1])
    if fewest < least:
        raise TrainingDataError(
            f"only {fewest} of the reviews have {rating} stars, at least {least} are needed"
        )


app = typer.Typer(add_completion=False)


@app.command(
    epilog="Examples: python -m deploy.model.train reviews.tsv.gz --output build/real,"
    " python -m deploy.model.train stars.tsv --coarse sentiment.tsv"
)
def main(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="Rated reviews, as make run REVIEWS= takes them; default: generated ones.",
        ),
    ] = None,
    columns: ColumnsOption = None,
    category: CategoryOption = None,
    output: Annotated[Path, typer.Option(help="Directory for the models.")] = Path("build/model"),
    coarse: Annotated[
        Path | None,
        typer.Option(
            help="More reviews to learn from, with ratings of three values: 1 for 1 or 2, 3,"
            f" 5 for 4 or 5. Only {ORDINAL} uses them."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Reviews to generate (default {_GENERATED_ROWS}), or at most to read."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the generator and of the held-out part.")] = 7,
) -> None:
    """Train the rating model and judge it by reviews held out.

    Generated reviews train two variants, those of `make run`; a file trains all three.
    """
    console = Console()
    try:
        more = read_coarse(coarse) if coarse else None
        if data is None:
            from deploy.local.generator import labelled_texts

            texts, ratings = labelled_texts(rows or _GENERATED_ROWS, seed)
        else:
            with console.status("reading") as status:
                texts, ratings = read_reviews(
                    data,
                    max_rows=rows,
                    options=file_options(columns, category),
                    report=lambda progress: status.update(f"reading: {progress}"),
                )
        metrics = train_and_save(
            texts,
            ratings,
            output,
            seed=seed,
            variants=VARIANTS if data is None else ALL_VARIANTS,
            coarse=more,
            report=console.print,
        )
    except (TrainingDataError, LayoutError, OSError) as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from error
    source = "generated reviews" if data is None else f"reviews of {data.name}"
    table = Table("variant", title=f"On {source} held out")
    for heading in ("accuracy", "macro-F1", "mean absolute error"):
        table.add_column(heading, justify="right")
    for name, row in metrics.items():
        table.add_row(name, *(f"{figure:.3f}" for figure in row.values()))
    print_table(console, table)


if __name__ == "__main__":
    app()
