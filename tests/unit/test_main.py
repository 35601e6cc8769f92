"""A start that fails says why, once, on one line that a log search finds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import main as entry
from deploy.local.stack import read_properties, write_properties
from flink_jobs import environment, review_scoring

PROPERTIES = Path("deploy/runtime_properties.json")


def failure(stderr: str) -> dict[str, Any]:
    """Return the one record of an output in which there is no other line."""
    (line,) = stderr.splitlines()
    _, marker, record = line.partition(f"CRITICAL {entry.START_FAILED} ")
    assert marker
    found: dict[str, Any] = json.loads(record)
    return found


def run_entry(properties: Path, *, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the entry script in a process of its own, as `flink run` does."""
    code = f"{before}\nfrom deploy.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys\n{code}", "--properties", properties],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_all_problems_of_a_configuration_are_in_one_record(tmp_path: Path) -> None:
    properties = read_properties(PROPERTIES)
    properties["aws"]["region"] = ""
    properties["reviews"] |= {"max_body_bytes": "many", "strem": "x"}
    del properties["dead_letters"]
    write_properties(tmp_path / "p.json", properties)
    result = run_entry(tmp_path / "p.json")
    record = failure(result.stderr)
    assert result.returncode == 2
    assert record["error"] == f"5 problems in {tmp_path / 'p.json'}"
    assert record.keys() == {"error", "problems"}
    for named in ("aws.region", "reviews.max_body_bytes", "reviews.strem", "dead_letters.stream"):
        assert sum(named in problem for problem in record["problems"]) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = run_entry(tmp_path / "none.json")
    record = failure(result.stderr)
    assert result.returncode == 2
    assert record["error"] == f"1 problem in {tmp_path / 'none.json'}"
    assert record["problems"] == ["the file cannot be read: No such file or directory"]


@pytest.mark.parametrize("library", ["pydantic", "flink_jobs.config", "aiobotocore"])
def test_a_missing_library_is_told_of_like_any_other_failure(library: str) -> None:
    # `None` in sys.modules: the import fails as that of a module that is not there.
    result = run_entry(PROPERTIES, before=f"sys.modules[{library!r}] = None")
    record = failure(result.stderr)
    assert result.returncode == 1
    assert record["error"].startswith("ModuleNotFoundError: ")
    assert library in record["error"]
    assert record["traceback"].count("ModuleNotFoundError") == 1


class Statements:
    def execute(self) -> None:
        raise RuntimeError("the cluster has no slots\nat all")


@pytest.mark.parametrize("fails", ["build", "execute"])
def test_a_job_that_cannot_be_built_or_submitted_gives_its_traceback(
    fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def build(*_: object) -> Statements:
        if fails == "build":
            raise ValueError("no such table: reviews")
        return Statements()

    monkeypatch.setattr(environment, "create_environment", lambda _: None)
    monkeypatch.setattr(review_scoring, "build", build)
    assert entry.main(["--properties", str(PROPERTIES)]) == 1
    (log,) = caplog.records
    marker, _, text = log.getMessage().partition(" {")
    record = json.loads("{" + text)
    assert (marker, log.levelname) == (entry.START_FAILED, "CRITICAL")
    assert "\n" not in log.getMessage()
    assert record["error"].startswith("ValueError: no such" if fails == "build" else "RuntimeError")
    assert "Traceback (most recent call last)" in record["traceback"]
    assert f"in {fails}" in record["traceback"]


def test_a_job_that_starts_says_nothing_of_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    executed: list[str] = []

    class Sound:
        def execute(self) -> None:
            executed.append("review_scoring")

    monkeypatch.setattr(environment, "create_environment", lambda _: None)
    monkeypatch.setattr(review_scoring, "build", lambda *_: Sound())
    assert entry.main(["--properties", str(PROPERTIES)]) == 0
    assert executed == ["review_scoring"]
    assert not caplog.records


def test_a_very_long_traceback_keeps_its_end() -> None:
    record = json.loads(entry.failure_record(RuntimeError("x" * 300_000 + " the cause")))
    assert record["traceback"].endswith("the cause\n")
    assert len(entry.failure_record(RuntimeError("\n" * 300_000)).encode()) < 256_000
