"""How long a review takes through `review_scoring`, at a rate that the job keeps up with."""

import io
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.local import jobs
from deploy.local.generator import GeneratorOptions, generate
from deploy.local.ledger import SourceId
from deploy.local.pipeline import Pipeline
from deploy.local.sample import load_sample
from deploy.local.stack import Stack, StackOptions
from deploy.local.tails import Arrived, StreamTail
from udfs.core.source_ids import source_part

JOB = "review_scoring"

_START_TIMEOUT_S = 180.0
_END_TIMEOUT_S = 60.0
_PARTS = 3
_PERCENTILES = (50, 95, 99)


def latency_ms(
    run_dir: Path,
    faults: Mapping[str, Any],
    *,
    rate_per_s: float,
    warm_up_s: float,
    seconds: float,
) -> dict[str, Any]:
    """Run the job between real connectors and measure from put to readable.

    Parameters
    ----------
    run_dir
        Logs.
    faults
        Of the endpoint.
    rate_per_s
        Reviews a second.
    warm_up_s, seconds
        What is put before counts for nothing; for so long it does then.

    Returns
    -------
    dict
        `p50`, `p95` and `p99` in ms, from the time at which Kinesis took a record into `reviews`
        to that at which it took what was scored into `scored-reviews`, from where it can be read;
        `reviews`, how many were measured; `parts`, the same percentiles of consecutive thirds.

    Raises
    ------
    RuntimeError
        Not every review came through.
    """
    config = load_sample(jobs.PROPERTIES)
    options = StackOptions(
        model_dir=jobs.MODEL_DIR,
        properties=jobs.PROPERTIES,
        endpoint_arguments=("--faults", json.dumps(dict(faults))),
    )
    sound = GeneratorOptions(broken_share=0.0, late_share=0.0, burst_reviews=0)
    with Stack(run_dir, options) as stack:
        pipeline = Pipeline(
            stack,
            config,
            (JOB,),
            generate(sound, 1, time.time),
            Console(file=io.StringIO()),
            rate_per_s=rate_per_s,
            duration_s=warm_up_s + seconds,
        )
        try:
            pipeline.submit()
            pipeline.wait_until_running(_START_TIMEOUT_S)
            pipeline.sender.start()
            while pipeline.sender.is_alive():
                pipeline.check()
                time.sleep(1.0)
            put = _arrivals(stack.client("kinesis"), config.reviews.stream)
            scored = _all_scored(stack.client("kinesis"), config.scored_reviews.stream, len(put))
        finally:
            pipeline.end_threads()
    begin_s = min(put.values()) + warm_up_s
    # Of a repeat, the first counts; both streams are in the order of arrival.
    latencies = [
        (scored[source_id] - put_s) * 1000 for source_id, put_s in put.items() if put_s >= begin_s
    ]
    third = len(latencies) // _PARTS
    parts = [_percentiles(latencies[part * third :][:third]) for part in range(_PARTS)]
    return {**_percentiles(latencies), "reviews": len(latencies), "parts": parts}


def _arrivals(kinesis: Any, stream: str) -> dict[SourceId, float]:
    """Return when each record of a stream of reviews arrived, in that order."""
    found: list[tuple[float, SourceId]] = []
    _read(
        kinesis, stream, lambda record: found.append((record.arrival_time.timestamp(), _id(record)))
    )
    return {source_id: at_s for at_s, source_id in sorted(found, key=lambda pair: pair[0])}


def _all_scored(kinesis: Any, stream: str, count: int) -> dict[SourceId, float]:
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    while True:
        scored: dict[SourceId, float] = {}

        def take(record: Arrived, scored: dict[SourceId, float] = scored) -> None:
            source_id = SourceId.of(json.loads(record.data))
            scored.setdefault(source_id, record.arrival_time.timestamp())

        _read(kinesis, stream, take)
        if len(scored) == count:
            return scored
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{len(scored)} of {count} reviews have been scored")


def _read(kinesis: Any, stream: str, take: Any) -> None:
    tail = StreamTail(kinesis, stream, take)
    while tail.poll():
        pass


def _id(record: Arrived) -> SourceId:
    return SourceId(record.shard, record.sequence_number, source_part(record.data))


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99.

    >>> _percentiles(range(101))
    {'p50': 50.0, 'p95': 95.0, 'p99': 99.0}
    """
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {f"p{percent}": round(cuts[percent - 1], 1) for percent in _PERCENTILES}
