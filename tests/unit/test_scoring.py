import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.simulated_endpoint import Overload, SimulatedEndpoint, SimulatedVariant
from tests.unit.virtual_time import run
from udfs.core.codec import CODECS, ContentType
from udfs.core.failures import EndpointError, EndpointUnavailableError, FailureKind
from udfs.core.invocations import CONTROL_TEXT, Answer, ScoringOptions
from udfs.core.packing import RequestSize, first_request
from udfs.core.predictions import Failed, Predictions, Scored, ScoreReason
from udfs.core.scoring import Scorer, isolation_s


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

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Answer:
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
            raise model_error(self.poison_status)
        return Answer([rating_of(text) for text in texts], "A")


def score(
    endpoint: Endpoint, texts: Sequence[str], **options: float
) -> tuple[Predictions, list[float]]:
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
    return EndpointError("ThrottlingException", FailureKind.LOAD)


def model_error(status: int) -> EndpointError:
    kind = FailureKind.ROWS if status < 500 else FailureKind.MODEL
    kind = FailureKind.LOAD if status == 503 else kind
    return EndpointError(f"ModelError {status}", kind, reason=ScoreReason.MODEL_ERROR)


def pack(texts: Sequence[str], max_rows: int, max_bytes: int) -> list[slice]:
    """Cut a whole batch into requests."""
    parts: list[slice] = []
    while (start := parts[-1].stop if parts else 0) < len(texts):
        parts.append(first_request(texts, start, max_rows, max_bytes))
    return parts


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


@pytest.mark.parametrize("content_type", CODECS)
@given(texts=st.lists(st.text()), max_bytes=st.integers(1, 2_000))
def test_requests_stay_within_rows_and_bytes(
    content_type: ContentType, texts: list[str], max_bytes: int
) -> None:
    requests = [texts[part] for part in pack(texts, 3, max_bytes)]
    assert [text for request in requests for text in request] == texts
    for request in requests:
        assert 1 <= len(request) <= 3
        assert len(request) == 1 or len(CODECS[content_type].encode(request)) <= max_bytes


def test_a_batch_is_cut_into_requests_of_about_one_size() -> None:
    assert [part.stop - part.start for part in pack(["a"] * 100, 64, 10**6)] == [50, 50]
    wide = ["a" * 1_000 if row % 2 else "a" for row in range(6)]
    assert [part.stop - part.start for part in pack(wide, 6, 7_000)] == [3, 2, 1]


@given(st.lists(st.tuples(st.text(), st.sampled_from([None, "A", "B"]))), st.integers(1, 4))
def test_each_row_is_asked_of_its_own_variant(
    rows: list[tuple[str, str | None]], max_request_rows: int
) -> None:
    class Variants(Endpoint):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            answer = await super().__call__(texts, inference_id, variant)
            return Answer(answer.labels, variant or "default")

    endpoint = Variants()
    scorer = Scorer(endpoint, ScoringOptions(max_request_rows=max_request_rows))
    results = asyncio.run(
        scorer.score([text for text, _ in rows], [variant for _, variant in rows])
    )
    for (text, variant), result in zip(rows, results, strict=True):
        assert isinstance(result, Scored)
        assert (result.star_rating, result.model_variant) == (rating_of(text), variant or "default")
        request = endpoint.requests[endpoint.ids.index(result.inference_id)]
        assert request[result.inference_row] == text
    asked = {variant: [text for text, its in rows if its == variant] for _, variant in rows}
    assert len(endpoint.requests) == sum(
        -(-len(texts) // max_request_rows) for texts in asked.values()
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "poison", "c", "d", "e"]), st.sampled_from([None, "A", "B"])
        ),
        max_size=40,
    ),
    st.integers(1, 20),
    st.sampled_from([400, 500]),
)
def test_whatever_is_asked_together_only_the_poison_fails(
    rows: list[tuple[str, str | None]], max_request_rows: int, status: int
) -> None:
    async def no_pause(seconds: float) -> None:
        await asyncio.sleep(0)

    options = ScoringOptions(max_request_rows=max_request_rows)
    scorer = Scorer(Endpoint(poison="poison", poison_status=status), options, sleep=no_pause)
    results = asyncio.run(
        scorer.score([text for text, _ in rows], [variant for _, variant in rows])
    )
    assert [
        "poison" if isinstance(result, Failed) else result.star_rating for result in results
    ] == ["poison" if text == "poison" else rating_of(text) for text, _ in rows]


def test_a_poison_row_of_a_variant_costs_one_row() -> None:
    texts = [f"text {row}" for row in range(32)]
    scorer = Scorer(Endpoint(poison="text 21"), ScoringOptions())
    results = asyncio.run(scorer.score(texts, ["A", None] * 16))
    assert [row for row, result in enumerate(results) if isinstance(result, Failed)] == [21]
    assert [row.star_rating for row in results if isinstance(row, Scored)] == [
        rating_of(text) for text in texts if text != "text 21"
    ]


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

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Answer:
        answer = await super().__call__(texts, inference_id, variant)
        return Answer(self.labels, "A") if self.bad in texts else answer


@pytest.mark.parametrize("labels", [[], [1, 2, 3], [0], [6], ["2"], [True], [2.0], [None]])
def test_a_row_without_a_sound_answer_fails(labels: list[object]) -> None:
    results, _ = score(BadAnswers("b", labels), ["a", "b"], max_attempts=2)
    assert isinstance(results[0], Scored)
    assert isinstance(results[1], Failed)
    # Twice with the other row, twice by itself, twice more with nothing else in flight.
    assert (results[1].reason, results[1].attempts) == ("bad_answer", 6)


class Hanging(Endpoint):
    """Never answers a request with a certain text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.cancelled = 0

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Answer:
        if self.text in texts:
            self.requests.append(list(texts))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return await super().__call__(texts, inference_id, variant)


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
    # The request, a part of it, the row; then twice with nothing else in flight.
    assert hung == endpoint.cancelled == 1 + 1 + 1 + 2


@pytest.mark.parametrize("rows", [1, 64])
def test_when_the_model_fails_every_row_the_endpoint_is_out_of_order(rows: int) -> None:
    class OutOfOrder(Endpoint):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            raise model_error(503)

    with pytest.raises(EndpointUnavailableError, match="last failure: ModelError 503"):
        score(OutOfOrder(), ["a"] * rows, deadline_s=0.2, max_attempts=1)


@pytest.mark.parametrize("max_in_flight", [1, 16])
@pytest.mark.parametrize("last_failure", range(391, 403))
def test_an_outage_in_the_middle_of_a_batch_costs_no_row(
    max_in_flight: int, last_failure: int
) -> None:
    class OutOfOrderForAWhile(Endpoint):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            if 2 <= len(self.requests) < last_failure:
                self.requests.append(list(texts))
                raise model_error(503)
            return await super().__call__(texts, inference_id, variant)

    texts = [f"text {row}" for row in range(256)]
    results, _ = score(OutOfOrderForAWhile(), texts, max_in_flight=max_in_flight)
    assert [row.star_rating for row in results if isinstance(row, Scored)] == [
        rating_of(text) for text in texts
    ]


@pytest.mark.parametrize("outage_s", [0.25, 0.5, 0.62])
def test_a_model_that_hangs_for_a_while_costs_no_row(outage_s: float) -> None:
    class HangingForAWhile(Endpoint):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            loop = asyncio.get_running_loop()
            if not self.requests:
                self.until_s = loop.time() + outage_s
            elif loop.time() < self.until_s:
                await asyncio.Event().wait()
            return await super().__call__(texts, inference_id, variant)

    texts = [f"text {row}" for row in range(128)]
    results, _ = score(HangingForAWhile(), texts, attempt_timeout_s=0.05, max_attempts=2)
    assert [type(row) for row in results] == [Scored] * 128


def test_a_control_from_before_an_outage_proves_nothing_after_it() -> None:
    control = Answer([3], "A")
    endpoint = Endpoint([model_error(503), control, throttled(), model_error(503), control])
    results, _ = score(endpoint, ["a"], max_attempts=1)
    assert isinstance(results[0], Scored)


@pytest.mark.parametrize("max_in_flight", [1, 16])
@pytest.mark.parametrize("rows", [1, 2, 9, 64])
def test_a_poison_row_is_found_whatever_surrounds_it(rows: int, max_in_flight: int) -> None:
    texts = [f"text {row}" for row in range(rows)]
    endpoint = Endpoint(poison=texts[-1], poison_status=500)
    results, _ = score(endpoint, texts, max_in_flight=max_in_flight, deadline_s=20)
    assert [row for row, result in enumerate(results) if isinstance(result, Failed)] == [rows - 1]
    # Twice as a part of a request, thrice where it is one, and thrice with nothing else in flight.
    assert endpoint.requests.count([texts[-1]]) == (6 if rows == 1 else 5)


class Rejecting(Endpoint):
    """Rejects all but the control text and a few known ones."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        super().__init__()
        self.known = {CONTROL_TEXT, *known}

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Answer:
        answer = await super().__call__(texts, inference_id, variant)
        if not self.known.issuperset(texts):
            raise model_error(400)
        return answer


def test_a_few_rows_that_are_all_rejected_all_fail() -> None:
    endpoint = Rejecting()
    results, _ = score(endpoint, ["a", "b"])
    assert [type(row) for row in results] == [Failed] * 2
    # Together, then each twice, with a control after each.
    assert len([request for request in endpoint.requests if request != [CONTROL_TEXT]]) == 1 + 4


def test_an_endpoint_that_rejects_every_row_is_out_of_order_not_the_rows() -> None:
    with pytest.raises(EndpointUnavailableError, match="not one of 64 rows is answered"):
        score(Rejecting(), ["a"] * 64)


def test_rows_that_are_all_rejected_fail_while_an_earlier_review_is_answered_again() -> None:
    endpoint = Rejecting(["good"])
    scorer = Scorer(endpoint, ScoringOptions())
    assert isinstance(asyncio.run(scorer.score(["good"]))[0], Scored)
    results = asyncio.run(scorer.score(["a"] * 64))
    assert [type(row) for row in results] == [Failed] * 64
    assert [CONTROL_TEXT, "good"] in endpoint.requests


def test_a_model_that_rejects_whatever_it_is_asked_is_out_of_order() -> None:
    class RejectingAll(Endpoint):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            raise EndpointError(
                "wrong content type", FailureKind.ROWS, reason=ScoreReason.MODEL_ERROR
            )

    with pytest.raises(EndpointUnavailableError, match="wrong content type"):
        score(RejectingAll(), ["a"] * 64, deadline_s=0.2)


def test_nothing_of_a_failed_batch_outlives_the_call() -> None:
    class NoSuchEndpoint(Hanging):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            if "wrong" in texts:
                raise EndpointError("no such endpoint", FailureKind.CALL)
            return await super().__call__(texts, inference_id, variant)

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
            model_error(500),
        ]
    )
    results, _ = score(endpoint, ["a"], max_attempts=2)
    assert isinstance(results[0], Scored)


def test_a_call_that_no_row_can_mend_is_raised() -> None:
    endpoint = Endpoint([EndpointError("ValidationError: no such endpoint", FailureKind.CALL)])
    with pytest.raises(EndpointUnavailableError, match="no such endpoint"):
        score(endpoint, ["a", "b"])
    assert len(endpoint.requests) == 1


def test_an_outage_is_raised_at_the_deadline_and_names_the_last_failure() -> None:
    class Throttling(Endpoint):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            raise throttled()

    with pytest.raises(EndpointUnavailableError, match=r"0\.05 s.*ThrottlingException"):
        score(Throttling(), ["a", "b"], max_request_rows=1, deadline_s=0.05)


def test_a_hanging_attempt_is_given_up_and_tried_again() -> None:
    class HangingOnce(Endpoint):
        async def __call__(
            self, texts: Sequence[str], inference_id: str, variant: str | None
        ) -> Answer:
            if not self.requests:
                self.requests.append(list(texts))
                await asyncio.Event().wait()
            return await super().__call__(texts, inference_id, variant)

    results, _ = score(HangingOnce(), ["a"], attempt_timeout_s=0.05)
    assert isinstance(results[0], Scored)
    assert results[0].attempts == 2


def test_requests_grow_for_a_quick_endpoint_and_shrink_for_a_slow_one() -> None:
    size = RequestSize(512, 0.1, 2.5)
    assert size.rows == 64
    for _ in range(50):
        size.took(size.rows, 0.02 + 0.000_1 * size.rows)
    # 20 ms and 0.1 ms a row: 512 take 71 ms.
    assert size.rows == 512
    for _ in range(300):
        size.took(size.rows, 0.02 + 0.000_5 * size.rows)
    assert 150 <= size.rows <= 170
    for _ in range(300):
        size.took(size.rows, 0.2 * size.rows)
    # 64 would take 12.8 s: no more than 2.5 s.
    assert size.rows == size.longest == 12
    assert RequestSize(10, 0.1, 2.5).rows == 10


def test_waiting_for_others_does_not_make_requests_small() -> None:
    size = RequestSize(512, 0.1, 2.5)
    for _ in range(90):
        size.took(50, 2.4)
        size.took(50, 7.2)
    assert size.rows == 52


def test_the_stats_count_what_was_done() -> None:
    failing = EndpointError("InternalFailure", FailureKind.SERVICE)
    scorer = Scorer(
        Endpoint([failing, throttled()]), ScoringOptions(max_request_rows=2, backoff_base_s=0.0)
    )
    asyncio.run(scorer.score(["a", "b", "c"]))
    stats = scorer.stats
    assert (stats.requests, stats.retries, stats.throttles) == (4, 2, 1)
    assert stats.rows == 3
    assert len(stats.latencies_ms) == 2
    assert scorer.take_peak() == 1
    assert scorer.slots >= 1


class TestVariants:
    """Of two variants, A answers."""

    def score(
        self, variants: dict[str, SimulatedVariant], preferences: list[str | None]
    ) -> tuple[Predictions, SimulatedEndpoint]:
        endpoint = SimulatedEndpoint(variants)
        scorer = Scorer(endpoint, ScoringOptions(), rng=random.Random(7))
        texts = [f"text {row}" for row in range(len(preferences))]
        return run(scorer.score(texts, preferences)), endpoint

    def test_a_variant_that_does_not_exist_costs_its_rows_their_preference(self) -> None:
        results, endpoint = self.score({"A": SimulatedVariant()}, ["gone", None] * 1_000)
        assert set(results.model_variant) == {"A"}
        assert results.requested_variant == ["gone", None] * 1_000
        assert endpoint.requests < 60

    @pytest.mark.parametrize("weight", [1.0, 9.0])
    @pytest.mark.parametrize("status", [400, 404, 415])
    def test_a_variant_that_rejects_everything_costs_no_row(
        self, status: int, weight: float
    ) -> None:
        broken = SimulatedVariant(broken_status=status, weight=weight)
        results, endpoint = self.score({"A": SimulatedVariant(), "B": broken}, [None, "B"] * 1_000)
        assert set(results.model_variant) == {"A"}
        assert results.requested_variant == [None, "B"] * 1_000
        assert endpoint.requests - endpoint.misrouted < 100

    def test_a_slow_variant_does_not_hold_up_the_others(self) -> None:
        slow = SimulatedVariant(capacity=1, row_s=0.02)
        endpoint = SimulatedEndpoint({"A": SimulatedVariant(), "B": slow})
        scorer = Scorer(endpoint, ScoringOptions(), rng=random.Random(7))

        async def answered_by_a() -> int:
            texts = [f"text {row}" for row in range(2_000)]
            scoring = asyncio.ensure_future(scorer.score(texts, ["A", "B"] * 1_000))
            await asyncio.sleep(2.0)
            served = endpoint.variants["A"].rows
            await scoring
            return served

        assert run(answered_by_a()) == 1_000


@pytest.mark.parametrize("overload", [0, 429, 502, 503, 504, "throttle"])
@pytest.mark.parametrize("capacity", [1, 4, 8, 16])
def test_a_container_that_sheds_load_costs_no_row_and_few_requests(
    capacity: int, overload: Overload
) -> None:
    variant = SimulatedVariant(capacity=capacity, overload=overload, latency_s=0.3, row_s=0.0)
    endpoint = SimulatedEndpoint({"A": variant})
    scorer = Scorer(endpoint, ScoringOptions(), rng=random.Random(7))

    async def batches() -> None:
        for _ in range(3):
            results = await scorer.score([f"text {row}" for row in range(2_000)])
            assert results.answered == 2_000

    run(batches())
    assert endpoint.requests <= 4 * 96


@pytest.mark.parametrize("notices_departures", [True, False])
def test_a_queue_that_grows_slows_the_client_before_requests_time_out(
    notices_departures: bool,
) -> None:
    variant = SimulatedVariant(
        capacity=2, latency_s=0.0, row_s=0.05, notices_departures=notices_departures
    )
    endpoint = SimulatedEndpoint({"A": variant})
    scorer = Scorer(endpoint, ScoringOptions(), rng=random.Random(7))

    async def seconds() -> list[float]:
        found = []
        for _ in range(3):
            begin_s = asyncio.get_running_loop().time()
            results = await scorer.score([f"text {row}" for row in range(2_000)])
            assert results.answered == 2_000
            found.append(asyncio.get_running_loop().time() - begin_s)
        return found

    # 2,000 rows of 50 ms in two workers are 50 s of work.
    _, *learnt_s = run(seconds())
    assert max(learnt_s) < 55
    assert endpoint.requests <= 4 * 3 * 40


class TestLater:
    """What a worker has learned must not harm it later."""

    def batch(self, scorer: Scorer, rows: int, *bad: str) -> Predictions:
        return run(scorer.score([*bad, *(f"text {row}" for row in range(rows - len(bad)))]))

    def test_a_poison_row_costs_a_long_lived_worker_no_more_than_a_new_one(self) -> None:
        endpoint = SimulatedEndpoint({"A": SimulatedVariant()}, {"bad": "fail"})
        scorer = Scorer(endpoint, ScoringOptions(), rng=random.Random(7))
        for _ in range(1_100):
            self.batch(scorer, 1)
        before = endpoint.requests
        results = self.batch(scorer, 2, "bad")
        assert [type(row) for row in results] == [Failed, Scored]
        assert endpoint.requests - before <= 4 + 40

    def test_a_dead_variant_does_not_hold_up_what_another_one_answers(self) -> None:
        variants = {"A": SimulatedVariant(failure_rate=1.0), "B": SimulatedVariant()}
        scorer = Scorer(SimulatedEndpoint(variants), ScoringOptions(), rng=random.Random(7))
        for _ in range(3):
            assert self.batch(scorer, 2_000).answered == 2_000

    def test_rows_that_prefer_a_dead_variant_are_answered_by_the_default(self) -> None:
        variants = {"A": SimulatedVariant(), "B": SimulatedVariant(failure_rate=1.0, weight=0.0)}
        scorer = Scorer(SimulatedEndpoint(variants), ScoringOptions(), rng=random.Random(7))
        results = run(scorer.score(["text"] * 100, ["B"] * 100))
        assert set(results.model_variant) == {"A"}
        assert set(results.requested_variant) == {"B"}

    def test_a_slower_model_is_taken_as_it_is(self) -> None:
        variant = SimulatedVariant(row_s=0.000_1)
        scorer = Scorer(SimulatedEndpoint({"A": variant}), ScoringOptions(), rng=random.Random(7))
        self.batch(scorer, 2_000)
        variant.row_s = 0.02
        for _ in range(12):
            self.batch(scorer, 2_000)
        assert scorer.slots >= 8

    def test_controls_keep_to_the_bounds_of_a_request(self) -> None:
        endpoint = SimulatedEndpoint({"A": SimulatedVariant(most_rows=1)}, {"bad": "fail"})
        options = ScoringOptions(max_request_rows=1)
        scorer = Scorer(endpoint, options, rng=random.Random(7))
        results = self.batch(scorer, 3, "bad")
        assert [type(row) for row in results] == [Failed, Scored, Scored]

    def test_a_name_that_does_not_exist_leaves_the_weights_to_the_endpoint(self) -> None:
        variants = {"A": SimulatedVariant(weight=19.0), "B": SimulatedVariant()}
        endpoint = SimulatedEndpoint(variants)
        scorer = Scorer(endpoint, ScoringOptions(max_request_rows=4), rng=random.Random(7))
        for _ in range(3):
            run(scorer.score(["text"] * 2_000, ["gone", *[None] * 1_999]))
        assert variants["B"].rows < 0.15 * variants["A"].rows

    def test_names_that_are_not_asked_for_any_more_are_forgotten(self) -> None:
        endpoint = SimulatedEndpoint({"A": SimulatedVariant()})
        scorer = Scorer(endpoint, ScoringOptions(), rng=random.Random(7))
        for number in range(20):
            run(scorer.score(["text"], [f"gone-{number}"]))
        self.batch(scorer, 1)
        assert scorer.slots <= 2 * 32
        assert scorer.known_variants == {None, "A"}

    @pytest.mark.parametrize("failure_rate", [0.1, 0.3])
    def test_an_endpoint_that_fails_at_random_costs_no_row(self, failure_rate: float) -> None:
        for seed in range(20):
            variant = SimulatedVariant(failure_rate=failure_rate)
            endpoint = SimulatedEndpoint({"A": variant}, seed=seed)
            scorer = Scorer(endpoint, ScoringOptions(), rng=random.Random(seed))
            assert self.batch(scorer, 500).answered == 500
