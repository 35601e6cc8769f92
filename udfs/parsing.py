"""Flink wrapper of `udfs.core.parsing`."""

import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.parsing import ParsingOptions, Review, parse

PARSED_REVIEW = DataTypes.ROW(
    [
        DataTypes.FIELD("review_id", DataTypes.STRING()),
        DataTypes.FIELD("product_category", DataTypes.STRING()),
        DataTypes.FIELD("review_body", DataTypes.STRING()),
        # Arrow rows take no TIMESTAMP_LTZ field.
        DataTypes.FIELD("event_time_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("reason", DataTypes.STRING()),
        DataTypes.FIELD("message", DataTypes.STRING()),
    ]
)
"""A review (`reason` NULL), or why the record is none (`review_id` where it is sound)."""

_COLUMNS = PARSED_REVIEW.field_names()


class ParseReviews(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: `(payload BYTES, arrival_time TIMESTAMP_LTZ(3)) -> PARSED_REVIEW`."""

    def __init__(self, options: ParsingOptions) -> None:
        self._options = options

    def is_deterministic(self) -> bool:
        """Return False, or every sink over the parsed reviews would parse them again."""
        return False

    def eval(self, payload: pd.Series, arrival_time: pd.Series) -> pd.DataFrame:
        """Parse an Arrow batch, in row order."""
        options = self._options
        # Arrow hands over datetime64[ns]; `as_unit` also takes other resolutions.
        arrival_ms = arrival_time.dt.tz_convert(None).dt.as_unit("ms").astype("int64")
        rows: list[tuple[object, ...]] = []
        for data, at_ms in zip(payload, arrival_ms, strict=True):
            parsed = parse(data, at_ms, options)
            if isinstance(parsed, Review):
                rows.append(
                    (
                        parsed.review_id,
                        parsed.product_category,
                        parsed.review_body,
                        parsed.event_time_ms,
                        None,
                        None,
                    )
                )
            else:
                rows.append(
                    (parsed.review_id, None, None, None, parsed.reason.value, parsed.message)
                )
        return pd.DataFrame(rows, columns=_COLUMNS, dtype=object)


def parse_review(options: ParsingOptions) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `parse_review(payload, arrival_time)`."""
    return udf(
        ParseReviews(options), result_type=PARSED_REVIEW, func_type="pandas", deterministic=False
    )
