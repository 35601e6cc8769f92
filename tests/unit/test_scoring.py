import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.scoring import (
    Answer,
    EndpointError,
    EndpointUnavailableError,
    Failed,
    Scored,
    Scorer,
    ScoreReason,
    ScoringOptions,
    pack,
)


def rating_of(text: str) -> int:
    return sum(text.encode()) % 5 + 1


class Endpoint:
    """Answers with a label of the text itself, after the faults that it was given."""

    def __init__(
        self,
        faults: Sequence[Exception | Answer] = (),
        poison: str | None = None,
        poison_status: int = 400,
    ) -> None:
        self.faults = list(faults)
        self.poison = poison
        self.poison_status = poison_status
        self.requests: list[list[str]] = []
        self.ids: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
        self.requests.append(list(texts))
        self.ids.append(inference_id)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Answer):
                return fault
            raise fault
        if self.poison in texts:
            raise EndpointError(
                "ModelError",
                is_retryable=self.poison_status >= 500,
                reason=ScoreReason.MODEL_ERROR,
            )
        return Answer([rating_of(text) for text in texts], "A")


def score(
    endpoint: Endpoint, texts: Sequence[str], **options: float
) -> tuple[list[Scored | Failed], list[float]]:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    scorer = Scorer(
        endpoint,
        ScoringOptions(**options),  # type: ignore[arg-type]
        rng=random.Random(7),
        sleep=pause,
    )
    return asyncio.run(scorer.score(texts)), pauses


def throttled() -> EndpointError:
    return EndpointError("ThrottlingException", is_retryable=True)


@given(st.lists(st.text()), st.integers(1, 7), st.integers(1, 5))
def test_each_row_gets_its_own_label_in_order(
    texts: list[str], max_request_rows: int, max_in_flight: int
) -> None:
    endpoint = Endpoint()
    results, _ = score(
        endpoint, texts, max_request_rows=max_request_rows, max_in_flight=max_in_flight
    )
    assert [row.star_rating for row in results if isinstance(row, Scored)] == [
        rating_of(text) for text in texts
    ]
    assert [row for request in endpoint.requests for row in request] == texts
    assert endpoint.most_in_flight <= max_in_flight


@given(st.lists(st.text()), st.integers(1, 2_000))
def test_requests_stay_within_rows_and_bytes(texts: list[str], max_bytes: int) -> None:
    options = ScoringOptions(max_request_rows=3, max_request_bytes=max_bytes)
    requests = list(pack(texts, options))
    assert [text for request in requests for text in request] == texts
    for request in requests:
        assert 1 <= len(request) <= 3
        assert len(request) == 1 or sum(6 * len(text) + 64 for text in request) <= max_bytes


def test_a_row_knows_its_request_and_its_place_there() -> None:
    endpoint = Endpoint()
    results, _ = score(endpoint, ["a", "b", "c"], max_request_rows=2)
    places = [(row.inference_id, row.inference_row) for row in results if isinstance(row, Scored)]
    assert places == [(endpoint.ids[0], 0), (endpoint.ids[0], 1), (endpoint.ids[1], 0)]
    assert len(set(endpoint.ids)) == 2


def test_what_can_heal_is_tried_again_under_a_new_id_and_with_growing_jitter() -> None:
    endpoint = Endpoint([throttled() for _ in range(8)])
    results, pauses = score(endpoint, ["a"], backoff_base_s=1.0, backoff_cap_s=16.0)
    assert isinstance(results[0], Scored)
    assert results[0].attempts == 9
    assert len(set(endpoint.ids)) == 9
    for attempt, pause_s in enumerate(pauses, start=1):
        assert 0 <= pause_s <= min(16.0, 2.0**attempt)
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize("poison_status", [400, 500])
def test_one_poison_row_costs_one_row(poison_status: int) -> None:
    texts = [f"text {row}" for row in range(64)]
    endpoint = Endpoint(poison="text 41", poison_status=poison_status)
    results, _ = score(endpoint, texts)
    failed = [row for row, result in enumerate(results) if isinstance(result, Failed)]
    assert failed == [41]
    assert all(
        result.star_rating == rating_of(text)
        for text, result in zip(texts, results, strict=True)
        if isinstance(result, Scored)
    )
    result = results[41]
    assert isinstance(result, Failed)
    assert result.reason == "model_error"


@pytest.mark.parametrize(
    "labels", [[], [1], [1, 2, 3], [0, 1], [1, 6], [1, "2"], [1, True], [1, 2.0], [1, None]]
)
def test_an_answer_that_does_not_fit_its_rows_never_shifts_labels(labels: list[object]) -> None:
    results, _ = score(Endpoint([Answer(labels, "A")]), ["a", "b"])
    assert [row.star_rating for row in results if isinstance(row, Scored)] == [
        rating_of("a"),
        rating_of("b"),
    ]


@pytest.mark.parametrize("labels", [[], [1, 2], [0], [6], ["2"], [True], [2.0], [None]])
def test_a_row_without_a_sound_answer_fails(labels: list[object]) -> None:
    endpoint = Endpoint([Answer(labels, "A")] * 2)
    results, _ = score(endpoint, ["a"], max_attempts=2)
    assert [(row.reason, row.attempts) for row in results if isinstance(row, Failed)] == [
        ("bad_answer", 2)
    ]


def test_throttling_does_not_count_against_a_row() -> None:
    endpoint = Endpoint(
        [
            throttled(),
            throttled(),
            EndpointError("x", is_retryable=True, reason=ScoreReason.MODEL_ERROR),
        ]
    )
    results, _ = score(endpoint, ["a"], max_attempts=2)
    assert isinstance(results[0], Scored)


def test_a_call_that_no_row_can_mend_is_raised() -> None:
    endpoint = Endpoint([EndpointError("ValidationError: no such endpoint", is_retryable=False)])
    with pytest.raises(EndpointUnavailableError, match="no such endpoint"):
        score(endpoint, ["a", "b"])
    assert len(endpoint.requests) == 1


def test_an_outage_is_raised_at_the_deadline_and_names_the_last_failure() -> None:
    class Throttling(Endpoint):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            raise throttled()

    with pytest.raises(EndpointUnavailableError, match=r"0\.05 s.*ThrottlingException"):
        score(Throttling(), ["a", "b"], max_request_rows=1, deadline_s=0.05)


def test_a_hanging_attempt_is_given_up_and_tried_again() -> None:
    class HangingOnce(Endpoint):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            if not self.requests:
                self.requests.append(list(texts))
                await asyncio.Event().wait()
            return await super().__call__(texts, inference_id)

    results, _ = score(HangingOnce(), ["a"], attempt_timeout_s=0.05)
    assert isinstance(results[0], Scored)
    assert results[0].attempts == 2
