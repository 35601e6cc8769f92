"""Flink wrapper of `udfs.core.scored_records` and `udfs.core.watermarks`."""

import time
import uuid
from collections.abc import Hashable

import pandas as pd
from pyflink.table import DataTypes, FunctionContext
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.scored_records import Unreadable, read_with_details
from udfs.core.simhash import MAX_CHARACTERS, simhash
from udfs.core.source_ids import source_part
from udfs.core.watermarks import ShardWatermarks, WatermarkOptions

SCORED_RECORD = DataTypes.ROW(
    [
        DataTypes.FIELD("source_stream", DataTypes.STRING()),
        DataTypes.FIELD("source_shard", DataTypes.STRING()),
        DataTypes.FIELD("source_sequence_number", DataTypes.STRING()),
        DataTypes.FIELD("source_part", DataTypes.STRING()),
        DataTypes.FIELD("review_id", DataTypes.STRING()),
        DataTypes.FIELD("star_rating", DataTypes.INT()),
        DataTypes.FIELD("product_category", DataTypes.STRING()),
        DataTypes.FIELD("body_length", DataTypes.INT()),
        # Arrow rows take no TIMESTAMP_LTZ field.
        DataTypes.FIELD("event_time_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("simhash", DataTypes.BIGINT()),
        DataTypes.FIELD("excerpt", DataTypes.STRING()),
        DataTypes.FIELD("watermark_ms", DataTypes.BIGINT()),
        DataTypes.FIELD("reader", DataTypes.STRING()),
        DataTypes.FIELD("reason", DataTypes.STRING()),
        DataTypes.FIELD("message", DataTypes.STRING()),
    ]
)
"""A scored review (`reason` NULL), or why the record is none.

One that is none has the source_id of the record itself and its arrival time. `watermark_ms` is NULL
but in the last row of a batch. `simhash`, the fingerprint of the body, and `excerpt`, how it
begins, are NULL unless they were asked for. `reader` names the subtask and its run: another one
after a restart.
"""

EXCERPT_CHARACTERS = 160

# Beginnings of bodies that are kept at once, 32 KiB each at most: one by one, fingerprints take ten
# times as long.
_BODIES_AT_ONCE = 1_000

_COLUMNS = SCORED_RECORD.field_names()


class ReadScored(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: `(payload BYTES, arrival_time TIMESTAMP_LTZ(3), shard, number) -> SCORED_RECORD`.

    Besides reading the records, it keeps the watermark of the subtask that it runs in, by shard and
    lane of `reviews` within each shard that is read: what the job before read of several shards in
    a backlog lies in one shard of `scored-reviews` one after the other, and so do the records of
    its subtasks, each a lane. What it keeps is gone after a restart; the watermark then begins
    anew.
    """

    def __init__(self, stream: str, options: WatermarkOptions, has_text: bool) -> None:
        self._stream = stream
        self._has_text = has_text
        self._options = options

    def is_deterministic(self) -> bool:
        """Return False: the watermark depends on what came before."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        """Begin without a watermark."""
        self._reader = uuid.uuid4().hex
        self._watermarks = ShardWatermarks(self._options, time.monotonic)

    def eval(
        self,
        payload: pd.Series,
        arrival_time: pd.Series,
        record_shard: pd.Series,
        record_sequence_number: pd.Series,
    ) -> pd.DataFrame:
        """Read an Arrow batch, in row order."""
        # Arrow hands over datetime64[ns]; `as_unit` also takes other resolutions.
        arrival_ms = arrival_time.dt.tz_convert(None).dt.as_unit("ms").astype("int64").tolist()
        latest_ms: dict[Hashable, int] = {}
        rows: list[tuple[object, ...]] = []
        beginnings: list[str | None] = []
        fingerprints: list[int] = []
        excerpts: list[str | None] = []
        for data, at_ms, shard, number in zip(
            payload, arrival_ms, record_shard, record_sequence_number, strict=True
        ):
            record, body, lane = read_with_details(data, at_ms)
            if self._has_text:
                excerpts.append(body and body[:EXCERPT_CHARACTERS])
                beginnings.append(body and body[:MAX_CHARACTERS])
                if len(beginnings) == _BODIES_AT_ONCE:
                    fingerprints += simhash(beginnings).tolist()
                    beginnings.clear()
            if isinstance(record, Unreadable):
                place = (self._stream, shard, number, source_part(data))
                nothing = (None, None, None, None)
                why = (record.reason.value, record.message)
                rows.append((*place, *nothing, at_ms, None, None, None, self._reader, *why))
                continue
            source = (shard, record.source_stream, record.source_shard, lane)
            # A wrong clock must not drag the watermark beyond what has arrived.
            event_time_ms = min(record.event_time_ms, at_ms)
            latest_ms[source] = max(event_time_ms, latest_ms.get(source, event_time_ms))
            rows.append(
                (
                    record.source_stream,
                    record.source_shard,
                    record.source_sequence_number,
                    record.source_part,
                    record.review_id,
                    record.star_rating,
                    record.product_category,
                    record.body_length,
                    record.event_time_ms,
                    None,
                    None,
                    None,
                    self._reader,
                    None,
                    None,
                )
            )
        frame = pd.DataFrame(rows, columns=_COLUMNS, dtype=object)
        if self._has_text:
            frame["simhash"] = fingerprints + simhash(beginnings).tolist()
            frame["excerpt"] = excerpts
        if rows:
            frame.loc[len(rows) - 1, "watermark_ms"] = self._watermarks.advance(latest_ms)
        return frame


def read_scored(
    stream: str, options: WatermarkOptions, *, has_text: bool = False
) -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `read_scored(payload, arrival_time, shard, sequence_number)`."""
    return udf(
        ReadScored(stream, options, has_text),
        result_type=SCORED_RECORD,
        func_type="pandas",
        deterministic=False,
    )
