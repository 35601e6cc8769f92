"""Identity of the records of `reviews`, as everything that descends from them carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class RecordId(NamedTuple):
    """Identity of a record of a stream; `part` tells the parts of an aggregated record apart.

    `part` is empty in records of releases that did not write it.
    """

    stream: str
    shard: str
    sequence_number: str
    part: str = ""


def source_id(record: Mapping[str, Any]) -> RecordId:
    """Return the identity that an output record carries; what it lacks is empty.

    >>> source_id({"source_stream": "reviews", "source_shard": "s", "source_sequence_number": "1"})
    RecordId(stream='reviews', shard='s', sequence_number='1', part='')
    """
    names = ("source_stream", "source_shard", "source_sequence_number", "source_part")
    return RecordId(*(str(record.get(name) or "") for name in names))


class RecordIds:
    """A set of identities, in which one without `part` equals all of its sequence number.

    A dead letter of a release that did not write `part` therefore counts as scored, or sent again,
    if any review of the same Kinesis record was.

    >>> ids = RecordIds([RecordId("reviews", "s", "1", "a")])
    >>> [RecordId("reviews", "s", "1", part) in ids for part in ("a", "b", "")]
    [True, False, True]
    """

    def __init__(self, ids: Iterable[RecordId] = ()) -> None:
        self._parts: dict[tuple[str, str, str], set[str]] = {}
        for record_id in ids:
            self.add(record_id)

    def add(self, record_id: RecordId) -> None:
        """Add an identity."""
        self._parts.setdefault(record_id[:3], set()).add(record_id.part)

    def __contains__(self, record_id: RecordId) -> bool:
        parts = self._parts.get(record_id[:3])
        return parts is not None and (not record_id.part or record_id.part in parts or "" in parts)
