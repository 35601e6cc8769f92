from collections.abc import Callable
from typing import Any

import pytest

from deploy.local.anomalies import AnomalyFigures, AnomalyLedger
from deploy.local.ledger import SourceId

A, B, C = (SourceId("shardId-000000000000", str(number)) for number in range(3))
UNKNOWN = SourceId("shardId-000000000000", "9")


def row(
    source_id: SourceId, *, is_anomaly: bool = False, event_id: str | None = None
) -> dict[str, Any]:
    return {
        "source_shard": source_id.shard,
        "source_sequence_number": source_id.sequence_number,
        "source_part": source_id.part,
        "is_anomaly": is_anomaly,
        "event_id": event_id,
    }


def whole() -> AnomalyLedger:
    """A is usual, B opens an event to which C belongs too."""
    ledger = AnomalyLedger()
    ledger.add_row(row(A))
    ledger.add_row(row(B, is_anomaly=True, event_id="Toys-1"))
    ledger.add_row(row(C, event_id="Toys-1"))
    ledger.add_alert(row(B, event_id="Toys-1"))
    return ledger


def test_what_is_whole_has_no_problem() -> None:
    assert whole().problems([A, B, C]) == []
    assert whole().figures({B: "burst-1", C: "burst-1"}) == AnomalyFigures(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("bursts", "found", "generated"),
    [
        (None, 0, None),
        ({}, 0, 0),
        ({A: "burst-1"}, 0, 1),  # an alert elsewhere
        ({B: "burst-1", A: "burst-2"}, 1, 2),
    ],
)
def test_a_burst_is_found_by_the_review_of_an_alert(
    bursts: dict[SourceId, str] | None, found: int, generated: int | None
) -> None:
    figures = whole().figures(bursts)
    assert (figures.bursts_found, figures.bursts) == (found, generated)


def test_repeats_are_counted_and_dropped() -> None:
    ledger = whole()
    assert not ledger.add_row(row(B, is_anomaly=True, event_id="Toys-1"))
    assert not ledger.add_alert(row(B, event_id="Toys-1"))
    assert ledger.repeats == 2
    assert ledger.figures({}).anomalies == 1
    assert ledger.problems([A, B, C]) == []


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda ledger: ledger.rows.pop(A), "1 scored reviews have no row"),
        (lambda ledger: ledger.add_row(row(UNKNOWN)), "1 rows of rating-anomalies are of no"),
        (lambda ledger: ledger.alerts.clear(), "1 events have no alert, such as Toys-1"),
        (lambda ledger: ledger.add_alert(row(A, event_id="Toys-2")), "alerts are of no event"),
        (lambda ledger: ledger.alerts.update({"Toys-1": A}), "or of a review outside it"),
    ],
)
def test_each_way_of_not_adding_up_is_named(
    break_it: Callable[[AnomalyLedger], object], expected: str
) -> None:
    ledger = whole()
    break_it(ledger)
    problems = ledger.problems([A, B, C])
    assert any(expected in problem for problem in problems), problems


def test_an_event_whose_alert_has_a_dead_letter_needs_none() -> None:
    ledger = whole()
    ledger.alerts.clear()
    ledger.add_unpublished(B)
    assert ledger.problems([A, B, C]) == []
