"""Anomalies through the real connectors: a TaskManager that dies in the middle of an event."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from deploy.local import jobs
from deploy.local.emulator import create_resources
from deploy.local.stack import BUCKET, Stack, StackOptions
from flink_jobs.config import AnomaliesConfig
from tests.anomalies.bursts import Burst, Labelled, StreamOptions, labelled_stream
from tests.emulator.conftest import read_stream
from tests.waiting import until
from tests.workers import python_workers
from udfs.core.anomaly_events import AnomalyTracker, Judgement
from udfs.core.review_features import make_review_detector
from udfs.core.scored_records import ScoredReview
from udfs.core.simhash import simhash

CATEGORY, STREAM, OUTPUT = "Gift_Card", "campaign-scored", "campaign-anomalies"
BEFORE = 700


@pytest.fixture
def stack(tmp_path: Any) -> Iterator[Stack]:
    """A stack with a TaskManager to spare, whose loss is noticed soon."""
    options = StackOptions(
        model_dir=jobs.MODEL_DIR,
        properties=jobs.PROPERTIES,
        task_managers=2,
        slots=1,
        heartbeat_timeout_s=8.0,
        flink_overrides={"execution.checkpointing.interval": "2 s"},
    )
    with Stack(tmp_path / "run", options) as running:
        yield running


def campaign() -> list[Labelled]:
    """Everyday reviews, and among as many more a burst that starts at once."""
    burst = Burst(0, "identical", 120, 0.5)
    return list(labelled_stream(StreamOptions(CATEGORY, (burst,), before=BEFORE), seed=3))


def record(number: int, review: Labelled) -> dict[str, Any]:
    event_time = datetime.fromtimestamp(review.event_time_ms / 1000, UTC)
    return {
        "source_stream": "reviews",
        "source_shard": "shardId-000000000000",
        "source_sequence_number": str(number),
        "review_id": f"R{number}",
        "star_rating": review.star_rating,
        "product_category": CATEGORY,
        "review_body": review.body,
        "event_time": event_time.isoformat(timespec="milliseconds"),
    }


def put(stack: Stack, reviews: list[Labelled], start: int, end: int) -> None:
    kinesis = stack.client("kinesis")
    for first in range(start, end, 500):
        records = [
            {"Data": json.dumps(record(number, reviews[number])).encode(), "PartitionKey": CATEGORY}
            for number in range(first, min(first + 500, end))
        ]
        assert kinesis.put_records(StreamName=STREAM, Records=records)["FailedRecordCount"] == 0


def judged_without_a_failure(reviews: list[Labelled]) -> list[Judgement]:
    options = AnomaliesConfig()
    detector = make_review_detector(warm_up=options.warm_up_reviews)
    fingerprints = simhash([review.body for review in reviews]).tolist()
    return AnomalyTracker(detector, options.threshold).track(
        [
            ScoredReview(
                "reviews",
                "shardId-000000000000",
                str(number),
                f"R{number}",
                review.star_rating,
                CATEGORY,
                len(review.body),
                review.event_time_ms,
                fingerprint,
            )
            for number, (review, fingerprint) in enumerate(zip(reviews, fingerprints, strict=True))
        ]
    )


def test_a_killed_task_manager_leaves_one_event_and_all_that_was_learned(stack: Stack) -> None:
    reviews = campaign()
    expected = judged_without_a_failure(reviews)
    opened = next(number for number, each in enumerate(expected) if each.alert)
    ends = max(number for number, each in enumerate(reviews) if each.burst)
    create_resources(
        stack.info.emulator_url,
        stack.info.region,
        streams={STREAM: 1, OUTPUT: 1, "campaign-dead": 1},
        bucket=BUCKET,
        delivery_streams={},
    )
    properties = {
        "scored_reviews": {"stream": STREAM},
        "rating_anomalies": {"stream": OUTPUT},
        "dead_letters": {"stream": "campaign-dead"},
    }
    job_id = stack.cluster.submit(
        entry=jobs.ENTRY,
        properties=stack.properties_for("rating_anomalies", properties),
        jarfile=jobs.JAR,
        pyfiles=jobs.write_pyfiles(),
    )
    kinesis, sqs = stack.client("kinesis"), stack.client("sqs")
    queue_url = sqs.get_queue_url(QueueName="rating-alerts")["QueueUrl"]
    alerts: list[dict[str, Any]] = []

    def rows() -> dict[int, dict[str, Any]]:
        """The rows by review, all of them the same where one is repeated."""
        found: dict[int, dict[str, Any]] = {}
        for row in read_stream(kinesis, OUTPUT):
            number = int(row["source_sequence_number"])
            assert found.setdefault(number, row) == row
        return found

    def alerted() -> list[dict[str, Any]]:
        received = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10)
        for message in received.get("Messages", []):
            alerts.append(json.loads(json.loads(message["Body"])["Message"]))
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return alerts

    def exceptions() -> str:
        return stack.cluster.exceptions(job_id)

    # The event is open, and a checkpoint knows it.
    middle = (opened + ends) // 2
    put(stack, reviews, 0, middle)
    until(lambda: len(rows()), lambda count: count == middle, hint=exceptions)
    until(alerted, hint=exceptions)
    checkpoint = stack.cluster.last_checkpoint(job_id)
    until(lambda: stack.cluster.last_checkpoint(job_id) != checkpoint, hint=exceptions)

    (worker,) = {process.pid: process for process in python_workers(stack)}.values()
    victim = next(
        part
        for part in stack.cluster.task_managers
        if worker in psutil.Process(part.pid).children(recursive=True)
    )
    put(stack, reviews, middle, middle + 20)
    psutil.Process(victim.pid).kill()
    put(stack, reviews, middle + 20, len(reviews))
    until(lambda: stack.cluster.failures(job_id))
    until(lambda: len(rows()), lambda count: count == len(reviews), hint=exceptions)
    stack.cluster.stop_job(job_id)

    found = rows()
    for number, judgement in enumerate(expected):
        # Nothing was forgotten: each review has the score that it has without a failure.
        assert found[number]["anomaly_score"] == judgement.anomaly_score, number
        assert found[number]["event_id"] == judgement.event_id, number
    of_burst = {found[number]["event_id"] for number in range(opened, ends + 1)}
    assert of_burst == {f"{CATEGORY}-1"}
    assert {alert["event_id"] for alert in alerted()} == {f"{CATEGORY}-1"}
    assert read_stream(kinesis, "campaign-dead") == []
