"""Double entry for records: what was sent against what arrived, by source_id.

Pure bookkeeping, fed by whoever reads the streams and the bucket. A repeat (the same source_id
again in the same place) is counted and dropped.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class SourceId(NamedTuple):
    """Identity of a record of the `reviews` stream."""

    shard: str
    sequence_number: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "SourceId":
        """Return the identity that an output record carries."""
        return cls(record["source_shard"], record["source_sequence_number"])


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of a run; `as_json` has the keys of `build/run/summary.json`."""

    sent: int
    scored: int
    dead_letters: dict[str, dict[str, int]]
    unaccounted: int
    s3_raw: int
    s3_scored: int
    repeats: int
    seconds: float
    truth_matches: bool | None
    problems: tuple[str, ...]
    refused: int = 0

    @property
    def reconciled(self) -> bool:
        """Whether every record is in exactly one place and every copy is where it belongs."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON.

        `truth_matches` only where the truth is known, `refused` (records that no Kinesis stream
        can take) only where there are any.
        """
        document: dict[str, Any] = {
            "sent": self.sent,
            "scored": self.scored,
            "dead_letters": self.dead_letters,
            "unaccounted": self.unaccounted,
            "s3_raw": self.s3_raw,
            "s3_scored": self.s3_scored,
            "repeats": self.repeats,
            "seconds": round(self.seconds, 1),
            "reconciled": self.reconciled,
        }
        if self.truth_matches is not None:
            document["truth_matches"] = self.truth_matches
        if self.refused:
            document["refused"] = self.refused
        return document


@dataclass
class Ledger:
    """Where each record was seen.

    Examples
    --------
    >>> ledger = Ledger()
    >>> record = SourceId("shardId-000000000000", "1")
    >>> ledger.add_acknowledged(record)
    >>> ledger.add_sent(record)
    >>> ledger.unaccounted
    1
    >>> ledger.add_dead_letter(record, "parse", "not_json")
    True
    >>> ledger.unaccounted
    0
    """

    acknowledged: set[SourceId] = field(default_factory=set)
    sent: set[SourceId] = field(default_factory=set)
    scored: set[SourceId] = field(default_factory=set)
    dead: dict[SourceId, tuple[str, str]] = field(default_factory=dict)
    s3_raw: set[SourceId] = field(default_factory=set)
    s3_scored: set[SourceId] = field(default_factory=set)
    fates: dict[SourceId, str] = field(default_factory=dict)
    repeats: int = 0

    def add_acknowledged(self, source_id: SourceId) -> None:
        """Note a record that the stream has confirmed to the sender."""
        self.acknowledged.add(source_id)

    def add_sent(self, source_id: SourceId) -> None:
        """Note a record that was found in the `reviews` stream."""
        self.sent.add(source_id)

    def add_fate(self, source_id: SourceId, fate: str) -> None:
        """Note what must become of a record: `scored`, or the reason of its dead letter."""
        self.fates[source_id] = fate

    def add_scored(self, source_id: SourceId) -> bool:
        """Note a scored review; False for a repeat."""
        return self._add(self.scored, source_id)

    def add_dead_letter(self, source_id: SourceId, stage: str, reason: str) -> bool:
        """Note a dead letter; False for a repeat."""
        if source_id in self.dead:
            self.repeats += 1
            return False
        self.dead[source_id] = (stage, reason)
        return True

    def add_s3_raw(self, source_id: SourceId) -> bool:
        """Note a line of the raw archive; False for a repeat."""
        return self._add(self.s3_raw, source_id)

    def add_s3_scored(self, source_id: SourceId) -> bool:
        """Note a line of the scored archive; False for a repeat."""
        return self._add(self.s3_scored, source_id)

    @property
    def unaccounted(self) -> int:
        """Records sent that are neither scored nor dead-lettered yet."""
        return (
            len(self.sent)
            - len(self.sent & self.scored)
            - len((self.sent & self.dead.keys()) - self.scored)
        )

    def summary(
        self, seconds: float, *, refused: int = 0, other_problems: Sequence[str] = ()
    ) -> Summary:
        """Reconcile: count every place, and put in words whatever does not add up.

        Parameters
        ----------
        seconds
            How long the run took.
        refused
            Records that were not sent because no Kinesis stream can take them.
        other_problems
            What else went wrong in the run; with any, it does not reconcile.
        """
        oversize = {key for key, (_, reason) in self.dead.items() if reason == "oversize"}
        letters: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for stage, reason in self.dead.values():
            letters[stage][reason] += 1
        problems = {
            "neither scored nor dead-lettered": self.sent - self.scored - self.dead.keys(),
            "both scored and dead-lettered": self.scored & self.dead.keys(),
            "in an output but never sent": (
                self.scored | self.dead.keys() | self.s3_raw | self.s3_scored
            )
            - self.sent,
            "missing in the raw archive": self.sent - oversize - self.s3_raw,
            "oversize, yet in the raw archive": self.s3_raw & oversize,
            "scored, yet missing in the scored archive": self.scored - self.s3_scored,
            "in the scored archive, yet not scored": self.s3_scored - self.scored,
            "acknowledged, yet not in the stream": self.acknowledged - self.sent,
            "in the stream, yet not acknowledged": self.sent - self.acknowledged,
        }
        words = [*other_problems]
        words += [
            f"{len(records)} {problem}, such as {min(records)}"
            for problem, records in problems.items()
            if records
        ]
        wrong = self._against_the_truth()
        if wrong:
            first = min(wrong)
            words.append(
                f"{len(wrong)} met another fate than generated, such as {first}:"
                f" {self.dead.get(first, 'no dead letter')} instead of"
                f" {self.fates.get(first, 'none: it was not generated')}"
            )
        return Summary(
            sent=len(self.sent),
            scored=len(self.scored),
            dead_letters={
                stage: dict(sorted(reasons.items())) for stage, reasons in sorted(letters.items())
            },
            unaccounted=self.unaccounted,
            s3_raw=len(self.s3_raw),
            s3_scored=len(self.s3_scored),
            repeats=self.repeats,
            seconds=seconds,
            truth_matches=not wrong if self.fates else None,
            problems=tuple(words),
            refused=refused,
        )

    def _add(self, place: set[SourceId], source_id: SourceId) -> bool:
        if source_id in place:
            self.repeats += 1
            return False
        place.add(source_id)
        return True

    def _against_the_truth(self) -> list[SourceId]:
        if not self.fates:
            return []
        wrong = [key for key, fate in self.fates.items() if not self._met(key, fate)]
        wrong += [
            key
            for key, (stage, _) in self.dead.items()
            if stage in ("parse", "score") and key not in self.fates
        ]
        return wrong

    def _met(self, source_id: SourceId, fate: str) -> bool:
        if fate == "scored":
            return source_id in self.scored and source_id not in self.dead
        return source_id not in self.scored and self.dead.get(source_id) == ("parse", fate)
