"""Flink wrapper of `udfs.core.scoring`: the async UDF."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pandas as pd
from pyflink.table import DataTypes, FunctionContext
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.endpoint import EndpointOptions, SageMakerInvoke
from udfs.core.event_loop import EventLoopThread
from udfs.core.scoring import Invoke, Scored, Scorer, ScoringOptions

PREDICTION = DataTypes.ROW(
    [
        DataTypes.FIELD("star_rating", DataTypes.INT()),
        DataTypes.FIELD("model_variant", DataTypes.STRING()),
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

_COLUMNS = PREDICTION.field_names()

MakeInvoke = Callable[[], AbstractAsyncContextManager[Invoke]]
"""A picklable recipe of a client: clients themselves do not travel to the workers."""


class ScoreReviews(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: `(review_body STRING) -> PREDICTION`, several requests in flight.

    The client lives as long as the worker. `EndpointUnavailableError` fails the job on purpose:
    Flink restarts it and reads the same reviews again.
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

    def close(self) -> None:
        """Disconnect the client and end the loop, also after an `open` that failed."""
        try:
            if self._client is not None:
                self._loop.run(self._client.__aexit__(None, None, None))
        finally:
            self._loop.close()

    def eval(self, review_body: pd.Series) -> pd.DataFrame:
        """Score an Arrow batch, in row order."""
        results = self._loop.run(self._scorer.score(review_body.tolist()))
        scored_at_ms = time.time_ns() // 1_000_000
        rows = [
            (
                result.star_rating,
                result.model_variant,
                result.inference_id,
                result.inference_row,
                result.attempts,
                scored_at_ms,
                None,
                None,
            )
            if isinstance(result, Scored)
            else (
                None,
                None,
                None,
                None,
                result.attempts,
                None,
                result.reason.value,
                result.message,
            )
            for result in results
        ]
        return pd.DataFrame(rows, columns=_COLUMNS, dtype=object)


def score_review(
    endpoint: EndpointOptions, options: ScoringOptions
) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `score_review(review_body)` that asks a SageMaker endpoint."""

    def make_invoke() -> SageMakerInvoke:
        return SageMakerInvoke(endpoint)

    return udf(
        ScoreReviews(make_invoke, options),
        result_type=PREDICTION,
        func_type="pandas",
        deterministic=False,
    )
