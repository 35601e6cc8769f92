"""CloudWatch metrics of windows, read back."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from udfs.core.publishing import CATEGORY_DIMENSION, dimension_value

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient

AVERAGE, DISTINCT = "AVGStarRating", "DistinctReviews"
"""The metrics of a window."""

_SLICE = timedelta(seconds=1_440)
"""A call returns at most 1,440 points (Amazon CloudWatch, GetMetricStatistics), one a second."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Point(NamedTuple):
    """What CloudWatch holds of a metric at one second.

    A value that was put twice shows once; of two that differ, these are the extremes.
    """

    name: str
    category: str
    time_ms: int
    lowest: float
    highest: float


def read_points(
    cloudwatch: "CloudWatchClient",
    namespace: str,
    categories: Iterable[str],
    start_ms: int,
    end_ms: int,
) -> Iterator[Point]:
    """Read the points of both metrics.

    Parameters
    ----------
    cloudwatch
        A client.
    namespace
        Of the metrics.
    categories
        As the windows have them, `All` among them.
    start_ms, end_ms
        First and last time, in milliseconds since the epoch. CloudWatch keeps points of a second
        for three hours.
    """
    last = _EPOCH + timedelta(milliseconds=end_ms)
    for category in categories:
        dimension = {"Name": CATEGORY_DIMENSION, "Value": dimension_value(category)}
        for name in (AVERAGE, DISTINCT):
            start = _EPOCH + timedelta(milliseconds=start_ms)
            while start <= last:
                response = cloudwatch.get_metric_statistics(
                    Namespace=namespace,
                    MetricName=name,
                    Dimensions=[dimension],  # type: ignore[list-item]  # a TypedDict
                    StartTime=start,
                    EndTime=start + _SLICE,
                    Period=1,
                    # Not the average, which calculates: these are the values that were put.
                    Statistics=["Minimum", "Maximum"],
                )
                for point in response["Datapoints"]:
                    time_ms = (point["Timestamp"] - _EPOCH) // timedelta(milliseconds=1)
                    yield Point(name, category, time_ms, point["Minimum"], point["Maximum"])
                start += _SLICE
