"""Flink wrappers of `udfs.core.summaries`: summarise batches, merge summaries, read them."""

from collections.abc import Mapping
from copy import copy

import pandas as pd
from pyflink.common import Row
from pyflink.table import DataTypes
from pyflink.table.udf import (
    AggregateFunction,
    ScalarFunction,
    UserDefinedAggregateFunctionWrapper,
    UserDefinedScalarFunctionWrapper,
    udaf,
    udf,
)

from udfs.core.summaries import LENGTH_QUANTILES, Reviews, Summary, of_panes, summarise

SUMMARIES = DataTypes.ROW(
    [
        DataTypes.FIELD("pane_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("of_category", DataTypes.BYTES()),
        DataTypes.FIELD("of_all", DataTypes.BYTES()),
    ]
)
"""The start of a pane (milliseconds since the epoch), and summaries of a batch's reviews in it, as
`Summary.to_bytes`: of those of a category, of all."""

MERGED = DataTypes.ROW(
    [
        DataTypes.FIELD("period_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("summary", DataTypes.BYTES()),
    ]
)
"""The start of a period (milliseconds since the epoch), and `Summary.to_bytes`."""

FIGURES = DataTypes.ROW(
    [
        DataTypes.FIELD("reviews", DataTypes.BIGINT()),
        DataTypes.FIELD("avg_star_rating", DataTypes.DOUBLE()),
        DataTypes.FIELD("median_star_rating", DataTypes.INT()),
        DataTypes.FIELD("rating_counts", DataTypes.ARRAY(DataTypes.BIGINT())),
        DataTypes.FIELD("distinct_reviews", DataTypes.DOUBLE()),
        DataTypes.FIELD("distinct_lower", DataTypes.DOUBLE()),
        DataTypes.FIELD("distinct_upper", DataTypes.DOUBLE()),
        DataTypes.FIELD("sketch", DataTypes.BYTES()),
        DataTypes.FIELD(
            "body_length",
            DataTypes.ROW([DataTypes.FIELD(name, DataTypes.INT()) for name in LENGTH_QUANTILES]),
        ),
        DataTypes.FIELD("body_length_sketch", DataTypes.BYTES()),
        DataTypes.FIELD(
            "top_terms",
            DataTypes.ARRAY(
                DataTypes.ROW(
                    [
                        DataTypes.FIELD("term", DataTypes.STRING()),
                        DataTypes.FIELD("reviews_lower", DataTypes.BIGINT()),
                        DataTypes.FIELD("reviews_upper", DataTypes.BIGINT()),
                    ]
                )
            ),
        ),
        DataTypes.FIELD("terms_sketch", DataTypes.BYTES()),
    ]
)
"""What a summary says; NULL where it was not counted."""


_Merged = tuple[int, Summary]


class SummariseReviews(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: many reviews to few summaries.

    `(product_category STRING, event_time_ms BIGINT, review_id STRING, star_rating INT,
    [body_length INT,] [payload BYTES]) -> SUMMARIES`; nothing may be NULL. Length and payload are
    given where lengths and terms are counted. Of each category and pane, the last row of an Arrow
    batch gets the summary of all its rows in the batch; the last row of each pane gets that of all
    the pane's rows, too. For all others these fields are NULL.
    """

    def __init__(self, pane_ms: int, lg_k: int, *, has_lengths: bool, has_terms: bool) -> None:
        self._pane_ms = pane_ms
        self._lg_k = lg_k
        self._has_lengths = has_lengths
        self._has_terms = has_terms

    def is_deterministic(self) -> bool:
        """Return False: what a row gets depends on its batch."""
        return False

    def eval(
        self,
        product_category: pd.Series,
        event_time_ms: pd.Series,
        review_id: pd.Series,
        star_rating: pd.Series,
        *others: pd.Series,
    ) -> pd.DataFrame:
        """Summarise an Arrow batch."""
        counted = iter(others)
        reviews = Reviews(
            review_id.tolist(),
            star_rating.tolist(),
            next(counted).tolist() if self._has_lengths else None,
            next(counted).tolist() if self._has_terms else None,
        )
        pane_ms = event_time_ms - event_time_ms % self._pane_ms
        panes = pane_ms.tolist()
        of_category = summarise(product_category.tolist(), panes, reviews, self._lg_k)
        return pd.DataFrame(
            {
                "pane_ms": pane_ms,
                "of_category": _column(of_category, len(panes)),
                "of_all": _column(of_panes(of_category, panes), len(panes)),
            }
        )


def _column(summaries: Mapping[int, Summary], rows: int) -> list[bytes | None]:
    column: list[bytes | None] = [None] * rows
    for place, summary in summaries.items():
        column[place] = summary.to_bytes()
    return column


class MergeSummaries(AggregateFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Aggregate: `(period_ms BIGINT, summary BYTES) -> MERGED`.

    Merges summaries; of several periods, those of the latest only. Cumulative windows are what this
    is for: that of a day holds what came since midnight. Where there are no periods, all summaries
    have the same one.

    The state of a group is one summary: kilobytes, whatever the number of reviews.
    """

    def create_accumulator(self) -> list[_Merged]:
        """Return an empty list; it never holds more than one."""
        return []

    def accumulate(self, accumulator: list[_Merged], period_ms: int, summary: bytes) -> None:
        """Add a summary."""
        _add(accumulator, period_ms, Summary.from_bytes(summary))

    def merge(self, accumulator: list[_Merged], accumulators: list[list[_Merged]]) -> None:
        """Add what other accumulators hold, and leave them as they are."""
        for other in accumulators:
            for period_ms, summary in other:
                _add(accumulator, period_ms, summary)

    def get_value(self, accumulator: list[_Merged]) -> Row:
        """Return what was added so far."""
        ((period_ms, summary),) = accumulator
        return Row(period_ms, summary.to_bytes())

    def get_accumulator_type(self) -> DataTypes:
        """Return a type in name: PyFlink pickles the accumulators of windows."""
        return DataTypes.ARRAY(DataTypes.BYTES())

    def get_result_type(self) -> DataTypes:
        """Return `MERGED`."""
        return MERGED


class ReadSummary(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """`(summary BYTES) -> FIGURES`."""

    def __init__(self, top_terms: int) -> None:
        self._top_terms = top_terms

    def is_deterministic(self) -> bool:
        """Return False, or every sink would read the summary again."""
        return False

    def eval(self, data: bytes) -> Row:
        """Read one summary."""
        summary = Summary.from_bytes(data)
        lengths, terms = summary.lengths, summary.terms
        return Row(
            summary.reviews,
            summary.average,
            summary.rating_quantile(0.5),
            summary.counts,
            summary.review_ids.estimate,
            *summary.review_ids.bounds,
            summary.review_ids.to_bytes(),
            None if lengths is None else Row(*lengths.quantiles([*LENGTH_QUANTILES.values()])),
            None if lengths is None else lengths.to_bytes(),
            None if terms is None else [Row(*term) for term in terms.top(self._top_terms)],
            None if terms is None else terms.to_bytes(),
        )


def _add(accumulator: list[_Merged], period_ms: int, summary: Summary) -> None:
    latest_ms = accumulator[0][0] if accumulator else None
    if latest_ms == period_ms:
        accumulator[0][1].merge(summary)
    elif latest_ms is None or latest_ms < period_ms:
        # A copy: what it comes from stays as it is when more is added.
        accumulator[:] = [(period_ms, copy(summary))]


def summarise_reviews(
    pane_ms: int, lg_k: int, *, has_lengths: bool, has_terms: bool
) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `summarise_reviews(product_category, event_time_ms, ...)`."""
    return udf(
        SummariseReviews(pane_ms, lg_k, has_lengths=has_lengths, has_terms=has_terms),
        result_type=SUMMARIES,
        func_type="pandas",
        deterministic=False,
    )


def merge_summaries() -> UserDefinedAggregateFunctionWrapper:
    """Return the SQL aggregate `merge_summaries(period_ms, summary)`."""
    return udaf(MergeSummaries())


def read_summary(top_terms: int) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `read_summary(summary)`; so many terms at most are named."""
    return udf(ReadSummary(top_terms), result_type=FIGURES, deterministic=False)
