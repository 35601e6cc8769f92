"""How the commands for AWS show what they found, as tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from deploy.aws.dead_letters import DeadLetter, Redrive
from deploy.aws.status import Status
from deploy.console import console, say

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
    console.print(table)
    if status.endpoint is not None:
        variants = ", ".join(
            f"{variant.name} {variant.weight:g} ({variant.instances} instances)"
            for variant in status.endpoint.variants
        )
        say(f"endpoint {status.endpoint.status}: {variants}")


def show_letters(letters: Sequence[DeadLetter]) -> None:
    """Show how many dead letters there are by stage and reason, and the latest ones."""
    if not letters:
        say("no dead letters")
        return
    counts = Table("stage", "reason", "letters", title=f"{len(letters):,} dead letters")
    for (stage, reason), count in Counter(
        (letter.stage, letter.reason) for letter in letters
    ).most_common():
        counts.add_row(_text(stage), _text(reason), f"{count:,}")
    console.print(counts)
    latest = Table("arrived", "stage/reason", "review", "message", title="the latest")
    for letter in sorted(letters, key=lambda letter: letter.arrived)[-_LATEST:]:
        latest.add_row(
            f"{letter.arrived:%Y-%m-%d %H:%M:%S}",
            _text(f"{letter.stage}/{letter.reason}"),
            _text(letter.fields.get("review_id") or ""),
            _text(str(letter.fields.get("message") or "")[:120]),
        )
    console.print(latest)
    say(f"look into one: python -m deploy dead-letters --show {letters[-1].sequence_number}")


def show_letter(letter: DeadLetter) -> None:
    """Show one dead letter with its payload."""
    say(f"dead letter {letter.sequence_number}, arrived {letter.arrived:%Y-%m-%d %H:%M:%S}")
    for name, value in letter.fields.items():
        if name != "payload":
            say(f"  {name}: {json.dumps(value, ensure_ascii=False)}")
    part = "" if letter.is_whole else f" (the first {len(letter.payload):,} bytes)"
    say(f"  payload{part}:")
    say(_printable(letter.payload[:_SHOWN_BYTES]))
    if len(letter.payload) > _SHOWN_BYTES:
        say(f"... {len(letter.payload) - _SHOWN_BYTES:,} bytes more")


def show_redrive(result: Redrive) -> None:
    """Show what was sent again, and what was not and why."""
    say(f"sent again: {len(result.sent):,}")
    if result.again:
        say(f"sent again before: {len(result.again):,}")
    if result.not_mended:
        table = Table("not sent because", "letters")
        for reason, count in Counter(
            reason.partition(":")[0] for _, reason in result.not_mended
        ).most_common():
            table.add_row(_text(reason), f"{count:,}")
        console.print(table)


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
