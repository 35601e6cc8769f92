import json
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import pytest
from moto import mock_aws

from deploy.local.tails import ArchiveTail, Arrived, StreamTail


@pytest.fixture
def aws() -> Iterator[boto3.Session]:
    with mock_aws():
        yield boto3.Session(
            region_name="us-east-1", aws_access_key_id="local", aws_secret_access_key="local"
        )


def test_every_record_of_every_shard_is_handed_over_once(aws: boto3.Session) -> None:
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName="reviews", ShardCount=3)

    def put(numbers: range) -> None:
        for number in numbers:
            kinesis.put_record(
                StreamName="reviews", Data=str(number).encode(), PartitionKey=str(number)
            )

    put(range(20))
    taken: list[Arrived] = []
    tail = StreamTail(kinesis, "reviews", taken.append, interval_s=0.01)
    tail.start()
    put(range(20, 40))
    tail.finish()
    assert sorted(int(record.data) for record in taken) == list(range(40))
    assert len({record.shard for record in taken}) == 3


def test_every_line_below_the_prefix_is_handed_over_once(aws: boto3.Session) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="archive")

    def put(key: str, *numbers: int) -> None:
        body = "".join(json.dumps({"n": number}) + "\n" for number in numbers)
        s3.put_object(Bucket="archive", Key=key, Body=body.encode())

    put("raw/1", 1, 2)
    put("scored/1", 99)
    taken: list[Mapping[str, Any]] = []
    tail = ArchiveTail(s3, "archive", "raw/", taken.append, interval_s=0.01)
    tail.start()
    put("raw/2", 3)
    tail.finish()
    assert sorted(line["n"] for line in taken) == [1, 2, 3]


def test_an_error_ends_the_tail_and_is_raised_at_its_end(aws: boto3.Session) -> None:
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName="reviews", ShardCount=1)
    kinesis.put_record(StreamName="reviews", Data=b"not JSON", PartitionKey="1")
    tail = StreamTail(kinesis, "reviews", lambda record: json.loads(record.data), 0.01)
    tail.start()
    with pytest.raises(json.JSONDecodeError):
        tail.finish()
