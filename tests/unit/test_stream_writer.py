"""Putting records: what is repeated, what is not, and how that is said."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.awsrequest import AWSResponse

from deploy.aws.session import Aws
from deploy.stream_writer import (
    MAX_BATCH_BYTES,
    PATIENCE_S,
    RefusedError,
    StreamWriter,
    Taken,
    UnknownOutcomeError,
    batches,
)

SINGLE_ATTEMPT: Any = SimpleNamespace(config=SimpleNamespace(retries={"total_max_attempts": 1}))
URL = "https://kinesis.example"


@dataclass(frozen=True)
class Item:
    data: bytes
    partition_key: str


ITEMS = [Item(b"x", str(number)) for number in range(4)]


class Stream:
    """Answers each call with the next of a list of answers: keys refused, or an error."""

    meta = SINGLE_ATTEMPT

    def __init__(self, *answers: set[str] | Exception) -> None:
        self._answers = list(answers)
        self.calls: list[list[str]] = []

    def put_records(self, *, StreamName: str, Records: list[Any]) -> Any:  # noqa: N803
        keys = [record["PartitionKey"] for record in Records]
        self.calls.append(keys)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {
            "Records": [
                {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
                if key in answer
                else {"ShardId": "shard", "SequenceNumber": key}
                for key in keys
            ]
        }


class Waits:
    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.pauses_s.append(seconds)
        return False


def writer(stream: Any, wait: Callable[[float], bool]) -> StreamWriter[Item]:
    return StreamWriter(stream, "reviews", wait, random.Random(0))


def refusal(code: str, status: int) -> boto.ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "why"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(response, "PutRecords")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Aws:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    return Aws("eu-west-1")


def test_batches_stay_within_put_records_bounds() -> None:
    items = [Item(b"x", str(number)) for number in range(1_001)]
    assert [len(batch) for batch in batches(items)] == [500, 500, 1]
    large = [Item(b"x" * (1024 * 1024 - 10), str(number)) for number in range(12)]
    cut = list(batches(large))
    assert [item for batch in cut for item in batch] == large
    for batch in cut:
        assert sum(len(item.data) + len(item.partition_key) for item in batch) <= MAX_BATCH_BYTES


def test_a_client_that_repeats_calls_is_refused(aws: Aws) -> None:
    with pytest.raises(ValueError, match=r"total_max_attempts must be 1, got 6"):
        writer(aws.client("kinesis"), Waits())
    writer(aws.single_attempt_client("kinesis"), Waits())


def test_the_client_for_putting_makes_one_attempt(aws: Aws) -> None:
    client, attempts = aws.single_attempt_client("kinesis"), 0

    class Raw:
        def stream(self, **_: Any) -> Any:
            yield b'{"__type": "InternalFailure"}'

    def fail(**_: Any) -> AWSResponse:
        nonlocal attempts
        attempts += 1
        return AWSResponse(URL, 500, {}, Raw())

    client.meta.events.register("before-send.kinesis.PutRecords", fail)
    with pytest.raises(UnknownOutcomeError, match="InternalFailure"):
        list(writer(client, Waits()).put(ITEMS))
    assert attempts == 1


def test_records_that_are_throttled_are_sent_again_with_growing_pauses() -> None:
    stream, wait = Stream({"1", "3"}, {"3"}, {"3"}, set()), Waits()
    taken = list(writer(stream, wait).put(ITEMS))
    assert stream.calls == [["0", "1", "2", "3"], ["1", "3"], ["3"], ["3"]]
    assert [item.record.partition_key for item in taken] == ["0", "2", "1", "3"]
    assert taken[0] == (ITEMS[0], "shard", "0")
    first, after_progress, grown = wait.pauses_s
    assert 0.05 <= first <= 0.1
    assert 0.05 <= after_progress <= 0.1 <= grown <= 0.2


def test_a_throttled_call_is_made_again() -> None:
    stream = Stream(refusal("ProvisionedThroughputExceededException", 400), set())
    assert len(list(writer(stream, Waits()).put(ITEMS))) == 4
    assert len(stream.calls) == 2


def test_a_stream_that_takes_nothing_for_a_minute_is_given_up() -> None:
    stream, wait = Stream({"3"}), Waits()
    taken: list[Taken[Item]] = []
    with pytest.raises(RefusedError, match=r"no record accepted for 60 s: Provisioned") as caught:
        taken.extend(writer(stream, wait).put(ITEMS))
    assert len(taken) == 3
    assert caught.value.records == (ITEMS[3],)
    assert PATIENCE_S <= sum(wait.pauses_s) <= PATIENCE_S + 5


def test_stopping_while_throttled_names_what_was_not_sent() -> None:
    with pytest.raises(RefusedError, match="stopped") as caught:
        list(writer(Stream({"1"}), lambda seconds: True).put(ITEMS))
    assert caught.value.records == (ITEMS[1],)


@pytest.mark.parametrize(
    "error",
    [
        refusal("InternalFailure", 500),
        refusal("ServiceUnavailable", 503),
        refusal("RequestTimeout", 408),
        boto.ReadTimeoutError(endpoint_url=URL),
        boto.ConnectionClosedError(endpoint_url=URL),
        boto.HTTPClientError(error="reset"),
        ValueError("an answer that cannot be parsed"),
    ],
)
def test_a_call_whose_answer_is_lost_is_not_repeated(error: Exception) -> None:
    stream = Stream({"0", "2"}, error)
    taken: list[Taken[Item]] = []
    with pytest.raises(UnknownOutcomeError) as caught:
        taken.extend(writer(stream, Waits()).put(ITEMS))
    assert [item.record.partition_key for item in taken] == ["1", "3"]
    assert len(stream.calls) == 2
    assert caught.value.records == (ITEMS[0], ITEMS[2])
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        refusal("AccessDeniedException", 400),
        refusal("ValidationException", 400),
        refusal("ResourceNotFoundException", 400),
        refusal("ExpiredTokenException", 403),
        boto.EndpointConnectionError(endpoint_url=URL),
        boto.ConnectTimeoutError(endpoint_url=URL),
        boto.NoCredentialsError(),
    ],
)
def test_a_refused_call_has_a_known_outcome(error: Exception) -> None:
    stream = Stream(error)
    with pytest.raises(RefusedError) as caught:
        list(writer(stream, Waits()).put(ITEMS))
    assert caught.value.records == tuple(ITEMS)
    assert len(stream.calls) == 1
