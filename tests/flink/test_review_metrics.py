"""The job's transform on an embedded Flink, its own statements, with files instead of streams."""

import base64
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyflink.table.udf import ScalarFunction, udf

from flink_jobs import review_metrics, scored_reviews, streams
from flink_jobs.config import AwsConfig, ScoredReviewsConfig
from tests.conftest import embedded_environment
from tests.flink.tables import file_options, file_table, lines, optimised_plan
from udfs.core.sketches import DistinctSketch
from udfs.core.watermarks import WatermarkOptions
from udfs.dead_letters import digest_payload
from udfs.publishing import PUBLISH_RESULT
from udfs.scored_records import read_scored
from udfs.sketches import approx_distinct

BASE_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
COUNT = 6_000
BATCH = 500


def iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Sent:
    number: int
    review_id: str
    star_rating: int
    product_category: str
    event_time_ms: int
    arrival_ms: int

    @property
    def window_start_ms(self) -> int:
        return self.event_time_ms // 5_000 * 5_000

    def payload(self) -> bytes:
        record = {
            "source_stream": "reviews",
            "source_shard": "shardId-000000000000",
            "source_sequence_number": str(self.number),
            "review_id": self.review_id,
            "star_rating": self.star_rating,
            "product_category": self.product_category,
            "review_body": f"text {self.number}",
            "event_time": iso(self.event_time_ms),
        }
        return json.dumps(record).encode()


def reviews() -> list[Sent]:
    """200 a second, up to 8 s out of order; one in a hundred is late, after the first seconds."""
    rng = random.Random(1)
    made = []
    for number in range(COUNT):
        arrival_ms = BASE_MS + number * 5
        lag_ms = int(8_000 * rng.random() ** 2)
        if number >= 2 * BATCH and number % 100 == 0:
            lag_ms += 70_000
        # "All" is a category of its own here and there, "Café" one that is not ASCII.
        category = rng.choice(["Books", "Café", "Toys"] if number % 50 else ["All"])
        review_id = f"R{number - number % 3}"
        made.append(
            Sent(number, review_id, rng.randint(1, 5), category, arrival_ms - lag_ms, arrival_ms)
        )
    return made


class RecordPublished(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Writes down what is to be published; does not take the category `Toys`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def is_deterministic(self) -> bool:
        return False

    def eval(self, start: pd.Series, category: pd.Series, avg: Any, distinct: Any) -> Any:
        with (self._directory / "published.jsonl").open("a", encoding="utf-8") as file:
            for row in zip(start.astype(str), category, avg, distinct, strict=True):
                file.write(json.dumps(row) + "\n")
        rows = [("denied", "no", 3) if name == "Toys" else (None, None, 1) for name in category]
        return pd.DataFrame(rows, columns=PUBLISH_RESULT.field_names(), dtype=object)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the job over `reviews()`, broken records and repeats; return where its files are."""
    path = tmp_path_factory.mktemp("metrics")
    t_env = embedded_environment()
    # So that the watermark moves within this short file.
    t_env.get_config().set("python.fn-execution.arrow.batch.size", str(BATCH))
    t_env.get_config().set("python.fn-execution.bundle.size", str(BATCH))
    (path / "in").mkdir()
    with (path / "in" / "scored.jsonl").open("w", encoding="utf-8") as file:
        for review in reviews():
            payloads = [review.payload()] * (2 if review.number % 7 == 0 else 1)
            payloads += [b"no review"] if review.number % 1_000 == 0 else []
            for payload in payloads:
                record = {
                    "payload": base64.b64encode(payload).decode(),
                    "arrival_time": iso(review.arrival_ms),
                    "record_shard": "shardId-000000000000",
                    "record_sequence_number": str(review.number),
                }
                file.write(json.dumps(record) + "\n")
    options = WatermarkOptions(delay_s=10, discovery_s=0, idle_timeout_s=30)
    for name, function in (
        ("read_scored", read_scored("scored-reviews", options)),
        ("approx_distinct", approx_distinct(12)),
        ("digest_payload", digest_payload()),
        (
            "publish_metrics",
            udf(
                RecordPublished(path),
                result_type=PUBLISH_RESULT,
                func_type="pandas",
                deterministic=False,
            ),
        ),
    ):
        t_env.create_temporary_system_function(name, function)
    source = streams.scored_reviews_source(
        AwsConfig(region="us-east-1"), ScoredReviewsConfig(stream="scored-reviews")
    ).ddl
    source = re.sub(r"METADATA FROM '[\w-]+' VIRTUAL", "", source)
    t_env.execute_sql(
        f"{source[: source.index('WITH (')]}WITH ({file_options(path / 'in', 'json')})"
    )
    for name, columns in (
        ("review_metrics", streams.REVIEW_METRIC),
        ("dead_letters", streams.DEAD_LETTER),
    ):
        t_env.execute_sql(file_table(name, columns, path / name, "json"))
    scored_reviews.create_views(t_env)
    review_metrics.create_views(t_env, "review-metrics")
    review_metrics.inserts(t_env).execute().wait()
    return path


def late() -> set[int]:
    return {
        review.number for review in reviews() if review.arrival_ms - review.event_time_ms > 60_000
    }


def test_windows_are_those_of_a_recomputation(outputs: Path) -> None:
    expected = defaultdict(list)
    for review in reviews():
        if review.number not in late():
            for category in {review.product_category, "All"}:
                expected[review.window_start_ms, category].append(review)
    found = {
        (row["window_start"], row["product_category"]): row
        for row in lines(outputs / "review_metrics")
    }
    assert len(found) == len(lines(outputs / "review_metrics")), "a window published twice"
    assert found.keys() == {
        (iso(start).replace(".000Z", "Z"), category) for start, category in expected
    }
    for (start_ms, category), members in expected.items():
        row = found[iso(start_ms).replace(".000Z", "Z"), category]
        assert row["window_end"] == iso(start_ms + 5_000).replace(".000Z", "Z")
        assert row["reviews"] == len(members)
        assert row["avg_star_rating"] == sum(m.star_rating for m in members) / len(members)
        distinct = len({member.review_id for member in members})
        assert row["distinct_reviews"] == pytest.approx(distinct, rel=0.05)
        assert row["distinct_lower"] <= row["distinct_reviews"] <= row["distinct_upper"]
        sketch = DistinctSketch.from_bytes(base64.b64decode(row["sketch"]))
        assert sketch.estimate == row["distinct_reviews"]


def test_what_is_late_and_only_that_is_dead_lettered_with_its_bytes(outputs: Path) -> None:
    letters = [row for row in lines(outputs / "dead_letters") if row["stage"] == "late"]
    assert sorted(int(row["source_sequence_number"]) for row in letters) == sorted(late())
    by_number = {review.number: review for review in reviews()}
    for row in letters:
        review = by_number[int(row["source_sequence_number"])]
        assert base64.b64decode(row["payload"]) == review.payload()
        assert (row["source_stream"], row["review_id"]) == ("reviews", review.review_id)
        assert row["reason"] == "late"


def test_records_that_cannot_be_read_are_dead_lettered_under_their_own_id(outputs: Path) -> None:
    letters = [row for row in lines(outputs / "dead_letters") if row["stage"] == "parse"]
    assert sorted(int(row["source_sequence_number"]) for row in letters) == list(
        range(0, COUNT, 1_000)
    )
    assert {row["source_stream"] for row in letters} == {"scored-reviews"}
    assert {row["reason"] for row in letters} == {"not_json"}
    assert {base64.b64decode(row["payload"]) for row in letters} == {b"no review"}


def test_each_window_is_published_once_or_dead_lettered(outputs: Path) -> None:
    published = [
        json.loads(line) for line in (outputs / "published.jsonl").read_text().splitlines()
    ]
    windows = lines(outputs / "review_metrics")
    assert sorted(row[1] for row in published) == sorted(row["product_category"] for row in windows)
    assert len({(row[0], row[1]) for row in published}) == len(published)
    letters = [row for row in lines(outputs / "dead_letters") if row["stage"] == "publish"]
    toys = {
        f"{row['window_start']}/{row['window_end']}": row
        for row in windows
        if row["product_category"] == "Toys"
    }
    assert {row["source_sequence_number"] for row in letters} == toys.keys()
    for row in letters:
        assert (row["source_stream"], row["source_shard"]) == ("review-metrics", "Toys")
        assert (row["reason"], row["message"], row["attempts"]) == ("denied", "no", 3)
        window = json.loads(base64.b64decode(row["payload"]))
        assert window == toys[row["source_sequence_number"]]


def test_every_operator_stands_once_in_the_plan(tmp_path: Path) -> None:
    plan = optimised_plan("review_metrics", tmp_path)
    for name, count in (
        ("TableSourceScan", 1),
        ("read_scored(", 1),
        ("Deduplicate(", 1),
        ("OverAggregate(", 2),
        ("CURRENT_WATERMARK(", 1),
        ("PythonGroupWindowAggregate(", 1),
        ("publish_metrics(", 1),
        ("Sink(", 2),
    ):
        assert plan.count(name) == count, name
    # Lateness is judged behind the exchange, where all subtasks' watermarks have met; a plan is
    # written from the sinks up.
    judged = plan.index("CURRENT_WATERMARK(")
    assert judged < plan.index("OverAggregate(orderBy=") < plan.index("distribution=[single]")
