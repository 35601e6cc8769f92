"""Several reviews in one Kinesis record, through scoring and windows."""

import json
from collections.abc import Mapping

import pytest

from deploy.local.stack import Stack
from tests.emulator.conftest import read_stream, submit, wait_until_read
from tests.emulator.test_review_metrics import Metrics
from tests.kpl import aggregated
from tests.waiting import until

REVIEWS = {
    f"R{number}": json.dumps(
        {"review_id": f"R{number}", "product_category": "Toys", "review_body": f"Fine {number}."}
    ).encode()
    for number in range(3)
}


@pytest.mark.parametrize(
    ("name", "record", "properties"),
    [
        ("kpl", aggregated(REVIEWS), {}),
        ("lines", b"\n".join(REVIEWS.values()), {"reviews": {"several_per_record": "true"}}),
    ],
)
def test_each_review_of_a_record_is_scored_and_in_its_windows(
    stack: Stack, name: str, record: bytes, properties: Mapping[str, Mapping[str, str]]
) -> None:
    job_id, streams = submit(stack, name, properties, shards=1)
    kinesis = stack.client("kinesis")
    kinesis.put_record(StreamName=streams["reviews"], Data=record, PartitionKey="R0")
    scored = until(
        lambda: read_stream(kinesis, streams["scored_reviews"]),
        lambda rows: len(rows) >= len(REVIEWS),
        hint=lambda: stack.cluster.exceptions(job_id),
    )
    stack.cluster.stop_job(job_id)
    assert sorted(row["review_id"] for row in scored) == list(REVIEWS)
    assert len({row["source_sequence_number"] for row in scored}) == 1
    assert len({row["source_part"] for row in scored}) == len(REVIEWS)
    assert read_stream(kinesis, streams["dead_letters"]) == []

    source = {"scored_reviews": {"stream": streams["scored_reviews"]}}
    metrics = Metrics(stack, f"{name}-metrics", 1, properties=source)
    metrics.submit()
    wait_until_read(stack, metrics.job_id, streams["scored_reviews"], 1)
    stack.cluster.stop_job(metrics.job_id)
    of_all = [row for row in metrics.panes() if row["product_category"] == "All"]
    assert sum(row["reviews"] for row in of_all) == len(REVIEWS)
    assert metrics.dead_letters() == []
