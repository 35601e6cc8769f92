"""Flink wrapper of `udfs.core.dead_letters`."""

import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.dead_letters import digest

PAYLOAD_DIGEST = DataTypes.ROW(
    [
        DataTypes.FIELD("payload", DataTypes.BYTES()),
        DataTypes.FIELD("payload_sha256", DataTypes.STRING()),
        DataTypes.FIELD("payload_bytes", DataTypes.INT()),
    ]
)


class DigestPayloads(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: `(payload BYTES) -> PAYLOAD_DIGEST`."""

    def is_deterministic(self) -> bool:
        """Return False, or each field of the digest would be computed by a call of its own."""
        return False

    def eval(self, payload: pd.Series) -> pd.DataFrame:
        """Describe an Arrow batch of payloads, in row order."""
        digests = [digest(data) for data in payload]
        return pd.DataFrame(
            {
                "payload": [each.payload for each in digests],
                "payload_sha256": [each.payload_sha256 for each in digests],
                "payload_bytes": [each.payload_bytes for each in digests],
            }
        )


def digest_payload() -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `digest_payload(payload)`."""
    return udf(
        DigestPayloads(), result_type=PAYLOAD_DIGEST, func_type="pandas", deterministic=False
    )
