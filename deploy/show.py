"""How the commands for AWS show what they found, as tables."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table
from rich.text import Text

from deploy.aws.dead_letters import DeadLetter, Outcome, Redrive
from deploy.aws.status import Status
from deploy.console import console, say
from deploy.tables import print_table

_LATEST = 20
_SHOWN_BYTES = 4096


def show_status(status: Status) -> None:
    """Show stack, applications and endpoint."""
    code = status.stack.parameters.get("CodeKey") or "none"
    say(f"stack {status.stack.status.lower().replace('_', ' ')}, code {code}")
    table = Table("job", "status", "version", "parallelism", "up", "restarts", "behind")
    for application in status.applications:
        state, readings = application.state, application.readings
        table.add_row(
            application.job,
            "missing" if state is None else state.status.lower(),
            "" if state is None else str(state.version),
            "" if state is None else str(state.parallelism),
            _last(readings.uptime_ms, 60_000, " min"),
            _last(readings.restarts, 1, ""),
            _last(readings.behind_ms, 1000, " s"),
        )
    print_table(console, table)
    if status.endpoint is not None:
        variants = ", ".join(
            f"{variant.name} {variant.weight:g} ({variant.instances} instances)"
            for variant in status.endpoint.variants
        )
        say(f"endpoint {status.endpoint.status}: {variants}")


def show_letters(letters: Iterable[DeadLetter]) -> None:
    """Show how many dead letters there are by stage and reason, and the latest ones."""
    counted: Counter[tuple[str, str]] = Counter()

    def each() -> Iterator[DeadLetter]:
        for letter in letters:
            counted[letter.stage, letter.reason] += 1
            yield letter

    # There may be more letters than fit into memory.
    latest_first = heapq.nlargest(_LATEST, each(), key=lambda letter: letter.arrived)
    if not latest_first:
        say("no dead letters")
        return
    counts = Table("stage", "reason", "letters", title=f"{counted.total():,} dead letters")
    for (stage, reason), count in counted.most_common():
        counts.add_row(_text(stage), _text(reason), f"{count:,}")
    print_table(console, counts)
    latest = Table("arrived", "stage/reason", "review", "message", title="the latest")
    for letter in reversed(latest_first):
        latest.add_row(
            f"{letter.arrived:%Y-%m-%d %H:%M:%S}",
            _text(f"{letter.stage}/{letter.reason}"),
            _text(str(letter.fields.get("review_id") or "")),
            _text(str(letter.fields.get("message") or "")[:120]),
        )
    print_table(console, latest)
    say(f"look into one: python -m deploy dead-letters --show {latest_first[0].sequence_number}")


def show_letter(letter: DeadLetter) -> None:
    """Show one dead letter with its payload."""
    say(f"dead letter {letter.sequence_number}, arrived {letter.arrived:%Y-%m-%d %H:%M:%S}")
    for name, value in letter.fields.items():
        if name != "payload":
            line = f"  {name}: {json.dumps(value, ensure_ascii=False)}"
            say(_printable(line.encode(errors="replace")))
    part = "" if letter.is_whole else f" (the first {len(letter.payload):,} bytes)"
    say(f"  payload{part}:")
    say(_printable(letter.payload[:_SHOWN_BYTES]))
    if len(letter.payload) > _SHOWN_BYTES:
        say(f"... {len(letter.payload) - _SHOWN_BYTES:,} bytes more")


def show_redrive(result: Redrive) -> None:
    """Show how many dead letters had which outcome, and why letters were not sent."""
    for outcome in Outcome:
        if outcome is Outcome.SENT or result.counts[outcome]:
            say(f"{outcome}: {result.counts[outcome]:,}")
    if result.reasons:
        table = Table("not sent", "because", "letters")
        for (outcome, reason), count in result.reasons.most_common():
            table.add_row(outcome, _text(reason), f"{count:,}")
        print_table(console, table)
    if result.counts[Outcome.NOT_KNOWN]:
        say(
            "send those that are not known too, at the risk of scoring them twice:"
            " --redrive --unchecked"
        )


def _last(values: Sequence[float], unit: float, name: str) -> str:
    return f"{values[-1] / unit:,.0f}{name}" if values else ""


def _text(value: str) -> Text:
    # Records may hold anything, the terminal's own commands too.
    return Text(_printable(value.encode(errors="replace")))


def _printable(data: bytes) -> str:
    text = data.decode(errors="backslashreplace")
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1]
        for character in text
    )
