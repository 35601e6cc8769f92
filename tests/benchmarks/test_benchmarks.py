"""The smallest benchmark, from submission to docs; what it measures is no concern here."""

import json
import subprocess
import sys
from pathlib import Path


def test_a_benchmark_measures_and_writes_it_down(tmp_path: Path) -> None:
    variants = {"rated_reviews": "source: ids", "pandas_udf": "pandas UDF"}
    output, docs = tmp_path / "baseline.json", tmp_path / "benchmarks.md"
    options = ["--rounds", "1", "--seconds", "1", "--warm-up", "0", "--only", ",".join(variants)]
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
