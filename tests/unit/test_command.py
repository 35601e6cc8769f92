"""The command line: exit statuses, and errors in words on standard error."""

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from typer.testing import CliRunner, Result

from deploy.local import __main__ as command
from deploy.local import jobs
from deploy.local.cluster import FlinkClientError, Job
from deploy.local.pipeline import RunError
from deploy.local.process import PartNotReadyError
from deploy.local.summary import Summary


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command.app, arguments)


def summary(*problems: str) -> Summary:
    return Summary(
        sent=0,
        scoring=None,
        windows=None,
        anomalies=None,
        dead_letters={},
        repeats=0,
        seconds=1.0,
        truth_matches=None,
        problems=problems,
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Runs that were started, which succeed without doing anything."""
    runs: list[tuple[Any, ...]] = []

    def carry_through(*arguments: Any) -> Summary:
        runs.append(arguments)
        return summary()

    monkeypatch.setattr(command, "carry_through", carry_through)
    return runs


def test_a_run_that_reconciles_ends_with_0(started: list[tuple[Any, ...]]) -> None:
    assert call("run", "--rate", "0", "--limit", "5", "--shards", "3").exit_code == 0
    ((options, config, records, _),) = started
    assert (options.rate_per_s, options.limit, options.shards) == (None, 5, 3)
    assert config.reviews.stream == "reviews"
    assert next(records).fate == "scored"


def test_the_generators_options_reach_it(started: list[tuple[Any, ...]]) -> None:
    options = ["--categories", "Gift_Card, Mobile_Apps", "--broken-share", "0.5", "--seed", "4"]
    options += ["--late-share", "0", "--burst-every", "40", "--burst-reviews", "10"]
    assert call("run", *options).exit_code == 0
    records = [next(started[0][2]) for _ in range(200)]
    assert {record.product_category for record in records} == {"Gift_Card", "Mobile_Apps"}
    assert sum(record.fate != "scored" for record in records) >= 95
    assert len({record.burst for record in records}) > 3


def test_a_files_options_reach_the_replay(started: list[tuple[Any, ...]], tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("ID,TEXT\n7,Fine.\n")
    options = ["--reviews", str(path), "--columns", "review_id=ID,review_body=TEXT"]
    assert call("run", *options, "--category", "Books").exit_code == 0
    (record,) = started[0][2]
    assert (record.review_id, record.product_category) == ("7", "Books")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--columns", "id=ID,review_body=A+B"], ["give --reviews"]),
        (["--reviews", "FILE"], ["found: ", "columns ID, TEXT", "--columns review_id=ID"]),
        (
            ["--reviews", "FILE", "--columns", "id=ID,review_body=A+B"],
            ["no field 'id'", "review_body is one column", "review_id is missing"],
        ),
        (
            ["--reviews", "FILE", "--columns", "review_id=Key,review_body=TEXT"],
            ["lacks Key", "--category", "columns ID, TEXT"],
        ),
    ],
)
def test_a_file_that_does_not_fit_starts_nothing(
    started: list[tuple[Any, ...]], tmp_path: Path, options: list[str], messages: list[str]
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("ID,TEXT\n7,Fine.\n")
    result = call("run", *(str(path) if option == "FILE" else option for option in options))
    assert result.exit_code == 2
    for message in messages:
        assert message in result.stderr
    assert started == []


def test_a_run_that_does_not_reconcile_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "carry_through", lambda *_: summary("1 neither scored nor dead"))
    assert call("run").exit_code == 1


@pytest.mark.parametrize(
    "error",
    [
        RunError("job review_scoring is FAILED"),
        PartNotReadyError(["endpoint"], 60, [Path("endpoint.log")]),
        FlinkClientError("flink run ended with status 1"),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:5000"),
        FileNotFoundError("no model in build/model"),
    ],
)
def test_a_run_that_fails_ends_with_1_and_says_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> Summary:
        raise error

    monkeypatch.setattr(command, "carry_through", fail)
    result = call("run")
    assert result.exit_code == 1
    assert str(error) in result.stderr
    assert result.stdout == ""


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Summary:
        raise ValueError("a defect")

    monkeypatch.setattr(command, "carry_through", fail)
    assert isinstance(call("run").exception, ValueError)


def test_ctrl_c_twice_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Summary:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "carry_through", interrupt)
    result = call("run")
    assert result.exit_code == 130
    assert "ended by Ctrl-C; nothing is left running" in result.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--jobs", "review_scorign"], "no such job: review_scorign; jobs: review_scoring"),
        (["--reviews", "none.tsv"], "none.tsv"),
        (["--reviews", "tests"], "directory"),
        (["--reviews", "tests/__init__.py"], "holds no review"),
        (["--late-share", "0.6", "--categories", "Toys"], "late_share must be 0 to 0.5"),
        (["--limit", "0"], "--limit"),
        (["--shards", "0"], "--shards"),
    ],
)
def test_a_wrong_option_ends_with_2_before_anything_starts(
    started: list[tuple[Any, ...]], options: list[str], expected: str
) -> None:
    result = call("run", *options)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stdout == ""
    assert started == []


@pytest.mark.parametrize("name", ["run", "cluster"])
def test_a_wrong_configuration_is_named_in_full_before_anything_starts(
    started: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
) -> None:
    properties = json.loads(jobs.PROPERTIES.read_text())
    groups = {group["PropertyGroupId"]: group["PropertyMap"] for group in properties}
    del groups["aws"]["region"]
    groups["endpoint"]["naem"] = groups["endpoint"].pop("name")
    path = tmp_path / "properties.json"
    path.write_text(json.dumps(properties))
    monkeypatch.setattr(jobs, "PROPERTIES", path)
    monkeypatch.setattr(command, "start_detached", lambda *_, **__: pytest.fail("started"))
    result = call(name)
    assert result.exit_code == 2
    for problem in ("aws.region is missing", "endpoint.name is missing", "endpoint.naem"):
        assert problem in result.stderr
    assert started == []


@pytest.mark.parametrize("name", ["submit", "send"])
def test_without_a_cluster_one_is_told_how_to_start_it(tmp_path: Path, name: str) -> None:
    result = call(name, "--run-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "no cluster runs in" in result.stderr
    assert "start one with: make cluster" in result.stderr


def test_a_job_that_runs_is_not_submitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flink:
        def jobs(self) -> list[Job]:
            return [
                Job("0" * 32, "review_scoring", "FINISHED"),
                Job("1" * 32, "review_scoring", "RESTARTING"),
            ]

    class Info:
        properties = jobs.PROPERTIES
        web_ui_url = "http://127.0.0.1:8081"

        def flink(self) -> Flink:
            return Flink()

    monkeypatch.setattr(command, "attach", lambda _: Info())
    result = call("submit")
    assert result.exit_code == 1
    assert f"review_scoring runs already: job {'1' * 32}" in result.stderr


@pytest.mark.parametrize("name", ["run", "cluster", "submit", "send", "stop"])
def test_each_command_shows_examples(name: str) -> None:
    assert f"python -m deploy.local {name}" in call(name, "--help").stdout.split("For example:")[1]


def test_stopping_nothing_is_no_error(tmp_path: Path) -> None:
    assert call("stop", "--run-dir", str(tmp_path)).exit_code == 0
