"""Windows through the real connectors: backlogs, idle shards, late rows, a restart."""

import base64
import itertools
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from deploy.local import jobs
from deploy.local.emulator import create_resources
from deploy.local.stack import BUCKET, Stack
from deploy.local.windows import edges
from tests.emulator.conftest import read_archive, read_stream, wait_until_read
from tests.waiting import until
from tests.workers import python_workers
from udfs.core.sketches import LengthSketch
from udfs.core.windows import WindowKind, WindowSpec

MAX_HASH_KEY = 2**128


def iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Scored:
    """Makes records of `scored-reviews`, puts them into shards, and knows what it has put."""

    def __init__(self, stack: Stack, stream: str, shards: int) -> None:
        self._kinesis = stack.client("kinesis")
        self.stream = stream
        self.shards = shards
        self._numbers = itertools.count()
        self.put_records: dict[str, dict[str, Any]] = {}
        self._kinesis.create_stream(StreamName=stream, ShardCount=shards)

    def put(self, shard: int, event_times_ms: list[int], *, is_late: bool = False) -> None:
        records = []
        for event_time_ms in event_times_ms:
            number = next(self._numbers)
            record = {
                "source_stream": "reviews",
                "source_shard": f"shardId-{shard:012}",
                "source_sequence_number": str(number),
                "review_id": f"R{number}",
                "star_rating": number % 5 + 1,
                "product_category": "Books" if number % 3 else "Toys",
                "review_body": "Fine.",
                "event_time": iso(event_time_ms),
            }
            self.put_records[str(number)] = record | {
                "_ms": event_time_ms,
                "_is_late": is_late,
            }
            hash_key = MAX_HASH_KEY * shard // self.shards + 1
            records.append(
                {
                    "Data": json.dumps(record).encode(),
                    "PartitionKey": f"R{number}",
                    "ExplicitHashKey": str(hash_key),
                }
            )
        for start in range(0, len(records), 500):
            result = self._kinesis.put_records(
                StreamName=self.stream, Records=records[start : start + 500]
            )
            assert result["FailedRecordCount"] == 0


class Metrics:
    """The job `review_metrics` over streams of its own."""

    def __init__(
        self,
        stack: Stack,
        name: str,
        shards: int,
        parallelism: int = 1,
        properties: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._stack = stack
        self._kinesis = stack.client("kinesis")
        self.scored = Scored(stack, f"{name}-scored", shards)
        self._groups = {group: f"{name}-{group}" for group in ("review_metrics", "dead_letters")}
        self._archive = f"{name}-archive"
        create_resources(
            stack.info.emulator_url,
            stack.info.region,
            streams=dict.fromkeys(self._groups.values(), 1),
            bucket=BUCKET,
            delivery_streams={self._archive: f"{self._archive}/"},
        )
        self._properties: dict[str, dict[str, str]] = {
            "scored_reviews": {"stream": f"{name}-scored"},
            "metrics_archive": {"delivery_stream": self._archive},
            "windows": {"sizes": ", ".join(KINDS)},
            **{group: {"stream": stream} for group, stream in self._groups.items()},
        }
        for group, values in (properties or {}).items():
            self._properties[group] = self._properties.get(group, {}) | dict(values)
        self._parallelism = parallelism
        self.job_id = ""

    def submit(self, savepoint: str | None = None, parallelism: int | None = None) -> None:
        self.job_id = self._stack.cluster.submit(
            entry=jobs.ENTRY,
            properties=self._stack.properties_for("review_metrics", self._properties),
            jarfile=jobs.JAR,
            pyfiles=jobs.write_pyfiles(),
            savepoint=savepoint,
            parallelism=parallelism or self._parallelism,
        )

    def archived(self) -> list[dict[str, Any]]:
        return read_archive(self._stack.client("s3"), BUCKET, f"{self._archive}/")

    def windows(self) -> list[dict[str, Any]]:
        return read_stream(self._kinesis, self._groups["review_metrics"])

    def panes(self) -> list[dict[str, Any]]:
        return [row for row in self.windows() if row["window"] == "5 s"]

    def dead_letters(self) -> list[dict[str, Any]]:
        return read_stream(self._kinesis, self._groups["dead_letters"])

    def drain(self) -> None:
        """Wait until all that was put is read, then let the last windows fire."""
        wait_until_read(self._stack, self.job_id, self.scored.stream, self.scored.shards)
        self._stack.cluster.stop_job(self.job_id)


def check(metrics: Metrics) -> None:
    """Every record in its windows or late, exactly; a window published again is the same again."""
    records = metrics.scored.put_records
    late = {row["source_sequence_number"] for row in metrics.dead_letters()}
    assert {row["stage"] for row in metrics.dead_letters()} <= {"late"}
    assert late == {number for number, record in records.items() if record["_is_late"]}
    expected: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, record in records.items():
        if number not in late:
            for window, *edges_ms in windows_of(record["_ms"]):
                times = [iso(edge_ms).replace(".000Z", "Z") for edge_ms in edges_ms]
                for category in (record["product_category"], "All"):
                    expected[window, *times, category].append(record["star_rating"])
    for rows in (metrics.windows(), metrics.archived()):
        assert {key_of(row) for row in rows} == expected.keys()
        for row in rows:
            key = key_of(row)
            assert row["reviews"] == len(expected[key]), key
            assert row["avg_star_rating"] == sum(expected[key]) / len(expected[key]), key
            assert row["rating_counts"] == [expected[key].count(stars) for stars in range(1, 6)]
            assert row["distinct_reviews"] == pytest.approx(len(expected[key]), rel=0.07)
            assert row["top_terms"][0]["reviews_upper"] == len(expected[key])
            lengths = LengthSketch.from_bytes(base64.b64decode(row["body_length_sketch"]))
            assert lengths.count == len(expected[key])


# The pane, by which lateness is judged, is 5 s.
KINDS = {
    "5 s": ("tumbling", 5, 5),
    "20 s": ("tumbling", 20, 20),
    "15 s every 5 s": ("hopping", 15, 5),
    "1 min by 10 s": ("cumulative", 60, 10),
}


def windows_of(event_time_ms: int) -> Iterator[tuple[str, int, int]]:
    """Return name, start and end (ms) of each window that an event is in."""
    for window, (kind, size_s, slide_s) in KINDS.items():
        spec = WindowSpec(WindowKind(kind), size_s, slide_s)
        for start_ms, end_ms in edges(spec, event_time_ms):
            yield window, start_ms, end_ms


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("window", "window_start", "window_end", "product_category")
    return tuple(row[name] for name in names)


class Sending(threading.Thread):
    """Calls a function every `interval_s` until its `with` block ends; raises what it raised."""

    def __init__(self, send: Callable[[], None], interval_s: float) -> None:
        super().__init__()
        self._send = send
        self._interval_s = interval_s
        self._stop_event = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stop_event.wait(self._interval_s):
                self._send()
        except Exception as error:
            self._error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self.join()
        if self._error is not None:
            raise self._error


def now_ms() -> int:
    return round(time.time() * 1000)


def start_ms(row: Mapping[str, Any]) -> int:
    return round(datetime.fromisoformat(row["window_start"]).timestamp() * 1000)


def subtasks_that_read(stack: Stack, job_id: str) -> int:
    vertices = stack.cluster.get(f"/jobs/{job_id}")["vertices"]
    source = next(vertex["id"] for vertex in vertices if "Source" in vertex["name"])
    subtasks = stack.cluster.get(f"/jobs/{job_id}/vertices/{source}")["subtasks"]
    return sum(subtask["metrics"]["write-records"] > 0 for subtask in subtasks)


def test_an_idle_shard_holds_nothing_back_and_what_it_brings_late_is_not_lost(
    stack: Stack,
) -> None:
    metrics = Metrics(
        stack,
        "idle",
        shards=2,
        parallelism=2,
        properties={
            "windows": {"watermark_delay_s": "2", "discovery_s": "1", "idle_timeout_s": "3"}
        },
    )
    metrics.submit()
    begun_ms = now_ms()
    metrics.scored.put(1, [begun_ms])
    with Sending(lambda: metrics.scored.put(0, [now_ms()]), 0.1):
        closed_ms = until(
            lambda: [ms for row in metrics.panes() if (ms := start_ms(row)) > begun_ms],
            hint=lambda: stack.cluster.exceptions(metrics.job_id),
        )
        metrics.scored.put(1, [closed_ms[0]], is_late=True)
        metrics.scored.put(1, [now_ms()])
        until(metrics.dead_letters, hint=lambda: stack.cluster.exceptions(metrics.job_id))
    # Or this would not be the test that it is meant to be.
    until(lambda: subtasks_that_read(stack, metrics.job_id), lambda count: count == 2, timeout_s=30)
    metrics.drain()
    check(metrics)
    late = json.loads(base64.b64decode(metrics.dead_letters()[0]["payload"]))
    assert late["event_time"] == iso(closed_ms[0])


def test_after_a_restart_no_closed_window_is_opened_again(stack: Stack) -> None:
    metrics = Metrics(
        stack,
        "restart",
        shards=1,
        properties={"windows": {"watermark_delay_s": "2", "discovery_s": "5"}},
    )
    metrics.submit()
    cluster, begun_ms = stack.cluster, now_ms()
    rng = random.Random(1)
    first_windows_are_closed = threading.Event()

    def send() -> None:
        metrics.scored.put(0, [now_ms() - rng.randint(0, 1_500) for _ in range(5)])
        # All the time, also when the restarted job has no watermark yet.
        if first_windows_are_closed.is_set():
            metrics.scored.put(0, [begun_ms + rng.randint(0, 5_000)], is_late=True)

    def windows_from(from_ms: int) -> list[dict[str, Any]]:
        return [row for row in metrics.panes() if start_ms(row) >= from_ms]

    with Sending(send, 0.05):
        until(
            lambda: windows_from(begun_ms + 5_000), hint=lambda: cluster.exceptions(metrics.job_id)
        )
        closed_ms = now_ms()
        first_windows_are_closed.set()
        until(
            lambda: cluster.last_checkpoint(metrics.job_id),
            lambda checkpoint: checkpoint is not None and checkpoint.trigger_time_ms > closed_ms,
        )
        for worker in python_workers(stack):
            worker.kill()
        killed_ms = now_ms()
        until(lambda: cluster.failures(metrics.job_id))
        until(
            lambda: windows_from(killed_ms + 5_000),
            hint=lambda: cluster.exceptions(metrics.job_id),
        )
    metrics.drain()
    check(metrics)


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_backlog_on_more_shards_than_subtasks_makes_nothing_late(
    stack: Stack, parallelism: int
) -> None:
    shards = 4
    metrics = Metrics(stack, f"backlog{parallelism}", shards, parallelism)
    rng = random.Random(parallelism)
    end_ms = now_ms()
    begin_ms = end_ms - 60_000
    # The first shard takes longer to read than discovery, and the others are read to their ends
    # meanwhile: a watermark that took them for one stream would make half of it late.
    counts = (30_000, 3_000, 600, 60)
    for shard, count in enumerate(counts):
        times_ms = [begin_ms + round(60_000 * place / count) for place in range(count)]
        metrics.scored.put(shard, [ms - rng.randint(0, 9_500) for ms in times_ms])
    metrics.submit()
    metrics.drain()
    assert len(metrics.scored.put_records) == sum(counts)
    check(metrics)


def test_open_windows_survive_a_savepoint_and_another_parallelism(stack: Stack) -> None:
    metrics = Metrics(
        stack,
        "savepoint",
        shards=2,
        properties={"windows": {"watermark_delay_s": "2", "discovery_s": "2"}},
    )
    metrics.submit()
    cluster, rng = stack.cluster, random.Random(1)

    def send() -> None:
        for shard in range(2):
            metrics.scored.put(shard, [now_ms() - rng.randint(0, 1_500) for _ in range(5)])

    def wait_for_windows() -> None:
        begun_ms = now_ms()
        until(
            lambda: [row for row in metrics.panes() if start_ms(row) >= begun_ms],
            hint=lambda: cluster.exceptions(metrics.job_id),
        )

    with Sending(send, 0.05):
        for parallelism in (2, 1):
            wait_for_windows()
            savepoint = cluster.stop_job(metrics.job_id, drain=False)
            metrics.submit(savepoint, parallelism)
        wait_for_windows()
    metrics.drain()
    check(metrics)
    # Or there would have been no window open over all of it.
    cumulative = [row["reviews"] for row in metrics.windows() if row["window"] == "1 min by 10 s"]
    assert max(cumulative) > max(row["reviews"] for row in metrics.panes())
