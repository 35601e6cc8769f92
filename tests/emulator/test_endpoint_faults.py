"""The job and an endpoint in trouble, one thing at a time: each label on its own review."""

import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from deploy.local.endpoint_faults import hashed_rating
from deploy.local.stack import Stack
from deploy.local.tails import Arrived, StreamTail
from tests.emulator.conftest import submit
from tests.endpoint_server import serving
from tests.waiting import until

REVIEWS = 300
# From a single one, the requests of so many reviews give back about seven.
MANY_SLOTS = 4
OUTAGE_S = 30.0
# Small requests, so that a few hundred reviews meet every fault; and little patience.
PROPERTIES = {
    "application": {"bundle_rows": "100", "bundle_time_ms": "100"},
    "endpoint": {
        "max_request_rows": "4",
        "attempt_timeout_s": "1",
        "max_attempts": "2",
        "deadline_s": "60",
    },
}
POISON, TOO_FEW, TOO_MANY = "poison", "too few", "too many"
HANG, CRASH = "hang here", "crash here"
# Of a client that knows the endpoint, in requests of four reviews.
FEWEST_REQUESTS = REVIEWS // 4


class Model:
    """Rates by a hash; rejects a text with `POISON`, and miscounts others."""

    def __init__(self) -> None:
        # What is added to each text, as another model would rate it.
        self.suffix = ""

    def predict(self, texts: Sequence[str]) -> list[int]:
        if any(POISON in text for text in texts):
            raise ValueError("cannot rate this")
        ratings = [hashed_rating(text + self.suffix) for text in texts]
        if any(TOO_FEW in text for text in texts):
            # The first: every label behind it would be on its neighbour.
            return ratings[1:]
        return [*ratings[:1], *ratings] if any(TOO_MANY in text for text in texts) else ratings


@dataclass
class Running:
    """A job, the endpoint that it asks, and all that it has brought out so far."""

    stack: Stack
    address: str
    job_id: str
    streams: dict[str, str]
    lock: threading.Lock = field(default_factory=threading.Lock)
    scored: dict[str, dict[str, Any]] = field(default_factory=dict)
    dead: dict[str, dict[str, Any]] = field(default_factory=dict)

    def follow(self) -> list[StreamTail]:
        tails = []
        for group, rows in (("scored_reviews", self.scored), ("dead_letters", self.dead)):

            def take(record: Arrived, rows: dict[str, dict[str, Any]] = rows) -> None:
                row = json.loads(record.data)
                with self.lock:
                    rows[row["review_id"]] = row

            kinesis = self.stack.client("kinesis")
            tails.append(StreamTail(kinesis, self.streams[group], take, interval_s=0.2))
        for tail in tails:
            tail.start()
        return tails

    def send(self, name: str, marks: Sequence[str] = (), prefix: str = "") -> dict[str, str]:
        """Put reviews, each twentieth with one of the marks; return their texts by id."""
        texts = {
            f"{prefix}{name}-{number}": f"Review {number} of {name}"
            + (f" {marks[number // 20 % len(marks)]}" if marks and number % 20 == 7 else "")
            for number in range(REVIEWS)
        }
        records = [
            {
                "Data": json.dumps(
                    {"review_id": name, "product_category": "Gift_Card", "review_body": text}
                ).encode(),
                "PartitionKey": name,
            }
            for name, text in texts.items()
        ]
        answer = self.stack.client("kinesis").put_records(
            StreamName=self.streams["reviews"], Records=records
        )
        assert answer["FailedRecordCount"] == 0
        return texts

    def outcomes(
        self, texts: dict[str, str]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Wait until all are through; return those that are scored, and those that are dead."""

        def found(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
            with self.lock:
                return {name: rows[name] for name in texts if name in rows}

        until(
            lambda: len(found(self.scored)) + len(found(self.dead)),
            lambda count: count >= len(texts),
            hint=lambda: self.stack.cluster.exceptions(self.job_id),
        )
        return found(self.scored), found(self.dead)

    def assert_all_scored(self, texts: dict[str, str]) -> None:
        scored, dead = self.outcomes(texts)
        assert dead == {}
        self.assert_labels(texts, scored)

    def assert_labels(self, texts: dict[str, str], scored: dict[str, dict[str, Any]]) -> None:
        assert {name: row["star_rating"] for name, row in scored.items()} == {
            name: hashed_rating(texts[name]) for name in scored
        }
        places = {(row["inference_id"], row["inference_row"]) for row in scored.values()}
        assert len(places) == len(scored)

    def faults(self, **faults: Any) -> None:
        ask(f"{self.address}/faults", "PUT" if faults else "DELETE", faults)

    def metrics(self) -> dict[str, str]:
        """Return the metrics of the group `scoring`, by name."""
        found = {}
        job = self.stack.cluster.get(f"/jobs/{self.job_id}")
        for vertex in job["vertices"]:
            path = f"/jobs/{self.job_id}/vertices/{vertex['id']}/metrics"
            names = [metric["id"] for metric in self.stack.cluster.get(path)]
            names = [name for name in names if ".scoring." in name]
            if names:
                query = urllib.parse.urlencode({"get": ",".join(names)})
                for metric in self.stack.cluster.get(f"{path}?{query}"):
                    found[metric["id"].rpartition(".scoring.")[2]] = metric["value"]
        return found


def ask(url: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, method=method)
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


MODELS = {"A": Model(), "B": Model()}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving(MODELS) as address:
        yield address


def running(
    stack: Stack, endpoint: str, name: str, **changes: str
) -> tuple[Running, list[StreamTail]]:
    properties = {
        **PROPERTIES,
        "endpoint": {**PROPERTIES["endpoint"], "endpoint_url": endpoint, **changes},
    }
    job_id, streams = submit(stack, name, properties)
    job = Running(stack, endpoint, job_id, streams)
    return job, job.follow()


@pytest.fixture(scope="module")
def job(stack: Stack, endpoint: str) -> Iterator[Running]:
    """One job for all faults: each must leave it as it was. Its model is not ready at first."""
    not_ready = {"error_rates": {"ModelNotReadyException": 1.0}}
    ask(f"{endpoint}/faults", "PUT", not_ready)
    job, tails = running(stack, endpoint, "troubled")
    try:
        yield job
    finally:
        job.faults()
        for tail in tails:
            tail.stop()
            tail.join(30)
    stack.cluster.stop_job(job.job_id)
    assert stack.cluster.failures(job.job_id) == []


def injected(job: Running) -> dict[str, int]:
    return dict(ask(f"{job.address}/stats")["faults"])


def test_a_model_that_is_not_ready_at_the_start_is_waited_for(job: Running) -> None:
    texts = job.send("not-ready")
    until(lambda: injected(job).get("ModelNotReadyException", 0), lambda count: count > 3)
    job.faults()
    job.assert_all_scored(texts)


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("throttling", {"error_rates": {"ThrottlingException": 0.3}}),
        (
            "server-errors",
            {
                "error_rates": {
                    "InternalFailure": 0.03,
                    "ServiceUnavailable": 0.03,
                    "InternalDependencyException": 0.02,
                    "ModelError": 0.02,
                }
            },
        ),
        ("resets", {"reset_rate": 0.2}),
        ("hang", {"hang_rate": 0.1}),
    ],
)
def test_what_befalls_the_endpoint_costs_no_review(
    job: Running, name: str, faults: dict[str, Any]
) -> None:
    before = injected(job)
    job.faults(**faults)
    texts = job.send(name)
    job.assert_all_scored(texts)
    assert sum(injected(job).values()) > sum(before.values()), "nothing went wrong"
    job.faults()
    assert_recovered(job, name)


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        *(
            (
                f"sheds-{status}-beyond-{most}",
                {"max_served": most, "max_queued": 0, "shed_status": status, "latency_ms": 20},
            )
            for most, status in ((8, 429), (16, 429), (8, 503), (1, 502), (4, 504), (4, 0))
        ),
        (
            "sheds-and-is-slow",
            {"max_served": 4, "max_queued": 0, "shed_status": 503, "latency_ms": 300},
        ),
        (
            "works-for-clients-that-have-left",
            {"max_served": 2, "latency_ms_per_record": 50, "notices_departures": False},
        ),
        ("a-broken-variant", {"broken_variants": {"B": 404}}),
        ("a-removed-variant", {"removed_variants": ["B"]}),
        ("a-slow-variant", {"variant_latency_ms": {"B": 500}}),
    ],
)
def test_an_endpoint_under_pressure_costs_time_and_few_requests(
    job: Running, name: str, faults: dict[str, Any]
) -> None:
    job.faults(**faults)
    before = ask(f"{job.address}/stats")["requests"]
    job.assert_all_scored(job.send(name))
    assert ask(f"{job.address}/stats")["requests"] - before <= 4 * FEWEST_REQUESTS
    job.faults()
    assert_recovered(job, name)


def test_a_status_that_is_not_a_number_costs_no_review(job: Running) -> None:
    job.faults(error_rates={"ModelError/abc": 0.1})
    job.assert_all_scored(job.send("odd-status"))
    assert injected(job)["ModelError/abc"] > 0
    job.faults()
    assert_recovered(job, "odd-status")


def test_known_texts_are_rated_by_the_model_that_has_replaced_another(job: Running) -> None:
    job.faults()
    job.assert_all_scored(job.send("replaced"))
    for model in MODELS.values():
        model.suffix = " by another model"
    try:
        texts = job.send("replaced", prefix="again-")
        scored, dead = job.outcomes(texts)
    finally:
        for model in MODELS.values():
            model.suffix = ""
    assert dead == {}
    assert {name: row["star_rating"] for name, row in scored.items()} == {
        name: hashed_rating(f"{text} by another model") for name, text in texts.items()
    }


@pytest.mark.parametrize(("mark", "reason"), [(HANG, "timeout"), (CRASH, "model_error")])
def test_reviews_on_which_the_model_hangs_or_crashes_and_only_they_are_dead_lettered(
    job: Running, mark: str, reason: str
) -> None:
    job.faults(hang_text=HANG, crash_text=CRASH, crash_recovery_ms=200)
    before = ask(f"{job.address}/stats")["requests"]
    texts = job.send(f"marked-{reason}", [mark])
    scored, dead = job.outcomes(texts)
    marked = {name for name, text in texts.items() if text.endswith(mark)}
    assert dead.keys() == marked
    assert {(row["stage"], row["reason"]) for row in dead.values()} == {("score", reason)}
    job.assert_labels(texts, scored)
    requests = ask(f"{job.address}/stats")["requests"] - before
    assert requests <= 4 * FEWEST_REQUESTS + 40 * len(marked)
    job.faults()
    assert_recovered(job, f"marked-{reason}")


def assert_recovered(job: Running, name: str) -> None:
    """All is scored again, and several requests at once: slots that were taken away are back."""
    job.assert_all_scored(job.send(f"after-{name}"))
    until(lambda: float(job.metrics().get("slots", 0)), lambda slots: slots >= MANY_SLOTS)


def test_an_outage_shorter_than_the_deadline_is_sat_out(job: Running) -> None:
    job.faults(reset_rate=1.0)
    ends_s = time.monotonic() + OUTAGE_S
    texts = job.send("outage")
    until(lambda: time.monotonic() >= ends_s)
    with job.lock:
        assert not job.scored.keys() & texts
    job.faults()
    job.assert_all_scored(texts)
    assert_recovered(job, "outage")


@pytest.mark.parametrize(
    ("marks", "reason"), [((POISON,), "model_error"), ((TOO_FEW, TOO_MANY), "bad_answer")]
)
def test_reviews_that_the_model_cannot_take_and_only_they_are_dead_lettered(
    job: Running, marks: Sequence[str], reason: str
) -> None:
    job.faults()
    texts = job.send(reason, marks)
    scored, dead = job.outcomes(texts)
    marked = {name for name, text in texts.items() if text.endswith(tuple(marks))}
    assert len(marked) == REVIEWS // 20
    assert dead.keys() == marked
    assert {(row["stage"], row["reason"]) for row in dead.values()} == {("score", reason)}
    job.assert_labels(texts, scored)
    assert_recovered(job, reason)


def test_the_metrics_arrive_in_flink(job: Running) -> None:
    job.faults(error_rates={"ThrottlingException": 0.3})
    job.assert_all_scored(job.send("throttled"))
    job.faults()
    job.assert_all_scored(job.send("counted"))
    with job.lock:
        rows = len(job.scored) + len(job.dead)
    metrics = until(
        job.metrics, lambda found: float(found.get("rows", 0)) >= rows, hint=lambda: rows
    )
    assert float(metrics["rows"]) == rows
    assert float(metrics["requests"]) >= rows / int(PROPERTIES["endpoint"]["max_request_rows"])
    assert float(metrics["requests"]) > float(metrics["retries"]) > 0
    assert float(metrics["throttles"]) > 0
    # Of the endpoint's default and of both variants.
    assert 1 <= float(metrics["slots"]) <= 3 * 32
    assert 0 <= float(metrics["in_flight"]) <= 3 * 32
    assert "count" in metrics["latency_ms"], metrics


def test_an_outage_longer_than_the_deadline_fails_the_job_and_costs_nothing(
    stack: Stack, endpoint: str, job: Running
) -> None:
    job.faults()
    short, tails = running(stack, endpoint, "impatient", deadline_s="12", max_attempts="1")
    try:
        short.assert_all_scored(short.send("patient"))
        job.faults(reset_rate=1.0)
        # For longer than the checkpoint interval: one waits while the bundle fails, and must not
        # have its reviews behind it.
        texts = short.send("impatient")
        failures = until(lambda: stack.cluster.failures(short.job_id))
        assert "0 of " in str(failures)
        short.faults()
        short.assert_all_scored(texts)
    finally:
        short.faults()
        for tail in tails:
            tail.stop()
            tail.join(30)
        stack.cluster.stop_job(short.job_id)


def test_a_wrong_variant_in_the_properties_stops_the_job_and_says_which_there_are(
    stack: Stack, endpoint: str, job: Running
) -> None:
    job.faults()
    wrong, tails = running(stack, endpoint, "wrong-variant", target_variant="C")
    try:
        wrong.send("wrong-variant")
        failures = until(lambda: stack.cluster.failures(wrong.job_id))
        assert "existing variants: A, B" in str(failures) + str(
            stack.cluster.exceptions(wrong.job_id)
        )
    finally:
        for tail in tails:
            tail.stop()
            tail.join(30)
    # It goes on failing until the cluster ends.
