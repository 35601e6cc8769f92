"""`python -m deploy.local run` as `make run` calls it, in a process of its own."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import living, until

SCORING = ("--jobs", "review_scoring")
HEADER = "review_id\tproduct_category\tstar_rating\treview_body\n"


@contextmanager
def running(run_dir: Path, *options: str) -> Iterator["Run"]:
    run = Run(run_dir, *options)
    try:
        yield run
    finally:
        run.end()


class Run:
    def __init__(self, run_dir: Path, *options: str) -> None:
        self.run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        self._output = (run_dir / "output.txt").open("w+", encoding="utf-8")
        command = [sys.executable, "-m", "deploy.local", "run", "--run-dir", str(run_dir)]
        self.process = subprocess.Popen(
            [*command, *options], stdout=self._output, stderr=subprocess.STDOUT
        )
        self._seen: dict[int, psutil.Process] = {}

    def output(self) -> str:
        return (self.run_dir / "output.txt").read_text(encoding="utf-8")

    def descendants(self) -> list[psutil.Process]:
        """All processes below the run, with those seen before that still live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._seen[child.pid] = child
        return living(list(self._seen.values()))

    def scored(self) -> int:
        """How many reviews the run has shown as scored."""
        self.descendants()
        line = [line for line in self.output().splitlines() if "scored-reviews (out)" in line][-1:]
        return int(line[0].split("scored-reviews (out) ")[1].split()[0]) if line else 0

    def wait(self, timeout_s: float = 240.0) -> int:
        return self.process.wait(timeout_s)

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return summary

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self._output.close()


def test_a_bounded_run_of_all_jobs_reconciles_with_its_truth(tmp_path: Path) -> None:
    with running(tmp_path / "run", "--limit", "600", "--rate", "0", "--seed", "3") as run:
        assert run.wait() == 0, run.output()
        summary = run.summary()
        assert summary["sent"] == 600
        assert summary["reconciled"] is True
        assert summary["truth_matches"] is True
        assert summary["unaccounted"] == 0
        dead = summary["dead_letters"]["parse"]
        assert summary["scored"] == 600 - sum(dead.values())
        assert summary["s3_scored"] == summary["scored"]
        assert summary["s3_raw"] == 600 - dead.get("oversize", 0)
        assert summary["dead_letters"].keys() == {"parse"}
        fates = [
            json.loads(line)["fate"]
            for line in (run.run_dir / "truth.jsonl").read_text().splitlines()
        ]
        assert fates.count("scored") == summary["scored"]
        # All within the first ten seconds, when nothing is late.
        assert (summary["late"], summary["windowed_reviews"]) == (0, summary["scored"])
        assert summary["windows"] == summary["cloudwatch_points"] >= 6
        assert 1 <= summary["avg_star_rating"] <= 5
        assert abs(summary["distinct_reviews"] / summary["scored"] - 1) < 0.05
        assert summary["bursts_found"] <= summary["bursts"]
        assert summary.keys() >= {"anomalies", "alerts"}


def test_what_is_late_is_neither_lost_nor_in_a_window(tmp_path: Path) -> None:
    # Longer than the ten seconds in which nothing is late, and the watermark must have come by.
    options = ["--duration", "20", "--rate", "50", "--late-share", "0.2"]
    with running(tmp_path / "run", "--jobs", "review_scoring,review_metrics", *options) as run:
        assert run.wait() == 0, run.output()
        summary = run.summary()
        assert summary["reconciled"] is summary["truth_matches"] is True
        assert summary["late"] > 0
        assert summary["dead_letters"]["late"] == {"late": summary["late"]}
        assert summary["scored"] == summary["windowed_reviews"] + summary["late"]
        assert "anomalies" not in summary


def test_a_file_is_replayed_to_its_end_and_nothing_of_it_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "reviews.tsv"
    rows = [f"R{number}\tGift_Card\t{number % 5 + 1}\tBody {number}" for number in range(40)]
    file.write_bytes(
        (HEADER + "\n".join(rows) + "\n").encode() + b"R40\tGift_Card\n" + b"\xff\t\t\t\n"
    )
    with running(tmp_path / "run", *SCORING, "--reviews", str(file)) as run:
        assert run.wait() == 0, run.output()
        summary = run.summary()
        assert (summary["sent"], summary["scored"]) == (42, 40)
        assert sum(summary["dead_letters"]["parse"].values()) == 2
        assert "truth_matches" not in summary


def test_ctrl_c_ends_the_sending_reconciles_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "run", *SCORING) as run:
        until(run.scored, hint=run.output)
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0, run.output()
        assert "Ctrl-C" in run.output()
        assert run.summary()["reconciled"] is True
        until(run.descendants, lambda left: not left, 10.0)


def test_a_part_that_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    with running(tmp_path / "run", *SCORING) as run:
        until(run.scored, hint=run.output)
        endpoints = [
            child for child in run.descendants() if "deploy.local.endpoint" in child.cmdline()
        ]
        assert len(endpoints) == 1
        endpoints[0].kill()
        assert run.wait() == 1
        assert "endpoint ended by signal SIGKILL; see " in run.output()
        assert "endpoint.log" in run.output()
        assert not (run.run_dir / "summary.json").exists()
        until(run.descendants, lambda left: not left, 10.0)


def test_a_wrong_option_is_one_clear_line(tmp_path: Path) -> None:
    for options, expected in (
        (("--jobs", "review_scorign"), "no such job: review_scorign; jobs: review_scoring"),
        (("--reviews", "none.tsv"), "none.tsv"),
    ):
        with running(tmp_path / "run", *options) as run:
            assert run.wait() != 0
            assert expected in run.output()
            assert "Traceback" not in run.output()
