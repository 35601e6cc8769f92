import hashlib
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
from moto import mock_aws

from deploy.local.records import Outgoing
from deploy.local.sender import Sender
from deploy.stream_writer import RefusedError, UnknownOutcomeError
from deploy.unsent import UnsentRow, read_unsent
from tests.unit.test_stream_writer import SINGLE_ATTEMPT


def outgoing(number: int, size: int = 10) -> Outgoing:
    return Outgoing(
        data=b"x" * size,
        partition_key=str(number),
        fate="scored",
        review_id=f"R{number}",
        product_category="Gift_Card",
        star_rating=5,
    )


@pytest.fixture
def kinesis() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client(
            "kinesis",
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
            config=Config(retries={"total_max_attempts": 1}),
        )
        client.create_stream(StreamName="reviews", ShardCount=2)
        yield client


class Throttling:
    """Takes every other record of a batch only."""

    meta = SINGLE_ATTEMPT

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


def test_what_came_before_an_error_is_sent(kinesis: Any, tmp_path: Path) -> None:
    def cut_off() -> Iterator[Outgoing]:
        yield from map(outgoing, range(7))
        raise ValueError("the file ends here")

    sender = Sender(kinesis, "reviews", cut_off(), tmp_path / "truth.jsonl", rate_per_s=None)
    sender.start()
    sender.join(60)
    assert sender.sent == stored(kinesis) == 7
    assert str(sender.error) == "the file ends here"


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

    meta = SINGLE_ATTEMPT

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


NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Broken(Counting):
    """Takes the first batch; the answer to the second is lost."""

    error: Exception = ConnectionClosedError(endpoint_url="http://127.0.0.1:5000")

    def put_records(self, *, StreamName: str, Records: list[Any]) -> Any:  # noqa: N803
        if self.taken_at_s:
            raise self.error
        return super().put_records(StreamName=StreamName, Records=Records)


def stopped(client: Any, truth: Path, **bounds: Any) -> Sender:
    sender = Sender(
        client,
        "reviews",
        map(outgoing, itertools.count(1)),
        truth,
        rate_per_s=None,
        now=lambda: NOW,
        **bounds,
    )
    sender.start()
    sender.join(60)
    assert not sender.is_alive()
    return sender


def test_a_call_whose_answer_is_lost_ends_it_and_its_rows_are_listed(tmp_path: Path) -> None:
    sender = stopped(Broken(Time()), tmp_path / "truth.jsonl", limit=1_600, skip=100)
    assert isinstance(sender.error, UnknownOutcomeError)
    assert (sender.sent, sender.last_row) == (500, 1_100)
    assert sender.unsent_path == tmp_path / "unsent-20260131T120000Z.jsonl"
    rows = read_unsent(sender.unsent_path)
    assert [row.row for row in rows] == list(range(601, 1_101))
    assert rows[0] == UnsentRow(
        row=601,
        tried_at="2026-01-31T12:00:00+00:00",
        payload_sha256=hashlib.sha256(b"x" * 10).hexdigest(),
        partition_key="601",
        review_id="R601",
    )
    assert sender.stopped_state() == [
        f"{tmp_path / 'truth.jsonl'} lists the 500 records that the stream has taken",
        "the stream may have taken 500 records, rows 601 to 1,100 (review ids R601 to R1100)",
        f"{sender.unsent_path} lists them",
        "nothing after row 1,100 was sent",
    ]


def test_refused_records_are_listed(tmp_path: Path) -> None:
    stream = Broken(Time())
    stream.error = EndpointConnectionError(endpoint_url="http://127.0.0.1:5000")
    sender = stopped(stream, tmp_path / "truth.jsonl", limit=600)
    assert isinstance(sender.error, RefusedError)
    assert sender.unsent_path is not None
    assert [row.row for row in read_unsent(sender.unsent_path)] == list(range(501, 601))
    assert "the stream has not taken 100 records, rows 501 to 600" in sender.stopped_state()[1]


def test_what_is_not_known_as_taken_is_listed_whatever_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr("deploy.local.sender._truth", full)
    sender = stopped(Counting(Time()), tmp_path / "truth.jsonl", limit=700)
    assert sender.unsent_path is not None
    assert [row.row for row in read_unsent(sender.unsent_path)] == list(range(1, 501))
    assert sender.last_row == 500


def test_a_run_over_a_list_writes_no_second_list(tmp_path: Path) -> None:
    sender = stopped(Broken(Time()), tmp_path / "truth.jsonl", only=range(1, 601), limit=600)
    assert isinstance(sender.error, UnknownOutcomeError)
    assert sender.unsent_path is None
    assert sender.stopped_state()[1].startswith("the stream may have taken 100 records")
    assert list(tmp_path.iterdir()) == [tmp_path / "truth.jsonl"]


def test_what_was_left_is_sent_without_sending_anything_twice(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    first = stopped(Broken(Time()), truth, limit=1_600)
    assert first.unsent_path is not None
    only = {row.row for row in read_unsent(first.unsent_path)}
    stopped(Counting(Time()), truth, only=only, limit=len(only))
    stopped(Counting(Time()), truth, skip=first.last_row, limit=600)
    sent = [json.loads(line)["review_id"] for line in truth.read_text().splitlines()]
    assert sent == [f"R{number}" for number in range(1, 1_601)]


def test_a_client_that_repeats_calls_is_refused(tmp_path: Path) -> None:
    repeating = boto3.client("kinesis", region_name="us-east-1")
    with pytest.raises(ValueError, match="one attempt a call"):
        Sender(repeating, "reviews", iter([]), tmp_path / "truth.jsonl", rate_per_s=None)


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
