"""What a benchmark leaves: a JSON document, a table, and its part of docs/benchmarks.md."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.table import Table

from tests.benchmarks.bench import Benchmark, Measurement, Options
from tests.benchmarks.rates import ratios, spread

Document = dict[str, Any]

MAX_DRIFT = 0.1
"""From which drift on a measurement is told not to be of a steady state."""

_CORES = {"jvm": "JVM", "python": "Python", "endpoint": "endpoint", "other": "other"}


class DocsError(Exception):
    """The document has no place for a benchmark; the message says what is missing."""


def document(
    benchmark: Benchmark, options: Options, measured: Sequence[Measurement], **facts: Any
) -> Document:
    """Return what the file holds.

    Parameters
    ----------
    benchmark, options, measured
        What was measured, how, and what came of it; at least one round.
    facts
        Go in as they are: command, machine, versions, commit, settings.

    Returns
    -------
    dict
        `rows` has the figures of each variant, `measurements` all they were made from.
    """
    rates: dict[str, dict[int, float]] = {name: {} for name in benchmark.variants}
    for one in measured:
        rates[one.variant][one.round] = one.records_per_s
    rows = []
    for name, variant in benchmark.variants.items():
        mine = [one for one in measured if one.variant == name]
        if not mine:
            continue
        shares = ratios(rates, name, variant.compared_to) if variant.compared_to in rates else {}
        rows.append(
            {
                "variant": name,
                "what": variant.what,
                "records_per_s": asdict(spread([one.records_per_s for one in mine])),
                "compared_to": variant.compared_to,
                "ratio": asdict(spread([*shares.values()])) if shares else None,
                "cores": {
                    who: spread([one.measured.cores[who] for one in mine]).median
                    for who in mine[0].measured.cores
                },
            }
        )
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "unit": benchmark.unit,
        "ratio": benchmark.ratio,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "options": asdict(options),
        "rows": rows,
        "measurements": [
            {
                "round": one.round,
                "position": one.position,
                "variant": one.variant,
                "records_per_s": one.records_per_s,
                "drift": one.drift,
                "cores": dict(one.measured.cores),
                "samples": [[sample.at_s, sample.count] for sample in one.measured.samples],
            }
            for one in measured
        ],
    }


def unsteady(result: Document) -> list[str]:
    """Return a sentence for each measurement whose halves differ by more than `MAX_DRIFT`."""
    return [
        f"{one['variant']}, round {one['round']}: the second half was {one['drift']:+.0%} faster"
        " than the first"
        for one in result["measurements"]
        if abs(one["drift"] or 0) > MAX_DRIFT
    ]


def table(result: Document) -> Table:
    """Return the figures as the terminal shows them."""
    # Names instead of what they are, and the spread as a share: a terminal has 80 columns.
    shown = Table(
        title=result["title"],
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    heads = _heads(result)
    for head in ("", heads[1], "spread", *heads[3:]):
        shown.add_column(head, justify="right" if head else "left", no_wrap=not head)
    for row, cells in zip(result["rows"], _cells(result), strict=True):
        rates = row["records_per_s"]
        width = (rates["highest"] - rates["lowest"]) / rates["median"]
        shown.add_row(row["variant"], cells[1], f"{width:.0%}", *cells[3:])
    return shown


def median(result: Document, variant: str, figure: str = "records_per_s") -> float | None:
    """Return the median of a variant's rate or ratio, None where it was not measured."""
    for row in result["rows"]:
        if row["variant"] == variant and row[figure]:
            return round(float(row[figure]["median"]), 4)
    return None


def markdown(result: Document) -> str:
    """Return the figures as docs/benchmarks.md shows them, with how they were made."""
    heads = _heads(result)
    lines = ["|" + "|".join(f" {head} " if head else " " for head in heads) + "|"]
    lines.append("|---" + "|---:" * (len(heads) - 1) + "|")
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(result)]
    machine, versions, options = result["machine"], result["versions"], result["options"]
    dirty = " and changes that are not committed" if result["dirty"] else ""
    commit = f", commit {result['commit'][:10]}{dirty}" if result["commit"] else ""
    packages = ", ".join(
        f"{name} {number}" for name, number in versions.items() if name != "apache-flink"
    )
    other = spread([one["cores"]["other"] for one in result["measurements"]]).median
    made, wanted = len(result["measurements"]), options["rounds"] * len(result["rows"])
    cut_short = f" (cut short: {made} of {wanted} measurements)" if made < wanted else ""
    drifts = [abs(one["drift"] or 0) for one in result["measurements"]]
    return "\n".join(
        [
            *lines,
            "",
            *_figures(result),
            f"`{result['command']}` on {result['date'][:10]}{commit}. Rounds: {options['rounds']}"
            f"{cut_short};"
            f" {options['seconds']:g} s each, after {options['warm_up_s']:g} s of warm-up or more."
            f" First and second half of a measurement differ by {spread(drifts).median:.0%} in the"
            f" median, {max(drifts):.0%} at most. Other processes kept {other:.1f} cores busy.",
            "",
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB,"
            f" {machine['system']}; {packages}.",
        ]
    )


def _figures(result: Document) -> list[str]:
    """Return the lines of what was measured besides, and an empty one; nothing if there is none."""
    found = [
        f"| `{name}`{words} | {_figure(value)} |"
        for name in result.get("figures", [])
        for words, value in _leaves(result[name])
    ]
    return ["| figure | |", "|---|---:|", *found, ""] if found else []


def _leaves(figure: object, words: str = "") -> Iterator[tuple[str, bool | int | float]]:
    if isinstance(figure, Mapping):
        for key, value in figure.items():
            yield from _leaves(value, f"{words} {key}")
    elif isinstance(figure, bool | int | float):
        yield words, figure


def _figure(value: bool | int | float) -> str:
    """Return integers as they are, of others four significant digits.

    >>> _figure(1_861_198.93), _figure(0.015512), _figure(57_393), _figure(True)
    ('1,861,000', '0.01551', '57,393', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    rounded = float(f"{value:.4g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1_000 else f"{rounded:g}"


def with_figures(text: str, result: Document) -> str:
    r"""Return the text of docs/benchmarks.md with a benchmark's figures in their place.

    Raises
    ------
    DocsError
        The text has not both marks, once each and in their order.

    Examples
    --------
    >>> marked = "Before.\n<!-- x: begin -->\nold\n<!-- x: end -->\nAfter.\n"
    >>> print(_between(marked, "x", "new"))
    Before.
    <!-- x: begin -->
    new
    <!-- x: end -->
    After.
    <BLANKLINE>
    """
    return _between(text, result["benchmark"], markdown(result))


def _between(text: str, name: str, figures: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise DocsError(f"the figures of {name} belong between the lines {begin} and {end}, once")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    return f"{before}{begin}\n{figures}\n{end}{after}"


def _heads(result: Document) -> list[str]:
    heads = ["", f"{result['unit']}/s", "lowest .. highest", result["ratio"]]
    return heads + [_CORES[who] for who in _columns(result)]


def _columns(result: Document) -> list[str]:
    return [who for who in _CORES if any(who in row["cores"] for row in result["rows"])]


def _cells(result: Document) -> list[list[str]]:
    return [
        [
            row["what"],
            _rounded(row["records_per_s"]["median"]),
            f"{_rounded(row['records_per_s']['lowest'])} .. "
            f"{_rounded(row['records_per_s']['highest'])}",
            _share(row["ratio"]),
            *(f"{row['cores'].get(who, 0):.1f}" for who in _columns(result)),
        ]
        for row in result["rows"]
    ]


def _rounded(rate: float) -> str:
    """Return three significant digits: more would be noise.

    >>> _rounded(671_834.2), _rounded(1_234.5), _rounded(36.31)
    ('672,000', '1,230', '36.3')
    """
    return re.sub(r"\.0$", "", f"{float(f'{rate:.3g}'):,}")


def _share(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{float(format(ratio['median'], '.2g')):g}"
