"""One stack for all tests of this layer: starting it takes longer than any of them."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from deploy.local import jobs
from deploy.local.stack import Stack, StackOptions

T = TypeVar("T")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Emulator, endpoint with the trained model, and a standalone Flink cluster."""
    options = StackOptions(model_dir=jobs.MODEL_DIR, properties=jobs.PROPERTIES)
    with Stack(tmp_path_factory.mktemp("run"), options) as running:
        yield running


def until(result: Callable[[], T], is_enough: Callable[[T], bool], timeout_s: float = 90.0) -> T:
    """Ask for a result until it is enough, and return it; the last one when time is up."""
    deadline_s = time.monotonic() + timeout_s
    while not is_enough(found := result()) and time.monotonic() < deadline_s:
        time.sleep(0.2)
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
