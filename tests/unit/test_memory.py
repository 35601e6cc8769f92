"""Peak memory of each vectorised function beyond its input, for the largest bundles.

Each is measured in a process of its own. Rows share their objects, so that the input is small.
"""

import asyncio
import json
import multiprocessing
import resource
import sys
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import pandas as pd
import pytest

from flink_jobs.config import MAX_BUNDLE_BYTES, ApplicationConfig, ReviewsConfig
from tests.unit.flink_context import FakeContext
from udfs.anomaly import GatherReviews
from udfs.core.categories import CategoryOptions
from udfs.core.codec import CODECS
from udfs.core.invocations import Answer, ScoringOptions
from udfs.core.parsing import ParsingOptions
from udfs.core.publishing import PublishingOptions
from udfs.core.scoring import Scorer
from udfs.core.simhash import simhash
from udfs.core.watermarks import WatermarkOptions
from udfs.dead_letters import DigestPayloads
from udfs.parsing import ParseReviews
from udfs.publishing import PublishAlert, PublishMetrics
from udfs.scored_records import ReadScored
from udfs.scoring import as_frame
from udfs.summaries import SummariseReviews

MIB = 1024 * 1024
MOST_BYTES = 512 * MIB

ROWS = ApplicationConfig(job="review_scoring").bundle_rows
BODY_BYTES = ReviewsConfig(stream="reviews").max_body_bytes
MANY_ROWS = 50_000
"""The largest `bundle_rows` that the configuration allows, with smaller bodies."""

EVENT_TIME = "2026-09-21T14:13:20.000Z"
EVENT_TIME_MS = 1_790_000_000_000
ARRIVAL = pd.Timestamp(EVENT_TIME_MS, unit="ms", tz="UTC")


def bundle_of(rows: int, make: Callable[[int, int], Any], kinds: int = 8) -> pd.Series:
    """Return rows of a few objects that `make(number, bytes)` makes, as large as allowed."""
    body_bytes = min(BODY_BYTES, MAX_BUNDLE_BYTES // rows)
    made = [make(number, body_bytes) for number in range(kinds)]
    return pd.Series(list(islice(cycle(made), rows)), dtype=object)


def words(number: int, characters: int) -> str:
    """Return as many different words as fit, none of which is in another text, and one emoji.

    The emoji makes Python keep four bytes for each character.
    """
    start = number * characters
    text = " ".join(_word(start + place) for place in range(characters // 6 + 1))
    return f"\U0001f600 {text}"[: characters - 4]


def _word(number: int) -> str:
    letters = []
    for _ in range(5):
        number, letter = divmod(number, 26)
        letters.append(chr(97 + letter))
    return "".join(letters)


def review(number: int, size: int) -> bytes:
    fields = {"review_id": f"R{number}", "product_category": "Books", "review_body": ""}
    frame = json.dumps(fields)
    body = words(number, size - len(frame) - 16)
    return json.dumps(fields | {"review_body": body}, ensure_ascii=False).encode()


def scored(number: int, size: int) -> bytes:
    fields = {
        "source_stream": "reviews",
        "source_shard": "shardId-000000000000",
        "source_sequence_number": "4" * 56,
        "review_id": f"R{number}",
        "star_rating": 5,
        "product_category": "Books",
        "event_time": EVENT_TIME,
        "review_body": words(number, size),
    }
    return json.dumps(fields, ensure_ascii=False).encode()


def arrivals(rows: int) -> pd.Series:
    return pd.Series([ARRIVAL] * rows)


def numbers(rows: int) -> pd.Series:
    return pd.Series([str(row) for row in range(rows)], dtype=object)


def parse(rows: int) -> Callable[[], object]:
    payloads, arrived = bundle_of(rows, review), arrivals(rows)
    function = ParseReviews(ParsingOptions(max_body_bytes=BODY_BYTES), CategoryOptions())
    function.open(FakeContext())
    return lambda: function.eval(payloads, arrived, None)


def digest(rows: int) -> Callable[[], object]:
    payloads = bundle_of(rows, review)
    # With this budget every payload stays as long as it may be.
    function = DigestPayloads(bytes_per_s=1e12)
    function.open(FakeContext())
    return lambda: function.eval(payloads)


def score(rows: int) -> Callable[[], object]:
    bodies = bundle_of(rows, words).tolist()

    async def five(texts: Any, inference_id: str, variant: str | None) -> Answer:
        body = CODECS["application/jsonlines"].encode(texts)
        copied = bytearray(body)
        await asyncio.sleep(0.002)
        assert len(copied) == len(body)
        return Answer([5 for _ in texts], "AllTraffic")

    scorer = Scorer(five, ScoringOptions())
    return lambda: as_frame(asyncio.run(scorer.score(bodies)), EVENT_TIME_MS)


def read_scored(rows: int) -> Callable[[], object]:
    payloads, arrived, place = bundle_of(rows, scored), arrivals(rows), numbers(rows)
    function = ReadScored("scored-reviews", WatermarkOptions(), has_text=True)
    function.open(None)
    return lambda: function.eval(payloads, arrived, place, place)


def fingerprint(rows: int) -> Callable[[], object]:
    bodies = bundle_of(rows // 2, words).tolist()
    return lambda: simhash(bodies)


def summarise_one(rows: int) -> Callable[[], object]:
    # Fewer, because terms take a second for each 10 MiB. They are all different: the most memory.
    rows //= 40
    payloads = bundle_of(rows, scored, kinds=rows)
    return _summarise(rows, payloads, pd.Series(["Books"] * rows))


def summarise_many(rows: int) -> Callable[[], object]:
    payloads = bundle_of(rows, lambda number, _: scored(number, 300))
    return _summarise(rows, payloads, numbers(rows))


def _summarise(rows: int, payloads: pd.Series, categories: pd.Series) -> Callable[[], object]:
    times, ratings = pd.Series([EVENT_TIME_MS] * rows), pd.Series([5] * rows)
    function = SummariseReviews(5_000, 12, has_lengths=True, has_terms=True)
    ids = numbers(rows)
    return lambda: function.eval(categories, times, ids, ratings, ratings, payloads)


def gather(rows: int) -> Callable[[], object]:
    key = pd.Series(["\U0001f600" * 64] * rows)
    whole, excerpt = pd.Series([7] * rows), pd.Series(["\U0001f600" * 160] * rows)
    columns = (key, key, key, key, whole, key, whole, whole, whole, excerpt)
    return lambda: GatherReviews().eval(*columns)


class Client:
    def put_metric_data(self, **call: Any) -> None:
        assert call["MetricData"]

    def publish_batch(self, **call: Any) -> dict[str, Any]:
        return {"Successful": [{"Id": each["Id"]} for each in call["PublishBatchRequestEntries"]]}


def publish_metrics(rows: int) -> Callable[[], object]:
    function = PublishMetrics(Client, PublishingOptions("us-east-1"), "test")  # type: ignore[arg-type]
    function.open(None)
    figures = pd.Series([4.5] * rows)
    names, key = pd.Series(["5 s"] * rows), pd.Series(["\U0001f600" * 64] * rows)
    return lambda: function.eval(names, arrivals(rows), key, figures, figures)


def publish_alerts(rows: int) -> Callable[[], object]:
    function = PublishAlert(Client, PublishingOptions("us-east-1"), "arn")  # type: ignore[arg-type]
    function.open(None)
    ids, messages = numbers(rows), bundle_of(rows, words)
    return lambda: function.eval(ids, messages)


CASES = [
    *(
        (make, ROWS)
        for make in (
            parse,
            digest,
            score,
            read_scored,
            fingerprint,
            summarise_one,
            summarise_many,
            gather,
            publish_metrics,
            publish_alerts,
        )
    ),
    *((make, MANY_ROWS) for make in (digest, summarise_many, gather)),
]


@pytest.mark.parametrize(
    ("make", "rows"), CASES, ids=lambda value: getattr(value, "__name__", None)
)
def test_the_peak_is_at_most_512_mib_beyond_the_input(make: Any, rows: int) -> None:
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)

    def measure() -> None:
        function = make(rows)
        before = peak_bytes()
        result = function()
        sender.send(peak_bytes() - before)
        assert result is not None

    process = processes.Process(target=measure)
    process.start()
    sender.close()
    taken = receiver.recv()
    process.join()
    assert taken <= MOST_BYTES, f"{taken // MIB} MiB"


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
