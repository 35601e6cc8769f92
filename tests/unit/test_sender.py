import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError
from moto import mock_aws

from deploy.local.records import Outgoing
from deploy.local.sender import MAX_BATCH_BYTES, Sender, batches


def outgoing(number: int, size: int = 10) -> Outgoing:
    return Outgoing(
        data=b"x" * size,
        partition_key=str(number),
        fate="scored",
        review_id=f"R{number}",
        product_category="Gift_Card",
        star_rating=5,
    )


def test_batches_stay_within_put_records_bounds() -> None:
    assert [len(batch) for batch in batches(map(outgoing, range(1_001)))] == [500, 500, 1]
    large = [outgoing(number, 1024 * 1024 - 10) for number in range(12)]
    cut = list(batches(large))
    assert [record for batch in cut for record in batch] == large
    for batch in cut:
        assert sum(len(r.data) + len(r.partition_key) for r in batch) <= MAX_BATCH_BYTES


@pytest.fixture
def kinesis() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client(
            "kinesis",
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )
        client.create_stream(StreamName="reviews", ShardCount=2)
        yield client


class Throttling:
    """Takes every other record of a batch only."""

    def __init__(self, kinesis: Any) -> None:
        self._kinesis = kinesis
        self.calls = 0

    def put_records(self, *, StreamName: str, Records: list[Any]) -> Any:  # noqa: N803
        self.calls += 1
        taken = self._kinesis.put_records(StreamName=StreamName, Records=Records[::2])["Records"]
        refused = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
        merged = itertools.zip_longest(taken, [refused] * (len(Records) - len(taken)))
        return {"Records": [result for pair in merged for result in pair if result is not None]}


def stored(kinesis: Any) -> int:
    count = 0
    for shard in kinesis.list_shards(StreamName="reviews")["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName="reviews", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        count += len(kinesis.get_records(ShardIterator=iterator)["Records"])
    return count


def send(client: Any, records: Iterator[Outgoing], truth: Path, **bounds: Any) -> Sender:
    sender = Sender(client, "reviews", records, truth, **{"rate_per_s": None, **bounds})
    sender.start()
    sender.join(60)
    assert not sender.is_alive()
    assert sender.error is None
    return sender


def test_what_was_refused_is_sent_again_and_nothing_twice(kinesis: Any, tmp_path: Path) -> None:
    client = Throttling(kinesis)
    sender = send(client, map(outgoing, range(100)), tmp_path / "truth.jsonl")
    assert sender.sent == stored(kinesis) == 100
    assert client.calls > 2
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert sorted(row["review_id"] for row in truth) == sorted(f"R{n}" for n in range(100))
    assert len({(r["source_shard"], r["source_sequence_number"]) for r in truth}) == 100


def test_the_limit_ends_it(kinesis: Any, tmp_path: Path) -> None:
    sender = send(kinesis, map(outgoing, itertools.count()), tmp_path / "truth.jsonl", limit=7)
    assert sender.sent == stored(kinesis) == 7


class Time:
    """Passes only while one waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> bool:
        self.now_s = round(self.now_s + seconds, 6)
        return False


class Counting:
    """Takes everything, and notes when."""

    def __init__(self, clock: Time) -> None:
        self._clock = clock
        self.taken_at_s: list[float] = []

    def put_records(self, *, StreamName: str, Records: list[Any]) -> Any:  # noqa: N803
        first = len(self.taken_at_s)
        self.taken_at_s += [self._clock()] * len(Records)
        return {
            "Records": [
                {"ShardId": "shardId-000000000000", "SequenceNumber": str(first + number)}
                for number in range(len(Records))
            ]
        }


@pytest.mark.parametrize(("rate_per_s", "expected"), [(20.0, 40), (200.0, 391), (9.5, 19)])
def test_the_rate_is_kept_until_the_duration_ends_it(
    rate_per_s: float, expected: int, tmp_path: Path
) -> None:
    clock = Time()
    stream = Counting(clock)
    sender = send(
        stream,
        map(outgoing, itertools.count()),
        tmp_path / "truth.jsonl",
        rate_per_s=rate_per_s,
        duration_s=2.0,
        clock=clock,
        wait=clock.wait,
    )
    # The n-th record (from 0) is due after n / rate seconds, and sent within a twentieth of one.
    assert sender.sent == len(stream.taken_at_s) == expected
    for number, taken_at_s in enumerate(stream.taken_at_s):
        late_s = taken_at_s - number / rate_per_s
        assert -1e-6 <= late_s <= 0.05 + 1e-6


def test_a_call_that_fails_is_not_repeated(tmp_path: Path) -> None:
    calls = 0

    class Broken:
        def put_records(self, **_: Any) -> Any:
            nonlocal calls
            calls += 1
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1:5000")

    client: Any = Broken()
    sender = Sender(
        client, "reviews", map(outgoing, range(9)), tmp_path / "truth.jsonl", rate_per_s=None
    )
    sender.start()
    sender.join(60)
    assert isinstance(sender.error, ConnectionClosedError)
    assert (calls, sender.sent) == (1, 0)


def test_a_record_that_no_stream_takes_is_refused_and_counted(kinesis: Any, tmp_path: Path) -> None:
    records = iter([outgoing(1), outgoing(2, 1024 * 1024), outgoing(3)])
    sender = send(kinesis, records, tmp_path / "truth.jsonl")
    assert (sender.sent, sender.refused) == (2, 1)


def test_an_error_is_kept_for_the_run(kinesis: Any, tmp_path: Path) -> None:
    sender = Sender(
        kinesis, "no-such-stream", iter([outgoing(1)]), tmp_path / "truth.jsonl", rate_per_s=None
    )
    sender.start()
    sender.join(60)
    assert "ResourceNotFoundException" in repr(sender.error)
