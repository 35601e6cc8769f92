import io
import json
from dataclasses import replace

from rich.console import Console

from deploy.local.anomalies import AnomalyFigures
from deploy.local.ledger import ScoringFigures
from deploy.local.summary import Summary
from deploy.local.windows import WindowFigures

WHOLE = Summary(
    sent=3,
    scoring=ScoringFigures(scored=2, unaccounted=0, s3_raw=3, s3_scored=2),
    windows=WindowFigures(
        windows=4,
        windowed_reviews=1,
        late=1,
        distinct_reviews=1.0,
        avg_star_rating=4.0,
        cloudwatch_points=4,
        s3_windows=4,
        distinct_within_3_se=1.0,
    ),
    anomalies=AnomalyFigures(anomalies=1, alerts=1, bursts_found=1, bursts=1),
    dead_letters={"late": {"late": 1}, "parse": {"not_json": 1}},
    repeats=0,
    seconds=1.25,
    truth_matches=True,
    problems=(),
)


def table(summary: Summary) -> str:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(summary.as_table())
    return console.export_text()


def test_every_key_of_a_whole_run() -> None:
    assert json.loads(json.dumps(WHOLE.as_json())) == {
        "sent": 3,
        "scored": 2,
        "unaccounted": 0,
        "s3_raw": 3,
        "s3_scored": 2,
        "dead_letters": {"late": {"late": 1}, "parse": {"not_json": 1}},
        "windows": 4,
        "windowed_reviews": 1,
        "late": 1,
        "distinct_reviews": 1.0,
        "avg_star_rating": 4.0,
        "cloudwatch_points": 4,
        "s3_windows": 4,
        "distinct_within_3_se": 1.0,
        "anomalies": 1,
        "alerts": 1,
        "bursts_found": 1,
        "bursts": 1,
        "repeats": 0,
        "seconds": 1.2,
        "reconciled": True,
        "truth_matches": True,
    }


def test_a_job_that_did_not_run_has_no_keys() -> None:
    none = replace(WHOLE, scoring=None, windows=None, anomalies=None)
    assert none.as_json().keys() == {
        *("sent", "dead_letters", "repeats", "seconds", "reconciled", "truth_matches")
    }
    assert "windows" not in table(none)


def test_without_a_truth_nothing_is_claimed_of_it() -> None:
    unknown = replace(
        WHOLE,
        truth_matches=None,
        anomalies=AnomalyFigures(anomalies=0, alerts=0, bursts_found=0, bursts=None),
    )
    assert WHOLE.as_json().keys() - unknown.as_json().keys() == {"truth_matches", "bursts"}
    assert "truth" not in table(unknown)


def test_what_kinesis_cannot_take_is_counted_where_there_is_any() -> None:
    assert "refused" not in WHOLE.as_json()
    assert replace(WHOLE, refused=2).as_json()["refused"] == 2
    assert "refused" in table(replace(WHOLE, refused=2))


def test_with_a_problem_it_does_not_reconcile() -> None:
    broken = replace(WHOLE, problems=("1 windows have another average than recomputed",))
    assert (WHOLE.reconciled, broken.reconciled) == (True, False)
    assert "NO" in table(broken)


def test_a_run_without_a_window_can_be_summed_up() -> None:
    assert WHOLE.windows is not None
    empty = replace(
        WHOLE, windows=replace(WHOLE.windows, avg_star_rating=None, distinct_within_3_se=None)
    )
    assert empty.as_json()["avg_star_rating"] is None
    assert "average rating" not in table(empty)
