"""What a benchmark leaves behind."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.benchmarks.__main__ import NAMES, cli
from tests.benchmarks.bench import (
    Benchmark,
    Measure,
    Measured,
    Measurement,
    Options,
    Variant,
    measurements,
)
from tests.benchmarks.rates import Sample
from tests.benchmarks.report import DocsError, document, markdown, table, unsteady, with_figures

RATES = {"source": [400.0, 100.0, 200.0], "half": [200.0, 60.0, 100.0], "alone": [7.0, 8.0, 9.0]}
BENCHMARK = Benchmark(
    name="toy",
    title="a toy",
    ratio="of the source",
    variants={
        "source": Variant("the `source`", build=lambda _: None),
        "half": Variant("half of it", build=lambda _: None, compared_to="source"),
        "alone": Variant("another", build=lambda _: None),
    },
)
FACTS: dict[str, Any] = {
    "command": "make bench-toy",
    "commit": "0123456789abcdef",
    "dirty": True,
    "machine": {"processor": "A chip", "cores": 2, "memory_gib": 8.0, "system": "Linux 1"},
    "versions": {"flink": "1.20.5", "python": "3.11.9"},
}


def measured(rate: float, faster: float = 0.0) -> Measured:
    samples = (
        Sample(10.0, 1_000),
        Sample(11.0, 1_000 + round(rate * 100)),
        Sample(12.0, 1_000 + round(rate * 100 * (2 + faster))),
    )
    return Measured(samples, {"jvm": 1.0, "python": rate / 100, "other": 0.25})


def result(**changes: Any) -> dict[str, Any]:
    done = [
        Measurement(number, position, name, measured(rates[number - 1]))
        for number in (1, 2, 3)
        for position, (name, rates) in enumerate(RATES.items(), 1)
    ]
    return document(BENCHMARK, Options(), done, **{**FACTS, **changes})


def test_every_round_measures_every_variant_in_another_order() -> None:
    asked: list[str] = []
    rounds: list[str] = []

    def measure(name: str) -> Measured:
        asked.append(name)
        return measured(RATES[name][0])

    @contextlib.contextmanager
    def open_round(number: int) -> Iterator[Measure]:
        rounds.append(f"open {number}")
        yield measure
        rounds.append(f"close {number}")

    done = list(measurements(BENCHMARK, Options(rounds=3), open_round))
    assert rounds == ["open 1", "close 1", "open 2", "close 2", "open 3", "close 3"]
    assert [one.variant for one in done] == asked
    assert [asked[i : i + 3] for i in (0, 3, 6)] == [
        ["source", "half", "alone"],
        ["half", "alone", "source"],
        ["alone", "source", "half"],
    ]
    assert [(one.round, one.position) for one in done[:4]] == [(1, 1), (1, 2), (1, 3), (2, 1)]


def test_the_figures_are_medians_and_the_ratios_those_within_a_round() -> None:
    source, half, alone = result()["rows"]
    assert source["records_per_s"] == {"median": 20_000.0, "lowest": 10_000.0, "highest": 40_000.0}
    assert half["ratio"] == {"median": 0.5, "lowest": 0.5, "highest": 0.6}
    assert half["cores"] == {"jvm": 1.0, "python": 1.0, "other": 0.25}
    assert alone["ratio"] is None


def test_the_file_holds_what_the_figures_were_made_from() -> None:
    document = json.loads(json.dumps(result()))
    assert document.items() >= FACTS.items()
    assert document["options"] == {"rounds": 3, "seconds": 4.0, "warm_up_s": 3.0}
    assert len(document["measurements"]) == 9
    one = document["measurements"][1]
    assert (one["variant"], one["round"], one["position"]) == ("half", 1, 2)
    first, last = one["samples"][0], one["samples"][-1]
    assert (last[1] - first[1]) / (last[0] - first[0]) == one["records_per_s"]


def test_a_variant_alone_has_no_ratio_to_what_was_not_measured() -> None:
    only = Benchmark("toy", "a toy", {"half": BENCHMARK.variants["half"]}, "of the source")
    done = [Measurement(1, 1, "half", measured(3.0))]
    (row,) = document(only, Options(rounds=1), done, **FACTS)["rows"]
    assert row["ratio"] is None


def test_what_was_not_steady_is_named() -> None:
    done = [
        Measurement(1, 1, "source", measured(5.0)),
        Measurement(1, 2, "half", measured(5.0, faster=0.5)),
    ]
    assert unsteady(document(BENCHMARK, Options(rounds=1), done, **FACTS)) == [
        "half, round 1: the second half was +50% faster than the first"
    ]


def test_the_markdown_has_a_row_for_each_variant_and_how_it_was_made() -> None:
    lines = markdown(result()).splitlines()
    assert lines[0] == (
        "| | reviews/s | lowest .. highest | of the source | JVM | Python | other |"
    )
    assert lines[2] == "| the `source` | 20,000 | 10,000 .. 40,000 |  | 1.0 | 2.0 | 0.2 |"
    assert lines[3].startswith("| half of it | 10,000 | 6,000 .. 20,000 | 0.5 |")
    assert len({line.count("|") for line in lines[:5]}) == 1
    rest = "\n".join(lines[5:])
    for fact in ("`make bench-toy`", "0123456789 and changes", "A chip, 2 cores", "python 3.11.9"):
        assert fact in rest
    assert "Rounds: 3; 4 s each" in rest
    assert "not committed" not in markdown(result(dirty=False))
    assert "commit" not in markdown(result(commit=None, dirty=None))


def test_the_markdown_has_what_was_measured_besides() -> None:
    further = {
        "latency_ms": {"p50": 1234.4, "parts": [{"p50": 1.0}]},
        "speedup": 210.0,
        "rivals": {"other": {"recall": 0.66}},
    }
    lines = markdown(result(**further, figures=[*further])).splitlines()
    assert "| `latency_ms` p50 | 1,234 |" in lines
    assert "| `speedup` | 210 |" in lines
    assert "| `rivals` other recall | 0.66 |" in lines
    assert not any("parts" in line for line in lines)


def test_a_run_that_was_cut_short_says_so() -> None:
    whole = result()
    cut = whole | {"measurements": whole["measurements"][:7]}
    assert "Rounds: 3 (cut short: 7 of 9 measurements); 4 s each" in markdown(cut)


def test_the_terminal_shows_the_same_rows() -> None:
    shown = table(result())
    assert shown.row_count == 3
    assert [*shown.columns[0].cells] == ["source", "half", "alone"]


DOCS = "# Title\n\nProse.\n\n<!-- toy: begin -->\nold figures\n<!-- toy: end -->\n\nMore prose.\n"


def test_the_docs_get_new_figures_and_keep_their_prose() -> None:
    text = with_figures(DOCS, result())
    assert text.startswith("# Title\n\nProse.\n\n<!-- toy: begin -->\n| | reviews/s |")
    assert text.endswith("<!-- toy: end -->\n\nMore prose.\n")
    assert "old figures" not in text
    assert with_figures(text, result(date="")) == with_figures(DOCS, result(date=""))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- toy: begin -->",
        "<!-- toy: end -->\n<!-- toy: begin -->",
        DOCS + DOCS,
        DOCS.replace("toy", "toys"),
    ],
)
def test_docs_without_a_place_for_the_figures_are_left_alone(text: str) -> None:
    with pytest.raises(DocsError, match="toy"):
        with_figures(text, result())


def test_the_command_writes_the_figures_that_there_are(tmp_path: Path) -> None:
    name = NAMES[0]
    path = tmp_path / "benchmarks.md"
    path.write_text(DOCS.replace("toy", name), encoding="utf-8")
    arguments = ["docs", "--results", str(tmp_path), "--path", str(path)]
    missing = CliRunner().invoke(cli, arguments)
    assert missing.exit_code == 2
    assert f"make bench-{name}" in missing.output
    figures = json.dumps(result() | {"benchmark": name})
    (tmp_path / f"{name}.json").write_text(figures, encoding="utf-8")
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert "half of it" in path.read_text(encoding="utf-8")


def test_the_docs_have_the_figures_of_every_benchmark() -> None:
    text = Path("docs/benchmarks.md").read_text(encoding="utf-8")
    makefile = Path("Makefile").read_text(encoding="utf-8")
    for name in NAMES:
        figures = text.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
        assert f"`make bench-{name}" in figures
        assert f"\nbench-{name}:" in makefile
