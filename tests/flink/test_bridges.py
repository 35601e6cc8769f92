"""Task boundaries: where they are in the jobs, and what becomes of the rows that pass one."""

import itertools
import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyflink.table import DataTypes, FunctionContext
from pyflink.table.udf import ScalarFunction, udf

from flink_jobs import bridges
from tests.conftest import embedded_environment
from tests.flink.tables import tasks
from udfs.core.watermarks import WatermarkOptions
from udfs.scored_records import ReadScored

LANES = 4
COUNT = 2_000
SHARDS = ("shardId-000000000000", "shardId-000000000001")
PLACE = DataTypes.ROW(
    [DataTypes.FIELD("subtask", DataTypes.STRING()), DataTypes.FIELD("turn", DataTypes.INT())]
)


@pytest.mark.parametrize(
    ("job", "exchange"),
    [
        ("review_scoring", "CUSTOM"),
        # So that a shard of `scored-reviews` stays in one task, in its order.
        ("review_metrics", "FORWARD"),
        ("rating_anomalies", "FORWARD"),
    ],
)
def test_a_python_operator_is_in_another_task_than_the_source(
    job: str, exchange: str, tmp_path: Path
) -> None:
    found = tasks(job, tmp_path)
    [source] = [task for task in found if not task.inputs]
    assert source.operators.startswith("Source: ")
    assert "Python" not in source.operators
    behind = [
        (how, task.operators)
        for task in found
        for how, producer in task.inputs
        if producer == source.operators
    ]
    assert [how for how, _ in behind] == [exchange]
    # The first Python operator is there: what it fails on cannot be behind another checkpoint.
    assert "PythonCalc" in behind[0][1]


class Place(ScalarFunction):  # type: ignore[misc]  # PyFlink is untyped
    """Says which subtask a row comes to, and how many came there before it."""

    def is_deterministic(self) -> bool:
        return False

    def open(self, function_context: FunctionContext) -> None:
        self._subtask = uuid.uuid4().hex
        self._turns = itertools.count()

    def eval(self, number: pd.Series) -> pd.DataFrame:
        rows = [(self._subtask, next(self._turns)) for _ in number]
        return pd.DataFrame(rows, columns=PLACE.field_names())


def sequence_numbers() -> list[str]:
    """Return numbers as Kinesis has them: the last bits of all are the same."""
    first = 49_650_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_002
    return [str(first + number * 2**35) for number in range(COUNT)]


@pytest.fixture(scope="module")
def placed() -> list[dict[str, Any]]:
    """Spread two shards' records over `LANES` subtasks; return them with where they came to."""
    t_env = embedded_environment()
    t_env.get_config().set("parallelism.default", str(LANES))
    names = ("payload", "shard", "sequence_number")
    records = [
        (bytearray(str(turn).encode()), SHARDS[turn % 2], number)
        for turn, number in enumerate(sequence_numbers())
    ]
    types = (DataTypes.BYTES(), DataTypes.STRING(), DataTypes.STRING())
    fields = [DataTypes.FIELD(*field) for field in zip(names, types, strict=True)]
    t_env.create_temporary_view("records", t_env.from_elements(records, DataTypes.ROW(fields)))
    place = udf(Place(), result_type=PLACE, func_type="pandas", deterministic=False)
    t_env.create_temporary_system_function("place", place)
    bridges.spread_over_lanes(t_env, "laned", "records", names, "sequence_number")
    results = t_env.execute_sql("""
        SELECT payload, shard, sequence_number, lane, place.subtask, place.turn
        FROM (SELECT *, place(sequence_number) AS place FROM laned)""").collect()
    columns = ("payload", *names[1:], "lane", "subtask", "turn")
    with results:
        return [dict(zip(columns, row, strict=True)) for row in results]


def test_every_record_comes_over_once_as_it_was(placed: list[dict[str, Any]]) -> None:
    assert sorted(int(row["payload"]) for row in placed) == list(range(COUNT))
    numbers = sequence_numbers()
    for row in placed:
        turn = int(row["payload"])
        assert (row["sequence_number"], row["shard"]) == (numbers[turn], SHARDS[turn % 2])


def test_each_lane_is_a_subtask_and_all_are_loaded_alike(placed: list[dict[str, Any]]) -> None:
    lanes = Counter(row["lane"] for row in placed)
    assert lanes.keys() == {f"{lane}/{LANES}" for lane in range(LANES)}
    # Four standard deviations around the even share.
    assert all(abs(count - COUNT / LANES) < 80 for count in lanes.values())
    assert len({row["subtask"] for row in placed}) == LANES
    assert len({(row["lane"], row["subtask"]) for row in placed}) == LANES


def test_a_shard_keeps_its_order_within_a_lane(placed: list[dict[str, Any]]) -> None:
    for lane, shard in {(row["lane"], row["shard"]) for row in placed}:
        rows = [row for row in placed if (row["lane"], row["shard"]) == (lane, shard)]
        rows.sort(key=lambda row: row["turn"])
        read = [int(row["payload"]) for row in rows]
        assert read == sorted(read)


def test_the_watermark_waits_for_the_slowest_lane_of_a_shard() -> None:
    read = ReadScored("scored-reviews", WatermarkOptions(delay_s=0, discovery_s=0), has_text=False)
    read.open(None)

    def watermark_ms(*records: tuple[str | None, int]) -> int:
        payloads = [
            json.dumps(
                {
                    "source_stream": "reviews",
                    "source_shard": SHARDS[0],
                    "source_sequence_number": "1",
                    "review_id": "R1",
                    "star_rating": 5,
                    "product_category": "Toys",
                    "review_body": "fine",
                    "event_time": f"2026-09-21T14:13:{second:02}Z",
                    "lane": lane,
                }
            ).encode()
            for lane, second in records
        ]
        frame = read.eval(
            pd.Series(payloads),
            pd.Series(pd.to_datetime(["2026-09-21T15:00:00Z"] * len(payloads))),
            pd.Series([SHARDS[0]] * len(payloads)),
            pd.Series(["1"] * len(payloads)),
        )
        assert frame["reason"].isna().all()
        return int(pd.Timestamp(frame["watermark_ms"].iloc[-1], unit="ms").second)

    assert watermark_ms(("0/2", 20), ("1/2", 10)) == 10
    assert watermark_ms(("0/2", 30)) == 10
    assert watermark_ms(("1/2", 25)) == 25
    # A lane of another parallelism is another one, and so are records without.
    assert watermark_ms(("0/3", 26), (None, 27), ("1/2", 50), ("0/2", 50)) == 26
