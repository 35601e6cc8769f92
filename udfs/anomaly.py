"""Flink wrappers of `udfs.core.anomaly_events`: reviews gathered by category, judged in state."""

import pickle
from collections.abc import Callable, Iterator

import pandas as pd
from pyflink.common import Row, Time, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import StateTtlConfig, ValueStateDescriptor
from pyflink.table import DataTypes
from pyflink.table.udf import ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from udfs.core.anomaly_events import AnomalyTracker
from udfs.core.review_features import make_review_detector
from udfs.core.scored_records import ScoredReview

COLD_AFTER_DAYS = 30
"""A category without reviews for so long is forgotten, but for the number of its latest event."""

JUDGED_REVIEW = Types.ROW_NAMED(
    [
        "source_stream",
        "source_shard",
        "source_sequence_number",
        "source_part",
        "review_id",
        "product_category",
        "event_time_ms",
        "anomaly_score",
        "threshold",
        "is_anomaly",
        "explanation",
        "event_id",
        "alert",
    ],
    [
        Types.STRING(),
        Types.STRING(),
        Types.STRING(),
        Types.STRING(),
        Types.STRING(),
        Types.STRING(),
        Types.LONG(),
        Types.DOUBLE(),
        Types.DOUBLE(),
        Types.BOOLEAN(),
        Types.STRING(),
        Types.STRING(),
        Types.STRING(),
    ],
)
"""A review and what it tells: `Judgement`; `alert` is NULL unless an event opens."""


class GatherReviews(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Vectorised: the columns of `ScoredReview` to the reviews of a category in an Arrow batch.

    The message, which `TrackAnomalies` reads, stands in the last row of each category, and the
    other rows have NULL. Nothing is kept between batches. So a keyed function, which the engine
    calls a row at a time, is called once for many reviews; see decision 14.
    """

    def is_deterministic(self) -> bool:
        """Return False: what is gathered depends on how rows fall into batches."""
        return False

    def eval(self, *columns: pd.Series) -> pd.Series:
        """Gather an Arrow batch, in row order."""
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        gathered: dict[str, list[tuple[object, ...]]] = {}
        last: dict[str, int] = {}
        for place, row in enumerate(rows):
            category = row[_CATEGORY]
            gathered.setdefault(category, []).append(row)
            last[category] = place
        messages: list[bytes | None] = [None] * len(rows)
        for category, place in last.items():
            messages[place] = pickle.dumps(gathered[category], pickle.HIGHEST_PROTOCOL)
        return pd.Series(messages, dtype=object)


_CATEGORY = list(ScoredReview.__dataclass_fields__).index("product_category")


def gather_reviews() -> UserDefinedScalarFunctionWrapper:
    """Return the SQL function `gather_reviews`: see `GatherReviews`."""
    return udf(
        GatherReviews(), result_type=DataTypes.BYTES(), func_type="pandas", deterministic=False
    )


class TrackAnomalies(KeyedProcessFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Keyed by category: `(product_category, message)` in, a `JUDGED_REVIEW` for each review out.

    The message is that of `GatherReviews`. The state of a category is its tracker's dump, tens of
    kilobytes; threshold and warm-up are those that the job was started with, also after a restore.
    """

    def __init__(self, threshold: float, warm_up_reviews: int) -> None:
        self._threshold = threshold
        self._warm_up_reviews = warm_up_reviews

    def open(self, runtime_context: RuntimeContext) -> None:
        """Declare the state."""
        # Only with this visibility does the worker keep state between rows; with the default it
        # would be written and read again for each of them.
        ttl = (
            StateTtlConfig.new_builder(Time.days(COLD_AFTER_DAYS))
            .set_update_type(StateTtlConfig.UpdateType.OnCreateAndWrite)
            .set_state_visibility(StateTtlConfig.StateVisibility.ReturnExpiredIfNotCleanedUp)
            .build()
        )
        tracker = ValueStateDescriptor("tracker", Types.PICKLED_BYTE_ARRAY())
        tracker.enable_time_to_live(ttl)
        self._tracker = runtime_context.get_state(tracker)
        # Apart and for good: an event id must never come twice.
        self._events = runtime_context.get_state(ValueStateDescriptor("events", Types.LONG()))

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Track the reviews of a message."""
        reviews = [ScoredReview(*row) for row in pickle.loads(value[1])]
        kept = self._tracker.value()
        if not isinstance(kept, _Kept):
            kept = _Kept(self._load(kept))
        events = kept.tracker.events
        judgements = kept.tracker.track(reviews)
        self._tracker.update(kept)
        if kept.tracker.events > events:
            self._events.update(kept.tracker.events)
        for review, judgement in zip(reviews, judgements, strict=True):
            yield Row(
                review.source_stream,
                review.source_shard,
                review.source_sequence_number,
                review.source_part,
                review.review_id,
                review.product_category,
                review.event_time_ms,
                judgement.anomaly_score,
                self._threshold,
                judgement.is_anomaly,
                judgement.explanation,
                judgement.event_id,
                judgement.alert,
            )

    def _load(self, dump: bytes | None) -> AnomalyTracker:
        detector = make_review_detector(warm_up=self._warm_up_reviews)
        if dump is None:
            return AnomalyTracker(detector, self._threshold, events=self._events.value() or 0)
        tracker = AnomalyTracker(detector, self._threshold)
        tracker.load(dump)
        return tracker


class _Kept:
    """A tracker that pickles as the bytes of its dump.

    The worker keeps the object as long as its cache does, and pickles it once a bundle: only then
    is it dumped. What comes back from the state backend is plain bytes.
    """

    def __init__(self, tracker: AnomalyTracker) -> None:
        self.tracker = tracker

    def __reduce__(self) -> tuple[Callable[..., bytes], tuple[bytes]]:
        return bytes, (self.tracker.dump(),)
