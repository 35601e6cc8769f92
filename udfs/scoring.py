"""Flink wrapper of `udfs.core.scoring`: the async UDF."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pandas as pd
from pyflink.metrics import MetricGroup
from pyflink.table import DataTypes, FunctionContext
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.endpoint import EndpointOptions, SageMakerInvoke
from udfs.core.event_loop import EventLoopThread
from udfs.core.failures import EndpointUnavailableError
from udfs.core.invocations import Invoke, ScoringOptions, ScoringStats
from udfs.core.predictions import Failed, Predictions, ScoreReason
from udfs.core.scoring import Scorer

logger = logging.getLogger(__name__)

PREDICTION = DataTypes.ROW(
    [
        DataTypes.FIELD("star_rating", DataTypes.INT()),
        DataTypes.FIELD("model_variant", DataTypes.STRING()),
        DataTypes.FIELD("requested_variant", DataTypes.STRING()),
        DataTypes.FIELD("inference_id", DataTypes.STRING()),
        DataTypes.FIELD("inference_row", DataTypes.INT()),
        DataTypes.FIELD("attempts", DataTypes.INT()),
        # Arrow rows take no TIMESTAMP_LTZ field.
        DataTypes.FIELD("scored_at_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("reason", DataTypes.STRING()),
        DataTypes.FIELD("message", DataTypes.STRING()),
    ]
)
"""A prediction (`reason` NULL), or why there is none."""

MakeInvoke = Callable[[], AbstractAsyncContextManager[Invoke]]
"""A picklable recipe of a client: clients themselves do not travel to the workers."""


class ScoreReviews(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: `(review_body STRING[, target_variant STRING]) -> PREDICTION`.

    Several requests are in flight. Where `target_variant` is NULL or not given, or names a variant
    that does not exist, the endpoint's default answers; `requested_variant` is the one that was
    asked for, NULL unless another one has answered. The client lives as long as the worker.

    Where the endpoint is unavailable, every row of the batch has the reason `ENDPOINT_UNAVAILABLE`:
    the job must fail on it, in another task than this one (`flink_jobs.review_scoring` shows how).
    An exception here would fail this task too late: before it ends it may complete a checkpoint
    that has the batch's rows behind it (docs/decisions/0008-an-endpoint-that-stays-away.md).

    Metrics, in the group `scoring` of the operator: see `ScoringMetrics`.
    """

    def __init__(self, make_invoke: MakeInvoke, options: ScoringOptions) -> None:
        self._make_invoke = make_invoke
        self._options = options

    def is_deterministic(self) -> bool:
        """Return False, or every sink would call the endpoint again."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        """Start the worker's event loop and connect its client."""
        self._loop = EventLoopThread()
        self._client = None
        client = self._make_invoke()
        self._scorer = Scorer(self._loop.run(client.__aenter__()), self._options)
        self._client = client
        self._metrics = ScoringMetrics(function_context.get_metric_group(), self._scorer)

    def close(self) -> None:
        """Disconnect the client and end the loop, also after an `open` that failed."""
        try:
            if self._client is not None:
                self._loop.run(self._client.__aexit__(None, None, None))
        finally:
            self._loop.close()

    def eval(self, review_body: pd.Series, target_variant: pd.Series | None = None) -> pd.DataFrame:
        """Score an Arrow batch, in row order."""
        variants = None if target_variant is None else target_variant.tolist()
        try:
            predictions = self._loop.run(self._scorer.score(review_body.tolist(), variants))
        except EndpointUnavailableError as error:
            logger.exception("no prediction for a batch of %d reviews", len(review_body))
            predictions = Predictions(len(review_body))
            unavailable = Failed(ScoreReason.ENDPOINT_UNAVAILABLE, str(error), 0)
            for row in range(len(predictions)):
                predictions[row] = unavailable
        self._metrics.publish()
        return as_frame(predictions, time.time_ns() // 1_000_000)


def as_frame(predictions: Predictions, scored_at_ms: int) -> pd.DataFrame:
    """Return the columns of `PREDICTION`; failed rows have no `scored_at_ms`."""
    reasons = [reason and reason.value for reason in predictions.reason]
    columns = {
        "star_rating": predictions.star_rating,
        "model_variant": predictions.model_variant,
        "requested_variant": predictions.requested_variant,
        "inference_id": predictions.inference_id,
        "inference_row": predictions.inference_row,
        "attempts": predictions.attempts,
        "scored_at_ms": [None if reason else scored_at_ms for reason in reasons],
        "reason": reasons,
        "message": predictions.message,
    }
    # As objects, or whole numbers with a gap would become floating-point.
    return pd.DataFrame(columns, dtype=object)


class ScoringMetrics:
    """What a `Scorer` did, as Flink metrics in the group `scoring`.

    Counters `requests`, `retries`, `throttles` and `rows`, as of `ScoringStats`; distribution
    `latency_ms` of the answered requests; gauges `in_flight`, the most requests that were in flight
    at once in the latest batch, and `slots`, how many there may be by now, to all variants
    together.

    Beam takes metrics only from the thread that runs the function, and sends them on when a bundle
    ends: hence `publish`, between batches.
    """

    def __init__(self, group: MetricGroup, scorer: Scorer) -> None:
        self._scorer = scorer
        self._published = ScoringStats()
        self._in_flight = 0
        group = group.add_group("scoring")
        self._counters = {
            name: group.counter(name) for name in ("requests", "retries", "throttles", "rows")
        }
        self._latency_ms = group.distribution("latency_ms")
        group.gauge("in_flight", lambda: self._in_flight)
        group.gauge("slots", lambda: scorer.slots)

    def publish(self) -> None:
        """Add what was done since the last call; on the thread that runs the function."""
        stats = self._scorer.stats
        for name, counter in self._counters.items():
            count = getattr(stats, name)
            counter.inc(count - getattr(self._published, name))
            setattr(self._published, name, count)
        for latency_ms in stats.latencies_ms:
            self._latency_ms.update(round(latency_ms))
        stats.latencies_ms.clear()
        self._in_flight = self._scorer.take_peak()


def score_review(
    endpoint: EndpointOptions, options: ScoringOptions
) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `score_review(review_body[, target_variant])` of an endpoint."""

    def make_invoke() -> SageMakerInvoke:
        return SageMakerInvoke(endpoint)

    return udf(
        ScoreReviews(make_invoke, options),
        result_type=PREDICTION,
        func_type="pandas",
        deterministic=False,
    )
