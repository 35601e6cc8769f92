"""Flink wrappers of the cores that parse reviews, decide categories and split records."""

import logging
import time
from collections.abc import Iterator

import pandas as pd
from pyflink.table import DataTypes, FunctionContext
from pyflink.table.udf import (
    ScalarFunction,
    TableFunction,
    UserDefinedScalarFunctionWrapper,
    UserDefinedTableFunctionWrapper,
    udf,
    udtf,
)

from udfs.core.categories import Categories, CategoryOptions
from udfs.core.parsing import ParsingOptions, Review, parse
from udfs.core.source_ids import source_part
from udfs.core.splitting import separate

logger = logging.getLogger(__name__)

PARSED_REVIEW = DataTypes.ROW(
    [
        DataTypes.FIELD("source_part", DataTypes.STRING()),
        DataTypes.FIELD("review_id", DataTypes.STRING()),
        DataTypes.FIELD("product_category", DataTypes.STRING()),
        DataTypes.FIELD("reported_category", DataTypes.STRING()),
        DataTypes.FIELD("review_body", DataTypes.STRING()),
        # Arrow rows take no TIMESTAMP_LTZ field.
        DataTypes.FIELD("event_time_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("reason", DataTypes.STRING()),
        DataTypes.FIELD("message", DataTypes.STRING()),
    ]
)
"""A review (`reason` NULL), or the reason why it is invalid (`review_id` where that is valid).

`product_category` is the effective category, `reported_category` the producer's, NULL unless it
differs. `source_part` is always there: see `udfs.core.source_ids`.
"""

_COLUMNS = PARSED_REVIEW.field_names()


class ParseReviews(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: `(payload, arrival_time, position) -> PARSED_REVIEW`.

    Arguments: BYTES, TIMESTAMP_LTZ(3), INT. `position` is the place of the review among those of
    its record, and NULL where it is the only one.

    Logs a warning when categories become `Other`, at most one a minute, and counts these reviews in
    the metric `other_reviews` of the group `parsing`.
    """

    def __init__(self, options: ParsingOptions, categories: CategoryOptions) -> None:
        self._options = options
        self._category_options = categories

    def is_deterministic(self) -> bool:
        """Return False, or every sink over the parsed reviews would parse them again."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        """Start without any known category."""
        self._categories = Categories(self._category_options, time.monotonic)
        metrics = function_context.get_metric_group().add_group("parsing")
        self._other_reviews = metrics.counter("other_reviews")

    def eval(
        self, payload: pd.Series, arrival_time: pd.Series, position: pd.Series | None
    ) -> pd.DataFrame:
        """Parse an Arrow batch, in row order."""
        options, categories = self._options, self._categories
        replaced_before = categories.replaced
        # Arrow hands over datetime64[ns]; `as_unit` also takes other resolutions.
        arrival_ms = arrival_time.dt.tz_convert(None).dt.as_unit("ms").astype("int64")
        rows: list[tuple[object, ...]] = []
        # A literal NULL comes as None, not as a column.
        places = [None] * len(payload) if position is None else position.tolist()
        for data, at_ms, place in zip(payload, arrival_ms, places, strict=True):
            parsed = parse(data, at_ms, options)
            # Pandas has NULL among whole numbers as a NaN.
            part = source_part(data, None if place is None or place != place else int(place))
            if isinstance(parsed, Review):
                reported = parsed.product_category
                effective = categories.effective(reported)
                rows.append(
                    (
                        part,
                        parsed.review_id,
                        effective,
                        None if effective == reported else reported,
                        _compact(parsed.review_body),
                        parsed.event_time_ms,
                        None,
                        None,
                    )
                )
            else:
                rows.append(
                    (
                        part,
                        parsed.review_id,
                        None,
                        None,
                        None,
                        None,
                        parsed.reason.value,
                        parsed.message,
                    )
                )
        self._other_reviews.inc(categories.replaced - replaced_before)
        if message := categories.report():
            logger.warning(message)
        return pd.DataFrame(rows, columns=_COLUMNS, dtype=object)


def _compact(text: str) -> str | bytes:
    """Return a text in the form that takes less memory; Arrow takes both for a STRING.

    Python keeps four bytes for each character of a text with an emoji in it: the bodies of a bundle
    may take four times its memory.
    """
    return text if text.isascii() else text.encode()


def parse_review(
    options: ParsingOptions, categories: CategoryOptions
) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `parse_review(payload, arrival_time, position)`."""
    return udf(
        ParseReviews(options, categories),
        result_type=PARSED_REVIEW,
        func_type="pandas",
        deterministic=False,
    )


class SplitRecords(TableFunction):  # type: ignore[misc]  # PyFlink is untyped
    """`(payload BYTES) -> (payload BYTES, place INT)`: the reviews of a record, in their order.

    `place` counts from 0. It is NULL for a record that is one review, or cannot be split.
    """

    def __init__(self, options: ParsingOptions) -> None:
        self._options = options

    def eval(self, payload: bytes | None) -> Iterator[tuple[bytes, int | None]]:
        """Split a record."""
        yield from separate(payload, self._options)


def split_record(options: ParsingOptions) -> UserDefinedTableFunctionWrapper:
    """Return the SQL table function `split_record(payload)`."""
    return udtf(SplitRecords(options), result_types=[DataTypes.BYTES(), DataTypes.INT()])
