"""The smallest benchmark, from submission to docs; what it measures is no concern here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_benchmark_measures_and_writes_it_down(tmp_path: Path) -> None:
    variants = {"rated_reviews": "source: ids", "pandas_udf": "pandas UDF"}
    output, docs = tmp_path / "baseline.json", tmp_path / "benchmarks.md"
    # Warm, so that the worker is up: the source begins before it.
    options = ["--rounds", "1", "--seconds", "1", "--warm-up", "1", "--only", ",".join(variants)]
    program = [sys.executable, "-m", "tests.benchmarks"]
    subprocess.run(
        [*program, "baseline", *options, "--output", output, "--run-dir", tmp_path / "run"],
        check=True,
    )
    result = json.loads(output.read_text(encoding="utf-8"))
    assert [row["variant"] for row in result["rows"]] == [*variants]
    assert all(row["records_per_s"]["median"] > 0 for row in result["rows"])
    assert result["rows"][1]["ratio"]["median"] > 0
    # The function ran where it belongs, and its processor time was found.
    assert [row["cores"]["python"] > 0 for row in result["rows"]] == [False, True]
    assert result["versions"]["flink"] == result["versions"]["apache-flink"]
    assert result["machine"]["cores"] >= 1
    assert len(result["measurements"]) == 2
    assert all(len(one["samples"]) >= 2 for one in result["measurements"])

    docs.write_text("<!-- baseline: begin -->\n<!-- baseline: end -->\n", encoding="utf-8")
    subprocess.run([*program, "docs", "--results", tmp_path, "--path", docs], check=True)
    assert all(what in docs.read_text(encoding="utf-8") for what in variants.values())


# Three clusters; the last two at once.
@pytest.mark.timeout(600)
def test_a_benchmark_has_clients_faults_and_further_figures(tmp_path: Path) -> None:
    output = tmp_path / "scoring.json"
    options = ["--rounds", "1", "--seconds", "1", "--warm-up", "0.5", "--only", "sequential,async"]
    program = [sys.executable, "-m", "tests.benchmarks", "scoring", *options]
    subprocess.run([*program, "--output", output, "--run-dir", tmp_path / "run"], check=True)
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["figures"] == ["sequential_per_s", "async_per_s", "speedup", "latency_ms"]
    # One at a time, from an endpoint that takes 21 ms for it.
    assert 0 < result["sequential_per_s"] < 1000 / 21
    assert result["async_per_s"] > 0
    latency_ms = result["latency_ms"]
    assert latency_ms["reviews"] > 1_000
    # More than the endpoint takes for a single review.
    assert 21 < latency_ms["p50"] <= latency_ms["p95"] <= latency_ms["p99"]
    assert len(latency_ms["parts"]) == 3
