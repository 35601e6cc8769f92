"""Double entry for records: what was sent against what arrived, by source_id.

Pure bookkeeping, fed by whoever reads the streams and the bucket. A repeat (the same source_id
again in the same place) is counted and dropped.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FATEFUL_STAGES = frozenset({"parse", "score"})
"""A review with a dead letter of one of these stages is not scored; of any other, it is."""


class SourceId(NamedTuple):
    """Identity of a review of the `reviews` stream: see `udfs.core.source_ids` for its part."""

    shard: str
    sequence_number: str
    part: str = ""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "SourceId":
        """Return the identity that an output record carries."""
        return cls(
            record["source_shard"], record["source_sequence_number"], record["source_part"] or ""
        )


class DeadLetter(NamedTuple):
    """Identity of a dead letter: the stage, and the record or window that it stands for."""

    stage: str
    source_stream: str
    source_shard: str
    source_sequence_number: str
    source_part: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "DeadLetter":
        """Return the identity of a record of `dead-letters`."""
        return cls(*(record[name] or "" for name in cls._fields))


@dataclass(frozen=True, slots=True)
class ScoringFigures:
    """What became of the records of `reviews`; the names are those of `summary.json`."""

    scored: int
    unaccounted: int
    s3_raw: int
    s3_scored: int


@dataclass
class Ledger:
    """Where each record was seen.

    Attributes
    ----------
    reviews_stream
        Name of the stream that was sent to: only dead letters from it stand for a review.

    Examples
    --------
    >>> ledger = Ledger("reviews")
    >>> record = SourceId("shardId-000000000000", "1")
    >>> ledger.add_acknowledged(record)
    >>> ledger.add_sent(record)
    >>> ledger.unaccounted
    1
    >>> ledger.add_dead_letter(DeadLetter("parse", "reviews", *record), "not_json")
    True
    >>> ledger.unaccounted
    0
    """

    reviews_stream: str
    acknowledged: set[SourceId] = field(default_factory=set)
    sent: set[SourceId] = field(default_factory=set)
    scored: set[SourceId] = field(default_factory=set)
    dead: dict[SourceId, tuple[str, str]] = field(default_factory=dict)
    letters: dict[DeadLetter, str] = field(default_factory=dict)
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

    def add_dead_letter(self, letter: DeadLetter, reason: str) -> bool:
        """Note a dead letter of any stage; False for a repeat."""
        if letter in self.letters:
            self.repeats += 1
            return False
        self.letters[letter] = reason
        if letter.stage in FATEFUL_STAGES and letter.source_stream == self.reviews_stream:
            source_id = SourceId(
                letter.source_shard, letter.source_sequence_number, letter.source_part
            )
            self.dead[source_id] = (letter.stage, reason)
        return True

    def add_s3_raw(self, source_id: SourceId) -> bool:
        """Note a line of the raw archive; False for a repeat."""
        return self._add(self.s3_raw, source_id)

    def add_s3_scored(self, source_id: SourceId) -> bool:
        """Note a line of the scored archive; False for a repeat."""
        return self._add(self.s3_scored, source_id)

    @property
    def unaccounted(self) -> int:
        """Records that were sent and are neither scored nor dead-lettered."""
        return len(self.sent - self.scored - self.dead.keys())

    def dead_letters(self) -> dict[str, dict[str, int]]:
        """Return the number of dead letters by stage and reason."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for letter, reason in self.letters.items():
            counts[letter.stage][reason] += 1
        return {stage: dict(sorted(reasons.items())) for stage, reasons in sorted(counts.items())}

    def figures(self) -> ScoringFigures:
        """Return the counts."""
        return ScoringFigures(
            scored=len(self.scored),
            unaccounted=self.unaccounted,
            s3_raw=len(self.s3_raw),
            s3_scored=len(self.s3_scored),
        )

    def sending_problems(self) -> list[str]:
        """Name where the stream holds other records than the sender knows of."""
        # The sender knows of records, each of which may hold several reviews.
        acknowledged, sent = _records(self.acknowledged), _records(self.sent)
        return _in_words(
            {
                "acknowledged, yet not in the stream": acknowledged - sent,
                "in the stream, yet not acknowledged": sent - acknowledged,
            }
        )

    def scoring_problems(self) -> list[str]:
        """Name every way in which the records are not in exactly one place."""
        oversize = {key for key, (_, reason) in self.dead.items() if reason == "oversize"}
        unreadable = {
            letter
            for letter in self.letters
            if letter.stage in FATEFUL_STAGES and letter.source_stream != self.reviews_stream
        }
        return _in_words(
            {
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
                "of another stream, yet dead-lettered as no review": unreadable,
            }
        )

    def truth_problems(self) -> list[str]:
        """Name the records that met another fate than the generator meant them to."""
        wrong = [key for key, fate in self.fates.items() if not self._met(key, fate)]
        wrong += [key for key in self.dead if key not in self.fates]
        if not wrong:
            return []
        first = min(wrong)
        return [
            f"{len(wrong)} met another fate than generated, such as {first}:"
            f" {self.dead.get(first, 'no dead letter')} instead of"
            f" {self.fates.get(first, 'none: it was not generated')}"
        ]

    def _add(self, place: set[SourceId], source_id: SourceId) -> bool:
        if source_id in place:
            self.repeats += 1
            return False
        place.add(source_id)
        return True

    def _met(self, source_id: SourceId, fate: str) -> bool:
        if fate == "scored":
            return source_id in self.scored and source_id not in self.dead
        return source_id not in self.scored and self.dead.get(source_id) == ("parse", fate)


def _records(reviews: Collection[SourceId]) -> set[SourceId]:
    return {review._replace(part="") for review in reviews}


def _in_words(problems: Mapping[str, set[SourceId] | set[DeadLetter]]) -> list[str]:
    return [
        f"{len(records)} {problem}, such as {min(records)}"
        for problem, records in problems.items()
        if records
    ]
