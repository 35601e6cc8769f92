from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from moto import mock_aws

from deploy.local.metrics import AVERAGE, DISTINCT, Point, read_points
from udfs.core.publishing import CloudWatchMetrics, MetricPoint

METRICS = {AVERAGE: 1, DISTINCT: 1}
BEGIN_MS = round(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
def cloudwatch() -> Iterator[Any]:
    with mock_aws():
        aws = boto3.Session(
            region_name="us-east-1", aws_access_key_id="local", aws_secret_access_key="local"
        )
        yield aws.client("cloudwatch")


def test_every_point_is_read_back_over_hours_exactly_as_it_was_put(cloudwatch: Any) -> None:
    put = [
        MetricPoint(name, category, BEGIN_MS + 5_000 * number, 3 + number / 7)
        for number in range(1_500)  # two hours, hence several calls
        for category in ("All", "Café")
        for name in (AVERAGE, DISTINCT)
    ]
    other = MetricPoint("Other", "All", BEGIN_MS, 1.0)
    destination = CloudWatchMetrics(cloudwatch, "ours")
    for start in range(0, len(put), 1_000):
        destination.send(put[start : start + 1_000])
    destination.send([other])
    CloudWatchMetrics(cloudwatch, "others").send(put[:10])
    last_ms = BEGIN_MS + 5_000 * 1_499
    read = list(read_points(cloudwatch, "ours", METRICS, ["All", "Café"], BEGIN_MS, last_ms))
    assert set(read) == {
        Point(point.name, point.category, point.time_ms, point.value, point.value) for point in put
    }
    assert len(read) == len(put)


def test_two_values_of_one_second_are_both_seen_and_a_repeat_is_not(cloudwatch: Any) -> None:
    destination = CloudWatchMetrics(cloudwatch, "ours")
    for category, values in (("repeated", (0.1, 0.1, 0.1)), ("changed", (1.0, 4.0))):
        for value in values:
            destination.send([MetricPoint(AVERAGE, category, BEGIN_MS, value)])
    points = read_points(cloudwatch, "ours", METRICS, ["repeated", "changed"], BEGIN_MS, BEGIN_MS)
    assert list(points) == [
        Point(AVERAGE, "repeated", BEGIN_MS, 0.1, 0.1),
        Point(AVERAGE, "changed", BEGIN_MS, 1.0, 4.0),
    ]


def test_points_of_a_minute_are_read_back_by_the_minute(cloudwatch: Any) -> None:
    name = f"{AVERAGE} 5 min every 1 min"
    times_ms = [BEGIN_MS + 60_000 * number for number in range(2_000)]
    put = [MetricPoint(name, "All", time_ms, time_ms % 7 + 0.1, 60) for time_ms in times_ms]
    for start in range(0, len(put), 1_000):
        CloudWatchMetrics(cloudwatch, "ours").send(put[start : start + 1_000])
    # From whatever second it is asked for.
    read = read_points(
        cloudwatch, "ours", {name: 60}, ["All"], BEGIN_MS + 5_000, times_ms[-1] + 5_000
    )
    assert [(point.time_ms, point.lowest) for point in read] == [
        (point.time_ms, point.value) for point in put
    ]


def test_no_call_asks_for_more_points_than_cloudwatch_gives() -> None:
    calls: list[dict[str, Any]] = []

    class Client:
        def get_metric_statistics(self, **call: Any) -> dict[str, Any]:
            calls.append(call)
            return {"Datapoints": []}

    client: Any = Client()
    assert (
        list(read_points(client, "ours", METRICS, ["All"], BEGIN_MS, BEGIN_MS + 10_000_000)) == []
    )
    for name in (AVERAGE, DISTINCT):
        spans = [(c["StartTime"], c["EndTime"]) for c in calls if c["MetricName"] == name]
        assert all((end - start).total_seconds() <= 1_440 for start, end in spans)
        assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
        assert spans[0][0].timestamp() * 1_000 == BEGIN_MS
        assert spans[-1][1].timestamp() * 1_000 > BEGIN_MS + 10_000_000  # the end is exclusive
