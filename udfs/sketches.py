"""Flink wrapper of `udfs.core.sketches`: HyperLogLog as an aggregate function."""

from pyflink.common import Row
from pyflink.table import DataTypes
from pyflink.table.udf import AggregateFunction, UserDefinedAggregateFunctionWrapper, udaf

from udfs.core.sketches import DistinctSketch

DISTINCT_COUNT = DataTypes.ROW(
    [
        DataTypes.FIELD("estimate", DataTypes.DOUBLE()),
        DataTypes.FIELD("lower_bound", DataTypes.DOUBLE()),
        DataTypes.FIELD("upper_bound", DataTypes.DOUBLE()),
        DataTypes.FIELD("sketch", DataTypes.BYTES()),
    ]
)
"""An estimate, its bounds (two standard deviations) and the serialised sketch."""


class ApproxDistinct(AggregateFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Aggregate: `(text STRING) -> DISTINCT_COUNT`; NULL counts as nothing.

    The state of a group is its sketch: a few kilobytes, whatever the number of rows.
    """

    def __init__(self, lg_k: int) -> None:
        self._lg_k = lg_k

    def create_accumulator(self) -> list[DistinctSketch]:
        """Return an empty sketch, in a list because PyFlink merges accumulators in place."""
        return [DistinctSketch(self._lg_k)]

    def accumulate(self, accumulator: list[DistinctSketch], text: str | None) -> None:
        """Add a text."""
        if text is not None:
            accumulator[0].add(text)

    def merge(
        self, accumulator: list[DistinctSketch], accumulators: list[list[DistinctSketch]]
    ) -> None:
        """Add what other accumulators hold."""
        for other in accumulators:
            accumulator[0].merge(other[0])

    def get_value(self, accumulator: list[DistinctSketch]) -> Row:
        """Return the count so far."""
        sketch = accumulator[0]
        return Row(sketch.estimate, *sketch.bounds, sketch.to_bytes())

    def get_accumulator_type(self) -> DataTypes:
        """Return a type in name: PyFlink pickles the accumulators of windows."""
        return DataTypes.ARRAY(DataTypes.BYTES())

    def get_result_type(self) -> DataTypes:
        """Return `DISTINCT_COUNT`."""
        return DISTINCT_COUNT


def approx_distinct(lg_k: int) -> UserDefinedAggregateFunctionWrapper:
    """Return the SQL aggregate `approx_distinct(text)`."""
    return udaf(ApproxDistinct(lg_k))
