import json

import pytest

from deploy.local.ledger import Ledger, SourceId

A, B, C = (SourceId("shardId-000000000000", str(number)) for number in range(3))


def whole() -> Ledger:
    """A scored, B not JSON, C oversize: everything where it belongs."""
    ledger = Ledger()
    for source_id, fate in ((A, "scored"), (B, "not_json"), (C, "oversize")):
        ledger.add_acknowledged(source_id)
        ledger.add_sent(source_id)
        ledger.add_fate(source_id, fate)
        if fate != "oversize":
            ledger.add_s3_raw(source_id)
        if fate != "scored":
            ledger.add_dead_letter(source_id, "parse", fate)
    ledger.add_scored(A)
    ledger.add_s3_scored(A)
    return ledger


def test_a_whole_run_reconciles() -> None:
    summary = whole().summary(1.25)
    assert summary.reconciled, summary.problems
    assert json.loads(json.dumps(summary.as_json())) == {
        "sent": 3,
        "scored": 1,
        "dead_letters": {"parse": {"not_json": 1, "oversize": 1}},
        "unaccounted": 0,
        "s3_raw": 2,
        "s3_scored": 1,
        "repeats": 0,
        "seconds": 1.2,
        "reconciled": True,
        "truth_matches": True,
    }


def test_repeats_are_counted_and_dropped() -> None:
    ledger = whole()
    ledger.add_scored(A)
    ledger.add_dead_letter(B, "parse", "not_json")
    ledger.add_s3_raw(A)
    summary = ledger.summary(1.0)
    assert summary.repeats == 3
    assert summary.reconciled


def test_each_way_of_not_adding_up_is_named() -> None:
    unknown = SourceId("shardId-000000000000", "9")
    for break_it, expected in (
        (lambda ledger: ledger.scored.remove(A), "neither scored nor dead-lettered"),
        (lambda ledger: ledger.add_scored(B), "both scored and dead-lettered"),
        (lambda ledger: ledger.add_dead_letter(unknown, "parse", "not_json"), "never sent"),
        (lambda ledger: ledger.s3_raw.remove(B), "missing in the raw archive"),
        (lambda ledger: ledger.add_s3_raw(C), "oversize, yet in the raw archive"),
        (lambda ledger: ledger.s3_scored.remove(A), "missing in the scored archive"),
        (lambda ledger: ledger.add_s3_scored(B), "in the scored archive, yet not scored"),
        (lambda ledger: ledger.add_acknowledged(unknown), "acknowledged, yet not in the stream"),
        (lambda ledger: ledger.add_sent(unknown), "in the stream, yet not acknowledged"),
    ):
        ledger = whole()
        break_it(ledger)
        summary = ledger.summary(1.0)
        assert not summary.reconciled
        assert any(expected in problem for problem in summary.problems)


def test_a_broken_record_must_meet_its_own_fate() -> None:
    ledger = whole()
    ledger.dead[B] = ("parse", "not_object")
    summary = ledger.summary(1.0)
    assert summary.truth_matches is False
    assert not summary.reconciled
    ledger.dead[B] = ("score", "not_json")
    assert ledger.summary(1.0).truth_matches is False


@pytest.mark.parametrize("stage", ["parse", "score"])
def test_a_dead_letter_that_the_truth_does_not_know_contradicts_it(stage: str) -> None:
    ledger = whole()
    unknown = SourceId("shardId-000000000000", "9")
    ledger.add_dead_letter(unknown, stage, "model_error")
    summary = ledger.summary(1.0)
    assert summary.truth_matches is False
    assert any("1 met another fate" in problem for problem in summary.problems)


def test_the_truth_says_nothing_of_later_stages() -> None:
    ledger = whole()
    ledger.add_dead_letter(SourceId("shardId-000000000000", "9"), "publish", "throttled")
    assert ledger.summary(1.0).truth_matches is True


def test_a_problem_from_outside_keeps_it_from_reconciling() -> None:
    summary = whole().summary(1.0, other_problems=["review_scoring could not be drained"])
    assert not summary.reconciled
    assert summary.problems == ("review_scoring could not be drained",)
    assert summary.truth_matches is True


def test_what_kinesis_cannot_take_is_counted_where_there_is_any() -> None:
    summary = whole().summary(1.0, refused=2)
    assert summary.reconciled
    assert summary.as_json()["refused"] == 2
    assert "refused" not in whole().summary(1.0).as_json()


def test_without_a_truth_nothing_is_claimed_of_it() -> None:
    ledger = Ledger()
    assert ledger.summary(1.0).truth_matches is None
    assert "truth_matches" not in ledger.summary(1.0).as_json()
