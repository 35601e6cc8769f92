"""Dead letters on AWS: read from moto's Kinesis, sent again where they now get through."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from moto import mock_aws

from deploy.aws.clock import ImaginedClock
from deploy.aws.dead_letters import DeadLetter, Outcome, Redrive, Redriver, read_dead_letters
from deploy.aws.errors import DeployError
from deploy.aws.session import Aws
from deploy.aws.template import Template, check_applications
from deploy.show import show_letter, show_letters, show_redrive
from flink_jobs.config import ReviewScoringConfig
from udfs.core.lookalikes import KPL_MAGIC
from udfs.core.source_ids import source_part

REGION, BUCKET = "eu-west-1", "test-bucket"
NOW = datetime.now(UTC)
ARRIVED = NOW - timedelta(hours=2)
ARCHIVE_DAYS = 3
SOUND = b'{"review_id": "R1", "product_category": "Gift_Card", "review_body": "Nice."}'
LONG = SOUND.replace(b"Nice.", b"Nice. " * 20_000)
ACCEPTED = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
THROTTLED = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        account = Aws(REGION)
        account.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        for stream in ("test-reviews", "test-dead-letters", "test-scored-reviews"):
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
    return Redriver(aws, ImaginedClock(NOW), config, BUCKET, ARCHIVE_DAYS)


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
            "arrival_time": ARRIVED.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "payload": base64.b64encode(payload[:kept]).decode(),
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
            "payload_bytes": len(payload),
        }
        | fields,
    )


def redrive(redriver: Redriver, *letters: DeadLetter, is_unchecked: bool = False) -> Redrive:
    return redriver.redrive(lambda: letters, is_unchecked=is_unchecked)


def outcomes(redriver: Redriver, *letters: DeadLetter, **options: bool) -> dict[Outcome, int]:
    return dict(redrive(redriver, *letters, **options).counts)


def reason(redriver: Redriver, *letters: DeadLetter) -> tuple[Outcome, str]:
    (found,) = redrive(redriver, *letters).reasons
    return found


def score(aws: Aws, of: DeadLetter, **fields: Any) -> bytes:
    """Put the record of a letter into `scored-reviews`, and return it."""
    names = ("source_stream", "source_shard", "source_sequence_number", "source_part")
    record = {name: of.fields.get(name) for name in names} | {"star_rating": 5} | fields
    data = json.dumps(record).encode()
    aws.client("kinesis").put_record(StreamName="test-scored-reviews", Data=data, PartitionKey="R1")
    return data


def archive(aws: Aws, moment: datetime, *lines: bytes) -> None:
    aws.client("s3").put_object(
        Bucket=BUCKET,
        Key=f"scored/{moment:%Y/%m/%d/%H}/delivery-{moment:%M}",
        Body=gzip.compress(b"".join(line + b"\n" for line in lines)),
    )


def source_line(of: DeadLetter) -> bytes:
    names = ("source_stream", "source_shard", "source_sequence_number")
    return json.dumps({name: of.fields[name] for name in names}).encode()


def recorded(aws: Aws) -> list[dict[str, Any]]:
    client = aws.client("s3")
    objects = client.list_objects_v2(Bucket=BUCKET, Prefix="redriven/").get("Contents", [])
    return [
        json.load(client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"]) for item in objects
    ]


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
    client.put_record(StreamName="test-dead-letters", Data=b"[" * 50_000, PartitionKey="x")
    clock = ImaginedClock(NOW)
    found = list(read_dead_letters(aws, "test-dead-letters", NOW - timedelta(hours=1), clock))
    assert sorted(item.source_id[2] for item in found) == ["", *map(str, range(6))]
    assert len({item.sequence_number for item in found}) == 7
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert list(read_dead_letters(aws, "test-dead-letters", later, clock)) == []


def test_what_gets_through_is_sent_once(aws: Aws, redriver: Redriver) -> None:
    valid, broken = letter(SOUND, number="1"), letter(b"still broken", number="2")
    result = redrive(redriver, valid, valid, broken)
    assert result.counts == {Outcome.SENT: 1, Outcome.SENT_BEFORE: 1, Outcome.WOULD_FAIL: 1}
    assert result.reasons == {(Outcome.WOULD_FAIL, "still not_json"): 1}
    assert reviews(aws) == [SOUND]
    # And not in another run either.
    assert outcomes(redriver, valid) == {Outcome.SENT_BEFORE: 1}
    assert reviews(aws) == [SOUND]
    assert recorded(aws) == [{"sent": [list(valid.source_id)], "unknown": []}]


def test_what_an_older_release_sent_is_not_sent_again(aws: Aws, redriver: Redriver) -> None:
    aws.client("s3").put_object(
        Bucket=BUCKET,
        Key="redriven/20260101T000000-abc.json",
        Body=json.dumps([["test-reviews", "shardId-000000000000", "1"]]).encode(),
    )
    assert outcomes(redriver, letter(SOUND), letter(SOUND, source_part="abc")) == {
        Outcome.SENT_BEFORE: 2
    }


def test_a_record_that_was_scored_after_a_replay_is_not_sent(aws: Aws, redriver: Redriver) -> None:
    scored, other = letter(SOUND, number="1"), letter(SOUND, number="2")
    score(aws, scored)
    score(aws, letter(SOUND, number="3"))
    aws.client("kinesis").put_record(
        StreamName="test-scored-reviews", Data=b"no JSON", PartitionKey="R1"
    )
    assert outcomes(redriver, scored, other) == {Outcome.SCORED: 1, Outcome.SENT: 1}
    assert reviews(aws) == [SOUND]


def test_the_parts_of_an_aggregated_record_are_told_apart(aws: Aws, redriver: Redriver) -> None:
    parts = [letter(SOUND, source_part=part) for part in ("a", "b")]
    score(aws, parts[0])
    assert outcomes(redriver, *parts) == {Outcome.SCORED: 1, Outcome.SENT: 1}
    assert outcomes(redriver, *parts) == {Outcome.SCORED: 1, Outcome.SENT_BEFORE: 1}


def test_what_was_scored_before_the_stream_begins_is_found_in_the_archive(
    aws: Aws, redriver: Redriver
) -> None:
    arrived = NOW - timedelta(days=2)
    old = [letter(SOUND, number=str(n), arrival_time=arrived.isoformat()) for n in range(4)]
    archive(aws, arrived, source_line(old[0]), b"no JSON")
    archive(aws, NOW - timedelta(hours=24, minutes=30), source_line(old[1]))
    score(aws, old[2])
    # Long before any of them arrived: of another record with the same number.
    archive(aws, arrived - timedelta(hours=5), source_line(old[3]))
    assert outcomes(redriver, *old) == {Outcome.SCORED: 3, Outcome.SENT: 1}


@pytest.mark.parametrize(
    "arrival_time",
    [None, "yesterday", "2026-01-31T12:00:00", (NOW - timedelta(days=4)).isoformat()],
)
def test_where_it_cannot_be_known_it_is_only_sent_unchecked(
    aws: Aws, redriver: Redriver, arrival_time: str | None
) -> None:
    doubtful = letter(SOUND, arrival_time=arrival_time)
    outcome, _ = reason(redriver, doubtful)
    assert outcome is Outcome.NOT_KNOWN
    assert reviews(aws) == []
    assert outcomes(redriver, doubtful, is_unchecked=True) == {Outcome.SENT: 1}


def test_unchecked_does_not_send_what_is_known_to_be_scored(aws: Aws, redriver: Redriver) -> None:
    score(aws, letter(SOUND))
    assert outcomes(redriver, letter(SOUND), is_unchecked=True) == {Outcome.SCORED: 1}


def test_letters_that_arrive_while_it_checks_are_left_for_the_next_run(
    aws: Aws, redriver: Redriver
) -> None:
    reads = [[letter(SOUND, number="1")], [letter(SOUND, number=n) for n in ("1", "2")]]
    result = redriver.redrive(lambda: reads.pop(0))
    assert result.counts == {Outcome.SENT: 1}


@pytest.mark.parametrize("stage", ["late", "publish", ""])
def test_what_no_stream_leads_to_stays(aws: Aws, redriver: Redriver, stage: str) -> None:
    outcome, why = reason(redriver, letter(SOUND, stage))
    assert outcome is Outcome.WOULD_FAIL
    assert "cannot be sent again" in why
    assert reviews(aws) == []


def test_what_came_from_another_stream_stays(aws: Aws, redriver: Redriver) -> None:
    _, why = reason(redriver, letter(SOUND, source_stream="test-scored-reviews"))
    assert why == "not a record of test-reviews"


def put_original(aws: Aws, data: bytes) -> dict[str, str]:
    put = aws.client("kinesis").put_record(StreamName="test-reviews", Data=data, PartitionKey="R1")
    return {"source_shard": put["ShardId"], "source_sequence_number": put["SequenceNumber"]}


def test_a_long_record_is_taken_from_its_stream(aws: Aws, redriver: Redriver) -> None:
    assert outcomes(redriver, letter(LONG, **put_original(aws, LONG))) == {Outcome.SENT: 1}
    assert reviews(aws) == [LONG, LONG]


def test_empty_pages_do_not_hide_a_long_record(aws: Aws, redriver: Redriver) -> None:
    source = put_original(aws, LONG)
    client, pages = aws.client("kinesis"), 0

    def empty(model: Any, params: Any, **_: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages > 3:
            return None
        body: Any = {
            "Records": [],
            "NextShardIterator": json.loads(params["body"])["ShardIterator"],
            "MillisBehindLatest": 1000,
            "ResponseMetadata": {"HTTPStatusCode": 200},
        }
        return type("Http", (), {"status_code": 200})(), body

    client.meta.events.register("before-call.kinesis.GetRecords", empty)
    assert outcomes(redriver, letter(LONG, arrival_time=None, **source), is_unchecked=True) == {
        Outcome.SENT: 1
    }
    assert pages == 4


def test_a_whole_payload_is_sent_without_reading_the_stream(aws: Aws, redriver: Redriver) -> None:
    # Its sequence number is that of an aggregated record: the stream has other bytes there.
    source = put_original(aws, KPL_MAGIC + b" several records")
    assert outcomes(redriver, letter(SOUND, **source)) == {Outcome.SENT: 1}
    assert SOUND in reviews(aws)


def test_part_of_an_aggregated_record_cannot_be_restored(aws: Aws, redriver: Redriver) -> None:
    source = put_original(aws, KPL_MAGIC + b" several records")
    outcome, why = reason(redriver, letter(LONG, **source))
    assert outcome is Outcome.WOULD_FAIL
    assert "aggregated (KPL) record, which cannot be split" in why


@pytest.fixture
def separating(aws: Aws, config: ReviewScoringConfig) -> Redriver:
    """One of a job that takes several reviews a record."""
    several = config.reviews.model_copy(update={"several_per_record": True})
    config = config.model_copy(update={"reviews": several})
    return Redriver(aws, ImaginedClock(NOW), config, BUCKET, ARCHIVE_DAYS)


OTHER = SOUND.replace(b"R1", b"R2")
SEVERAL = SOUND + b"\n" + OTHER


def of_part(payload: bytes, place: int | None, **fields: Any) -> DeadLetter:
    return letter(payload, source_part=source_part(payload, place), **fields)


def test_a_record_of_several_reviews_is_sent_once_the_property_is_set(
    aws: Aws, redriver: Redriver, separating: Redriver
) -> None:
    whole = of_part(SEVERAL, None)
    assert reason(redriver, whole) == (Outcome.WOULD_FAIL, "still not_json")
    assert outcomes(separating, whole) == {Outcome.SENT: 1}
    assert reviews(aws) == [SEVERAL]
    # Also as its parts.
    parts = [of_part(data, place) for place, data in enumerate((SOUND, OTHER))]
    assert outcomes(separating, whole, *parts) == {Outcome.SENT_BEFORE: 3}


def test_a_record_is_sent_for_the_reviews_in_it_that_get_through(
    aws: Aws, separating: Redriver
) -> None:
    data = b'{"review_id": "R0"}' + SOUND
    assert outcomes(separating, of_part(data, None)) == {Outcome.SENT: 1}
    (record,) = reviews(aws)
    assert record == data
    none = of_part(b'{"review_id": "R0"}{}', None, number="2")
    assert reason(separating, none) == (Outcome.WOULD_FAIL, "still missing_field")


def test_a_record_whose_parts_were_scored_after_a_replay_is_not_sent(
    aws: Aws, separating: Redriver
) -> None:
    whole = of_part(SEVERAL, None)
    score(aws, of_part(OTHER, 1))
    assert outcomes(separating, whole, of_part(SOUND, 0)) == {Outcome.SCORED: 1, Outcome.SENT: 1}
    assert outcomes(separating, whole) == {Outcome.SENT_BEFORE: 1}
    assert reviews(aws) == [SOUND]


def test_a_long_part_is_found_in_its_record(aws: Aws, redriver: Redriver) -> None:
    data = SOUND + LONG + OTHER
    part = of_part(LONG, 1, kept=256, **put_original(aws, data))
    # The job may have gone back to one review a record meanwhile.
    assert outcomes(redriver, part) == {Outcome.SENT: 1}
    assert sorted(reviews(aws)) == sorted([data, LONG])


def test_a_record_that_does_not_hold_the_part_is_no_original(aws: Aws, redriver: Redriver) -> None:
    part = of_part(LONG, 1, **put_original(aws, SEVERAL))
    assert reason(redriver, part) == (
        Outcome.GONE,
        "the record with its sequence number does not hold it",
    )


@pytest.mark.parametrize("value", [5, {"a": 1}, ["R1"], "", True, "\ud800", "x" * 999])
@pytest.mark.parametrize(
    "name",
    [
        *("stage", "reason", "message", "review_id", "arrival_time", "payload", "payload_sha256"),
        *("payload_bytes", "source_stream", "source_shard", "source_sequence_number"),
        "source_part",
    ],
)
def test_a_letter_that_is_not_from_the_job_stops_nothing(
    aws: Aws, redriver: Redriver, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = DeadLetter("2", NOW, letter(SOUND, number="2").fields | {name: value})
    assert redrive(redriver, foreign, letter(SOUND)).counts.total() == 2
    foreign = DeadLetter("3", NOW, letter(LONG, number="3").fields | {name: value})
    redrive(redriver, foreign, is_unchecked=True)
    show_letters([foreign])
    show_letter(foreign)
    assert SOUND in reviews(aws)


@pytest.mark.parametrize(
    "arrival_time",
    ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2999-01-01T00:00:00Z"],
)
def test_an_arrival_time_that_cannot_be_stops_nothing(
    aws: Aws, redriver: Redriver, arrival_time: str
) -> None:
    foreign = letter(SOUND, number="2", arrival_time=arrival_time)
    assert outcomes(redriver, letter(SOUND), foreign, is_unchecked=True) == {Outcome.SENT: 2}


def test_the_key_of_a_record_is_that_of_its_review(aws: Aws, redriver: Redriver) -> None:
    keys: list[str] = []
    aws.single_attempt_client("kinesis").meta.events.register(
        "provide-client-params.kinesis.PutRecords",
        lambda params, **_: keys.extend(item["PartitionKey"] for item in params["Records"]),
    )
    assert outcomes(redriver, letter(SOUND, review_id={"not": "text"})) == {Outcome.SENT: 1}
    assert keys == ["R1"]


def test_a_long_record_whose_original_has_gone_stays(aws: Aws, redriver: Redriver) -> None:
    assert reason(redriver, letter(LONG))[0] is Outcome.GONE
    assert reviews(aws) == []


def test_a_damaged_payload_is_not_sent(aws: Aws, redriver: Redriver) -> None:
    assert reason(redriver, letter(SOUND, payload_sha256="0" * 64))[0] is Outcome.GONE
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
        result = redrive(redriver, letter(SOUND, "score"))
    assert result.counts[Outcome.SENT] == is_sent
    assert reviews(aws) == [SOUND] * is_sent


def test_records_that_the_stream_turns_down_are_sent_again(aws: Aws, redriver: Redriver) -> None:
    entry = {"Data": SOUND, "PartitionKey": "R1"}
    with Stubber(aws.single_attempt_client("kinesis")) as kinesis:
        for records, answers in (
            ([entry, entry], [ACCEPTED, THROTTLED]),
            ([entry], [ACCEPTED]),
        ):
            kinesis.add_response(
                "put_records",
                {"FailedRecordCount": 1, "Records": answers},
                {"StreamName": "test-reviews", "Records": records},
            )
        letters = [letter(SOUND, number=number, review_id="R1") for number in ("1", "2")]
        assert outcomes(redriver, *letters) == {Outcome.SENT: 2}
        kinesis.assert_no_pending_responses()


def test_a_batch_keeps_within_the_bytes_of_a_call(aws: Aws, redriver: Redriver) -> None:
    # 50 x 120 kB: within its number of records, but not its bytes.
    sizes: list[int] = []
    aws.single_attempt_client("kinesis").meta.events.register(
        "provide-client-params.kinesis.PutRecords",
        lambda params, **_: sizes.append(sum(len(item["Data"]) for item in params["Records"])),
    )
    original = put_original(aws, LONG)
    letters = [letter(LONG, source_part=str(n), **original) for n in range(50)]
    assert outcomes(redriver, *letters) == {Outcome.SENT: 50}
    assert len(sizes) == 2
    assert max(sizes) <= 5 * 1024 * 1024


@pytest.mark.parametrize("failure", ["throttled", "refused"])
def test_what_got_in_before_it_broke_off_is_not_sent_twice(
    aws: Aws, redriver: Redriver, failure: str
) -> None:
    letters = [letter(SOUND, number=number) for number in ("1", "2")]
    with Stubber(aws.single_attempt_client("kinesis")) as kinesis:
        kinesis.add_response("put_records", {"Records": [ACCEPTED, THROTTLED]})
        if failure == "refused":
            kinesis.add_client_error("put_records", "ExpiredTokenException", "expired", 403)
        else:
            for _ in range(50):
                kinesis.add_response("put_records", {"Records": [THROTTLED]})
        with pytest.raises(DeployError, match=r"takes no more: .*(60 s|expired)") as caught:
            redrive(redriver, *letters)
    assert "1 of the last 2 dead letters were not sent" in caught.value.state[0]
    assert outcomes(redriver, *letters) == {Outcome.SENT_BEFORE: 1, Outcome.SENT: 1}


def test_a_lost_answer_is_not_followed_by_a_second_call(aws: Aws, redriver: Redriver) -> None:
    letters = [letter(SOUND, number=number) for number in ("1", "2")]
    calls = 0

    def lose(**_: Any) -> None:
        nonlocal calls
        calls += 1
        raise ReadTimeoutError(endpoint_url="https://kinesis.example")

    client = aws.single_attempt_client("kinesis")
    client.meta.events.register("before-call.kinesis.PutRecords", lose)
    with pytest.raises(DeployError, match="no answer from the stream test-reviews") as caught:
        redrive(redriver, *letters)
    assert calls == 1
    assert "2 of the last 2 dead letters may have been sent or not" in caught.value.state[0]
    client.meta.events.unregister("before-call.kinesis.PutRecords", lose)
    assert recorded(aws) == [{"sent": [], "unknown": [list(item.source_id) for item in letters]}]
    assert outcomes(redriver, *letters) == {Outcome.NOT_KNOWN: 2}
    assert outcomes(redriver, *letters, is_unchecked=True) == {Outcome.SENT: 2}
    assert outcomes(redriver, *letters, is_unchecked=True) == {Outcome.SENT_BEFORE: 2}


def test_a_run_that_was_killed_while_sending_leaves_its_batch_as_not_known(
    aws: Aws, redriver: Redriver
) -> None:
    def end(**_: Any) -> None:
        raise KeyboardInterrupt

    client = aws.single_attempt_client("kinesis")
    client.meta.events.register("before-call.kinesis.PutRecords", end)
    with pytest.raises(KeyboardInterrupt):
        redrive(redriver, letter(SOUND))
    client.meta.events.unregister("before-call.kinesis.PutRecords", end)
    assert outcomes(redriver, letter(SOUND)) == {Outcome.NOT_KNOWN: 1}


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
    doubtful = letter(SOUND, number="3", arrival_time=None)
    show_redrive(redrive(redriver, letter(SOUND), letter(b"x", number="2"), doubtful))
    shown = capsys.readouterr().out
    assert "sent again: 1" in shown
    assert "still not_json" in shown
    assert "not known whether it was scored or sent: 1" in shown
    assert "--redrive --unchecked" in shown


def test_many_letters_are_counted_and_only_the_latest_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_letters(
        DeadLetter(str(number), NOW + timedelta(seconds=number), letter(SOUND).fields)
        for number in range(3_000)
    )
    shown = capsys.readouterr().out
    assert "3,000 dead letters" in shown
    assert "--show 2999" in shown
    assert shown.count("parse/not_json") == 20


def test_a_payload_that_is_no_base64_is_no_payload() -> None:
    broken = DeadLetter("1", NOW, letter(SOUND).fields | {"payload": "***"})
    assert broken.payload == b""
    assert not broken.is_whole
