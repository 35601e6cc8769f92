"""Flink wrappers of `udfs.core.publishing`: CloudWatch and SNS as functions of SQL."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
from pyflink.table import DataTypes, FunctionContext
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.publishing import (
    Alert,
    CloudWatchMetrics,
    MetricPoint,
    Publisher,
    PublishingOptions,
    SnsAlerts,
    Unpublished,
    cloudwatch_client,
    sns_client,
)
from udfs.core.windows import parse_window

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_sns import SNSClient

PUBLISH_RESULT = DataTypes.ROW(
    [
        DataTypes.FIELD("reason", DataTypes.STRING()),
        DataTypes.FIELD("message", DataTypes.STRING()),
        DataTypes.FIELD("attempts", DataTypes.INT()),
    ]
)
"""All NULL for what was published; else why it was not, in words, and after how many calls."""

_COLUMNS = PUBLISH_RESULT.field_names()

MakeCloudWatchClient = Callable[[], "CloudWatchClient"]
"""A picklable recipe of a client: clients themselves do not travel to the workers."""

MakeSnsClient = Callable[[], "SNSClient"]
"""As `MakeCloudWatchClient`."""


class PublishMetrics(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: a closed window to CloudWatch, as `AVGStarRating` and `DistinctReviews`.

    `(window STRING, window_end TIMESTAMP_LTZ(3), product_category STRING, avg_star_rating DOUBLE,
    distinct_reviews DOUBLE) -> PUBLISH_RESULT`: the first failure of a row's two points. What the
    metrics are called is for `WindowSpec.metric` to say, the time of a point for `point_ms`.

    At least once: a batch is through before its bundle ends, hence before a checkpoint covers its
    rows; after a failure they are published again. A sink must read the result, or the planner
    leaves the call out.
    """

    def __init__(
        self, make_client: MakeCloudWatchClient, options: PublishingOptions, namespace: str
    ) -> None:
        self._make_client = make_client
        self._options = options
        self._namespace = namespace
        self._client: CloudWatchClient | None = None

    def is_deterministic(self) -> bool:
        """Return False, or every sink would publish the windows again."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        """Make the worker's client."""
        self._client = self._make_client()
        self._publisher = Publisher(CloudWatchMetrics(self._client, self._namespace), self._options)

    def close(self) -> None:
        """Close the client's connections, also after an `open` that failed."""
        if self._client is not None:
            self._client.close()

    def eval(
        self,
        window: pd.Series,
        window_end: pd.Series,
        product_category: pd.Series,
        avg_star_rating: pd.Series,
        distinct_reviews: pd.Series,
    ) -> pd.DataFrame:
        """Publish an Arrow batch, and answer in row order."""
        end_ms = window_end.dt.tz_convert(None).dt.as_unit("ms").astype("int64")
        # A NULL is refused as what it becomes: an empty text, NaN, a time far from the epoch.
        points = [
            MetricPoint(
                spec.metric(measure), category or "", spec.point_ms(at_ms), value, spec.resolution_s
            )
            for spec, at_ms, category, average, distinct in zip(
                map(parse_window, window),
                end_ms,
                product_category,
                avg_star_rating,
                distinct_reviews,
                strict=True,
            )
            for measure, value in (("AVGStarRating", average), ("DistinctReviews", distinct))
        ]
        results = self._publisher.publish(points)
        return _rows(
            [
                of_average or of_distinct
                for of_average, of_distinct in zip(results[::2], results[1::2], strict=True)
            ]
        )


class PublishAlert(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: an alert to SNS; a NULL message publishes nothing.

    `(event_id STRING, message STRING) -> PUBLISH_RESULT`. At least once, as `PublishMetrics`: a
    repeat has the same `event_id`.
    """

    def __init__(
        self, make_client: MakeSnsClient, options: PublishingOptions, topic_arn: str
    ) -> None:
        self._make_client = make_client
        self._options = options
        self._topic_arn = topic_arn
        self._client: SNSClient | None = None

    def is_deterministic(self) -> bool:
        """Return False, or every sink would publish the alerts again."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        """Make the worker's client."""
        self._client = self._make_client()
        self._publisher = Publisher(SnsAlerts(self._client, self._topic_arn), self._options)

    def close(self) -> None:
        """Close the client's connections, also after an `open` that failed."""
        if self._client is not None:
            self._client.close()

    def eval(self, event_id: pd.Series, message: pd.Series) -> pd.DataFrame:
        """Publish an Arrow batch, and answer in row order."""
        is_alert = message.notna()
        alerts = [
            # A NULL id is refused as an empty one.
            Alert(key or "", text)
            for key, text in zip(event_id[is_alert], message[is_alert], strict=True)
        ]
        results = iter(self._publisher.publish(alerts))
        return _rows([next(results) if alert else None for alert in is_alert])


def publish_metrics(options: PublishingOptions, namespace: str) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `publish_metrics(window, window_end, ...)`."""
    return udf(
        PublishMetrics(partial(cloudwatch_client, options), options, namespace),
        result_type=PUBLISH_RESULT,
        func_type="pandas",
        deterministic=False,
    )


def publish_alert(options: PublishingOptions, topic_arn: str) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `publish_alert(event_id, message)`."""
    return udf(
        PublishAlert(partial(sns_client, options), options, topic_arn),
        result_type=PUBLISH_RESULT,
        func_type="pandas",
        deterministic=False,
    )


def _rows(results: Sequence[Unpublished | None]) -> pd.DataFrame:
    rows = [
        (None, None, None)
        if result is None
        else (result.reason.value, result.message, result.attempts)
        for result in results
    ]
    return pd.DataFrame(rows, columns=_COLUMNS, dtype=object)
