"""The harness at work, in two pipelines: all of `FAULTS` is `make test-faults`."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.faults import broken
from tests.faults.faults import FAULTS
from tests.faults.harness import HarnessOptions, break_once

# Longer than all that the harness waits for by itself: its row says what is wrong.
pytestmark = pytest.mark.timeout(900)


def test_nothing_is_lost_when_a_task_manager_is_killed(tmp_path: Path) -> None:
    row = break_once(FAULTS["kill_task_manager"], tmp_path / "run", Console())
    assert row.problems == ()
    assert row.passed
    assert (row.lost, row.truth_matches) == (0, True)
    assert row.sent > 1_000
    assert "every job failed and was restarted" in row.seen
    # Noticed by a heartbeat that does not come, or by a connection that breaks.
    assert row.recovery_s is not None
    assert row.recovery_s > 0


def test_what_is_broken_in_the_jobs_is_found(tmp_path: Path) -> None:
    options = HarnessOptions(entry=Path(broken.__file__), recovery_timeout_s=45.0)
    row = break_once(FAULTS["kill_python_workers"], tmp_path / "run", Console(), options)
    assert not row.passed
    problems = "\n".join(row.problems)
    # The sink of review_scoring.
    assert row.lost is not None
    assert row.lost > 0, problems
    assert row.truth_matches is False
    assert f"{row.lost} neither scored nor dead-lettered" in problems
    # The dropping of repeats in review_metrics.
    assert row.repeats > 0, problems
    assert "windows hold another number of reviews than recomputed" in problems
    # The source of rating_anomalies.
    assert "rating_anomalies has completed no checkpoint" in problems
    assert "scored reviews have no row of rating-anomalies" in problems
