"""What docs/operations.md works out must be right, and be about what the template has."""

import json
import math
import re
from pathlib import Path

import pytest

from deploy.aws.template import Template

COSTS = (Path("docs/operations.md").read_text(encoding="utf-8").split("## What it costs")[1]).split(
    "\n## "
)[0]
HOURS = 730


def worked_out(arithmetic: str, shards: int = 0) -> float:
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", arithmetic)
    for sign, python in {"×": "*", "⌈": "ceil(", "⌉": ")", "10⁶": "1e6"}.items():
        plain = plain.replace(sign, python)
    plain = re.sub(r"(\d) N", r"\1 * N", plain)
    assert re.fullmatch(r"[\d.e+*/(), N]|(?:[\d.e+*/(), N]|ceil|max)*", plain), plain
    return float(eval(plain, {"ceil": math.ceil, "max": max, "N": shards}))


def tables() -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the default's table and of that for N shards."""
    idle, scaled = [
        [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in table.splitlines()]
        for table in re.findall(r"(?:^\|.*\n)+", COSTS, flags=re.MULTILINE)
        if "arithmetic" in table
    ]
    return idle[2:], scaled[2:]


def written(cell: str) -> float:
    return float(cell.replace(",", ""))


def digits(cell: str) -> int:
    return len(cell.partition(".")[2])


def test_the_default_adds_up() -> None:
    *rows, total = tables()[0]
    for name, arithmetic, hour in rows:
        assert round(worked_out(arithmetic), 3) == written(hour), name
    assert round(sum(worked_out(row[1]) for row in rows), 2) == written(total[2])


@pytest.mark.parametrize(("column", "shards"), [(2, 10), (3, 100), (4, 1000)])
def test_the_costs_of_many_shards_add_up(column: int, shards: int) -> None:
    *rows, total = tables()[1]
    for row in rows:
        right = worked_out(row[1], shards)
        assert round(right, digits(row[column])) == written(row[column]), row[0]
    right = sum(worked_out(row[1], shards) for row in rows)
    assert round(right, digits(total[column])) == written(total[column])


def test_the_default_is_that_of_the_template() -> None:
    rows = {name: arithmetic for name, arithmetic, _ in tables()[0]}
    kinds: dict[str, list[str]] = {}
    resources = Template.read().expanded()["Resources"]
    for name, resource in resources.items():
        kinds.setdefault(resource["Type"], []).append(name)
    assert int(rows["applications"].split()[0]) == len(
        kinds["AWS::KinesisAnalyticsV2::Application"]
    )
    assert int(rows["streams, a week of dead letters"].split()[0]) == len(
        kinds["AWS::Kinesis::Stream"]
    )
    assert int(rows["endpoint, two variants"].split()[0]) == len(kinds["AWS::SageMaker::Model"])
    metrics = sum(
        json.dumps(resources[name]).count('"MetricName"')
        for name in kinds["AWS::CloudWatch::Alarm"]
    )
    (counted,) = re.findall(r"\((\d+) ×", rows["metrics in alarms, dashboard, key"])
    assert int(counted) == metrics


def test_a_month_is_as_many_hours() -> None:
    (month,) = re.findall(r"That is about (\d+) a month", COSTS)
    (hour,) = [row[2] for row in tables()[0] if row[1] == "together"]
    assert abs(float(hour) * HOURS - float(month)) < 10
