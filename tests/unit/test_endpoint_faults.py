"""Faults at the endpoint, as clients see them: the project's own, boto3 and plain HTTP."""

import asyncio
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deploy.local.endpoint import create_app
from deploy.local.endpoint_containers import Places, QueueFullError
from deploy.local.endpoint_faults import ERROR_STATUSES, FaultInjector, Faults, hashed_rating
from tests.endpoint_server import serving
from tests.waiting import until
from udfs.core.endpoint import EndpointOptions, SageMakerInvoke
from udfs.core.failures import EndpointError, FailureKind
from udfs.core.invocations import Answer, ScoringOptions
from udfs.core.predictions import Scored, ScoreReason
from udfs.core.scoring import Scorer

SHARES = ("reset_rate", "hang_rate", "short_answer_rate", "malformed_answer_rate")


class Five:
    def predict(self, texts: list[str]) -> list[int]:
        return [5] * len(texts)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving({"five": Five()}) as address:
        yield address


@pytest.fixture
def variants() -> Iterator[str]:
    """Address of a server with the variants a and b."""
    with serving({"a": Five(), "b": Five()}) as address:
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
    return EndpointOptions("reviews", "us-east-1", endpoint_url=server, timeout_s=timeout_s)


def ask(server: str, texts: list[str], timeout_s: float = 20.0) -> Answer:
    async def asked() -> Answer:
        async with SageMakerInvoke(options_of(server, timeout_s)) as invoke:
            return await invoke(texts, "id")

    return asyncio.run(asked())


def begin(address: str, text: str, variant: str = "a") -> http.client.HTTPConnection:
    """Send a request without waiting for the answer; closing the connection is departing."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    headers = {
        "Content-Type": "application/jsonlines",
        "X-Amzn-SageMaker-Target-Variant": variant,
    }
    if not variant:
        del headers["X-Amzn-SageMaker-Target-Variant"]
    body = json.dumps({"features": [text]})
    connection.request("POST", "/endpoints/reviews/invocations", body, headers)
    return connection


def end(connection: http.client.HTTPConnection) -> tuple[int, dict[str, Any]]:
    """Wait for the answer: its status and body."""
    with closing(connection), connection.getresponse() as response:
        return response.status, json.load(response)


def original_of(connection: http.client.HTTPConnection) -> object:
    """Wait for a ModelError: its original status."""
    status, body = end(connection)
    assert status == 424, body
    return body["OriginalStatusCode"]


def until_counts(address: str, **counts: int) -> None:
    until(lambda: {name: stats(address)[name] for name in counts}, lambda found: found == counts)


def problems_with(address: str, **faults: object) -> list[str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        control(address, "PUT", faults)
    assert caught.value.code == 400
    problems: list[str] = json.load(caught.value)["problems"]
    return problems


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
    wrong: dict[str, object] = {"latncy_ms": 1, "max_served": 0, "error_rates": {"ModelError": 2}}
    problems = problems_with(server, **wrong)
    assert len(problems) == 3
    for name in ("latncy_ms", "max_served", "error_rates.ModelError"):
        assert any(problem.startswith(name) for problem in problems)
    assert control(server, "GET")["latency_ms"] == 5


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"error_rates": {"Teapot": 0.1}}, "Teapot"),
        ({"reset_rate": 0.6, "error_rates": {"ModelError": 0.6}}, "more than 1"),
        ({"max_queued": 1}, "max_queued needs max_served"),
        ({"max_served": 1, "shed_status": 429}, "shed_status needs max_queued"),
        ({"max_served": 1, "max_queued": 1, "shed_status": 200}, "0 or 400 to 599, got 200"),
        ({"error_rates": {"ModelError/": 0.1}}, "unknown code"),
        ({"error_rates": {"ThrottlingException/429": 0.1}}, "unknown code"),
        ({"crash_text": ""}, "crash_text"),
    ],
)
def test_faults_that_do_not_fit_are_refused(faults: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Faults(**faults)


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("ThrottlingException", "load", None),
        ("ModelNotReadyException", "load", None),
        ("ServiceUnavailable", "load", None),
        ("InternalFailure", "service", None),
        ("InternalDependencyException", "service", None),
        ("ModelError", "model", ScoreReason.MODEL_ERROR),
        ("ValidationError", "call", None),
    ],
)
def test_an_injected_error_is_taken_for_the_services_own(
    server: str, code: str, kind: str, reason: ScoreReason | None
) -> None:
    before = stats(server)["faults"].get(code, 0)
    error = error_of(server, error_rates={code: 1})
    assert (error.kind, error.reason) == (kind, reason)
    assert f"{code} ({ERROR_STATUSES[code]})" in str(error)
    assert stats(server)["faults"][code] == before + 1


def test_a_reset_is_a_connection_that_breaks(server: str) -> None:
    error = error_of(server, reset_rate=1)
    assert (error.kind, error.reason) == (FailureKind.SERVICE, None)
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
    assert caught.value.kind is FailureKind.LOAD
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
    return [injector.fate("five") for _ in range(1_000)]


LIMITS = st.integers(1, 4) | st.none()


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.none()) | st.tuples(LIMITS, LIMITS),
        min_size=1,
        max_size=40,
    )
)
def test_no_request_waits_beside_a_free_place_and_limits_hold(
    steps: list[tuple[str | int | None, int | None]],
) -> None:
    async def play() -> None:
        places = Places(Faults(max_served=1))
        may_end = asyncio.Event()
        limits: dict[str, float] = {"": 1}
        arrived, served = Counter[str](), Counter[str]()

        async def one(variant: str) -> None:
            arrived[variant] += 1
            async with places.place(variant):
                served[variant] += 1
                assert served[variant] <= limits.get(variant, 99)
                assert places.served <= limits.get("", 99)
                await may_end.wait()

        requests: list[asyncio.Task[None]] = []
        for first, limit_of_a in steps:
            if isinstance(first, str):
                requests.append(asyncio.create_task(one(first)))
            else:
                chosen = {"": first, "a": limit_of_a}
                limits = {name: limit for name, limit in chosen.items() if limit is not None}
                of_a = {"a": limit_of_a} if limit_of_a is not None else {}
                places.replace(Faults(max_served=first, variant_max_served=of_a))
            for _ in range(5):
                await asyncio.sleep(0)
            for variant in "ab":
                has_place = places.served < limits.get("", 99) and (
                    served[variant] < limits.get(variant, 99)
                )
                assert not (has_place and arrived[variant] > served[variant])
            assert places.served == served.total() <= places.most_served
            assert places.served + places.queued == len(requests)
        limits = {}
        may_end.set()
        await asyncio.gather(*requests)
        assert (places.served, places.queued) == (0, 0)

    asyncio.run(play())


def test_beyond_the_queue_is_refused_at_once() -> None:
    async def play() -> None:
        places = Places(Faults(max_served=1, max_queued=0))
        async with places.place("a"):
            with pytest.raises(QueueFullError):
                async with places.place("a"):
                    pass

    asyncio.run(play())


# Errors of the container


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ModelError", 500),
        ("ModelError/429", 429),
        ("ModelError/503", 503),
        ("ModelError/0", 0),
    ],
)
def test_a_model_error_has_the_chosen_original_status(server: str, code: str, status: int) -> None:
    control(server, "PUT", {"error_rates": {code: 1}})
    with pytest.raises(ClientError) as caught:
        invoke_with_boto3(server)
    response: dict[str, Any] = dict(caught.value.response)
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalStatusCode"] == status
    side = "client" if status == 429 else "server"
    assert f"{side} error ({status})" in response["Error"]["Message"]


def test_an_original_status_that_is_not_a_number_is_sent_as_a_string(server: str) -> None:
    control(server, "PUT", {"error_rates": {"ModelError/abc": 1}})
    assert original_of(begin(server, "x", "")) == "abc"
    # The member is an integer in the service model: botocore converts it and does not expect this.
    with pytest.raises(ValueError, match="invalid literal"):
        invoke_with_boto3(server)


def invoke_with_boto3(server: str) -> None:
    client = boto3.client("sagemaker-runtime", endpoint_url=server, region_name="us-east-1")
    client.invoke_endpoint(EndpointName="reviews", Body=b"")


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503, 529])
def test_what_is_shed_gets_the_chosen_original_status(variants: str, status: int) -> None:
    faults = {"max_served": 1, "max_queued": 1, "shed_status": status, "hang_rate": 1}
    control(variants, "PUT", faults)
    with closing(begin(variants, "x")):
        until_counts(variants, served=1)
        with closing(begin(variants, "x")):
            until_counts(variants, queued=1)
            assert original_of(begin(variants, "x")) == status
    assert stats(variants)["faults"]["shed"] == 1


# Clients that disconnect


def test_a_departed_client_frees_its_place_if_noticed(variants: str) -> None:
    faults = {"max_served": 1, "notices_departures": True, "hang_text": "slow"}
    control(variants, "PUT", faults)
    served = begin(variants, "slow")
    until_counts(variants, served=1)
    queued = begin(variants, "slow")
    until_counts(variants, queued=1)
    waiting = begin(variants, "quick")
    until_counts(variants, queued=2)
    queued.close()
    until_counts(variants, served=1, queued=1)
    served.close()
    assert end(waiting)[0] == 200
    assert stats(variants)["records"] == 1


def test_a_departed_client_keeps_its_place_if_unnoticed(variants: str) -> None:
    control(variants, "PUT", {"max_served": 1, "hang_text": "slow", "hang_s": 0.3})
    for text in ("slow", "quick"):
        begin(variants, text).close()
    until_counts(variants, requests=2)
    assert end(begin(variants, "quick"))[0] == 200
    # The two that departed were served before it, the first one for all its time.
    counts = stats(variants)
    assert (counts["records"], counts["errors"], counts["most_served"]) == (2, 1, 1)


def test_a_server_stops_while_it_works_for_a_departed_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving({"a": Five()}, faults=Faults(latency_ms=600_000)) as address:
        connection = begin(address, "x")
        until_counts(address, served=1)
        connection.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# Marked texts


@pytest.mark.parametrize("notices_departures", [False, True])
def test_a_text_that_hangs_is_a_model_error_after_its_time(
    variants: str, notices_departures: bool
) -> None:
    faults = {"hang_text": "#h", "hang_s": 0.2, "notices_departures": notices_departures}
    control(variants, "PUT", faults)
    assert original_of(begin(variants, "it #hangs")) == 0
    assert end(begin(variants, "it does not"))[0] == 200
    assert stats(variants)["faults"] == {"hang_text": 1}


def test_a_text_that_hangs_is_released_without_an_answer_when_the_faults_change(
    variants: str,
) -> None:
    control(variants, "PUT", {"hang_text": "hang"})
    with closing(begin(variants, "hang")) as connection:
        until_counts(variants, served=1)
        control(variants, "DELETE")
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()


def test_a_crash_fails_what_is_under_way_on_its_variant(variants: str) -> None:
    faults = {
        "hang_text": "hang",
        "crash_text": "crash",
        "crash_recovery_ms": 600_000,
        "variant_max_served": {"a": 2},
        "notices_departures": True,
    }
    control(variants, "PUT", faults)
    other = begin(variants, "hang", "b")
    served, departing = begin(variants, "hang"), begin(variants, "hang")
    until_counts(variants, served=3)
    crash = begin(variants, "to crash")
    until_counts(variants, queued=1)
    queued = begin(variants, "x")
    until_counts(variants, queued=2)
    departing.close()
    assert [original_of(request) for request in (served, crash, queued)] == [0, 0, 0]
    until_counts(variants, served=1, queued=0)
    assert original_of(begin(variants, "x")) == 503
    assert end(begin(variants, "x", "b"))[0] == 200
    assert stats(variants)["faults"] == {
        "hang_text": 3,
        "crash_text": 1,
        "crashed": 3,
        "recovering": 1,
    }
    other.close()
    control(variants, "DELETE")
    assert end(begin(variants, "x"))[0] == 200


def test_a_crashed_container_recovers(variants: str) -> None:
    control(variants, "PUT", {"crash_text": "crash", "crash_recovery_ms": 300})
    begin_s = time.monotonic()
    assert original_of(begin(variants, "crash")) == 0
    until(lambda: end(begin(variants, "x"))[0], lambda status: status == 200)
    assert time.monotonic() - begin_s >= 0.3


@pytest.mark.parametrize(("faults", "status"), [({}, 400), ({"reject_status": 422}, 422)])
def test_a_rejected_text_is_a_model_error(
    variants: str, faults: dict[str, Any], status: int
) -> None:
    control(variants, "PUT", {"reject_text": "bad", **faults})
    assert original_of(begin(variants, "so bad!")) == status
    assert end(begin(variants, "good"))[0] == 200


# Variants


def test_a_broken_variant_always_answers_with_its_error(variants: str) -> None:
    control(variants, "PUT", {"broken_variants": {"a": 503}})
    assert original_of(begin(variants, "x")) == 503
    assert end(begin(variants, "x", "b"))[0] == 200
    found = Counter(end(begin(variants, "x", ""))[0] for _ in range(20))
    assert set(found) == {200, 424}
    counts = stats(variants)
    assert counts["by_variant_requests"] == {"a": 1 + found[424], "b": 1 + found[200]}
    assert counts["by_variant"] == {"a": 0, "b": 1 + found[200]}


def test_a_removed_variant_is_not_found_and_gets_no_traffic(variants: str) -> None:
    control(variants, "PUT", {"removed_variants": ["a"]})
    status, body = end(begin(variants, "x"))
    assert status == 400
    assert body["Message"] == "Variant a of endpoint reviews of account 123456789012 not found."
    assert {end(begin(variants, "x", ""))[0] for _ in range(20)} == {200}
    assert stats(variants)["by_variant_requests"] == {"a": 0, "b": 20}


def test_a_variant_has_its_own_delay(variants: str) -> None:
    control(variants, "PUT", {"variant_latency_ms": {"a": 600_000}})
    with closing(begin(variants, "x", "a")):
        until_counts(variants, served=1)
        assert end(begin(variants, "x", "b"))[0] == 200
        assert stats(variants)["by_variant"] == {"a": 0, "b": 1}
        control(variants, "PUT", {"variant_latency_ms": {"a": 200}})
        begin_s = time.monotonic()
        assert end(begin(variants, "x", "a"))[0] == 200
        assert time.monotonic() - begin_s >= 0.2


def test_a_variant_has_its_own_places_and_queue(variants: str) -> None:
    faults = {
        "variant_max_served": {"a": 1},
        "max_queued": 1,
        "shed_status": 429,
        "hang_text": "hang",
    }
    control(variants, "PUT", faults)
    with closing(begin(variants, "hang")):
        until_counts(variants, served=1)
        waiting = begin(variants, "x")
        until_counts(variants, queued=1)
        assert original_of(begin(variants, "x")) == 429
        assert end(begin(variants, "x", "b"))[0] == 200
        control(variants, "DELETE")
        assert end(waiting)[0] == 200


def test_every_unknown_variant_is_a_problem(variants: str) -> None:
    problems = problems_with(
        variants,
        broken_variants={"c": 500, "a": 200},
        removed_variants=["b", "d"],
        variant_latency_ms={"e": 1},
        variant_max_served={"f": 1},
        hang_s=0,
    )
    assert len(problems) == 6
    starts = (
        "broken_variants.c",
        "broken_variants.a",
        "removed_variants.1",
        "variant_latency_ms.e",
        "variant_max_served.f",
        "hang_s",
    )
    for start in starts:
        assert any(problem.startswith(start) for problem in problems)
    assert control(variants, "GET") == Faults().model_dump()


def test_a_variant_must_remain(variants: str) -> None:
    (problem,) = problems_with(variants, removed_variants=["b", "a"])
    assert problem.startswith("removed_variants")
    assert "must remain of a, b" in problem


def test_an_endpoint_refuses_faults_of_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match="unknown variant b; variants: a"):
        create_app("reviews", {"a": Five()}, faults=Faults(removed_variants=["b"]))


def test_the_most_served_at_once_are_counted_until_the_faults_change(variants: str) -> None:
    control(variants, "PUT", {"hang_rate": 1})
    connections = [begin(variants, "x") for _ in range(3)]
    until_counts(variants, served=3)
    for connection in connections:
        connection.close()
    until_counts(variants, served=0, most_served=3)
    control(variants, "DELETE")
    assert stats(variants)["most_served"] == 0
    assert end(begin(variants, "x"))[0] == 200
    assert stats(variants)["most_served"] == 1
