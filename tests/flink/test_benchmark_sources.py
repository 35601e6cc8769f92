"""A benchmark measures the jobs' work only if its records are what the jobs take them for."""

from datetime import UTC, datetime
from typing import Any

import pytest

from flink_jobs import review_metrics
from flink_jobs.config import WindowsConfig
from tests.benchmarks import metrics, sources
from tests.benchmarks.bench import Parameters
from tests.benchmarks.environment import create_environment
from udfs.core.parsing import ParsingOptions, Review, parse
from udfs.core.scored_records import ScoredReview, read
from udfs.core.watermarks import WatermarkOptions
from udfs.scored_records import read_scored

COUNT = 300


@pytest.fixture
def bench_env(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sources, "RECORDS", COUNT)
    parameters = Parameters("baseline", "test", "deploy/runtime_properties.json", "")
    t_env, _ = create_environment(parameters, "review_metrics")
    # Or every subtask would have a sequence of its own.
    t_env.stream_env.set_parallelism(1)
    return t_env


def rows(t_env: Any, query: str) -> list[Any]:
    with t_env.sql_query(query).execute().collect() as found:
        return list(found)


def milliseconds(time: datetime) -> int:
    return round(time.replace(tzinfo=UTC).timestamp() * 1000)


def test_records_of_reviews_are_reviews(bench_env: Any) -> None:
    sources.create_reviews(bench_env)
    # In UTC, the zone of the jobs' sessions; PyFlink cannot collect instants.
    query = "SELECT payload, CAST(arrival_time AS TIMESTAMP(3)) FROM reviews"
    parsed = [
        parse(payload, milliseconds(arrival_time), ParsingOptions())
        for payload, arrival_time in rows(bench_env, query)
    ]
    assert all(isinstance(review, Review) for review in parsed)
    assert len({review.review_id for review in parsed}) == COUNT
    assert len({review.review_body for review in parsed}) > 50
    times_ms = [review.event_time_ms for review in parsed]
    assert times_ms == sorted(times_ms)
    assert times_ms[-1] - times_ms[0] == (COUNT - 1) * 1000 // sources.REVIEWS_PER_S


def test_scored_records_are_scored_reviews_with_the_watermark_of_the_job(bench_env: Any) -> None:
    options = WatermarkOptions(discovery_s=0)
    bench_env.create_temporary_system_function("read_scored", read_scored("scored", options))
    sources.create_scored_reviews(bench_env)
    schema = bench_env.from_path("scored_reviews").get_schema()
    assert "WATERMARK" in str(schema) or "ROWTIME" in str(schema)
    query = "SELECT payload, review_id, source_sequence_number, reason FROM scored_reviews"
    found = rows(bench_env, query)
    records = [read(payload) for payload, *_ in found]
    assert all(isinstance(record, ScoredReview) for record in records)
    assert [(record.review_id, record.source_sequence_number, None) for record in records] == [
        tuple(row)[1:] for row in found
    ]
    assert len({record.source_sequence_number for record in records}) == COUNT
    assert {record.star_rating for record in records} == {1, 2, 3, 4, 5}


def test_rated_reviews_close_their_windows(bench_env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RECORDS", 15 * sources.REVIEWS_PER_S)
    sources.create_rated_reviews(bench_env)
    windows = rows(
        bench_env,
        """SELECT window_start, COUNT(*), COUNT(DISTINCT product_category)
           FROM TABLE(TUMBLE(TABLE rated_reviews, DESCRIPTOR(event_time), INTERVAL '5' SECOND))
           GROUP BY window_start, window_end""",
    )
    # The first begins at a whole multiple of five seconds.
    assert [row[1] for row in windows] == [5 * sources.REVIEWS_PER_S] * 3
    assert {row[2] for row in windows} == {len(sources.CATEGORIES)}


def test_read_reviews_are_in_windows_each_with_an_id_of_its_own(
    bench_env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_window = 5 * sources.REVIEWS_PER_S
    monkeypatch.setattr(sources, "RECORDS", 2 * in_a_window)
    sources.create_read_reviews(bench_env)
    metrics.create_judged_reviews(bench_env)
    review_metrics.create_window_rows(bench_env, WindowsConfig(top_terms=1))
    windows = rows(
        bench_env,
        "SELECT product_category, reviews, distinct_reviews, top_terms FROM window_rows",
    )
    assert len(windows) == 2 * (len(sources.CATEGORIES) + 1)
    for category, reviews, distinct, terms in windows:
        share = 1 if category == "All" else len(sources.CATEGORIES)
        assert reviews == pytest.approx(in_a_window / share, abs=1)
        assert distinct == pytest.approx(reviews, rel=0.07)
        assert terms


def test_read_reviews_may_be_the_same_ones_again_and_again(bench_env: Any) -> None:
    sources.create_read_reviews(bench_env, ids=100)
    query = "SELECT review_id, source_sequence_number, event_time_ms FROM scored_reviews"
    found = rows(bench_env, query)
    assert len(found) == COUNT
    assert len({row[0] for row in found}) == len({row[1] for row in found}) == 100
    assert len({row[2] // 5_000 for row in found}) == 1
