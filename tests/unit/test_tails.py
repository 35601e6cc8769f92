import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from deploy.local import tails
from deploy.local.tails import ArchiveTail, Arrived, QueueTail, StreamTail


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


def test_keys_that_come_out_of_order_are_read_and_old_ones_not_listed_again(
    aws: boto3.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "_LISTED_AGAIN", 3)
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="archive")
    listed_after: list[str] = []
    s3.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2",
        lambda params, **_: listed_after.append(params["StartAfter"]),
    )

    def put(number: int) -> None:
        s3.put_object(Bucket="archive", Key=f"raw/{number:02}", Body=b'{"n": %d}\n' % number)

    for number in range(10, 20):
        put(number)
    taken: list[Mapping[str, Any]] = []
    tail = ArchiveTail(s3, "archive", "raw/", taken.append)
    assert tail.poll()
    put(21)
    assert tail.poll()
    put(20)  # of the same second, from another writer
    assert tail.poll()
    put(9)  # hours too late
    assert not tail.poll()
    assert listed_after == ["", "raw/16", "raw/17", "raw/18"]
    tail.start()
    tail.finish()
    assert sorted(line["n"] for line in taken) == list(range(9, 22))


class Closed:
    """A stream whose one shard was closed behind its second record."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment
        self.reads = 0

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Any:
        return [{"Shards": [{"ShardId": "shardId-000000000000"}]}]

    def get_shard_iterator(self, **_: Any) -> Any:
        return {"ShardIterator": "first"}

    def get_records(self, **_: Any) -> Any:
        self.reads += 1
        record = {
            "SequenceNumber": str(self.reads),
            "Data": b"x",
            "ApproximateArrivalTimestamp": self._moment,
        }
        following = {"NextShardIterator": "second"} if self.reads == 1 else {}
        return {"Records": [record], **following}


def test_a_closed_shard_is_read_to_its_end() -> None:
    closed: Any = Closed(datetime(2026, 1, 31, tzinfo=UTC))
    taken: list[Arrived] = []
    tail = StreamTail(closed, "reviews", taken.append)
    while tail.poll():
        pass
    assert [record.sequence_number for record in taken] == ["1", "2"]
    assert closed.reads == 2


class Sparse(Closed):
    """A stream that answers with empty pages on the way to its only record."""

    def get_records(self, **_: Any) -> Any:
        self.reads += 1
        record = {
            "SequenceNumber": "1",
            "Data": b"x",
            "ApproximateArrivalTimestamp": self._moment,
        }
        return {
            "Records": [record] if self.reads == 3 else [],
            "NextShardIterator": "next",
            "MillisBehindLatest": max(0, 3 - self.reads) * 1000,
        }


def test_empty_pages_do_not_end_a_tail_that_is_behind() -> None:
    sparse: Any = Sparse(datetime(2026, 1, 31, tzinfo=UTC))
    taken: list[Arrived] = []
    tail = StreamTail(sparse, "reviews", taken.append, interval_s=0.001)
    tail.start()
    tail.finish()
    assert [record.sequence_number for record in taken] == ["1"]


class Throttling(Sparse):
    """A stream that throttles after it seemed to be at its end, and then has a record."""

    def __init__(self, moment: datetime, throttled: int) -> None:
        super().__init__(moment)
        self._throttled = throttled

    def get_records(self, **_: Any) -> Any:
        self.reads += 1
        if 1 < self.reads <= 1 + self._throttled:
            code = "ProvisionedThroughputExceededException"
            raise ClientError({"Error": {"Code": code, "Message": "slow"}}, "GetRecords")
        record = {"SequenceNumber": "1", "Data": b"x", "ApproximateArrivalTimestamp": self._moment}
        return {
            "Records": [record] if self.reads == 2 + self._throttled else [],
            "NextShardIterator": "next",
            "MillisBehindLatest": 0,
        }


def test_a_throttled_read_does_not_end_a_tail_and_is_followed_by_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    throttling: Any = Throttling(datetime(2026, 1, 31, tzinfo=UTC), throttled=5)
    taken: list[Arrived] = []
    tail = StreamTail(throttling, "reviews", taken.append, interval_s=0.001)
    pauses_s: list[float] = []
    monkeypatch.setattr(tail._stop_event, "wait", pauses_s.append)
    assert not tail.poll()
    while tail.poll():
        pass
    assert [record.sequence_number for record in taken] == ["1"]
    longest_s = [1.0, 2.0, 4.0, 8.0, 10.0]
    for pause_s, bound_s in zip((p for p in pauses_s if p), longest_s, strict=True):
        assert bound_s / 2 <= pause_s <= bound_s


def test_the_children_of_a_closed_shard_are_followed() -> None:
    class Split(Closed):
        def get_shard_iterator(self, *, ShardId: str, **_: Any) -> Any:  # noqa: N803
            return {"ShardIterator": ShardId}

        def get_records(self, *, ShardIterator: str, **_: Any) -> Any:  # noqa: N803
            record = {
                "SequenceNumber": "1",
                "Data": ShardIterator.encode(),
                "ApproximateArrivalTimestamp": self._moment,
            }
            if ShardIterator == "end":
                return {"Records": [], "NextShardIterator": "end", "MillisBehindLatest": 0}
            if ShardIterator == "child":
                return {"Records": [record], "NextShardIterator": "end", "MillisBehindLatest": 0}
            return {"Records": [record], "ChildShards": [{"ShardId": "child"}]}

    split: Any = Split(datetime(2026, 1, 31, tzinfo=UTC))
    taken: list[Arrived] = []
    tail = StreamTail(split, "reviews", taken.append)
    tail.start()
    tail.finish()
    assert [record.data for record in taken] == [b"shardId-000000000000", b"child"]


def test_an_error_ends_the_tail_and_is_raised_at_its_end(aws: boto3.Session) -> None:
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName="reviews", ShardCount=1)
    kinesis.put_record(StreamName="reviews", Data=b"not JSON", PartitionKey="1")
    tail = StreamTail(kinesis, "reviews", lambda record: json.loads(record.data), 0.01)
    tail.start()
    with pytest.raises(json.JSONDecodeError):
        tail.finish()


def test_every_message_of_a_topic_is_handed_over_once(aws: boto3.Session) -> None:
    sns, sqs = aws.client("sns"), aws.client("sqs")
    topic_arn = sns.create_topic(Name="rating-alerts")["TopicArn"]
    url = sqs.create_queue(QueueName="rating-alerts")["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn["QueueArn"])

    def publish(numbers: range) -> None:
        for number in numbers:
            sns.publish(TopicArn=topic_arn, Message=json.dumps({"n": number}), Subject="alert")

    publish(range(12))
    taken: list[Mapping[str, Any]] = []
    tail = QueueTail(sqs, "rating-alerts", taken.append, interval_s=0.01)
    tail.start()
    publish(range(12, 25))
    tail.finish()
    assert sorted(message["n"] for message in taken) == list(range(25))
    attributes = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    left = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=attributes)["Attributes"]
    assert set(left.values()) == {"0"}


def test_what_is_not_an_object_does_not_end_a_tail(aws: boto3.Session) -> None:
    s3, sqs = aws.client("s3"), aws.client("sqs")
    s3.create_bucket(Bucket="archive")
    s3.put_object(Bucket="archive", Key="raw/1", Body=b'{\n[]\n\xff\n{"n": 1}\n')
    queue_url = sqs.create_queue(QueueName="alerts")["QueueUrl"]
    for body in ("{", "[]", '{"Message": 7}', '{"Message": "{"}'):
        sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    lines: list[Mapping[str, Any]] = []
    messages: list[Mapping[str, Any]] = []
    for tail in (
        ArchiveTail(s3, "archive", "raw/", lines.append, interval_s=0.01),
        QueueTail(sqs, "alerts", messages.append, interval_s=0.01),
    ):
        tail.start()
        tail.finish()
    assert [line.get("n") for line in lines] == [None, None, None, 1]
    assert len(messages) == 4
