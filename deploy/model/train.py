"""Train the two variants of the rating model and write them where the endpoint finds them.

`python -m deploy.model.train --output build/model` learns from generated reviews,
`--data FILE.tsv` from real ones.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from deploy.model.inference import MODEL_FILE

METRICS_FILE = "metrics.json"

_RATINGS = frozenset("12345")
_HELD_OUT_SHARE = 0.2
# Fewer, and the held-out part would not have every rating.
_MIN_REVIEWS_PER_RATING = 5


class TrainingDataError(ValueError):
    """The data cannot train a model; the message says why in one line."""


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


_VARIANTS: dict[str, Callable[[], Pipeline]] = {
    "tfidf-logistic": _tfidf_logistic,
    "hashing-bayes": _hashing_bayes,
}
VARIANTS = tuple(_VARIANTS)


def train(texts: Sequence[str], ratings: Sequence[int], *, variant: str) -> Pipeline:
    """Fit one variant.

    Parameters
    ----------
    texts
        Review bodies, length n.
    ratings
        Star ratings in 1..5, length n, at least two different ones.
    variant
        `tfidf-logistic`: words and pairs of words that occur in two reviews or more, logistic
        regression. `hashing-bayes`: hashed words, naive Bayes; no vocabulary, twice as fast.

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
    if variant not in _VARIANTS:
        raise ValueError(f"no variant {variant!r}, there are {', '.join(VARIANTS)}")
    pipeline = _VARIANTS[variant]()
    # The matrices are small: on a busy machine threads cost many times what they gain.
    with threadpool_limits(1):
        return pipeline.fit(texts, ratings)


def evaluate(model: Any, texts: Sequence[str], ratings: Sequence[int]) -> dict[str, float]:
    """Compare the predictions for `texts`, kept out of training, with their ratings.

    Returns
    -------
    dict
        `accuracy` and `macro_f1` in 0..1, `mean_absolute_error` in stars.
    """
    predicted = model.predict(texts)
    return {
        "accuracy": float(accuracy_score(ratings, predicted)),
        "macro_f1": float(f1_score(ratings, predicted, average="macro")),
        "mean_absolute_error": float(mean_absolute_error(ratings, predicted)),
    }


def read_reviews(path: Path, *, max_rows: int) -> tuple[list[str], list[int]]:
    """Read texts and ratings from a file of reviews.

    Parameters
    ----------
    path
        Tab-separated, UTF-8, plain or .gz, no quoting, its first line naming the columns; those
        named `star_rating` and `review_body` are read, so the Amazon Customer Reviews files fit as
        well as files of four columns. A row that is no rated review is passed over.
    max_rows
        Stop after so many reviews.

    Returns
    -------
    tuple of list
        Texts, and ratings in 1..5, of the same length.

    Raises
    ------
    TrainingDataError
        The file cannot be read, has not these columns, or holds no review.
    """
    texts: list[str] = []
    ratings: list[int] = []
    try:
        for text, rating in _rows(path):
            texts.append(text)
            ratings.append(rating)
            if len(texts) == max_rows:
                break
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingDataError(f"{path}: cannot be read: {reason}") from error
    if not texts:
        raise TrainingDataError(f"{path}: no row holds a star_rating in 1..5 and a review_body")
    return texts, ratings


def _rows(path: Path) -> Iterator[tuple[str, int]]:
    opened = gzip.open if path.suffix == ".gz" else open
    # newline: only a line feed ends a row, a carriage return may stand inside one.
    with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        columns = _fields(lines.readline())
        try:
            rating_column = columns.index("star_rating")
            body_column = columns.index("review_body")
        except ValueError as error:
            raise TrainingDataError(
                f"{path}: the first line must name the columns star_rating and review_body,"
                " separated by tabs"
            ) from error
        for line in lines:
            row = _fields(line)
            if (
                len(row) == len(columns)
                and row[rating_column] in _RATINGS
                and row[body_column].strip()
            ):
                yield row[body_column], int(row[rating_column])


def _fields(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def train_and_save(
    texts: Sequence[str],
    ratings: Sequence[int],
    output: Path,
    *,
    seed: int,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, float]]:
    """Train every variant on four fifths of the reviews, judge it by the rest, write it.

    Writes `output/VARIANT/model.joblib` and `output/metrics.json`, each of them whole or not at
    all: a reader sees the old file until the new one is complete.

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
    counts = Counter(ratings)
    if len(counts) < 2:
        raise TrainingDataError("the reviews need at least two different ratings")
    rating, fewest = min(counts.items(), key=lambda item: item[1])
    if fewest < _MIN_REVIEWS_PER_RATING:
        raise TrainingDataError(
            f"only {fewest} of the reviews have {rating} stars,"
            f" at least {_MIN_REVIEWS_PER_RATING} are needed"
        )
    train_texts, test_texts, train_ratings, test_ratings = train_test_split(
        texts, ratings, test_size=_HELD_OUT_SHARE, stratify=ratings, random_state=seed
    )
    models: dict[str, Pipeline] = {}
    metrics: dict[str, dict[str, float]] = {}
    for variant in VARIANTS:
        report(f"Training {variant} on {len(train_texts):,} reviews")
        try:
            models[variant] = train(train_texts, train_ratings, variant=variant)
        except ValueError as error:  # such as an empty vocabulary
            raise TrainingDataError(f"{variant}: {error}") from error
        metrics[variant] = evaluate(models[variant], test_texts, test_ratings)
    for variant, model in models.items():
        write_atomically(output / variant / MODEL_FILE, partial(joblib.dump, model))
    summary = {
        "sklearn_version": sklearn.__version__,
        "seed": seed,
        "training_rows": len(train_texts),
        "held_out_rows": len(test_texts),
        "variants": metrics,
    }
    encoded = json.dumps(summary, indent=2).encode() + b"\n"
    write_atomically(output / METRICS_FILE, lambda file: file.write(encoded))
    return metrics


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside `path`, then put it in its place.

    When `write` or the disk fails, `path` stays as it was and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="Directory for the models.")] = Path("build/model"),
    data: Annotated[
        Path | None,
        typer.Option(help="Reviews to learn from, .tsv or .tsv.gz; generated ones by default."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Reviews to generate, or at most to read.")] = (
        6000
    ),
    seed: Annotated[int, typer.Option(help="Of the generator and of the held-out part.")] = 7,
) -> None:
    """Train both variants of the rating model."""
    console = Console()
    try:
        if data is None:
            from deploy.local.generator import labelled_texts

            texts, ratings = labelled_texts(rows, seed)
        else:
            texts, ratings = read_reviews(data, max_rows=rows)
        metrics = train_and_save(texts, ratings, output, seed=seed, report=console.print)
    except (TrainingDataError, OSError) as error:
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from error
    source = "generated reviews" if data is None else f"reviews of {data.name}"
    table = Table("variant", title=f"On {source} held out")
    for heading in ("accuracy", "macro-F1", "mean absolute error"):
        table.add_column(heading, justify="right")
    for variant, figures in metrics.items():
        table.add_row(variant, *(f"{figure:.3f}" for figure in figures.values()))
    console.print(table)


if __name__ == "__main__":
    app()
