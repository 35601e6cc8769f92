"""Whatever is in `scored-reviews`, no function of its readers raises."""

import json
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from udfs.anomaly import GatherReviews, TrackAnomalies
from udfs.core.anomaly_alerts import Recent, alert_message
from udfs.core.parsing import ParseReason
from udfs.core.publishing import PublishingOptions
from udfs.core.scored_records import ScoredReview
from udfs.core.watermarks import WatermarkOptions
from udfs.core.windows import parse_windows
from udfs.publishing import PublishAlert, PublishMetrics
from udfs.scored_records import SCORED_RECORD, ReadScored
from udfs.summaries import MergeSummaries, ReadSummary, SummariseReviews

ARRIVAL_MS = 1_790_000_000_000
RECORD = {
    "source_stream": "reviews",
    "source_shard": "shardId-000000000000",
    "source_sequence_number": "49",
    "review_id": "R1",
    "star_rating": 4,
    "product_category": "Gift_Card",
    "review_body": "a fine gift",
    "event_time": "2026-09-21T14:13:20.123Z",
    "lane": "0/1",
}
EXPLANATION = {
    "star_rating": {
        "recent_mean": 1.0,
        "usual_low": 3.0,
        "usual_high": 4.0,
        "direction": "low",
        "share": 1.0,
    }
}

texts = (
    st.text()
    | st.text(st.characters(max_codepoint=0x2FF))
    | st.text(alphabet="a 😀\ufffe", min_size=100)
)
times = st.datetimes().map(lambda moment: moment.isoformat() + "Z") | st.sampled_from(
    [
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "9998-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00Z",
        "2026-09-21T14:13:20.123Z",
        "2026-09-21T14:13:20+14:00",
        "1e300",
        "1790000000",
    ]
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**20, max_value=10**400)
    | st.floats()
    | texts
    | times,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
ODD = {
    "star_rating": st.integers(1, 5),
    "event_time": times,
    **{name: texts for name in RECORD if name not in ("star_rating", "event_time")},
}
texts_of_records = st.builds(
    lambda fields, more, raw: (json.dumps(RECORD | fields | more)[:-1] + raw + "}").encode(
        errors="surrogatepass"
    ),
    st.fixed_dictionaries({}, optional=ODD),
    st.just({})
    | st.dictionaries(st.sampled_from(["context", "inference_row"]), values, max_size=2)
    | st.dictionaries(st.sampled_from([*RECORD]), values, max_size=1),
    st.just("")
    | st.sampled_from(
        [
            ', "review_body": "again"',
            ', "context": ' + "[" * 150 + "]" * 150,
            ', "context": ' + "[" * 5_000 + "]" * 5_000,
            ', "inference_row": ' + "9" * 4_299,
            ', "inference_row": ' + "9" * 5_000,
            ', "inference_row": 1e99999',
            ', "inference_row": NaN',
            ', "context": "\\u0000\\ufffe"',
            ', "context": "\\ud800"',
            ', "context": "\x01"',
        ]
    ),
)
bodies_of_records = st.builds(
    lambda record, place, junk: (
        record[: place % len(record)] + junk + record[place % len(record) :]
    ),
    texts_of_records,
    st.integers(0, 10_000),
    st.sampled_from([b"", b"\xff", b"\xef\xbb\xbf", b"\x00", b"\xed\xa0\x80", b'"', b"{", b" "]),
)


class Client:
    def put_metric_data(self, **call: Any) -> None:
        for datum in call["MetricData"]:
            (dimension,) = datum["Dimensions"]
            assert 1 <= len(dimension["Value"]) <= 1_024
            assert dimension["Value"].isascii()

    def publish_batch(self, **call: Any) -> dict[str, Any]:
        for entry in call["PublishBatchRequestEntries"]:
            json.loads(entry["Message"].encode())
        return {"Successful": [{"Id": each["Id"]} for each in call["PublishBatchRequestEntries"]]}


class State(SimpleNamespace):
    def update(self, value: object) -> None:
        self.kept = value

    def value(self) -> object:
        return self.kept


def through_the_jobs(payloads: list[bytes]) -> pd.DataFrame:
    """Call what both jobs call for the records, and return what `read_scored` has made of them."""
    rows = len(payloads)
    arrived = pd.Series([pd.Timestamp(ARRIVAL_MS, unit="ms", tz="UTC")] * rows)
    place = pd.Series([str(row) for row in range(rows)], dtype=object)
    reader = ReadScored("scored-reviews", WatermarkOptions(), has_text=True)
    reader.open(None)
    data = pd.Series(payloads, dtype=object)
    read = reader.eval(data, arrived, place, place)
    as_arrow(read)
    reviews = read[read["reason"].isna()].infer_objects()
    if len(reviews):
        measure(reviews, data[reviews.index])
        judge(reviews)
    return read


def as_arrow(frame: pd.DataFrame) -> None:
    types = {"BIGINT": pa.int64(), "INT": pa.int32(), "VARCHAR": pa.string()}
    for field in SCORED_RECORD.fields:
        arrow_type = types[field.data_type.type_name()]
        pa.Array.from_pandas(frame[field.name], mask=frame[field.name].isna(), type=arrow_type)


def measure(reviews: pd.DataFrame, payloads: pd.Series) -> None:
    summaries = SummariseReviews(5_000, 12, has_lengths=True, has_terms=True).eval(
        reviews["product_category"],
        reviews["event_time_ms"].astype("int64"),
        reviews["review_id"],
        reviews["star_rating"],
        reviews["body_length"],
        payloads,
    )
    merged = MergeSummaries()
    for data in (*summaries["of_category"].dropna(), *summaries["of_all"].dropna()):
        accumulator = merged.create_accumulator()
        merged.accumulate(accumulator, 0, data)
        ReadSummary(10).eval(merged.get_value(accumulator)[1])
    publish = PublishMetrics(Client, PublishingOptions("us-east-1"), "test")  # type: ignore[arg-type]
    publish.open(None)
    for spec in parse_windows("5 s, 7 d, 1 d by 1 h"):
        ends_ms = reviews["event_time_ms"].astype("int64") // 5_000 * 5_000 + spec.size_s * 1_000
        results = publish.eval(
            pd.Series([str(spec)] * len(reviews)),
            pd.to_datetime(ends_ms, unit="ms", utc=True).reset_index(drop=True),
            reviews["product_category"].reset_index(drop=True),
            pd.Series([4.5] * len(reviews)),
            pd.Series([1.0] * len(reviews)),
        )
        assert results["reason"].isna().all()


def judge(reviews: pd.DataFrame) -> None:
    names = list(ScoredReview.__dataclass_fields__)
    gathered = GatherReviews().eval(*(reviews[name] for name in names))
    track = TrackAnomalies(0.9999, 20)
    for message in gathered.dropna():
        track._tracker, track._events = State(kept=None), State(kept=None)
        rows = list(track.process_element(("category", message), None))
        assert rows
    recent = [
        Recent(
            row.review_id,
            row.star_rating,
            row.body_length,
            0,
            row.event_time_ms,
            row.source_stream,
            row.source_shard,
            row.source_sequence_number,
            row.excerpt,
        )
        for row in reviews.itertuples()
    ]
    message = alert_message("id", recent[0].review_id, 1e-9, 0.9999, EXPLANATION, recent)
    publish = PublishAlert(Client, PublishingOptions("us-east-1"), "arn")  # type: ignore[arg-type]
    publish.open(None)
    results = publish.eval(pd.Series([recent[0].review_id]), pd.Series([message]))
    assert results["reason"].isna().all()


@pytest.mark.parametrize(
    "event_time",
    ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2300-01-01T00:00:00Z"],
)
def test_a_time_that_no_job_can_use_stops_none(event_time: str) -> None:
    payload = json.dumps(RECORD | {"event_time": event_time}).encode()
    (reason,) = through_the_jobs([payload])["reason"]
    assert reason in (ParseReason.BAD_EVENT_TIME, ParseReason.EVENT_TIME_IN_FUTURE)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts_of_records | bodies_of_records | st.binary(), min_size=1, max_size=4))
@example([json.dumps(RECORD).encode()])
@example([json.dumps(RECORD | {"event_time": "9999-12-31T23:59:59-23:59"}).encode()])
@example([json.dumps(RECORD | {"product_category": "😀" * 64}, ensure_ascii=False).encode()])
@example([json.dumps(RECORD | {"event_time": "1970-01-01T00:00:00Z"}).encode()])
def test_no_record_stops_a_job(payloads: list[bytes]) -> None:
    read = through_the_jobs(payloads)
    unreadable = read[~read["reason"].isna()]
    assert unreadable["message"].str.len().between(1, 200).all()
