from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.local.emulator import CLIENT_CONFIG, answers, emulator, session
from deploy.local.process import free_port


@pytest.fixture
def kinesis(tmp_path: Path) -> Iterator[Any]:
    port = free_port(5000)
    address = f"http://127.0.0.1:{port}"
    with emulator(port, tmp_path / "emulator.log", "us-east-1") as part:
        part.wait_ready(lambda: answers(f"{address}/moto-api/"), 60)
        yield session("us-east-1").client("kinesis", endpoint_url=address, config=CLIENT_CONFIG)


def test_records_that_arrive_together_are_all_kept(kinesis: Any) -> None:
    kinesis.create_stream(StreamName="reviews", ShardCount=1)

    def put(batch: int) -> list[str]:
        records = [{"Data": b"x", "PartitionKey": str(n)} for n in range(100)]
        results = kinesis.put_records(StreamName="reviews", Records=records)["Records"]
        return [result["SequenceNumber"] for result in results]

    with ThreadPoolExecutor(16) as pool:
        numbers = [number for batch in pool.map(put, range(100)) for number in batch]
    assert len(set(numbers)) == len(numbers) == 10_000
