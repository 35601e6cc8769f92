"""From records as they are on the streams to counts, the view and the summary."""

import base64
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.local.jobs import JOBS
from deploy.local.metrics import AVERAGE, DISTINCT, Point
from deploy.local.recorder import Recorder
from deploy.local.summary import Summary
from deploy.local.tails import Arrived
from udfs.core.sketches import DistinctSketch
from udfs.core.source_ids import source_part

MOMENT = datetime(2026, 1, 31, tzinfo=UTC)
SHARD = "shardId-000000000000"
START_MS = 1_769_860_800_000


def arrived(record: dict[str, Any], number: int = 0) -> Arrived:
    return Arrived(SHARD, str(number), json.dumps(record).encode(), MOMENT)


def of(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "source_stream": "reviews",
        "source_shard": SHARD,
        "source_sequence_number": str(number),
        "source_part": source_part(b"{}"),
        **fields,
    }


def scored(number: int, event_time: str = "2026-01-31T12:00:01Z") -> dict[str, Any]:
    return of(
        number,
        review_id=f"R{number}",
        star_rating=4,
        product_category="Toys",
        review_body="Fine.",
        model_variant="tfidf",
        event_time=event_time,
    )


def window(category: str, *review_ids: str) -> dict[str, Any]:
    sketch = DistinctSketch(12)
    sketch.update(review_ids)
    return {
        "window": "5 s",
        "window_start": "2026-01-31T12:00:00Z",
        "window_end": "2026-01-31T12:00:05Z",
        "product_category": category,
        "reviews": len(review_ids),
        "avg_star_rating": 4.0,
        "rating_counts": [0, 0, 0, 2, 0],
        "distinct_reviews": sketch.estimate,
        "distinct_lower": 0.0,
        "distinct_upper": 9.0,
        "sketch": base64.b64encode(sketch.to_bytes()).decode(),
    }


def row(number: int, *, is_anomaly: bool) -> dict[str, Any]:
    return of(
        number,
        product_category="Toys",
        event_time="2026-01-31T12:00:01Z",
        anomaly_score=0.99999,
        is_anomaly=is_anomaly,
        event_id="Toys-1" if is_anomaly else None,
    )


ALERT = row(1, is_anomaly=True) | {"summary": "Ratings of Toys fell."}


def fill(recorder: Recorder) -> None:
    """Review 0 is on time, 1 opens an anomaly event, 2 is late, 3 is not JSON."""
    for number in range(4):
        recorder.sent(arrived({}, number))
        recorder.s3_raw(of(number))
    for number in range(3):
        moment = "2026-01-31T11:00:00Z" if number == 2 else "2026-01-31T12:00:01Z"
        recorder.scored(arrived(scored(number, moment)))
        recorder.s3_scored(of(number))
        recorder.anomaly(arrived(row(number, is_anomaly=number == 1)))
    recorder.dead_letter(arrived(of(2, stage="late", reason="late")))
    recorder.dead_letter(arrived(of(3, stage="parse", reason="not_json")))
    for category in ("All", "Toys"):
        recorder.window(arrived(window(category, "R0", "R1")))
        recorder.s3_window(window(category, "R0", "R1"))
    recorder.alert(ALERT)


def truth(path: Path) -> Path:
    fates = ("scored", "scored", "scored", "not_json")
    lines = [
        of(number, fate=fate, is_late=number == 2, burst="burst-1" if number == 1 else None)
        for number, fate in enumerate(fates)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def points() -> list[Point]:
    distinct = window("All", "R0", "R1")["distinct_reviews"]
    return [
        Point(name, category, START_MS, value, value)
        for category in ("All", "Toys")
        for name, value in ((AVERAGE, 4.0), (DISTINCT, distinct))
    ]


def summary(recorder: Recorder, path: Path, found: list[Point] | None = None) -> Summary:
    return recorder.summary(
        truth(path / "truth.jsonl"), 1.0, 4, 0, [], points() if found is None else found
    )


def test_a_whole_run_reconciles(tmp_path: Path) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    metrics = {AVERAGE: 1, DISTINCT: 1}
    assert recorder.windows_in_cloudwatch() == (metrics, ["All", "Toys"], START_MS, START_MS)
    found = summary(recorder, tmp_path)
    assert found.problems == ()
    document = found.as_json()
    expected = {
        "scored": 3,
        "dead_letters": {"late": {"late": 1}, "parse": {"not_json": 1}},
        "windows": 2,
        "windowed_reviews": 2,
        "late": 1,
        "avg_star_rating": 4.0,
        "anomalies": 1,
        "alerts": 1,
        "bursts": 1,
        "bursts_found": 1,
        "cloudwatch_points": 2,
        "truth_matches": True,
        "reconciled": True,
    }
    assert document | expected == document


def test_what_comes_again_is_dropped_everywhere(tmp_path: Path) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    once = recorder.snapshot("", 0.0, 4, {})
    fill(recorder)
    assert recorder.snapshot("", 0.0, 4, {}) == once
    found = summary(recorder, tmp_path)
    assert found.problems == ()
    # All but what was sent: twice in `reviews` would be two records.
    assert found.repeats == 4 + 3 + 3 + 3 + 2 + 2 + 1


def test_a_review_is_through_when_it_is_scored_and_has_its_row() -> None:
    recorder = Recorder(JOBS, "reviews")
    recorder.scored(arrived(scored(0)))
    assert recorder.snapshot("", 0.0, 2, {}).under_way == 2
    recorder.anomaly(arrived(row(0, is_anomaly=False)))
    assert recorder.snapshot("", 0.0, 2, {}).under_way == 1
    # Late, and still without its row.
    recorder.scored(arrived(scored(1)))
    recorder.dead_letter(arrived(of(1, stage="late", reason="late")))
    assert recorder.snapshot("", 0.0, 2, {}).under_way == 1


@pytest.mark.parametrize(
    ("jobs", "absent"),
    [
        (("review_scoring",), {"windows", "late", "anomalies", "alerts"}),
        (("review_scoring", "review_metrics"), {"anomalies", "alerts", "bursts"}),
        (("review_scoring", "rating_anomalies"), {"windows", "cloudwatch_points"}),
        (("review_metrics", "rating_anomalies"), {"scored", "unaccounted", "s3_raw"}),
    ],
)
def test_what_a_job_that_does_not_run_would_write_is_not_waited_for(
    tmp_path: Path, jobs: tuple[str, ...], absent: set[str]
) -> None:
    recorder = Recorder(jobs, "reviews")
    for number in range(4):
        recorder.sent(arrived({}, number))
        if "review_scoring" in jobs:
            recorder.s3_raw(of(number))
    for number in range(3) if "review_scoring" in jobs else ():
        recorder.scored(arrived(scored(number)))
        recorder.s3_scored(of(number))
        if "rating_anomalies" in jobs:
            recorder.anomaly(arrived(row(number, is_anomaly=False)))
    if "review_scoring" in jobs:
        recorder.dead_letter(arrived(of(3, stage="parse", reason="not_json")))
    snapshot = recorder.snapshot("", 0.0, 4, {})
    assert snapshot.under_way == 0
    assert (snapshot.windows is None) == ("review_metrics" not in jobs)
    assert (snapshot.anomalies is None) == ("rating_anomalies" not in jobs)
    found = summary(recorder, tmp_path, [])
    assert not absent & found.as_json().keys()
    if "review_metrics" not in jobs:
        assert found.problems == ()


@pytest.mark.parametrize(
    ("letter", "expected", "job"),
    [
        (of(9, stage="late", reason="late"), "1 are late, yet not scored", "review_metrics"),
        (
            of(0, stage="late", reason="late"),
            "1 are late, yet were generated on time",
            "review_metrics",
        ),
        (
            of(0, stage="parse", reason="not_json"),
            "both scored and dead-lettered",
            "review_scoring",
        ),
        (
            of(0, stage="parse", reason="not_json") | {"source_stream": "scored-reviews"},
            "of another stream, yet dead-lettered as no review",
            "review_scoring",
        ),
    ],
)
def test_a_dead_letter_that_should_not_be_is_a_problem_of_its_job(
    tmp_path: Path, letter: dict[str, Any], expected: str, job: str
) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    recorder.dead_letter(arrived(letter))
    found = summary(recorder, tmp_path)
    assert any(expected in problem for problem in found.problems), found.problems
    assert job in found.faulty_jobs
    assert "rating_anomalies" not in found.faulty_jobs


def test_an_event_without_its_alert_is_a_problem_of_one_job_alone(tmp_path: Path) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    assert summary(recorder, tmp_path).faulty_jobs == frozenset()
    recorder._anomalies.alerts.clear()
    assert summary(recorder, tmp_path).faulty_jobs == {"rating_anomalies"}


def test_what_could_not_be_published_needs_no_point_and_no_alert(tmp_path: Path) -> None:
    letters = [
        {
            "source_stream": "review-metrics",
            "source_shard": category,
            "source_sequence_number": "2026-01-31T12:00:00Z/2026-01-31T12:00:05Z/5 s",
            "source_part": None,
            "stage": "publish",
            "reason": "throttled",
        }
        for category in ("All", "Toys")
    ]
    letters.append(of(1, stage="publish", reason="denied"))
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    recorder._anomalies.alerts.clear()
    assert len(summary(recorder, tmp_path, []).problems) == 2
    for letter in letters:
        recorder.dead_letter(arrived(letter))
    found = summary(recorder, tmp_path, [])
    assert found.problems == ()
    assert found.dead_letters["publish"] == {"denied": 1, "throttled": 2}


def test_a_review_that_is_late_against_the_truth_contradicts_it(tmp_path: Path) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    recorder.dead_letter(arrived(of(0, stage="late", reason="late")))
    assert summary(recorder, tmp_path).truth_matches is False


def test_the_last_windows_come_first_all_and_the_fullest_ahead() -> None:
    recorder = Recorder(JOBS, "reviews")
    for second in (0, 5):
        for category, ids in (("Toys", ["R0"]), ("Books", ["R1", "R2"]), ("All", ["R0"])):
            record = window(category, *ids) | {
                "window_start": f"2026-01-31T12:00:0{second}Z",
                "window_end": f"2026-01-31T12:00:{second + 5:02}Z",
            }
            recorder.window(arrived(record))
    shown = recorder.snapshot("", 0.0, 0, {}).windows
    assert shown is not None
    assert [(seen.window_end[17:19], seen.product_category) for seen in shown] == [
        (second, category) for second in ("10", "05") for category in ("All", "Books", "Toys")
    ]


def test_alerts_are_shown_above_the_anomalies_that_follow_them() -> None:
    recorder = Recorder(JOBS, "reviews")
    recorder.alert(ALERT)
    for number in range(20):
        recorder.anomaly(arrived(row(number, is_anomaly=True)))
    shown = recorder.snapshot("", 0.0, 0, {}).anomalies
    assert shown is not None
    assert [bool(seen.alert) for seen in shown[:2]] == [True, False]


OTHER_VALUES = [
    None,
    [],
    {},
    "",
    "x",
    -1,
    7,
    10**30,
    True,
    float("nan"),
    "9999-12-31T23:59:59-23:59",
]


def all_takes(recorder: Recorder, record: dict[str, Any]) -> None:
    for take in (
        recorder.sent,
        recorder.scored,
        recorder.dead_letter,
        recorder.window,
        recorder.anomaly,
    ):
        take(arrived(record))
    for take_line in (
        recorder.s3_raw,
        recorder.s3_scored,
        recorder.s3_window,
        recorder.alert,
    ):
        take_line(record)


@pytest.mark.parametrize(
    "record",
    [
        scored(0),
        window("All", "R0"),
        row(0, is_anomaly=True),
        ALERT,
        of(0, stage="late", reason="late"),
        of(0, stage="publish", reason="denied", source_stream="review-metrics"),
    ],
)
def test_no_record_of_any_stream_ends_the_run(tmp_path: Path, record: dict[str, Any]) -> None:
    recorder = Recorder(JOBS, "reviews")
    for name in record:
        for value in OTHER_VALUES:
            all_takes(recorder, record | {name: value})
        all_takes(recorder, {key: value for key, value in record.items() if key != name})
    recorder.snapshot("", 0.0, 4, {})
    found = summary(recorder, tmp_path, [])
    assert any("are unreadable, the first: " in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "source_shard: Field required"),
    ],
)
def test_an_unreadable_record_is_a_problem_of_the_run(
    tmp_path: Path, data: bytes, expected: str
) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    for take in (recorder.scored, recorder.dead_letter, recorder.anomaly):
        take(Arrived(SHARD, "7", data, MOMENT))
    problems = summary(recorder, tmp_path).problems
    assert len(problems) == 3
    for place, problem in zip(
        ("scored-reviews", "dead-letters", "rating-anomalies"), problems, strict=True
    ):
        assert problem.startswith(f"1 records of {place} are unreadable, the first: ")
        assert expected in problem


def test_a_window_of_a_length_that_is_not_configured_is_unreadable(tmp_path: Path) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    recorder.window(arrived(window("All", "R0") | {"window": "1 h"}))
    (problem,) = summary(recorder, tmp_path).problems
    assert "windows of '1 h' are not configured" in problem


def test_a_reason_is_not_markup(tmp_path: Path) -> None:
    recorder = Recorder(JOBS, "reviews")
    fill(recorder)
    recorder.dead_letter(arrived(of(0, stage="parse", reason="[/bold]")))
    console = Console(file=io.StringIO(), width=100)
    console.print(summary(recorder, tmp_path).as_table())
    assert "parse/[/bold]" in console.file.getvalue()  # type: ignore[attr-defined]
