import io
import json
import os
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from deploy.local.cluster import (
    MEASURES_AGE_S,
    FlinkClient,
    FlinkCluster,
    PythonEnvironment,
    cluster_config,
    flink_home,
    readable,
)
from deploy.local.emulator import local_environment
from deploy.local.process import Child
from deploy.local.stack import (
    NoStackError,
    Stack,
    StackInfo,
    StackOptions,
    attach,
    read_properties,
    stop_detached,
    write_properties,
)
from deploy.main import START_FAILED

CONFIG = cluster_config(
    Path("/run"), rest_port=8082, rpc_port=6124, slots=4, heartbeat_timeout_s=20
)


def test_the_shipped_java_options_are_kept() -> None:
    shipped = YAML(typ="safe").load(flink_home() / "conf" / "config.yaml")
    options = shipped["env"]["java"]["opts"]["all"]
    assert "--add-opens=java.base/java.lang=ALL-UNNAMED" in options
    assert str(CONFIG["env.java.opts.all"]).startswith(options)


def test_every_server_is_bound_to_loopback() -> None:
    addresses = {key: value for key, value in CONFIG.items() if key.endswith(("host", "address"))}
    assert set(addresses) == {
        "rest.address",
        "rest.bind-address",
        "jobmanager.rpc.address",
        "jobmanager.bind-host",
        "taskmanager.host",
        "taskmanager.bind-host",
    }
    assert set(addresses.values()) == {"127.0.0.1"}


def test_everything_written_is_below_the_run_directory() -> None:
    paths = [value for key, value in CONFIG.items() if key.endswith(("dir", "dirs", "log.path"))]
    assert len(paths) == 4
    assert all(str(path).removeprefix("file://").startswith("/run/") for path in paths)


def test_heartbeats_fit_into_their_timeout() -> None:
    assert (CONFIG["heartbeat.interval"], CONFIG["heartbeat.timeout"]) == (5000, 20000)


def test_overrides_come_last() -> None:
    config = cluster_config(
        Path("/run"),
        rest_port=1,
        rpc_port=2,
        slots=3,
        heartbeat_timeout_s=4,
        overrides={"rest.port": 5, "pipeline.name": "mine"},
    )
    assert (config["rest.port"], config["pipeline.name"]) == (5, "mine")


def test_the_file_has_one_key_a_line_for_flinks_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flink = FlinkCluster(tmp_path, overrides={"pipeline.name": "a: #b"})
    monkeypatch.setattr(Child, "start", lambda self: None)
    flink.start()
    text = (tmp_path / "conf" / "config.yaml").read_text()
    written = YAML(typ="safe").load(io.StringIO(text))
    assert [line.split(":", 1)[0] for line in text.splitlines()] == list(written)
    assert written["pipeline.name"] == "a: #b"
    assert str(written["rest.port"]) == flink.rest_url.rsplit(":", 1)[1]


def test_a_path_with_blanks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="blanks"):
        FlinkCluster(tmp_path / "my run")


def test_the_command_line_can_be_pasted(tmp_path: Path) -> None:
    line = FlinkCluster(tmp_path).command_line(
        entry=Path("deploy/main.py"),
        properties=Path("p q.json"),
        jarfile=Path("build/c.jar"),
        pyfiles=Path("build/python.zip"),
    )
    assert line.startswith(f"FLINK_CONF_DIR={tmp_path / 'conf'} bash ")
    assert line.endswith(
        "/bin/flink run -d --python deploy/main.py --pyFiles build/python.zip"
        " --jarfile build/c.jar --properties 'p q.json'"
    )


class Rest(FlinkClient):
    """A client whose REST API is a dictionary of paths, less their queries, to answers."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def get(self, path: str) -> Any:
        name, _, query = path.partition("?")
        answer = self.answers[name]
        if name.endswith("/metrics") and not query:
            return [{"id": metric["id"]} for metric in answer]
        wanted = urllib.parse.parse_qs(query).get("get", [""])[0].split(",")
        if name.endswith("/metrics"):
            return [metric for metric in answer if metric["id"] in wanted]
        return answer


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], False),
        (["RUNNING", "RUNNING"], True),
        (["RUNNING", "INITIALIZING"], False),
        (["RUNNING", "FINISHED"], False),
    ],
)
def test_a_job_runs_when_every_task_does(states: list[str], expected: bool) -> None:
    rest = Rest({"/jobs/1": {"vertices": [{"status": state} for state in states]}})
    assert rest.is_running("1") is expected


def measures(behind: tuple[float, float], records: tuple[float, float]) -> list[dict[str, Any]]:
    """Measures of one shard, as least and most of all subtasks, among others."""
    place = "Source__scored.KinesisConsumer.stream.scored-reviews.shardId.shardId-000000000000"
    values = {"millisBehindLatest": behind, "numberOfAggregatedRecordsPerFetch": records}
    return [
        {"id": "Source__scored.numRecordsOut", "min": 7, "max": 7},
        *(
            {"id": f"{place}.{name}", "min": least, "max": most}
            for name, (least, most) in values.items()
        ),
    ]


@pytest.mark.parametrize(
    ("found", "shards", "expected"),
    [
        (measures((0, 0), (0, 0)), 1, {}),
        (measures((0, 0), (3, 3)), 1, {"shard 0 numberOfAggregatedRecordsPerFetch": "3..3"}),
        (measures((250, 250), (0, 0)), 1, {"shard 0 millisBehindLatest": "250..250"}),
        (measures((0, 250), (0, 0)), 1, {"shard 0 millisBehindLatest": "0..250"}),
        (measures((-1, -1), (0, 0)), 1, {"shard 0 millisBehindLatest": "-1..-1"}),
        (
            measures((0, 0), (0, 0)),
            2,
            {
                "shard 1 millisBehindLatest": "unknown",
                "shard 1 numberOfAggregatedRecordsPerFetch": "unknown",
            },
        ),
    ],
)
def test_a_stream_is_read_when_the_last_read_of_each_shard_found_nothing(
    found: list[dict[str, Any]], shards: int, expected: dict[str, str]
) -> None:
    rest = Rest(
        {
            "/jobs/1": {"vertices": [{"id": "sink"}, {"id": "source"}]},
            "/jobs/1/vertices/sink/subtasks/metrics": [],
            "/jobs/1/vertices/source/subtasks/metrics": found,
        }
    )
    assert rest.unread("1", "scored-reviews", shards) == expected


def test_measures_are_fresh_when_they_are_believed() -> None:
    assert float(CONFIG["metrics.fetcher.update-interval"]) < 1_000 * MEASURES_AGE_S


def test_no_aws_setting_of_the_user_reaches_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "the user's")
    environment = local_environment("eu-west-1")
    assert "the user's" not in environment.values()
    assert environment["AWS_ACCESS_KEY_ID"] == "local"
    assert environment["AWS_REGION"] == environment["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert environment["PATH"] == os.environ["PATH"]


def test_another_python_finds_nothing_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "PYFLINK_CLIENT_EXECUTABLE", "FLINK_HOME"):
        monkeypatch.setenv(name, "/this/one")
    python = PythonEnvironment(Path("/other/bin/python"), flink_home(), tmp_path)
    cluster = FlinkCluster(tmp_path / "run", python=python)
    executables = {key: cluster._config[key] for key in cluster._config if "executable" in key}
    assert executables == {
        "python.executable": "/other/bin/python",
        "python.client.executable": "/other/bin/python",
    }
    assert "/this/one" not in cluster._env.values()
    assert cluster._env["AWS_REGION"] == "us-east-1"
    assert cluster.job_manager._cwd == tmp_path


def test_a_failed_start_is_told_in_lines() -> None:
    record = {"error": "ValueError: no", "traceback": "Traceback\n  File x\nValueError: no\n"}
    output = f"INFO x\n2026 CRITICAL {START_FAILED} {json.dumps(record)}\n\tat a.B(C)\n"
    assert readable(output).splitlines() == [
        "INFO x",
        "APPLICATION START FAILED: ValueError: no",
        "Traceback",
        "  File x",
        "ValueError: no",
    ]
    assert readable(f"{START_FAILED} {{cut off}}") == f"{START_FAILED} {{cut off}}"


def test_a_failed_client_is_readable() -> None:
    output = """\
2 problems with the properties:
  aws.region is missing
org.apache.flink.client.program.ProgramAbortException: java.lang.RuntimeException: Python process exits with code: 1
\tat org.apache.flink.client.python.PythonDriver.main(PythonDriver.java:134)
\t... 12 more
Caused by: java.lang.RuntimeException: Python process exits with code: 1
\tat org.apache.flink.client.python.PythonDriver.main(PythonDriver.java:126)
"""  # noqa: E501
    assert readable(output) == "2 problems with the properties:\n  aws.region is missing"


texts = st.text(max_size=20)
groups = st.dictionaries(texts, st.dictionaries(texts, texts, max_size=4), max_size=4)


@given(properties=groups)
def test_properties_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, properties: dict[str, dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("properties") / "p.json"
    write_properties(path, properties)
    assert read_properties(path) == properties


def test_a_jobs_properties_are_the_sample_with_addresses_then_overrides(tmp_path: Path) -> None:
    sample = tmp_path / "sample.json"
    write_properties(
        sample,
        {
            "application": {"job": "other"},
            "aws": {"region": "us-east-1", "endpoint_url": "http://127.0.0.1:1"},
            "endpoint": {"name": "reviews", "endpoint_url": "http://127.0.0.1:2"},
            "reviews": {"stream": "reviews", "format": "json"},
        },
    )
    info = StackInfo(
        pid=1,
        run_dir=tmp_path / "run",
        properties=sample,
        region="us-east-1",
        emulator_url="http://127.0.0.1:3",
        endpoint_url="http://127.0.0.1:4",
        web_ui_url="http://127.0.0.1:5",
    )
    path = info.properties_for("review_scoring", {"reviews": {"format": "tsv"}, "new": {"a": "b"}})
    assert path == tmp_path / "run" / "properties" / "review_scoring.json"
    assert read_properties(path) == {
        "application": {"job": "review_scoring"},
        "aws": {"region": "us-east-1", "endpoint_url": "http://127.0.0.1:3"},
        "endpoint": {"name": "reviews", "endpoint_url": "http://127.0.0.1:4"},
        "reviews": {"stream": "reviews", "format": "tsv"},
        "new": {"a": "b"},
    }


def test_a_stack_without_a_model_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model in"):
        Stack(tmp_path / "run", StackOptions(tmp_path / "model", tmp_path / "p.json"))
    assert not (tmp_path / "run").exists()


def test_a_stack_file_of_another_process_is_not_believed(tmp_path: Path) -> None:
    info = {
        "pid": os.getpid(),
        "run_dir": str(tmp_path),
        "properties": "p.json",
        "region": "us-east-1",
        "emulator_url": "",
        "endpoint_url": "",
        "web_ui_url": "",
    }
    (tmp_path / "stack.json").write_text(json.dumps(info))
    with pytest.raises(NoStackError, match="no cluster runs in"):
        attach(tmp_path)
    assert stop_detached(tmp_path) is False  # and this process is still here
    assert not (tmp_path / "stack.json").exists()
