"""Dead letters on AWS: read from moto's Kinesis, sent again where they are mended."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from moto import mock_aws

from deploy.aws.clock import ImaginedClock
from deploy.aws.dead_letters import DeadLetter, Redriver, read_dead_letters
from deploy.aws.errors import DeployError
from deploy.aws.session import Aws
from deploy.aws.template import Template, check_applications
from deploy.show import show_letter, show_letters, show_redrive
from flink_jobs.config import ReviewScoringConfig

REGION, BUCKET = "eu-west-1", "test-bucket"
NOW = datetime.now(UTC)
SOUND = b'{"review_id": "R1", "product_category": "Gift_Card", "review_body": "Nice."}'


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        account = Aws(REGION)
        account.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        for stream in ("test-reviews", "test-dead-letters"):
            account.client("kinesis").create_stream(StreamName=stream, ShardCount=2)
        yield account


@pytest.fixture(scope="module")
def config() -> ReviewScoringConfig:
    for found in check_applications(Template.read().applications("test", REGION)):
        if isinstance(found, ReviewScoringConfig):
            return found
    raise AssertionError("the template has no review_scoring")


@pytest.fixture
def redriver(aws: Aws, config: ReviewScoringConfig) -> Redriver:
    return Redriver(aws, ImaginedClock(NOW), config, BUCKET)


def letter(
    payload: bytes, stage: str = "parse", number: str = "1", kept: int = 65536, **fields: Any
) -> DeadLetter:
    return DeadLetter(
        number,
        NOW,
        {
            "source_stream": "test-reviews",
            "source_shard": "shardId-000000000000",
            "source_sequence_number": number,
            "stage": stage,
            "reason": "not_json",
            "message": "no JSON",
            "review_id": None,
            "payload": base64.b64encode(payload[:kept]).decode(),
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
            "payload_bytes": len(payload),
        }
        | fields,
    )


def reviews(aws: Aws) -> list[bytes]:
    client = aws.client("kinesis")
    found = []
    for shard in client.list_shards(StreamName="test-reviews")["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName="test-reviews", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        found += [
            record["Data"] for record in client.get_records(ShardIterator=iterator)["Records"]
        ]
    return found


def test_all_shards_are_read_from_a_time_on(aws: Aws) -> None:
    client = aws.client("kinesis")
    for number in range(6):
        client.put_record(
            StreamName="test-dead-letters",
            Data=json.dumps(letter(SOUND, number=str(number)).fields).encode(),
            PartitionKey=str(number),
        )
    client.put_record(StreamName="test-dead-letters", Data=b"no JSON", PartitionKey="x")
    found = list(read_dead_letters(aws, "test-dead-letters", NOW - timedelta(hours=1)))
    assert sorted(item.source_id[2] for item in found) == ["", *map(str, range(6))]
    assert len({item.sequence_number for item in found}) == 7
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert list(read_dead_letters(aws, "test-dead-letters", later)) == []


def test_what_is_mended_is_sent_once(aws: Aws, redriver: Redriver) -> None:
    mended, broken = letter(SOUND, number="1"), letter(b"still broken", number="2")
    result = redriver.redrive([mended, mended, broken])
    assert [item.source_id[2] for item in result.sent] == ["1"]
    assert [item.source_id[2] for item in result.again] == ["1"]
    assert result.not_mended[0][1].startswith("still not_json")
    assert reviews(aws) == [SOUND]
    # And not in another run either.
    again = redriver.redrive([mended])
    assert (len(again.sent), len(again.again)) == (0, 1)
    assert reviews(aws) == [SOUND]


@pytest.mark.parametrize("stage", ["late", "publish", ""])
def test_what_no_stream_leads_to_stays(aws: Aws, redriver: Redriver, stage: str) -> None:
    ((_, reason),) = redriver.redrive([letter(SOUND, stage)]).not_mended
    assert "cannot be sent again" in reason
    assert reviews(aws) == []


def test_what_came_from_another_stream_stays(aws: Aws, redriver: Redriver) -> None:
    ((_, reason),) = redriver.redrive(
        [letter(SOUND, source_stream="test-scored-reviews")]
    ).not_mended
    assert reason == "it is no record of test-reviews"


def test_a_long_record_is_taken_from_its_stream(aws: Aws, redriver: Redriver) -> None:
    whole = SOUND.replace(b"Nice.", b"Nice. " * 20_000)
    put = aws.client("kinesis").put_record(StreamName="test-reviews", Data=whole, PartitionKey="R1")
    source = {"source_shard": put["ShardId"], "source_sequence_number": put["SequenceNumber"]}
    result = redriver.redrive([letter(whole, kept=65536, **source)])
    assert len(result.sent) == 1
    assert reviews(aws) == [whole, whole]


def test_a_long_record_whose_original_has_gone_stays(aws: Aws, redriver: Redriver) -> None:
    whole = SOUND.replace(b"Nice.", b"Nice. " * 20_000)
    ((_, reason),) = redriver.redrive([letter(whole)]).not_mended
    assert "original" in reason
    assert reviews(aws) == []


@pytest.mark.parametrize(
    ("answer", "is_sent"),
    [
        (b'{"predicted_label": 5}\n', True),
        (b'{"predicted_label": 9}\n', False),
        (b"nonsense", False),
        (None, False),
    ],
)
def test_a_review_that_was_not_scored_is_tried_first(
    aws: Aws, redriver: Redriver, answer: bytes | None, is_sent: bool
) -> None:
    with Stubber(aws.client("sagemaker-runtime")) as runtime:
        if answer is None:
            runtime.add_client_error("invoke_endpoint", "ModelError")
        else:
            runtime.add_response(
                "invoke_endpoint",
                {"Body": StreamingBody(io.BytesIO(answer), len(answer))},
                {
                    "EndpointName": "test-reviews",
                    "ContentType": "application/jsonlines",
                    "Accept": "application/jsonlines",
                    "Body": b'{"features": ["Nice."]}',
                },
            )
        result = redriver.redrive([letter(SOUND, "score")])
    assert len(result.sent) == is_sent
    assert reviews(aws) == [SOUND] * is_sent


def test_records_that_the_stream_turns_down_are_sent_again(aws: Aws, redriver: Redriver) -> None:
    entry = {"Data": SOUND, "PartitionKey": "R1"}
    accepted = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
    with Stubber(aws.client("kinesis")) as kinesis:
        for records, answers in (
            ([entry, entry], [accepted, throttled]),
            ([entry], [accepted]),
        ):
            kinesis.add_response(
                "put_records",
                {"FailedRecordCount": 1, "Records": answers},
                {"StreamName": "test-reviews", "Records": records},
            )
        result = redriver.redrive(
            [letter(SOUND, number=number, review_id="R1") for number in ("1", "2")]
        )
        kinesis.assert_no_pending_responses()
    assert len(result.sent) == 2


@pytest.mark.parametrize("failure", ["throttled for a minute", "refused"])
def test_what_got_in_before_it_broke_off_is_not_sent_twice(
    aws: Aws, redriver: Redriver, failure: str
) -> None:
    accepted = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
    throttled = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
    letters = [letter(SOUND, number=number) for number in ("1", "2")]
    with Stubber(aws.client("kinesis")) as kinesis:
        kinesis.add_response("put_records", {"Records": [accepted, throttled]})
        if failure == "refused":
            kinesis.add_client_error("put_records", "ExpiredTokenException", "expired")
        else:
            for _ in range(120):
                kinesis.add_response("put_records", {"Records": [throttled]})
        with pytest.raises(DeployError, match=r"takes no more: .*(minute|expired)") as caught:
            redriver.redrive(letters)
        kinesis.assert_no_pending_responses()
    assert "1 of the last 2 dead letters were not sent" in caught.value.state[0]
    result = redriver.redrive(letters)
    assert [item.source_id[2] for item in result.again] == ["1"]
    assert [item.source_id[2] for item in result.sent] == ["2"]


def test_letters_are_shown_without_harm(capsys: pytest.CaptureFixture[str]) -> None:
    wild = letter(b"\x1b[2Jwild\xff\n" * 1000, message="\x1b]0;title\x07", number="77")
    show_letters([])
    show_letters([wild])
    show_letter(wild)
    shown = capsys.readouterr().out
    assert "no dead letters" in shown
    assert "77" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
    assert "bytes more" in shown


def test_what_was_sent_again_is_counted(
    redriver: Redriver, capsys: pytest.CaptureFixture[str]
) -> None:
    show_redrive(redriver.redrive([letter(SOUND, number="1"), letter(b"x", number="2")]))
    shown = capsys.readouterr().out
    assert "sent again: 1" in shown
    assert "still not_json" in shown


def test_a_payload_that_is_no_base64_is_no_payload() -> None:
    broken = DeadLetter("1", NOW, letter(SOUND).fields | {"payload": "***"})
    assert broken.payload == b""
    assert not broken.is_whole
