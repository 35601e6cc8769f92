"""The job's transform on an embedded Flink, its own statements, with files instead of streams."""

import base64
import json
import random
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyflink.table.udf import ScalarFunction, udf

from deploy.local.windows import edges
from flink_jobs import review_metrics, scored_reviews, streams
from flink_jobs.config import AwsConfig, ScoredReviewsConfig, WindowsConfig
from tests.conftest import embedded_environment
from tests.flink.tables import file_options, file_table, lines, optimised_plan
from udfs.core.sketches import DistinctSketch, LengthSketch, TermSketch
from udfs.core.summaries import Reviews, Summary
from udfs.core.watermarks import WatermarkOptions
from udfs.core.windows import WindowKind, WindowSpec
from udfs.dead_letters import digest_payload
from udfs.publishing import PUBLISH_RESULT
from udfs.scored_records import read_scored

BASE_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
COUNT = 6_000
BATCH = 500
WINDOWS = WindowsConfig.model_validate(
    {"sizes": "5 s, 20 s, 15 s every 5 s, 20 s by 10 s", "top_terms": 2}
)
KINDS = {
    "5 s": ("tumbling", 5, 5),
    "20 s": ("tumbling", 20, 20),
    "15 s every 5 s": ("hopping", 15, 5),
    "20 s by 10 s": ("cumulative", 20, 10),
}


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
    def body(self) -> str:
        return f"Text {'with blue on it ' * (self.number % 4)}"

    def windows(self) -> set[tuple[str, str, int, int]]:
        """Name, kind, start and end (ms) of each window that it is in."""
        return {
            (name, kind, *start_and_end_ms)
            for name, (kind, size_s, slide_s) in KINDS.items()
            for start_and_end_ms in edges(
                WindowSpec(WindowKind(kind), size_s, slide_s), self.event_time_ms
            )
        }

    def payload(self) -> bytes:
        record = {
            "source_stream": "reviews",
            "source_shard": "shardId-000000000000",
            "source_sequence_number": str(self.number),
            "review_id": self.review_id,
            "star_rating": self.star_rating,
            "product_category": self.product_category,
            "review_body": self.body,
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

    def eval(
        self, window: pd.Series, end: pd.Series, category: pd.Series, avg: Any, distinct: Any
    ) -> Any:
        with (self._directory / "published.jsonl").open("a", encoding="utf-8") as file:
            for row in zip(window, end.astype(str), category, avg, distinct, strict=True):
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
    source = streams.scored_records_source(
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
    line = (("line", "STRING"),)
    t_env.execute_sql(file_table("metrics_archive", line, path / "metrics_archive", "raw"))
    scored_reviews.create_scored_reviews(t_env)
    scored_reviews.create_views(t_env)
    review_metrics.create_views(t_env, WINDOWS, "review-metrics")
    review_metrics.inserts(t_env).execute().wait()
    return path


def generated_late() -> set[int]:
    return {
        review.number for review in reviews() if review.arrival_ms - review.event_time_ms > 60_000
    }


def late_letters(outputs: Path) -> list[dict[str, Any]]:
    return [row for row in lines(outputs / "dead_letters") if row["stage"] == "late"]


def late(outputs: Path) -> set[int]:
    return {int(row["source_sequence_number"]) for row in late_letters(outputs)}


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("window", "window_kind", "window_start", "window_end", "product_category")
    return tuple(row[name] for name in names)


def test_windows_are_those_of_a_recomputation(outputs: Path) -> None:
    expected, left_out = defaultdict(list), late(outputs)
    for review in reviews():
        if review.number not in left_out:
            for name, kind, *edges_ms in review.windows():
                times = [iso(edge_ms).replace(".000Z", "Z") for edge_ms in edges_ms]
                for category in {review.product_category, "All"}:
                    expected[name, kind, *times, category].append(review)
    rows = lines(outputs / "review_metrics")
    found = {key_of(row): row for row in rows}
    assert len(found) == len(rows), "a window published twice"
    assert found.keys() == expected.keys()
    for key, members in expected.items():
        row = found[key]
        assert row["reviews"] == len(members)
        ratings = sorted(member.star_rating for member in members)
        assert row["avg_star_rating"] == sum(ratings) / len(members)
        assert row["median_star_rating"] == ratings[(len(ratings) - 1) // 2]
        assert row["rating_counts"] == [ratings.count(stars) for stars in range(1, 6)]
        distinct = len({member.review_id for member in members})
        assert row["distinct_reviews"] == pytest.approx(distinct, rel=0.07)
        assert row["distinct_lower"] <= row["distinct_reviews"] <= row["distinct_upper"]
        sketch = DistinctSketch.from_bytes(base64.b64decode(row["sketch"]))
        assert sketch.estimate == row["distinct_reviews"]
        lengths = sorted(len(member.body) for member in members)
        sketch = LengthSketch.from_bytes(base64.b64decode(row["body_length_sketch"]))
        assert sketch.count == len(members)
        if len(members) <= 100:
            assert row["body_length"]["p99"] == lengths[-1]
        with_blue = sum(member.number % 4 > 0 for member in members)
        counts = {"text": len(members), "blue": with_blue}
        terms = {
            term["term"]: term["reviews_lower"]
            for term in row["top_terms"]
            if term["reviews_lower"] == term["reviews_upper"]
        }
        assert terms == {term: count for term, count in counts.items() if count}
        sketch = TermSketch.from_bytes(base64.b64decode(row["terms_sketch"]))
        assert sketch.total == sum(counts.values())


def test_the_archive_holds_the_same_windows(outputs: Path) -> None:
    rows, archived = lines(outputs / "review_metrics"), lines(outputs / "metrics_archive")
    assert sorted(archived, key=key_of) == sorted(rows, key=key_of)


def test_javas_datasketches_reads_the_same_from_the_sketches(outputs: Path, tmp_path: Path) -> None:
    """By Maven: see `tests/datasketches`."""
    names = ("sketch", "body_length_sketch", "terms_sketch")
    rows = [[row[name] for name in names] for row in lines(outputs / "review_metrics")]
    # Sketches of windows that are fuller than these, too.
    rows += [base64_sketches(count) for count in (300, 400, 5_000, 100_000)]
    (tmp_path / "sketches").write_text("".join("\t".join(row) + "\n" for row in rows))
    java = ["mvn", "--quiet", "--batch-mode", "--file", "tests/datasketches/pom.xml"]
    arguments = f"-Dexec.args={tmp_path / 'sketches'} {tmp_path / 'read'}"
    result = subprocess.run(
        [*java, "compile", "exec:java", arguments], capture_output=True, text=True, timeout=250
    )
    assert result.returncode == 0, result.stdout + result.stderr
    read = [line.split("\t") for line in (tmp_path / "read").read_text().splitlines()]
    assert len(read) == len(rows) > 10
    for row, (estimate, lower, upper, count, median, total, text) in zip(rows, read, strict=True):
        data = [base64.b64decode(sketch) for sketch in row]
        ids = DistinctSketch.from_bytes(data[0])
        assert float(estimate) == pytest.approx(ids.estimate, rel=1e-12)
        assert (float(lower), float(upper)) == pytest.approx(ids.bounds, rel=1e-12)
        lengths, terms = LengthSketch.from_bytes(data[1]), TermSketch.from_bytes(data[2])
        assert (int(count), float(median)) == (lengths.count, lengths.quantiles([0.5])[0])
        assert int(total) == terms.total
        assert int(text) == {term.text: term.upper for term in terms.top(1_000)}["text"]


def base64_sketches(count: int) -> list[str]:
    ids, payload = [f"R{number}" for number in range(count)], b'{"review_body": "text"}'
    reviews = Reviews(ids, [5] * count, range(count), [payload] * count)
    summary = Summary.of(reviews, lg_k=12)
    sketches = (summary.review_ids, summary.lengths, summary.terms)
    return [base64.b64encode(sketch.to_bytes()).decode() for sketch in sketches if sketch]


def test_what_is_late_and_only_that_is_dead_lettered_with_its_bytes(outputs: Path) -> None:
    letters = late_letters(outputs)
    assert len(late(outputs)) == len(letters), "dead-lettered twice"
    # The first of them are in time where the closing of panes, a task of its own, is slow to start;
    # then they are in their windows, which are recomputed without what was dead-lettered.
    assert late(outputs) <= generated_late()
    assert len(letters) > len(generated_late()) / 2
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
    assert sorted((row[0], row[2]) for row in published) == sorted(
        (row["window"], row["product_category"]) for row in windows
    )
    assert len({tuple(row[:3]) for row in published}) == len(published)
    letters = [row for row in lines(outputs / "dead_letters") if row["stage"] == "publish"]
    toys = {
        f"{row['window_start']}/{row['window_end']}/{row['window']}": row
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
        # Of the records behind their exchange.
        ("TableSourceScan", 1),
        ("read_scored(", 1),
        ("Deduplicate(", 1),
        ("OverAggregate(", 2),
        ("CURRENT_WATERMARK(", 1),
        ("summarise_reviews(", 1),
        # Of each length.
        ("PythonGroupWindowAggregate(", 3),
        ("read_summary(", 3),
        ("publish_metrics(", 1),
        ("Sink(", 3),
    ):
        assert plan.count(name) == count, name
    # Lateness is judged behind the exchange, where all subtasks' watermarks have met; a plan is
    # written from the sinks up.
    judged = plan.index("CURRENT_WATERMARK(")
    assert judged < plan.index("OverAggregate(orderBy=") < plan.index("distribution=[single]")
