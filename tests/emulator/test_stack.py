"""The laptop's AWS for real: these tests start emulator, endpoint and Flink cluster."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import joblib
import psutil
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from deploy.local.cluster import FlinkClientError
from deploy.local.emulator import PROJECT_ROOT, answers, create_resources
from deploy.local.process import PartDiedError
from deploy.local.stack import (
    BUCKET,
    NoStackError,
    Stack,
    StackInfo,
    StackOptions,
    StackRunningError,
    attach,
    read_properties,
    start_detached,
    stop_detached,
)
from deploy.model.inference import MODEL_FILE
from tests.waiting import living, until

SAMPLE = PROJECT_ROOT / "deploy" / "runtime_properties.json"

JOB = """
import argparse
from pyflink.table import DataTypes, EnvironmentSettings, TableEnvironment
from pyflink.table.udf import udf
from shipped import SHIPPED

parser = argparse.ArgumentParser()
parser.add_argument("--properties", required=True)
assert parser.parse_args().properties.endswith("review_scoring.json")

@udf(result_type=DataTypes.BIGINT(), func_type="pandas")
def add_shipped(n):
    return n + SHIPPED

t_env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
t_env.create_temporary_function("add_shipped", add_shipped)
t_env.execute_sql("CREATE TABLE numbers (n BIGINT)"
                  " WITH ('connector' = 'datagen', 'rows-per-second' = '50')")
t_env.execute_sql("CREATE TABLE nowhere (n BIGINT) WITH ('connector' = 'blackhole')")
t_env.execute_sql("INSERT INTO nowhere SELECT add_shipped(n) FROM numbers")
"""


def processes_below(run_dir: Path) -> list[str]:
    """Command lines that name the run directory; every part has it in its arguments or log."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(run_dir) in command and process.pid != os.getpid():
            found.append(command)
    return found


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    (path / "only").mkdir()
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(["bad", "good"], [1, 5])
    joblib.dump(model, path / "only" / MODEL_FILE)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def detached(model_dir: Path, run_dir: Path) -> Iterator[StackInfo]:
    info = start_detached(run_dir, model_dir=model_dir, properties=SAMPLE)
    processes = family(info.pid)
    try:
        yield info
    finally:
        processes += family(info.pid)
        assert stop_detached(run_dir)
    assert living(processes) == []
    assert processes_below(run_dir) == []
    assert not stop_detached(run_dir)
    left = {path.name for path in run_dir.iterdir()}
    assert left == {"conf", "lock", "logs", "properties", "stack.log"}
    logs = {path.name for path in (run_dir / "logs").iterdir()}
    assert {"emulator.log", "endpoint.log", "jobmanager.log", "taskmanager-1.log"} <= logs


class Submission(TypedDict):
    entry: Path
    properties: Path
    jarfile: Path
    pyfiles: Path


@pytest.fixture
def submission(detached: StackInfo, tmp_path: Path) -> Submission:
    entry, pyfiles, jarfile = tmp_path / "job.py", tmp_path / "python.zip", tmp_path / "any.jar"
    entry.write_text(JOB)
    with zipfile.ZipFile(pyfiles, "w") as archive:
        archive.writestr("shipped.py", "SHIPPED = 1\n")
    with zipfile.ZipFile(jarfile, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
    properties = detached.properties_for("review_scoring")
    return {"entry": entry, "pyfiles": pyfiles, "jarfile": jarfile, "properties": properties}


def test_streams_bucket_and_delivery_streams_exist(detached: StackInfo) -> None:
    kinesis, firehose = detached.client("kinesis"), detached.client("firehose")
    shards = {
        stream: kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
        for stream in kinesis.list_streams()["StreamNames"]
    }
    assert {stream: found["OpenShardCount"] for stream, found in shards.items()} == {
        "reviews": 2,
        "scored-reviews": 1,
        "review-metrics": 1,
        "rating-anomalies": 1,
        "dead-letters": 1,
    }
    assert set(firehose.list_delivery_streams()["DeliveryStreamNames"]) == {
        "reviews-raw",
        "reviews-scored",
        "reviews-metrics",
    }
    firehose.put_record(DeliveryStreamName="reviews-raw", Record={"Data": b"{}\n"})
    objects = detached.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [found["Key"].split("/")[0] for found in objects] == ["raw"]


def test_what_the_topic_of_alerts_is_sent_comes_into_its_queue(detached: StackInfo) -> None:
    sns, sqs = detached.client("sns"), detached.client("sqs")
    topic_arn = read_properties(SAMPLE)["alerts"]["topic_arn"]
    sns.publish(TopicArn=topic_arn, Message="burst")
    (message,) = sqs.receive_message(
        QueueUrl=sqs.get_queue_url(QueueName="rating-alerts")["QueueUrl"]
    )["Messages"]
    assert json.loads(message["Body"])["Message"] == "burst"


def test_resources_are_created_once(detached: StackInfo) -> None:
    for _ in range(2):
        create_resources(
            detached.emulator_url,
            detached.region,
            streams={"reviews": 1, "other": 1},
            bucket=BUCKET,
            delivery_streams={"reviews-raw": "elsewhere/"},
            topics=["rating-alerts"],
        )
    names = detached.client("kinesis").list_streams()["StreamNames"]
    assert sorted(names) == sorted(set(names))
    assert len(detached.client("sns").list_subscriptions()["Subscriptions"]) == 1
    detached.client("kinesis").delete_stream(StreamName="other")


def test_the_endpoint_answers(detached: StackInfo) -> None:
    assert answers(f"{detached.endpoint_url}/ping")


def test_a_jobs_properties_hold_the_real_addresses(detached: StackInfo) -> None:
    properties = read_properties(detached.properties_for("review_scoring"))
    assert properties["aws"]["endpoint_url"] == detached.emulator_url
    assert properties["endpoint"]["endpoint_url"] == detached.endpoint_url


def test_a_second_stack_is_refused_by_name(
    detached: StackInfo, run_dir: Path, model_dir: Path
) -> None:
    assert attach(run_dir) == detached
    with pytest.raises(StackRunningError, match=f"process {detached.pid}, web UI http://127"):
        start_detached(run_dir, model_dir=model_dir, properties=SAMPLE)
    with (
        pytest.raises(
            StackRunningError, match=f"in use by process {detached.pid}; end it with: make stop"
        ),
        Stack(run_dir, StackOptions(model_dir, SAMPLE)),
    ):
        pass
    assert attach(run_dir) == detached


def test_a_python_job_runs_and_drains(
    detached: StackInfo, submission: Submission, run_dir: Path
) -> None:
    flink = detached.flink()
    job_id = flink.submit(**submission)
    assert [job.job_id for job in flink.jobs()] == [job_id]
    # Checkpoints complete only with the Python worker up.
    until(lambda: any((run_dir / "checkpoints" / job_id).glob("chk-*/_metadata")))
    assert flink.job_state(job_id) == "RUNNING"
    assert flink.exceptions(job_id) == ""
    savepoint = flink.stop_job(job_id)
    assert flink.job_state(job_id) == "FINISHED"
    assert Path(savepoint.removeprefix("file:"), "_metadata").is_file()
    assert savepoint.startswith(f"file:{run_dir / 'savepoints'}")


def _write_script(submission: Submission, line: str) -> None:
    """Reach for Flink first, as a job does: it takes a script that has already ended for one
    that could not be started, and then does not read what it said.
    """
    submission["entry"].write_text(
        f"import sys\nfrom pyflink.java_gateway import get_gateway\nget_gateway()\n{line}\n"
    )


def test_a_failing_script_is_shown_in_its_own_words(
    detached: StackInfo, submission: Submission
) -> None:
    _write_script(submission, "sys.exit('one problem:\\n  aws.region is missing')")
    with pytest.raises(FlinkClientError) as caught:
        detached.flink().submit(**submission)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("flink run ended with status ")
    assert rest == ["one problem:", "  aws.region is missing"]


def test_a_script_that_submits_nothing_is_an_error(
    detached: StackInfo, submission: Submission
) -> None:
    _write_script(submission, "print('nothing to do')")
    with pytest.raises(FlinkClientError, match="nothing to do"):
        detached.flink().submit(**submission)


def test_stopping_an_unknown_job_says_so(detached: StackInfo) -> None:
    with pytest.raises(FlinkClientError, match="flink stop ended with status"):
        detached.flink().stop_job("0" * 32)


def test_a_dead_part_is_named_and_the_rest_ends(model_dir: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    options = StackOptions(model_dir, SAMPLE, task_managers=2, slots=1)
    with Stack(tmp_path, options, on_progress=lines.append) as stack:
        stack.check()
        assert stack.cluster.has_all_slots()
        processes = [process for part in stack.parts for process in family(part.pid)]
        emulator = next(part for part in stack.parts if part.name == "emulator")
        os.kill(emulator.pid, signal.SIGKILL)
        until(lambda: not emulator.is_running)
        with pytest.raises(PartDiedError, match=r"emulator ended by signal SIGKILL; see .*\.log"):
            stack.check()
    assert lines[-1] == f"Flink web UI: {stack.info.addresses['Flink web UI']}"
    assert living(processes) == []
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "lock", "logs"}


def test_a_part_that_cannot_start_ends_the_rest_at_once(tmp_path: Path) -> None:
    model_dir, run_dir = tmp_path / "model", tmp_path / "run"
    model_dir.mkdir()
    run_dir.mkdir()
    results = [run_dir / "summary.json", run_dir / "truth.jsonl"]
    for path in results:
        path.write_text("of the run before")
    with (
        pytest.raises(PartDiedError, match=r"endpoint ended with status 2; see .*no model"),
        Stack(run_dir, StackOptions(model_dir, SAMPLE)),
    ):
        pass
    assert processes_below(run_dir) == []
    assert not any(path.exists() for path in results)
    with pytest.raises(PartDiedError, match=r"the cluster's process ended .*endpoint ended"):
        start_detached(run_dir, model_dir=model_dir, properties=SAMPLE)
    with pytest.raises(NoStackError):
        attach(run_dir)
    assert processes_below(run_dir) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own service")
def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from deploy.local.cluster import FlinkCluster
        cluster = FlinkCluster(Path({str(tmp_path)!r}))
        cluster.start()
        cluster.wait_ready()
        print("ready", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=PROJECT_ROOT
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        children = family(parent.pid)[1:]
        assert len(children) == 2
        parent.kill()
    until(lambda: living(children), lambda left: not left, timeout_s=20)
