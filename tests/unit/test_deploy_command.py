"""The commands for AWS: dry runs without credentials, exit codes, and errors in words."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError
from typer.testing import CliRunner, Result

import deploy.target
from deploy import cli
from deploy.aws.errors import DeployError, Exit
from deploy.aws.release import Deployment
from deploy.aws.session import Aws, DryRun
from deploy.target import Target, number, pairs, scaling
from flink_jobs.config import ConfigError
from tests.aws_world import NEW, OLD, REGION, STACK, FakeAws, refusal, session

COMMANDS = (
    *("up", "update", "rollback", "down", "package", "train", "endpoint", "scale", "snapshot"),
    *("status", "logs", "dashboard", "send", "dead-letters"),
)


def call(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, arguments, input=answer)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """A stack that runs, in the place of AWS."""
    fake = FakeAws()

    def target(*_: Any, yes: bool = False, **__: Any) -> Target:
        aws, clock = session(fake)
        return Target(STACK, aws, clock, fake._template, yes)

    monkeypatch.setattr(cli, "target", target)
    return fake  # type: ignore[return-value]


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    path.write_text('{"review_id": "R1", "product_category": "A", "review_body": "Nice."}\n')
    return path


def test_every_command_explains_itself_with_examples() -> None:
    listed = call("--help").stdout
    for command in COMMANDS:
        assert command in listed
        shown = call(command, "--help").stdout
        assert "For example" in shown
        assert f"python -m deploy {command}" in shown
    assert "Exit codes" in listed


def test_up_from_a_fresh_clone_prints_the_plan_without_credentials(tmp_path: Path) -> None:
    # No AWS settings, no home, no network: nothing could be signed or sent.
    run = subprocess.run(
        [sys.executable, "-m", "deploy", "up", "--dry-run", "--region", "eu-west-1"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    plan = [
        "sts GetCallerIdentity",
        "properties checked: review_scoring, review_metrics, rating_anomalies",
        "$ make package",
        "cloudformation CreateChangeSet StackName=review-ml",
        "  add Reviews (AWS::Kinesis::Stream)",
        "  add MetricsDelivery (AWS::KinesisFirehose::DeliveryStream)",
        "cloudformation ExecuteChangeSet StackName=review-ml",
        "s3 PutObject Bucket=BUCKET-OF-THE-STACK Key=code/",
        "s3 PutObject Bucket=BUCKET-OF-THE-STACK Key=model/tfidf-logistic-",
        "  add Endpoint (AWS::SageMaker::Endpoint)",
        "  add ReviewMetricsApplication (AWS::KinesisAnalyticsV2::Application)",
        "cloudformation ExecuteChangeSet StackName=review-ml",
        "kinesisanalyticsv2 StartApplication ApplicationName=review-ml-review-scoring",
        "cloudwatch GetMetricData",
        "healthy",
    ]
    place = -1
    for step in plan:
        place = next(
            number for number, line in enumerate(lines) if number > place and line.startswith(step)
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["update", "--force"],
        ["rollback", "--snapshot", "before-1"],
        ["status"],
        ["logs", "--follow", "--errors"],
        ["snapshot"],
        ["snapshot", "--list", "--job", "review_metrics"],
        ["scale", "--parallelism", "review_scoring=2", "--shards", "scored-reviews=2"],
        ["dashboard"],
        ["dead-letters", "--redrive"],
        ["down", "--with-data"],
        ["endpoint", "--weight", "hashing-bayes=2"],
    ],
)
def test_every_command_has_a_dry_run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    result = call(*arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "cloudformation DescribeStacks StackName=review-ml" in result.stdout


def test_training_and_packaging_have_a_dry_run(reviews: Path) -> None:
    assert call("package", "--dry-run").stdout == "$ make package\n"
    here = call("train", str(reviews), "--dry-run").stdout
    assert here == f"$ make container-model DATA={reviews}\n"
    there = call("train", str(reviews), "--on-sagemaker", "--dry-run")
    assert there.exit_code == 0, there.output
    assert "sagemaker CreateTrainingJob TrainingJobName=review-model-TIME" in there.stdout
    assert "pytorch-training:2.3" in there.stdout


def test_sending_has_a_dry_run(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "SENT", reviews.with_name("sent.jsonl"))
    result = call("send", str(reviews), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "kinesis PutRecords" in result.stdout
    assert "sent 1 to the stream review-ml-reviews" in result.stdout
    assert '"review_id": "R1"' in (reviews.with_name("sent.jsonl")).read_text()


def test_sending_that_fails_says_how_far_it_came(
    world: FakeAws, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SENT", reviews.with_name("sent.jsonl"))
    world.refuse["PutRecords"] = refusal("no", "AccessDeniedException")
    result = call("send", str(reviews))
    assert result.exit_code == Exit.FAILED
    assert "sending stopped after 0 reviews" in result.stderr
    assert "the stream has not taken 1 records, rows 1 to 1" in result.stderr


@pytest.fixture
def unsent(world: FakeAws, reviews: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """List of a `send` whose only call was not answered."""
    monkeypatch.setattr(cli, "SENT", reviews.with_name("sent.jsonl"))

    def lose(_: Any) -> Any:
        raise ReadTimeoutError(endpoint_url="https://kinesis.example")

    monkeypatch.setattr(world, "on_PutRecords", lose, raising=False)
    result = call("send", str(reviews), "--region", REGION)
    monkeypatch.delattr(world, "on_PutRecords")
    assert result.exit_code == Exit.FAILED
    assert world.calls == ["PutRecords"]
    world.calls.clear()
    (path,) = reviews.parent.glob("unsent-*.jsonl")
    for words in (
        "the stream may have taken 1 records, rows 1 to 1 (review ids R1 to R1)",
        f"{path} lists them",
        f"send {reviews} --stack review-ml --region {REGION} --only {path}",
        f"send {reviews} --stack review-ml --region {REGION} --skip 1",
    ):
        assert words in result.stderr
    return path


def test_what_a_lost_call_did_not_bring_in_is_sent(
    world: FakeAws, reviews: Path, unsent: Path
) -> None:
    world.clock.sleep((datetime.now(UTC) - world.clock.now()).total_seconds())
    result = call("send", str(reviews), "--only", str(unsent))
    assert result.exit_code == 0, result.output
    assert "0 of 1 rows are in the stream already" in result.stdout
    assert "sent 1 to the stream" in result.stdout
    assert world.calls == ["PutRecords"]


def test_what_a_lost_call_did_bring_in_is_not_sent_again(
    world: FakeAws, reviews: Path, unsent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.sleep((datetime.now(UTC) - world.clock.now()).total_seconds())
    record = {
        "SequenceNumber": "1",
        "PartitionKey": "R1",
        "Data": reviews.read_bytes().removesuffix(b"\n"),
    }
    monkeypatch.setattr(
        world,
        "on_GetRecords",
        lambda _: {"Records": [record], "MillisBehindLatest": 0},
        raising=False,
    )
    result = call("send", str(reviews), "--only", str(unsent))
    assert result.exit_code == 0, result.output
    assert "1 of 1 rows are in the stream already" in result.stdout
    assert "sent 0 to the stream" in result.stdout
    assert world.calls == []


def test_what_the_stream_no_longer_keeps_cannot_be_looked_up(
    world: FakeAws, reviews: Path, unsent: Path
) -> None:
    world.clock.sleep((datetime.now(UTC) - world.clock.now()).total_seconds() + 86_400)
    result = call("send", str(reviews), "--only", str(unsent))
    assert result.exit_code == Exit.WRONG_INPUT
    assert "can no longer be read there" in result.stderr
    assert world.calls == []


def test_a_list_of_another_kind_is_wrong_input(world: FakeAws, reviews: Path) -> None:
    result = call("send", str(reviews), "--only", str(reviews))
    assert result.exit_code == Exit.WRONG_INPUT
    assert "is not a list of unsent rows" in result.stderr


def test_rows_that_were_sent_are_skipped(
    world: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SENT", tmp_path / "sent.jsonl")
    row = '{{"review_id": "R{}", "product_category": "A", "review_body": "Nice."}}\n'
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(row.format(number) for number in range(5)))
    assert "sent 2 to the stream" in call("send", str(path), "--skip", "3").stdout
    sent = (tmp_path / "sent.jsonl").read_text().splitlines()
    assert [json.loads(line)["review_id"] for line in sent] == ["R3", "R4"]


def test_sending_that_is_interrupted_says_how_to_continue(
    world: FakeAws, reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SENT", reviews.with_name("sent.jsonl"))
    original, joins = cli.Sender.join, 0

    def join(self: cli.Sender, timeout: float | None = None) -> None:
        nonlocal joins
        joins += 1
        original(self, 60)
        if joins == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.Sender, "join", join)
    monkeypatch.setattr(cli.Sender, "is_alive", lambda self: joins == 0)
    result = call("send", str(reviews))
    assert "sent 1 to the stream" in result.stdout
    assert f"send {reviews} --stack review-ml --skip 1" in result.stdout


class Keeping:
    """A stream that keeps what it takes; calls from the second one on fail."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.kept: list[Any] = []

    def put(self, parameters: Any) -> Any:
        self.calls -= 1
        if self.calls < 0:
            return refusal("no", "AccessDeniedException")
        self.kept += parameters["Records"]
        return {"Records": [{"ShardId": "s", "SequenceNumber": "1"} for _ in parameters["Records"]]}

    def get(self, _: Any) -> Any:
        records = [{"SequenceNumber": "1", **record} for record in self.kept]
        return {"Records": records, "MillisBehindLatest": 0}

    @property
    def ids(self) -> list[str]:
        return [record["PartitionKey"] for record in self.kept]


def follow(result: Result, option: str) -> Result:
    """Run the printed command that has an option."""
    (line,) = [line for line in result.output.splitlines() if f" {option} " in line]
    return call(*line.partition("python -m deploy ")[2].split())


def test_the_printed_commands_send_every_row_once(
    world: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SENT", tmp_path / "sent.jsonl")
    world.clock.sleep((datetime.now(UTC) - world.clock.now()).total_seconds())
    stream = Keeping(calls=1)
    monkeypatch.setattr(world, "on_PutRecords", stream.put, raising=False)
    monkeypatch.setattr(world, "on_GetRecords", stream.get, raising=False)
    path = tmp_path / "reviews.jsonl"
    row = '{{"review_id": "R{}", "product_category": "A", "review_body": "Nice."}}\n'
    path.write_text("".join(row.format(number) for number in range(1, 1_801)))
    first = call("send", str(path), "--limit", "1500", "--rate", "1000000")
    taken = len(stream.kept)
    assert 0 < taken <= 500
    (listed,) = tmp_path.glob("unsent-*.jsonl")
    count = len(listed.read_text().splitlines())
    rest = f"--rate 1000000 --skip {taken + count} --limit {1500 - taken - count}"
    assert rest in first.stderr
    # The list in chunks of one row, of which the third is refused.
    stream.calls = 2
    only = call("send", str(path), "--rate", "1000", "--only", str(listed))
    assert len(stream.kept) > taken
    assert f"--rate 1000 --only {listed}" in only.stderr
    stream.calls = 100
    assert follow(only, "--only").exit_code == 0
    assert follow(only, "--only").exit_code == 0
    assert follow(first, "--skip").exit_code == 0
    assert sorted(stream.ids) == sorted(f"R{number}" for number in range(1, 1_501))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--limit", "3"], ["--skip 1 --limit 2"]),
        (["--limit", "1"], []),
        (["--rate", "2.5", "--skip", "4"], ["--rate 2.5 --skip 5"]),
    ],
)
def test_an_interrupted_run_is_continued_with_its_bounds(
    world: FakeAws,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: list[str],
) -> None:
    monkeypatch.setattr(cli, "SENT", tmp_path / "sent.jsonl")
    interrupt(monkeypatch, rows=1)
    row = '{{"review_id": "R{}", "product_category": "A", "review_body": "Nice."}}\n'
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(row.format(number) for number in range(1, 9)))
    result = call("send", str(path), *arguments)
    steps = [line for line in result.output.splitlines() if "stopped by Ctrl-C" in line]
    assert [line.partition("--stack review-ml ")[2] for line in steps] == expected


def test_an_interrupted_run_over_a_list_says_how_to_continue(
    world: FakeAws, reviews: Path, unsent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.sleep((datetime.now(UTC) - world.clock.now()).total_seconds())
    interrupt(monkeypatch, rows=0)
    result = call("send", str(reviews), "--only", str(unsent))
    assert f"send {reviews} --stack review-ml --only {unsent}" in result.stdout


def interrupt(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Stop each sender after some rows, and say that it was Ctrl-C."""
    original = cli.Sender._send_all

    def send(self: cli.Sender) -> Iterator[Any]:
        self._rows = itertools.islice(self._rows, rows)
        yield from original(self)

    def join(self: cli.Sender, timeout: float | None = None) -> None:
        threading.Thread.join(self, 60)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Sender, "_send_all", send)
    monkeypatch.setattr(cli.Sender, "join", join)
    alive = iter([True, False])
    monkeypatch.setattr(cli.Sender, "is_alive", lambda self: next(alive))


def test_a_status_that_is_not_read_in_a_terminal_is_complete(
    world: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    shown = call("status").stdout
    for name in ("parallelism", "restarts", "behind", "review_scoring"):
        assert name in shown
    assert "…" not in shown


def test_a_file_that_is_cut_off_is_sent_as_far_as_it_goes(
    world: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SENT", tmp_path / "sent.jsonl")
    path = tmp_path / "reviews.tsv.gz"
    rows = [f"R{n}\tGift_Card\t5\tbody {n}\n" for n in range(20)]
    path.write_bytes(gzip.compress("".join(rows).encode(), mtime=0)[:-12])
    result = call("send", str(path), "--dry-run")
    assert result.exit_code == Exit.FAILED
    sent = len((tmp_path / "sent.jsonl").read_text().splitlines())
    assert 0 < sent < 20
    assert f"sending stopped after {sent} reviews" in result.stderr
    assert f"the gzip data are damaged: they are cut off; {sent} rows" in result.stderr
    assert "Traceback" not in result.output


def test_what_is_left_out_of_a_file_is_said(
    world: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "SENT", tmp_path / "sent.jsonl")
    path = tmp_path / "reviews.tsv.gz"
    path.write_bytes(gzip.compress(b"R1\tGift_Card\t5\tNice.\n") + b"more")
    result = call("send", str(path), "--dry-run")
    assert result.exit_code == 0
    assert "4 bytes after the end of the compressed data were ignored" in result.stdout


@pytest.mark.parametrize("command", ["send", "train"])
def test_a_file_without_reviews_is_refused_before_anything(
    world: FakeAws, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("ID,TEXT\n7,Fine.\n")
    result = call(command, str(path), "--dry-run")
    assert result.exit_code == Exit.WRONG_INPUT
    assert "columns ID, TEXT" in result.stderr
    assert "PutRecords" not in result.stdout
    assert "make container-model" not in result.stdout


def test_training_hands_the_columns_on(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("ID,TEXT\n7,Fine.\n")
    columns = "review_id=ID,review_body=TEXT"
    options = ["--columns", columns, "--category", "Books", "--dry-run"]
    here = call("train", str(path), *options).stdout
    assert f"DATA={path} COLUMNS={columns} CATEGORY=Books" in here
    there = call("train", str(path), *options, "--on-sagemaker").stdout
    assert columns in there


def test_an_update_ends_with_0(world: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("update")
    assert result.exit_code == 0, result.output
    assert "healthy" in result.stdout


def test_a_rolled_back_update_ends_with_3(world: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "deploy.aws.artifacts.package",
        lambda aws, say: deploy.aws.artifacts.Artifact(Path("new.zip"), NEW),
    )
    world.sick = {NEW}
    result = call("update")
    assert result.exit_code == Exit.ROLLED_BACK, result.output
    assert "the previous one runs again" in result.stderr
    assert "Next:" in result.stderr
    assert world.statuses == {("RUNNING", OLD)}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("f", ["aws.region is missing"]), Exit.WRONG_INPUT, "Nothing was changed"),
        (DeployError("x", code=Exit.UNHEALTHY), Exit.UNHEALTHY, "x"),
        (NoCredentialsError(), Exit.WRONG_INPUT, "--dry-run"),
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "CreateChangeSet"),
            Exit.FAILED,
            "AWS refuses CreateChangeSet: AccessDenied: no",
        ),
        (OSError("disk full"), Exit.FAILED, "disk full"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "goes on there"),
    ],
)
def test_failures_are_told_in_words(
    world: FakeAws,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: Exit,
    words: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Deployment, "update", fail)
    result = call("update")
    assert result.exit_code == code
    assert words in result.stderr


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_user(
    world: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(Deployment, "update", fail)
    assert isinstance(call("update").exception, ValueError)


def test_status_ends_with_4_where_something_is_not_well(world: FakeAws) -> None:
    assert call("status").exit_code == 0
    world.applications["test-review-metrics"].status = "READY"
    result = call("status")
    assert result.exit_code == Exit.UNHEALTHY
    assert "test-review-metrics is READY" in result.stderr
    world.sick = {OLD}
    assert "test-review-scoring has restarted 3 times in 15 minutes" in call("status").stderr


def test_logs_are_shown_in_order(world: FakeAws) -> None:
    world.sick, world.log = {OLD}, "it fails"
    result = call("logs", "--job", "review_metrics")
    assert "test-review-metrics" in result.stdout
    assert "ERROR it fails" in result.stdout
    assert "test-review-scoring" not in result.stdout


def test_an_unknown_job_is_wrong_input(world: FakeAws) -> None:
    result = call("logs", "--job", "teapot")
    assert result.exit_code == Exit.WRONG_INPUT
    assert "review_scoring" in result.stderr


def test_a_snapshot_that_fails_says_that_nothing_else_did(world: FakeAws) -> None:
    world.refuse["CreateApplicationSnapshot"] = refusal("it is restarting")
    result = call("snapshot")
    assert result.exit_code == Exit.FAILED
    assert "run on as they did" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["scale"],
        ["scale", "--parallelism", "review_scoring"],
        ["scale", "--shards", "reviews=none"],
        ["scale", "--shards", "reviews=4"],
        ["update", "--parameter", "ReviewsShards=3"],
        ["update", "--parameter", "LogLevel"],
        ["endpoint", "--weight", "hashing-bayes=much"],
        ["train", "--on-sagemaker"],
    ],
)
def test_wrong_options_change_nothing(world: FakeAws, arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == Exit.WRONG_INPUT, result.output
    assert world.calls == []


def test_down_names_what_goes_and_asks(world: FakeAws) -> None:
    result = call("down", answer="n\n")
    assert result.exit_code == Exit.FAILED
    assert "delete AWS::KinesisAnalyticsV2::Application" in result.stdout
    assert "keep   AWS::S3::Bucket" in result.stdout
    assert "nothing was deleted" in result.stderr
    assert world.calls == []
    assert call("down", "--yes").exit_code == 0
    assert "DeleteStack" in world.calls
    assert "DeleteBucket" not in world.calls


def test_down_that_fails_says_what_is_left(world: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    original = world.answer

    def answer(service: str, operation: str, parameters: Any) -> Any:
        if operation == "DeleteStack":
            world._status = "DELETE_FAILED"
            return {}
        return original(service, operation, parameters)

    monkeypatch.setattr(world, "answer", answer)
    result = call("down", "--yes")
    assert result.exit_code == Exit.FAILED
    assert "some resources could not be deleted" in result.stderr
    assert "deploy down" in result.stderr


def test_without_a_region_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    result = call("status")
    assert result.exit_code == Exit.WRONG_INPUT
    assert "--region" in result.stderr


def test_a_dry_run_checks_calls_and_answers() -> None:
    class Wrong(FakeAws):
        def answer(self, service: str, operation: str, parameters: Any) -> Any:
            return {"Stacks": [{"StackName": 1}]}

    client = Aws(REGION, dry_run=DryRun(Wrong(), print)).client("cloudformation")
    with pytest.raises(Exception, match="StackStatus"):
        client.describe_stacks(StackName="test")
    with pytest.raises(Exception, match="Unknown parameter"):
        client.describe_stacks(Name="test")


def test_numbers_and_pairs() -> None:
    assert pairs("-p", ["A=b=c", " D = e "]) == {"A": "b=c", "D": "e"}
    assert scaling("Parallelism{}", ["rating_anomalies=3"]) == {"ParallelismRatingAnomalies": "3"}
    assert number("0.5") == 0.5
    for text in ("nan", "inf", "-1", "x"):
        with pytest.raises(DeployError):
            number(text)
