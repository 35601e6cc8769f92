"""The wrapper by itself, without an engine: columns, and metrics batch by batch."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.flink.fake_endpoint import GONE, POISON, FakeEndpoint, rating_of
from udfs.core.invocations import ScoringOptions
from udfs.scoring import PREDICTION, ScoreReviews


class Metrics:
    """A metric group, its counters, gauges and distributions, and a function's context."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.gauges: dict[str, Callable[[], int]] = {}
        self.values: list[int] = []

    def get_metric_group(self) -> "Metrics":
        return self

    def add_group(self, name: str) -> "Metrics":
        assert name == "scoring"
        return self

    def counter(self, name: str) -> Any:
        def inc(count: int) -> None:
            self.counts[name] += count

        return type("Counter", (), {"inc": staticmethod(inc)})

    def gauge(self, name: str, value: Callable[[], int]) -> None:
        self.gauges[name] = value

    def distribution(self, name: str) -> Any:
        assert name == "latency_ms"
        return type("Distribution", (), {"update": staticmethod(self.values.append)})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def function(tmp_path: Path, metrics: Metrics) -> Iterator[ScoreReviews]:
    options = ScoringOptions(max_request_rows=2)
    function = ScoreReviews(functools.partial(FakeEndpoint, tmp_path), options)
    function.open(metrics)
    yield function
    function.close()
    assert (tmp_path / "closed").exists()


def test_a_row_has_its_prediction_or_a_reason_and_nothing_of_the_other(
    function: ScoreReviews,
) -> None:
    texts = ["a", POISON, "b"]
    frame = function.eval(pd.Series(texts))
    assert list(frame.columns) == PREDICTION.field_names()
    rows = frame.to_dict("records")
    for text, row in zip(texts, rows, strict=True):
        is_scored = text != POISON
        assert (row["star_rating"] == rating_of(text)) is is_scored
        # Whole numbers stay whole: a float would not fit the column.
        assert {type(row[name]) for name in ("star_rating", "inference_row", "scored_at_ms")} == {
            int if is_scored else type(None)
        }
        assert row["reason"] == (None if is_scored else "model_error")
        assert (row["message"] is None) is is_scored
        assert (row["inference_id"] is not None) is is_scored
        assert type(row["attempts"]) is int


def test_an_empty_batch_has_all_columns(function: ScoreReviews) -> None:
    frame = function.eval(pd.Series([], dtype=object), pd.Series([], dtype=object))
    assert list(frame.columns) == PREDICTION.field_names()
    assert len(frame) == 0


def test_a_null_variant_leaves_the_choice_to_the_endpoint(function: ScoreReviews) -> None:
    frame = function.eval(pd.Series(["a", "b", "c"]), pd.Series(["B", None, "B"]))
    assert frame["model_variant"].tolist() == ["B", "VariantA", "B"]
    assert frame["requested_variant"].tolist() == [None, None, None]


def test_a_variant_that_does_not_exist_is_named_beside_the_one_that_answers(
    function: ScoreReviews,
) -> None:
    frame = function.eval(pd.Series(["a", "b", "c"]), pd.Series([GONE, None, "B"]))
    assert frame["model_variant"].tolist() == ["VariantA", "VariantA", "B"]
    assert frame["requested_variant"].tolist() == [GONE, None, None]


def test_each_batch_adds_to_the_counters_what_it_did(
    function: ScoreReviews, metrics: Metrics
) -> None:
    function.eval(pd.Series(["a", "b", "c"]))
    assert +metrics.counts == {"requests": 2, "rows": 3}
    assert len(metrics.values) == 2
    # The fake endpoint answers at once: there is never a second one.
    assert metrics.gauges["in_flight"]() == 1
    function.eval(pd.Series(["a"]))
    assert +metrics.counts == {"requests": 3, "rows": 4}
    assert len(metrics.values) == 3
    function.eval(pd.Series([], dtype=object))
    assert metrics.gauges["in_flight"]() == 0
    assert 1 <= metrics.gauges["slots"]() <= ScoringOptions().max_in_flight
