"""Faults at the endpoint, seen as the project's own client sees them."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deploy.local.endpoint_faults import (
    ERROR_STATUSES,
    FaultInjector,
    Faults,
    QueueFullError,
    hashed_rating,
)
from tests.endpoint_server import serving
from tests.waiting import until
from udfs.core.endpoint import EndpointOptions, SageMakerInvoke
from udfs.core.predictions import Scored, ScoreReason
from udfs.core.scoring import Answer, EndpointError, Scorer, ScoringOptions

SHARES = ("reset_rate", "hang_rate", "short_answer_rate", "malformed_answer_rate")


class Five:
    def predict(self, texts: list[str]) -> list[int]:
        return [5] * len(texts)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving({"five": Five()}) as address:
        yield address


@pytest.fixture(autouse=True)
def _no_faults(server: str) -> Iterator[None]:
    yield
    control(server, "DELETE")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def control(server: str, method: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server}/faults", data, method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def stats(server: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server}/stats", timeout=30) as response:
        found: dict[str, Any] = json.load(response)
        return found


def options_of(server: str, timeout_s: float = 20.0) -> EndpointOptions:
    return EndpointOptions(
        "reviews", "us-east-1", endpoint_url=server, max_connections=32, timeout_s=timeout_s
    )


def ask(server: str, texts: list[str], timeout_s: float = 20.0) -> Answer:
    async def asked() -> Answer:
        async with SageMakerInvoke(options_of(server, timeout_s)) as invoke:
            return await invoke(texts, "id")

    return asyncio.run(asked())


def error_of(server: str, **faults: object) -> EndpointError:
    control(server, "PUT", faults)
    with pytest.raises(EndpointError) as caught:
        ask(server, ["a", "b"])
    return caught.value


def test_what_is_not_named_is_off_again(server: str) -> None:
    assert control(server, "PUT", {"latency_ms": 5, "max_served": 3})["max_served"] == 3
    assert control(server, "PUT", {"labels": "hash"}) == Faults(labels="hash").model_dump()
    assert control(server, "GET")["labels"] == "hash"
    assert control(server, "DELETE") == Faults().model_dump() == control(server, "GET")


def test_every_problem_of_a_control_call_is_named_and_nothing_changes(server: str) -> None:
    control(server, "PUT", {"latency_ms": 5})
    wrong = {"latncy_ms": 1, "max_served": 0, "error_rates": {"ModelError": 2}}
    with pytest.raises(urllib.error.HTTPError) as caught:
        control(server, "PUT", wrong)
    assert caught.value.code == 400
    problems = json.load(caught.value)["problems"]
    assert len(problems) == 3
    for name in ("latncy_ms", "max_served", "error_rates: ModelError"):
        assert any(problem.startswith(name) for problem in problems)
    assert control(server, "GET")["latency_ms"] == 5


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"error_rates": {"Teapot": 0.1}}, "Teapot"),
        ({"reset_rate": 0.6, "error_rates": {"ModelError": 0.6}}, "more than 1"),
        ({"max_queued": 1}, "max_queued needs max_served"),
    ],
)
def test_faults_that_do_not_fit_are_refused(faults: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Faults(**faults)


@pytest.mark.parametrize(
    ("code", "is_retryable", "reason"),
    [
        ("ThrottlingException", True, None),
        ("ModelNotReadyException", True, None),
        ("ServiceUnavailable", True, None),
        ("InternalFailure", True, None),
        ("InternalDependencyException", True, None),
        ("ModelError", True, ScoreReason.MODEL_ERROR),
        ("ValidationError", False, None),
    ],
)
def test_an_injected_error_is_taken_for_the_services_own(
    server: str, code: str, is_retryable: bool, reason: ScoreReason | None
) -> None:
    before = stats(server)["faults"].get(code, 0)
    error = error_of(server, error_rates={code: 1})
    assert (error.is_retryable, error.reason) == (is_retryable, reason)
    assert f"{code} ({ERROR_STATUSES[code]})" in str(error)
    assert stats(server)["faults"][code] == before + 1


def test_a_reset_is_a_connection_that_breaks(server: str) -> None:
    error = error_of(server, reset_rate=1)
    assert (error.is_retryable, error.reason) == (True, None)
    assert stats(server)["faults"]["reset"] >= 1


@pytest.mark.parametrize("kind", ["short_answer", "malformed_answer"])
def test_a_wrong_answer_is_found_and_shifts_no_label(server: str, kind: str) -> None:
    control(server, "PUT", {f"{kind}_rate": 0.5, "labels": "hash"})
    texts = [f"text {number}" for number in range(400)]
    options = ScoringOptions(max_request_rows=8, backoff_base_s=0.0, max_attempts=30)
    before = stats(server)["faults"].get(kind, 0)

    async def scored() -> list[Any]:
        async with SageMakerInvoke(options_of(server)) as invoke:
            return await Scorer(invoke, options).score(texts)

    rows = asyncio.run(scored())
    assert [row.star_rating for row in rows if isinstance(row, Scored)] == [
        hashed_rating(text) for text in texts
    ]
    assert stats(server)["faults"][kind] > before
    assert any(row.attempts > 1 for row in rows)


def test_hashed_labels_come_in_row_order(server: str) -> None:
    control(server, "PUT", {"labels": "hash"})
    texts = [f"review {number}" for number in range(1_000)] + [""]

    async def scored() -> list[Any]:
        async with SageMakerInvoke(options_of(server)) as invoke:
            return await Scorer(invoke, ScoringOptions(max_request_rows=7)).score(texts)

    labels = [row.star_rating for row in asyncio.run(scored())]
    assert labels == [hashed_rating(text) for text in texts]
    assert set(labels) == {1, 2, 3, 4, 5}


def test_latency_is_per_request_and_per_record(server: str) -> None:
    control(server, "PUT", {"latency_ms": 50, "latency_ms_per_record": 100})
    begin_s = time.monotonic()
    ask(server, ["a", "b", "c"])
    assert time.monotonic() - begin_s >= 0.35


def test_so_many_are_served_so_many_wait_and_the_others_are_throttled(server: str) -> None:
    control(server, "PUT", {"max_served": 2, "max_queued": 3, "hang_rate": 1})

    async def all_asked() -> list[object]:
        async with SageMakerInvoke(options_of(server)) as invoke:
            asked = [asyncio.ensure_future(invoke(["a"], f"{n}")) for n in range(9)]
            # Four are throttled at once; those that hang are served, the others wait.
            for _, done in zip(range(4), asyncio.as_completed(asked), strict=False):
                with pytest.raises(EndpointError, match="ThrottlingException"):
                    await done
            found = await asyncio.to_thread(stats, server)
            assert (found["served"], found["queued"]) == (2, 3)
            # Those that hang are let go without an answer; those that waited get theirs.
            await asyncio.to_thread(control, server, "DELETE")
            return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(all_asked())
    errors = [str(result) for result in results if isinstance(result, EndpointError)]
    assert sum("ThrottlingException (400)" in error for error in errors) == 4
    assert len(errors) == 6
    assert sum(isinstance(result, Answer) for result in results) == 3
    until(
        lambda: [stats(server)[name] for name in ("served", "queued")],
        lambda found: found == [0, 0],
    )


def test_a_hang_ends_when_its_client_leaves(server: str) -> None:
    control(server, "PUT", {"hang_rate": 1})
    with pytest.raises(EndpointError) as caught:
        ask(server, ["a"], timeout_s=0.3)
    assert caught.value.is_retryable
    until(lambda: stats(server)["served"], lambda served: served == 0)


def test_a_server_ends_while_a_request_hangs() -> None:
    with serving({"five": Five()}, faults=Faults(hang_rate=1)) as address:
        thread = asyncio.new_event_loop()
        try:
            asked = thread.create_task(_hanging(address))
            thread.run_until_complete(asyncio.sleep(0))
            until(lambda: _step(thread) or stats(address)["served"], lambda served: served == 1)
        finally:
            asked.cancel()
            thread.run_until_complete(asyncio.gather(asked, return_exceptions=True))
            thread.close()


async def _hanging(address: str) -> None:
    async with SageMakerInvoke(options_of(address)) as invoke:
        await invoke(["a"], "id")


def _step(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0.01))


@given(
    st.lists(st.floats(0, 0.25), min_size=4, max_size=4),
    st.integers(0, 2**32),
)
def test_fates_come_at_their_rates_and_the_same_for_the_same_seed(
    shares: list[float], seed: int
) -> None:
    faults = Faults(**dict(zip(SHARES, shares, strict=True)))
    drawn = [_fates(faults, seed) for _ in range(2)]
    assert drawn[0] == drawn[1]
    counts = Counter(drawn[0])
    for name, share in faults.shares().items():
        # Six standard deviations, and three more for shares so small that few come at all.
        bound = 6 * (1_000 * share * (1 - share)) ** 0.5 + 3
        assert abs(counts[name] - 1_000 * share) <= bound


def _fates(faults: Faults, seed: int) -> list[str | None]:
    injector = FaultInjector(faults, seed=seed)
    return [injector.fate() for _ in range(1_000)]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 4) | st.none()), min_size=1, max_size=40),
)
def test_no_request_waits_for_ever_and_never_are_too_many_served(
    steps: list[tuple[bool, int | None]],
) -> None:
    async def play() -> None:
        injector = FaultInjector(Faults(max_served=1))
        may_end = asyncio.Event()

        async def one() -> None:
            async with injector.place():
                await may_end.wait()

        requests: list[asyncio.Task[None]] = []
        for is_request, max_served in steps:
            if is_request:
                requests.append(asyncio.create_task(one()))
            else:
                injector.replace(Faults(max_served=max_served))
            for _ in range(5):
                await asyncio.sleep(0)
            most = injector.faults.max_served
            open_places = most is None or injector.served < most
            assert not (injector.queued and open_places)
            assert injector.served + injector.queued == len(requests)
        may_end.set()
        await asyncio.gather(*requests)
        assert (injector.served, injector.queued) == (0, 0)

    asyncio.run(play())


def test_beyond_the_queue_is_refused_at_once() -> None:
    async def play() -> None:
        injector = FaultInjector(Faults(max_served=1, max_queued=0))
        async with injector.place():
            with pytest.raises(QueueFullError):
                async with injector.place():
                    pass
        assert injector.injected == {"ThrottlingException": 1}

    asyncio.run(play())
