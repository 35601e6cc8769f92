"""Flink wrapper of `udfs.core.dead_letters`."""

import time

import pandas as pd
from pyflink.table import DataTypes, FunctionContext
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.dead_letters import PAYLOAD_BYTES_PER_S, PayloadBudget, digest

PAYLOAD_DIGEST = DataTypes.ROW(
    [
        DataTypes.FIELD("payload", DataTypes.BYTES()),
        DataTypes.FIELD("payload_sha256", DataTypes.STRING()),
        DataTypes.FIELD("payload_bytes", DataTypes.INT()),
    ]
)


class DigestPayloads(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: `(payload BYTES) -> PAYLOAD_DIGEST`.

    Each subtask has a budget of its own. The metric `shortened_payloads` of the group
    `dead_letters` counts the letters whose payload the budget has cut.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s

    def is_deterministic(self) -> bool:
        """Return False, or each field of the digest would be computed by a call of its own."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        """Start with a full budget."""
        self._budget = PayloadBudget(self._bytes_per_s, time.monotonic)
        metrics = function_context.get_metric_group().add_group("dead_letters")
        self._shortened = metrics.counter("shortened_payloads")

    def eval(self, payload: pd.Series) -> pd.DataFrame:
        """Describe an Arrow batch of payloads, in row order."""
        shortened_before = self._budget.shortened
        digests = [digest(data, self._budget) for data in payload]
        self._shortened.inc(self._budget.shortened - shortened_before)
        return pd.DataFrame(
            {
                "payload": [each.payload for each in digests],
                "payload_sha256": [each.payload_sha256 for each in digests],
                "payload_bytes": [each.payload_bytes for each in digests],
            }
        )


def digest_payload(bytes_per_s: float = PAYLOAD_BYTES_PER_S) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `digest_payload(payload)`.

    Parameters
    ----------
    bytes_per_s
        Budget of a subtask, see `PayloadBudget`.
    """
    return udf(
        DigestPayloads(bytes_per_s),
        result_type=PAYLOAD_DIGEST,
        func_type="pandas",
        deterministic=False,
    )
