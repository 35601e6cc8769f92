"""What the tests of whole jobs share: a stack, and readers of what comes out."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from deploy.local import jobs
from deploy.local.cluster import MEASURES_AGE_S
from deploy.local.emulator import create_resources
from deploy.local.recorder import Recorder
from deploy.local.stack import BUCKET, Stack, StackOptions
from deploy.local.tails import ArchiveTail, StreamTail, Tail
from tests.waiting import until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Emulator, endpoint with the trained model, and a standalone Flink cluster.

    One a module: starting it takes longer than a test, and other modules have clusters of their
    own.
    """
    options = StackOptions(model_dir=jobs.MODEL_DIR, properties=jobs.PROPERTIES)
    with Stack(tmp_path_factory.mktemp("run"), options) as running:
        yield running


def submit(
    stack: Stack,
    name: str,
    properties: Mapping[str, Mapping[str, str]] | None = None,
    shards: int = 2,
) -> tuple[str, dict[str, str]]:
    """Submit the job over streams and archives of its own; return its id and their names."""
    streams = {
        "reviews": f"{name}-reviews",
        "scored_reviews": f"{name}-scored",
        "dead_letters": f"{name}-dead",
        "raw_archive": f"{name}-raw",
        "scored_archive": f"{name}-archived",
    }
    create_resources(
        stack.info.emulator_url,
        stack.info.region,
        streams={streams[group]: shards for group in ("reviews", "scored_reviews", "dead_letters")},
        bucket=BUCKET,
        delivery_streams={
            streams[group]: f"{streams[group]}/" for group in ("raw_archive", "scored_archive")
        },
    )
    return resubmit(stack, streams, properties), streams


def resubmit(
    stack: Stack,
    streams: dict[str, str],
    properties: Mapping[str, Mapping[str, str]] | None = None,
    savepoint: str | None = None,
) -> str:
    """Submit the job over existing streams, from a savepoint where one is given."""
    overrides: dict[str, dict[str, str]] = {
        group: {"delivery_stream" if "archive" in group else "stream": stream}
        for group, stream in streams.items()
    }
    for group, values in (properties or {}).items():
        overrides[group] = overrides.get(group, {}) | dict(values)
    return stack.cluster.submit(
        entry=jobs.ENTRY,
        properties=stack.properties_for("review_scoring", overrides),
        jarfile=jobs.JAR,
        pyfiles=jobs.write_pyfiles(),
        savepoint=savepoint,
    )


def follow(stack: Stack, streams: dict[str, str], recorder: Recorder) -> list[Tail]:
    """Begin to record all that goes into and comes out of `review_scoring`."""
    kinesis, s3 = stack.client("kinesis"), stack.client("s3")
    tails: list[Tail] = [
        StreamTail(kinesis, streams["reviews"], recorder.sent),
        StreamTail(kinesis, streams["scored_reviews"], recorder.scored),
        StreamTail(kinesis, streams["dead_letters"], recorder.dead_letter),
        ArchiveTail(s3, BUCKET, f"{streams['raw_archive']}/", recorder.s3_raw),
        ArchiveTail(s3, BUCKET, f"{streams['scored_archive']}/", recorder.s3_scored),
    ]
    for tail in tails:
        tail.start()
    return tails


def wait_until_read(stack: Stack, job_id: str, stream: str, shards: int) -> None:
    """Wait until a job has taken in all that was put into a stream so far."""
    unread_s = time.monotonic()

    def for_how_long_s() -> float:
        nonlocal unread_s
        if stack.cluster.unread(job_id, stream, shards):
            unread_s = time.monotonic()
        return time.monotonic() - unread_s

    until(
        for_how_long_s,
        lambda seconds: seconds > MEASURES_AGE_S,
        hint=lambda: stack.cluster.exceptions(job_id),
    )


def put(stack: Stack, stream: str, payloads: dict[str, bytes]) -> dict[tuple[str, str], str]:
    """Put one record a payload; return the payloads' names by source_id."""
    kinesis = stack.client("kinesis")
    names = {}
    for name, payload in payloads.items():
        result = kinesis.put_record(StreamName=stream, Data=payload, PartitionKey=name)
        names[result["ShardId"], result["SequenceNumber"]] = name
    return names


def by_name(
    names: dict[tuple[str, str], str], rows: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    found = {names[row["source_shard"], row["source_sequence_number"]]: row for row in rows}
    assert len(found) == len(rows), "repeats without a failure"
    return found


def read_stream(kinesis: Any, stream: str) -> list[dict[str, Any]]:
    """Return all records of a stream, parsed, each with its own length as `_bytes`."""
    records = []
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while batch := kinesis.get_records(ShardIterator=iterator, Limit=1000):
            if not batch["Records"]:
                break
            iterator = batch["NextShardIterator"]
            records += [
                json.loads(record["Data"]) | {"_bytes": len(record["Data"])}
                for record in batch["Records"]
            ]
    return records


def read_archive(s3: Any, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """Return all lines below a prefix, parsed, each with its own length as `_bytes`."""
    lines: list[dict[str, Any]] = []
    for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        lines += [json.loads(line) | {"_bytes": len(line)} for line in body.splitlines()]
    return lines
