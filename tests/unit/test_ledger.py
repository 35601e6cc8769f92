from collections.abc import Callable
from dataclasses import asdict

import pytest

from deploy.local.ledger import DeadLetter, Ledger, SourceId

A, B, C = (SourceId("shardId-000000000000", str(number)) for number in range(3))
UNKNOWN = SourceId("shardId-000000000000", "9")


def letter(source_id: SourceId, stage: str = "parse", stream: str = "reviews") -> DeadLetter:
    return DeadLetter(stage, stream, *source_id)


def whole() -> Ledger:
    """A scored, B not JSON, C oversize: everything where it belongs."""
    ledger = Ledger("reviews")
    for source_id, fate in ((A, "scored"), (B, "not_json"), (C, "oversize")):
        ledger.add_acknowledged(source_id)
        ledger.add_sent(source_id)
        ledger.add_fate(source_id, fate)
        if fate != "oversize":
            ledger.add_s3_raw(source_id)
        if fate != "scored":
            ledger.add_dead_letter(letter(source_id), fate)
    ledger.add_scored(A)
    ledger.add_s3_scored(A)
    return ledger


def problems(ledger: Ledger) -> list[str]:
    return [*ledger.sending_problems(), *ledger.scoring_problems(), *ledger.truth_problems()]


def test_what_is_whole_has_no_problem() -> None:
    ledger = whole()
    assert problems(ledger) == []
    assert asdict(ledger.figures()) == {"scored": 1, "unaccounted": 0, "s3_raw": 2, "s3_scored": 1}
    assert ledger.dead_letters() == {"parse": {"not_json": 1, "oversize": 1}}


def test_repeats_are_counted_and_dropped() -> None:
    ledger = whole()
    assert not ledger.add_scored(A)
    assert not ledger.add_dead_letter(letter(B), "not_json")
    assert not ledger.add_s3_raw(A)
    assert ledger.repeats == 3
    assert problems(ledger) == []


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda ledger: ledger.scored.remove(A), "neither scored nor dead-lettered"),
        (lambda ledger: ledger.add_scored(B), "both scored and dead-lettered"),
        (lambda ledger: ledger.add_dead_letter(letter(A, "score"), "timeout"), "both scored and"),
        (lambda ledger: ledger.add_dead_letter(letter(UNKNOWN), "not_json"), "never sent"),
        (lambda ledger: ledger.s3_raw.remove(B), "missing in the raw archive"),
        (lambda ledger: ledger.add_s3_raw(C), "oversize, yet in the raw archive"),
        (lambda ledger: ledger.s3_scored.remove(A), "missing in the scored archive"),
        (lambda ledger: ledger.add_s3_scored(B), "in the scored archive, yet not scored"),
        (lambda ledger: ledger.add_acknowledged(UNKNOWN), "acknowledged, yet not in the stream"),
        (lambda ledger: ledger.add_sent(UNKNOWN), "in the stream, yet not acknowledged"),
        (
            lambda ledger: ledger.add_dead_letter(letter(A, stream="scored-reviews"), "not_json"),
            "of another stream, yet dead-lettered as no review",
        ),
    ],
)
def test_each_way_of_not_adding_up_is_named(
    break_it: Callable[[Ledger], object], expected: str
) -> None:
    ledger = whole()
    break_it(ledger)
    assert any(expected in problem for problem in problems(ledger)), problems(ledger)


def test_a_review_may_be_scored_and_late_or_without_its_alert() -> None:
    ledger = whole()
    assert ledger.add_dead_letter(letter(A, "late"), "late")
    assert ledger.add_dead_letter(letter(A, "publish"), "throttled")
    assert problems(ledger) == []
    assert ledger.unaccounted == 0
    assert ledger.dead_letters() == {
        "late": {"late": 1},
        "parse": {"not_json": 1, "oversize": 1},
        "publish": {"throttled": 1},
    }


def test_a_record_of_another_stream_with_the_same_numbers_is_another_record() -> None:
    ledger = whole()
    assert ledger.add_dead_letter(letter(B, stream="scored-reviews"), "not_json")
    assert ledger.dead.keys() == {B, C}


@pytest.mark.parametrize("fate", [("parse", "not_object"), ("score", "not_json")])
def test_a_broken_record_must_meet_its_own_fate(fate: tuple[str, str]) -> None:
    ledger = whole()
    ledger.dead[B] = fate
    assert len(ledger.truth_problems()) == 1
    assert "instead of not_json" in ledger.truth_problems()[0]


@pytest.mark.parametrize("stage", ["parse", "score"])
def test_a_dead_letter_that_the_truth_does_not_know_contradicts_it(stage: str) -> None:
    ledger = whole()
    ledger.add_dead_letter(letter(UNKNOWN, stage), "model_error")
    assert "1 met another fate" in ledger.truth_problems()[0]
