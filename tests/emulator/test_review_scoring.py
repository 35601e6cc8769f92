"""The job as users run it: `flink run` on a standalone cluster, the connectors, the emulator."""

import base64
import json
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from deploy.local import jobs
from deploy.local.cluster import FlinkClientError
from deploy.local.stack import BUCKET, Stack
from tests.corpus import ORDINARY, check_outcome, record_cases
from tests.emulator.conftest import by_name, put, read_archive, read_stream, submit
from tests.waiting import until

KINESIS_LIMIT = 1024 * 1024
FIREHOSE_LIMIT = 1_000 * 1024
MAX_BODY_BYTES = 700 * 1024  # the largest that the configuration takes
LONG_KEY = '"\\' * 128  # 256 bytes, and twice as many as JSON


CORPUS = (
    "no-break and ideographic space",
    "decomposed letters",
    "Persian with a joiner",
    "zero-width space and soft hyphen",
    "control character",
    "right-to-left override",
    "half a surrogate pair",
    "body stays as it is",
    "body of a zero-width space",
    "byte order mark",
    "gzip",
    "base64",
    "UTF-16",
    "ISO 8859-1",
    "two objects",
    "array of objects",
    "envelope Records (Lambda)",
)
"""Telling records of the corpus whose event time is their arrival."""


def finished(
    stack: Stack, job_id: str, streams: dict[str, str], names: dict[tuple[str, str], str]
) -> tuple[dict[str, dict[str, Any]], ...]:
    """Wait until all is through, drain the job; return what came out, by name."""
    kinesis = stack.client("kinesis")

    def through() -> int:
        return sum(
            len(read_stream(kinesis, streams[group]))
            for group in ("scored_reviews", "dead_letters")
        )

    count = until(
        through,
        lambda count: count >= len(names),
        hint=lambda: stack.cluster.exceptions(job_id),
    )
    assert count == len(names)
    stack.cluster.stop_job(job_id)
    assert stack.cluster.exceptions(job_id) == ""
    s3 = stack.client("s3")
    return (
        by_name(names, read_stream(kinesis, streams["scored_reviews"])),
        by_name(names, read_stream(kinesis, streams["dead_letters"])),
        by_name(names, read_archive(s3, BUCKET, f"{streams['raw_archive']}/")),
        by_name(names, read_archive(s3, BUCKET, f"{streams['scored_archive']}/")),
    )


def json_review(total_bytes: int | None = None, **fields: str) -> bytes:
    """A review; with `total_bytes`, its body is filled up until the record has that length."""
    record = {"review_id": "R1", "product_category": "Gift_Card", "review_body": "", **fields}
    if total_bytes is None:
        return json.dumps(record, ensure_ascii=False).encode()
    frame = len(json.dumps(record, ensure_ascii=False).encode())
    record["review_body"] += "a" * (total_bytes - frame)
    return json.dumps(record, ensure_ascii=False).encode()


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def records_answered(stack: Stack) -> int:
    return int(get_json(f"{stack.info.endpoint_url}/stats")["records"])


def test_no_output_can_exceed_its_sinks_limit(stack: Stack) -> None:
    keys = {"review_id": LONG_KEY, "product_category": LONG_KEY}
    payloads = {
        "just under": json_review(MAX_BODY_BYTES, **keys),
        "just over": json_review(MAX_BODY_BYTES + 1, **keys),
        "escapes": json_review(**keys, review_body="a" + "\x01" * 119_000),
        "quotes": json_review(**keys, review_body='"' * 350_000),
        # Flink's JSON escapes each half of a surrogate pair: 12 bytes for four.
        "wide": json_review(**keys, review_body="😀" * (MAX_BODY_BYTES // 12)),
        "too wide": json_review(**keys, review_body="😀" * (MAX_BODY_BYTES // 12 + 1)),
        "key too long": json_review(review_id="R" * 257, review_body="fine"),
        "largest record": b"[" + b" " * (KINESIS_LIMIT - 32) + b"]",
    }
    before = records_answered(stack)
    job_id, streams = submit(
        stack,
        "limits-json",
        {
            "reviews": {"max_body_bytes": str(MAX_BODY_BYTES)},
            "application": {"bundle_rows": "500", "checkpoint_timeout_s": "500"},
        },
    )
    # The deadline is held against this property, so it must be what the engine goes by.
    checkpoints = get_json(f"{stack.info.web_ui_url}/jobs/{job_id}/checkpoints/config")
    assert checkpoints["timeout"] == 500_000
    names = put(stack, streams["reviews"], payloads)
    scored, dead, raw, archived = finished(stack, job_id, streams, names)

    assert scored.keys() == {"just under", "escapes", "quotes", "wide"}
    assert {name: row["reason"] for name, row in dead.items()} == {
        "just over": "oversize",
        "too wide": "oversize",
        "key too long": "key_too_long",
        "largest record": "oversize",
    }
    assert records_answered(stack) - before == len(scored), "called once a row"
    for name, row in scored.items():
        sent = json.loads(payloads[name])
        assert (row["review_id"], row["product_category"]) == (LONG_KEY, LONG_KEY)
        assert row["review_body"] == archived[name]["review_body"] == sent["review_body"]
        assert row["_bytes"] + 256 <= KINESIS_LIMIT
        assert archived[name]["_bytes"] <= FIREHOSE_LIMIT
    assert raw.keys() == payloads.keys() - {"just over", "too wide", "largest record"}
    for name, row in raw.items():
        assert base64.b64decode(row["payload"]) == payloads[name]
        assert row["_bytes"] <= FIREHOSE_LIMIT
    for name, row in dead.items():
        assert base64.b64decode(row["payload"]) == payloads[name][: 64 * 1024]
        assert row["payload_bytes"] == len(payloads[name])


def test_control_characters_count_six_bytes_in_tsv(stack: Stack) -> None:
    max_body_bytes = 256 * 1024
    characters, rest = divmod(max_body_bytes, 6)
    payloads = {
        "just under": b"R1\tGift_Card\t" + b"a" * rest + b"\x01" * characters,
        "just over": b"R2\tGift_Card\ta" + b"a" * rest + b"\x01" * characters,
        "plain": "R3\tGift_Card\tGreat gift, très bien.\r\n".encode(),
        "two columns": b"R4\tGift_Card",
    }
    job_id, streams = submit(
        stack,
        "limits-tsv",
        {"reviews": {"format": "tsv", "max_body_bytes": str(max_body_bytes)}},
    )
    names = put(stack, streams["reviews"], payloads)
    scored, dead, raw, _ = finished(stack, job_id, streams, names)
    assert scored.keys() == {"just under", "plain"}
    assert scored["just under"]["_bytes"] < max_body_bytes + 2_048
    assert scored["plain"]["review_body"] == "Great gift, très bien."
    assert {name: row["reason"] for name, row in dead.items()} == {
        "just over": "oversize",
        "two columns": "wrong_columns",
    }
    assert raw.keys() == payloads.keys() - {"just over"}


def test_odd_records_end_as_the_corpus_says(stack: Stack) -> None:
    cases = {case.name: case for case in record_cases() if case.name in CORPUS}
    assert cases.keys() == set(CORPUS)
    # The arrival times are those of the emulator: event times are written around the clock's.
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=2)
    minute = moment.replace(second=0)
    times: dict[str, tuple[object, datetime]] = {
        "no seconds": (f"{minute:%Y-%m-%dT%H:%MZ}", minute),
        "basic, with a comma": (
            f"{moment:%Y%m%dT%H%M%S},25+00",
            moment + timedelta(milliseconds=250),
        ),
        "date of HTTP": (format_datetime(moment, usegmt=True), moment),
        "Go": (f"{moment:%Y-%m-%d %H:%M:%S} +0000 UTC", moment),
        "milliseconds": (int(moment.timestamp()) * 1_000, moment),
    }
    payloads = {name: case.payload for name, case in cases.items()} | {
        name: json.dumps({**ORDINARY, "event_time": value}).encode()
        for name, (value, _) in times.items()
    }
    job_id, streams = submit(stack, "corpus")
    names = put(stack, streams["reviews"], payloads)
    scored, dead, raw, archived = finished(stack, job_id, streams, names)

    for name, case in cases.items():
        check_outcome(case, scored.get(name), dead.get(name))
    for name, (_, expected) in times.items():
        assert datetime.fromisoformat(scored[name]["event_time"]) == expected, name
    assert archived.keys() == scored.keys()
    assert {name: base64.b64decode(row["payload"]) for name, row in raw.items()} == payloads


def test_a_wrong_configuration_is_named_in_full_before_anything_starts(stack: Stack) -> None:
    properties = stack.properties_for(
        "review_scoring",
        {"reviews": {"max_body_bytes": "many", "strem": "x"}, "aws": {"region": ""}},
    )
    with pytest.raises(FlinkClientError) as raised:
        stack.cluster.submit(
            entry=jobs.ENTRY,
            properties=properties,
            jarfile=jobs.JAR,
            pyfiles=jobs.write_pyfiles(),
        )
    message = str(raised.value)
    assert message.count(f"APPLICATION START FAILED: 3 problems in {properties}") == 1
    assert "reviews.max_body_bytes = 'many': input should be a valid integer" in message
    assert "reviews.strem is unknown; did you mean 'stream'?" in message
    assert "aws.region = ''" in message
    assert "Traceback" not in message
