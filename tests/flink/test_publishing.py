"""The publishing functions on an embedded Flink, with clients that write files."""

import functools
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from pyflink.table import DataTypes, TableEnvironment

from udfs.core.publishing import PublishingOptions
from udfs.publishing import (
    PUBLISH_RESULT,
    PublishAlert,
    PublishMetrics,
    publish_alert,
    publish_metrics,
    udf,
)

OPTIONS = PublishingOptions(region="us-east-1", max_attempts=2, backoff_base_s=0.0)
START_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
POISON = "poison"


class FileClient:
    """CloudWatch and SNS for the workers: each request becomes a file, poison is refused."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def close(self) -> None:
        (self._directory / "closed").touch()

    def put_metric_data(self, **request: Any) -> None:
        for datum in request["MetricData"]:
            # Of a row's two points, only one is refused.
            if datum["MetricName"] == "DistinctReviews" and _value(datum) == POISON:
                raise boto.ParamValidationError(report="poison")
            if _value(datum) == "":
                raise boto.ParamValidationError(report="too short")
        self._write(request)

    def publish_batch(self, **request: Any) -> dict[str, Any]:
        self._write(request)
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in request["PublishBatchRequestEntries"]:
            if entry["Message"] == POISON:
                failure = {"Code": "InvalidParameter", "Message": "poison", "SenderFault": True}
                answer["Failed"].append({"Id": entry["Id"], **failure})
            else:
                answer["Successful"].append({"Id": entry["Id"]})
        return answer

    def _write(self, request: dict[str, Any]) -> None:
        path = self._directory / f"{uuid.uuid4().hex}.json"
        path.write_text(json.dumps(request, default=lambda time: time.isoformat()))


def _value(datum: dict[str, Any]) -> str:
    return str(datum["Dimensions"][0]["Value"])


def run_into_two_sinks(
    t_env: TableEnvironment,
    directory: Path,
    elements: Sequence[tuple[object, ...]],
    columns: Sequence[tuple[str, Any]],
    call: str,
) -> tuple[dict[str, tuple[Any, ...]], dict[str, tuple[Any, ...]]]:
    """Return the results by the column `id`: all of them, and those that failed."""
    row_type = DataTypes.ROW([DataTypes.FIELD(name, kind) for name, kind in columns])
    t_env.create_temporary_view("elements", t_env.from_elements(list(elements), row_type))
    t_env.execute_sql(f"""
        CREATE TEMPORARY VIEW results AS
        SELECT id, published.reason AS reason, published.message AS message,
               published.attempts AS attempts
        FROM (SELECT *, {call} AS published FROM elements)""")
    for name in ("all_rows", "failed_rows"):
        t_env.execute_sql(f"""
            CREATE TEMPORARY TABLE {name} (
                id STRING, reason STRING, message STRING, attempts INT
            ) WITH ('connector' = 'filesystem', 'format' = 'json',
                    'path' = '{(directory / name).as_uri()}')""")
    statements = t_env.create_statement_set()
    statements.add_insert_sql("INSERT INTO all_rows SELECT * FROM results")
    statements.add_insert_sql("INSERT INTO failed_rows SELECT * FROM results WHERE reason <> ''")
    statements.execute().wait()
    return _results(directory / "all_rows"), _results(directory / "failed_rows")


def _results(directory: Path) -> dict[str, tuple[Any, ...]]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name[0] != "."]
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    results = {row["id"]: (row["reason"], row["message"], row["attempts"]) for row in rows}
    assert len(results) == len(rows)
    return results


def requests(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in directory.glob("*.json")]


@pytest.fixture
def request_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "requests"
    directory.mkdir()
    return directory


def test_each_window_is_published_once_as_two_points(
    t_env: TableEnvironment, tmp_path: Path, request_directory: Path
) -> None:
    function = PublishMetrics(
        functools.partial(FileClient, request_directory),  # type: ignore[arg-type]
        OPTIONS,
        "a/namespace",
    )
    t_env.create_temporary_system_function(
        "publish_metrics",
        udf(function, result_type=PUBLISH_RESULT, func_type="pandas", deterministic=False),
    )
    windows: list[tuple[object, ...]] = [
        (
            *(str(number), "5 s", START_MS + 5_000 + 5_000 * number, f"Café {number}"),
            *(1.0 + number / 8, float(number)),
        )
        for number in range(20)
    ]
    windows.append(("hour", "1 h by 5 min", START_MS, "A", 4.0, 1.0))
    windows += [
        ("poison", "5 s", START_MS, POISON, 4.0, 1.0),
        ("no time", "5 s", None, "A", 4.0, 1.0),
        ("no category", "5 s", START_MS, None, 4.0, 1.0),
        ("no average", "5 s", START_MS, "A", None, 1.0),
    ]
    results, failures = run_into_two_sinks(
        t_env,
        tmp_path,
        windows,
        (
            ("id", DataTypes.STRING()),
            ("length", DataTypes.STRING()),
            ("end_ms", DataTypes.BIGINT()),
            ("category", DataTypes.STRING()),
            ("average", DataTypes.DOUBLE()),
            ("distinct_reviews", DataTypes.DOUBLE()),
        ),
        "publish_metrics(length, TO_TIMESTAMP_LTZ(end_ms, 3), category, average, distinct_reviews)",
    )

    assert [results[str(number)] for number in range(20)] == [(None, None, None)] * 20
    assert results["hour"] == (None, None, None)
    assert results["poison"][:2] == (
        "rejected",
        "ParamValidationError: Parameter validation failed:\npoison",
    )
    assert results["poison"][2] >= 1
    for missing in ("time", "category", "average"):
        assert results[f"no {missing}"][0] == "rejected"
    assert failures == {key: result for key, result in results.items() if result[0]}

    sent = requests(request_directory)
    assert {request["Namespace"] for request in sent} == {"a/namespace"}
    assert all(len(request["MetricData"]) <= 1_000 for request in sent)
    points = Counter(
        (datum["MetricName"], _value(datum), datum["Timestamp"], datum["Value"])
        for request in sent
        for datum in request["MetricData"]
    )
    for number in range(20):
        minutes, seconds = divmod(13 * 60 + 20 + 5 * number, 60)
        at = f"2026-09-21T14:{minutes:02}:{seconds:02}+00:00"
        category = f"Caf%C3%A9 {number}"
        assert points["AVGStarRating", category, at, 1.0 + number / 8] == 1
        assert points["DistinctReviews", category, at, float(number)] == 1
    assert points["AVGStarRating", POISON, "2026-09-21T14:13:15+00:00", 4.0] == 1
    # Under a name of their own, and a step before their end.
    at = "2026-09-21T14:08:20+00:00"
    assert points["AVGStarRating 1 h by 5 min", "A", at, 4.0] == 1
    assert points["DistinctReviews 1 h by 5 min", "A", at, 1.0] == 1
    resolutions = {
        (datum["MetricName"].partition(" ")[2], datum["StorageResolution"])
        for request in sent
        for datum in request["MetricData"]
    }
    assert resolutions == {("", 1), ("1 h by 5 min", 60)}
    assert (request_directory / "closed").exists()


def test_each_alert_is_published_once_and_a_null_never(
    t_env: TableEnvironment, tmp_path: Path, request_directory: Path
) -> None:
    function = PublishAlert(
        functools.partial(FileClient, request_directory),  # type: ignore[arg-type]
        OPTIONS,
        "arn:aws:sns:us-east-1:123456789012:rating-alerts",
    )
    t_env.create_temporary_system_function(
        "publish_alert",
        udf(function, result_type=PUBLISH_RESULT, func_type="pandas", deterministic=False),
    )
    alerts: list[tuple[object, ...]] = [
        (str(number), f"event-{number}", f'{{"number": {number}}}' if number % 3 else None)
        for number in range(60)
    ]
    alerts += [("poison", "event-poison", POISON), ("nothing", None, None)]
    results, failures = run_into_two_sinks(
        t_env,
        tmp_path,
        alerts,
        (
            ("id", DataTypes.STRING()),
            ("event_id", DataTypes.STRING()),
            ("message", DataTypes.STRING()),
        ),
        "publish_alert(event_id, message)",
    )

    assert results.pop("poison") == ("rejected", "InvalidParameter: poison", 1)
    assert len(results) == 61
    assert set(results.values()) == {(None, None, None)}
    assert failures.keys() == {"poison"}

    entries = [
        entry
        for request in requests(request_directory)
        for entry in request["PublishBatchRequestEntries"]
    ]
    assert Counter(
        (entry["MessageAttributes"]["event_id"]["StringValue"], entry["Message"])
        for entry in entries
    ) == Counter((event_id, message) for _, event_id, message in alerts if message is not None)
    assert {entry["Subject"] for entry in entries} == {"New Reviews Anomaly Score Detected"}
    assert (request_directory / "closed").exists()


def test_the_functions_are_declared_to_have_effects() -> None:
    # Else the planner may evaluate them again wherever a result is used.
    for function in (
        PublishMetrics(lambda: None, OPTIONS, "a/namespace"),  # type: ignore[arg-type, return-value]
        PublishAlert(lambda: None, OPTIONS, "an:arn"),  # type: ignore[arg-type, return-value]
    ):
        assert not function.is_deterministic()


def test_the_functions_of_the_jobs_are_called_once_for_two_sinks(t_env: TableEnvironment) -> None:
    for name, function, arguments in (
        (
            "publish_metrics",
            publish_metrics(OPTIONS, "a/namespace"),
            "id, window_end, id, rating, rating",
        ),
        ("publish_alert", publish_alert(OPTIONS, "arn:aws:sns:eu-west-1:1:a"), "id, id"),
    ):
        t_env.create_temporary_system_function(name, function)
        t_env.execute_sql(f"""
            CREATE TEMPORARY TABLE source_of_{name} (
                id STRING, window_end TIMESTAMP_LTZ(3), rating DOUBLE
            ) WITH ('connector' = 'datagen')""")
        t_env.execute_sql(f"""
            CREATE TEMPORARY VIEW {name}_results AS
            SELECT id, {name}({arguments}).reason AS reason FROM source_of_{name}""")
        statements = t_env.create_statement_set()
        for sink, condition in (("all", "TRUE"), ("failed", "reason IS NOT NULL")):
            t_env.execute_sql(f"""
                CREATE TEMPORARY TABLE {sink}_of_{name} (id STRING, reason STRING)
                WITH ('connector' = 'blackhole')""")
            statements.add_insert_sql(
                f"INSERT INTO {sink}_of_{name} SELECT * FROM {name}_results WHERE {condition}"
            )
        optimised = statements.explain().split("== Optimized Execution Plan ==")[1]
        assert optimised.count(f"{name}(") == 1
