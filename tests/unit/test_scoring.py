import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.endpoint import encode
from udfs.core.scoring import (
    CONTROL_TEXT,
    Answer,
    EndpointError,
    EndpointUnavailableError,
    Failed,
    Scored,
    Scorer,
    ScoreReason,
    ScoringOptions,
    isolation_s,
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
        assert len(request) == 1 or len(encode(request)) <= max_bytes


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


class BadAnswers(Endpoint):
    """Answers one text in a form that does not fit, whatever it is asked with."""

    def __init__(self, bad: str, labels: list[object]) -> None:
        super().__init__()
        self.bad = bad
        self.labels = labels

    async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
        answer = await super().__call__(texts, inference_id)
        return Answer(self.labels, "A") if self.bad in texts else answer


@pytest.mark.parametrize("labels", [[], [1, 2, 3], [0], [6], ["2"], [True], [2.0], [None]])
def test_a_row_without_a_sound_answer_fails(labels: list[object]) -> None:
    results, _ = score(BadAnswers("b", labels), ["a", "b"], max_attempts=2)
    assert isinstance(results[0], Scored)
    assert isinstance(results[1], Failed)
    # Twice with the other row, twice alone, once more between two controls.
    assert (results[1].reason, results[1].attempts) == ("bad_answer", 5)


class Hanging(Endpoint):
    """Never answers a request with a certain text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.cancelled = 0

    async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
        if self.text in texts:
            self.requests.append(list(texts))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return await super().__call__(texts, inference_id)


def test_a_row_on_which_the_model_hangs_costs_one_row() -> None:
    texts = [f"text {row}" for row in range(64)]
    endpoint = Hanging("text 41")
    options = ScoringOptions(attempt_timeout_s=0.2, max_attempts=2)
    results, _ = score(
        endpoint, texts, attempt_timeout_s=0.2, max_attempts=2, deadline_s=isolation_s(options)
    )
    failed = [row for row, result in enumerate(results) if isinstance(result, Failed)]
    assert failed == [41]
    assert isinstance(results[41], Failed)
    assert results[41].reason == "timeout"
    hung = sum("text 41" in request for request in endpoint.requests)
    assert hung == endpoint.cancelled == 2 + 1 + 3


@pytest.mark.parametrize("rows", [1, 64])
def test_when_the_model_fails_every_row_the_endpoint_is_out_of_order(rows: int) -> None:
    class OutOfOrder(Endpoint):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            raise EndpointError("ModelError 503", is_retryable=True, reason=ScoreReason.MODEL_ERROR)

    with pytest.raises(EndpointUnavailableError, match="last failure: ModelError 503"):
        score(OutOfOrder(), ["a"] * rows, deadline_s=0.2, max_attempts=1)


@pytest.mark.parametrize("max_in_flight", [1, 16])
@pytest.mark.parametrize("last_failure", range(391, 403))
def test_an_outage_in_the_middle_of_a_batch_costs_no_row(
    max_in_flight: int, last_failure: int
) -> None:
    class OutOfOrderForAWhile(Endpoint):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            if 2 <= len(self.requests) < last_failure:
                self.requests.append(list(texts))
                raise EndpointError(
                    "ModelError 503", is_retryable=True, reason=ScoreReason.MODEL_ERROR
                )
            return await super().__call__(texts, inference_id)

    texts = [f"text {row}" for row in range(256)]
    results, _ = score(OutOfOrderForAWhile(), texts, max_in_flight=max_in_flight)
    assert [row.star_rating for row in results if isinstance(row, Scored)] == [
        rating_of(text) for text in texts
    ]


@pytest.mark.parametrize("outage_s", [0.25, 0.5, 0.62])
def test_a_model_that_hangs_for_a_while_costs_no_row(outage_s: float) -> None:
    class HangingForAWhile(Endpoint):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            loop = asyncio.get_running_loop()
            if not self.requests:
                self.until_s = loop.time() + outage_s
            elif loop.time() < self.until_s:
                await asyncio.Event().wait()
            return await super().__call__(texts, inference_id)

    texts = [f"text {row}" for row in range(128)]
    results, _ = score(HangingForAWhile(), texts, attempt_timeout_s=0.05, max_attempts=2)
    assert [type(row) for row in results] == [Scored] * 128


def test_a_control_from_before_an_outage_proves_nothing_after_it() -> None:
    def failing() -> EndpointError:
        return EndpointError("503", is_retryable=True, reason=ScoreReason.MODEL_ERROR)

    control = Answer([3], "A")
    endpoint = Endpoint([failing(), control, throttled(), failing(), control])
    results, _ = score(endpoint, ["a"], max_attempts=1)
    assert isinstance(results[0], Scored)


@pytest.mark.parametrize("max_in_flight", [1, 16])
@pytest.mark.parametrize("rows", [1, 2, 9, 64])
def test_a_poison_row_is_found_whatever_surrounds_it(rows: int, max_in_flight: int) -> None:
    texts = [f"text {row}" for row in range(rows)]
    endpoint = Endpoint(poison=texts[-1], poison_status=500)
    results, _ = score(endpoint, texts, max_in_flight=max_in_flight, deadline_s=20)
    assert [row for row, result in enumerate(results) if isinstance(result, Failed)] == [rows - 1]
    # Its three chances, and one more between two controls.
    assert endpoint.requests.count([texts[-1]]) == 4


def test_rows_that_are_all_rejected_all_fail() -> None:
    class Rejecting(Endpoint):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            if texts == [CONTROL_TEXT]:
                return Answer([3], "A")
            self.requests.append(list(texts))
            raise EndpointError("no", is_retryable=False, reason=ScoreReason.MODEL_ERROR)

    endpoint = Rejecting()
    results, pauses = score(endpoint, ["a"] * 64)
    assert [type(row) for row in results] == [Failed] * 64
    assert len(endpoint.requests) == 1 + 8 + 64
    assert pauses == []


def test_a_model_that_rejects_whatever_it_is_asked_is_out_of_order() -> None:
    class RejectingAll(Endpoint):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            raise EndpointError(
                "wrong content type", is_retryable=False, reason=ScoreReason.MODEL_ERROR
            )

    with pytest.raises(EndpointUnavailableError, match="wrong content type"):
        score(RejectingAll(), ["a"] * 64, deadline_s=0.2)


def test_nothing_of_a_failed_batch_outlives_the_call() -> None:
    class NoSuchEndpoint(Hanging):
        async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
            if "wrong" in texts:
                raise EndpointError("no such endpoint", is_retryable=False)
            return await super().__call__(texts, inference_id)

    async def score_and_look() -> set[asyncio.Task[object]]:
        scorer = Scorer(endpoint, ScoringOptions(max_request_rows=1))
        with pytest.raises(EndpointUnavailableError):
            await scorer.score(["hang", "hang", "wrong"])
        return asyncio.all_tasks() - {asyncio.current_task()}

    endpoint = NoSuchEndpoint("hang")
    assert asyncio.run(score_and_look()) == set()
    assert endpoint.cancelled == 2


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
