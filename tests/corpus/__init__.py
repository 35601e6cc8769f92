"""Odd records and files with their expected outcome: a case is one line or one file.

`cases.toml` is their table, a line each. Its array `file` has the files (`tests/corpus/files.py`),
its array `record` the records:

- `name`;
- what is parsed, one of `text` (UTF-8), `file` (bytes, below this folder) and `fields` (changes to
  an ordinary review, which is then written as JSON);
- `options`, where they are not the defaults: fields of `ParsingOptions`;
- what is expected: `reason` and `message` (a part of it), or any of `review_id`,
  `product_category`, `review_body` and `event_time_ms`;
- `parts`, if the record can be split into several reviews: their number.

All run through the parser and the splitter; those with the default options also through the job.
Records arrive at `ARRIVAL_MS`, 2026-09-21T14:13:20Z.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.local.windows import epoch_ms
from udfs.core.parsing import ParsingOptions

ARRIVAL_MS = 1_790_000_000_000
ORDINARY = {"review_id": "R1", "product_category": "Gift_Card", "review_body": "Nice."}
FOLDER = Path(__file__).parent

_INPUTS = {"text", "file", "fields"}
_REVIEW = {"review_id", "product_category", "review_body", "event_time_ms"}
_REASON = {"reason", "message"}


@dataclass(frozen=True)
class RecordCase:
    """A record of the stream `reviews`; `expected` has the names that the table has."""

    name: str
    payload: bytes
    options: ParsingOptions
    expected: Mapping[str, Any]
    parts: int


def cases(kind: Literal["record", "file"]) -> list[dict[str, Any]]:
    """Return the lines of one kind, as the table has them."""
    table = tomllib.loads((FOLDER / "cases.toml").read_text(encoding="utf-8"))
    return list(table[kind])


def record_cases() -> list[RecordCase]:
    """Return all records of the corpus, in the order of the table."""
    return [_record_case(dict(row)) for row in cases("record")]


def check_outcome(
    case: RecordCase, scored: Mapping[str, Any] | None, dead: Mapping[str, Any] | None
) -> None:
    """Compare what the job has written for a record with what is expected.

    `scored` is its row of `scored-reviews`, `dead` that of `dead-letters`; None where it has none.
    """
    if "reason" in case.expected:
        assert scored is None, case.name
        assert dead is not None, case.name
        assert (dead["stage"], dead["reason"]) == ("parse", case.expected["reason"]), case.name
        assert case.expected["message"] in dead["message"], case.name
    else:
        assert dead is None, (case.name, dead)
        assert scored is not None, case.name
        found = {**scored, "event_time_ms": epoch_ms(scored["event_time"])}
        assert {name: found[name] for name in case.expected} == case.expected, case.name


def _record_case(row: dict[str, Any]) -> RecordCase:
    name = row.pop("name")
    options = ParsingOptions(**row.pop("options", {}))
    parts = row.pop("parts", 1)
    (source,) = _INPUTS & set(row)
    given = row.pop(source)
    if not row or not (set(row) <= _REVIEW or set(row) == _REASON):
        raise ValueError(f"{name}: expected are {sorted(_REASON)} or any of {sorted(_REVIEW)}")
    if source == "file":
        payload = (FOLDER / given).read_bytes()
    elif source == "fields":
        payload = json.dumps({**ORDINARY, **given}).encode()
    else:
        payload = given.encode()
    return RecordCase(name, payload, options, row, parts)
