"""CloudWatch metrics of windows, read back."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from udfs.core.publishing import CATEGORY_DIMENSION, dimension_value

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient

AVERAGE, DISTINCT = "AVGStarRating", "DistinctReviews"
"""What is measured of a window."""

_MAX_POINTS = 1_440
"""Of a call (Amazon CloudWatch, GetMetricStatistics)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Point(NamedTuple):
    """What CloudWatch holds of a metric at one time.

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
    metrics: Mapping[str, int],
    categories: Iterable[str],
    start_ms: int,
    end_ms: int,
) -> Iterator[Point]:
    """Read the points of metrics.

    Parameters
    ----------
    cloudwatch
        A client.
    namespace
        Of the metrics.
    metrics
        The seconds that a point stands for, 1 or 60, by the name of the metric.
    categories
        As the windows have them, `All` among them.
    start_ms, end_ms
        First and last time, in milliseconds since the epoch. CloudWatch keeps points of a second
        for three hours.
    """
    last = _EPOCH + timedelta(milliseconds=end_ms)
    for category in categories:
        dimension = {"Name": CATEGORY_DIMENSION, "Value": dimension_value(category)}
        for name, period_s in metrics.items():
            # Points stand at whole periods; those that are asked for are counted from the start.
            start = _EPOCH + timedelta(seconds=start_ms // 1_000 // period_s * period_s)
            while start <= last:
                end = start + timedelta(seconds=_MAX_POINTS * period_s)
                response = cloudwatch.get_metric_statistics(
                    Namespace=namespace,
                    MetricName=name,
                    Dimensions=[dimension],  # type: ignore[list-item]  # a TypedDict
                    StartTime=start,
                    EndTime=end,
                    Period=period_s,
                    # Not the average, which calculates: these are the values that were put.
                    Statistics=["Minimum", "Maximum"],
                )
                for point in response["Datapoints"]:
                    time_ms = (point["Timestamp"] - _EPOCH) // timedelta(milliseconds=1)
                    yield Point(name, category, time_ms, point["Minimum"], point["Maximum"])
                start = end
