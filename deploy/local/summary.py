"""The summary of a run: what `build/run/summary.json` holds, and the table that a run ends with."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from deploy.local.anomalies import AnomalyFigures
from deploy.local.ledger import ScoringFigures
from deploy.local.windows import WindowFigures


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run.

    Attributes
    ----------
    sent
        Records in the stream `reviews`.
    scoring, windows, anomalies
        Of the jobs `review_scoring`, `review_metrics` and `rating_anomalies`; None where the job
        did not run.
    dead_letters
        By stage and reason.
    repeats
        Of any output, which were dropped.
    seconds
        How long the run took.
    truth_matches
        Whether each record met the fate that it was generated for; None where that is not known.
    problems
        Everything that does not add up, in words.
    refused
        Records that were not sent because no Kinesis stream can take them.
    faulty_jobs
        Those whose output is among the problems.
    """

    sent: int
    scoring: ScoringFigures | None
    windows: WindowFigures | None
    anomalies: AnomalyFigures | None
    dead_letters: dict[str, dict[str, int]]
    repeats: int
    seconds: float
    truth_matches: bool | None
    problems: tuple[str, ...]
    refused: int = 0
    faulty_jobs: frozenset[str] = frozenset()

    @property
    def reconciled(self) -> bool:
        """Whether every record is in exactly one place and every copy is where it belongs."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON.

        Without the keys of jobs that did not run; `truth_matches` and `bursts` only where the
        truth is known, `refused` only where there are any.
        """
        scoring = {} if self.scoring is None else asdict(self.scoring)
        document: dict[str, Any] = {"sent": self.sent, **scoring, "dead_letters": self.dead_letters}
        for figures in (self.windows, self.anomalies):
            if figures is not None:
                document |= asdict(figures)
        if document.get("bursts", 0) is None:
            del document["bursts"]
        document |= {
            "repeats": self.repeats,
            "seconds": round(self.seconds, 1),
            "reconciled": self.reconciled,
        }
        if self.truth_matches is not None:
            document["truth_matches"] = self.truth_matches
        if self.refused:
            document["refused"] = self.refused
        return document

    def as_table(self) -> Table:
        """Return the summary as people read it."""
        table = Table(title="summary", title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for name, value in self._rows():
            # Text, not markup: a dead letter's reason may hold brackets.
            table.add_row(Text(name), value)
        return table

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "sent", f"{self.sent:,}"
        if self.refused:
            yield "refused: over Kinesis's 1 MiB, not sent", f"{self.refused:,}"
        if self.scoring is not None:
            yield "scored", f"{self.scoring.scored:,}"
        for stage, reasons in self.dead_letters.items():
            for reason, count in reasons.items():
                yield f"dead letters: {stage}/{reason}", f"{count:,}"
        if self.scoring is not None:
            yield "unaccounted", f"{self.scoring.unaccounted:,}"
            yield "S3 raw / scored", f"{self.scoring.s3_raw:,} / {self.scoring.s3_scored:,}"
        if (windows := self.windows) is not None:
            yield "windows / in S3", f"{windows.windows:,} / {windows.s3_windows:,}"
            yield "reviews in windows / late", f"{windows.windowed_reviews:,} / {windows.late:,}"
            yield "distinct reviews, estimated", f"{windows.distinct_reviews:,.0f}"
            if windows.avg_star_rating is not None:
                yield "average rating", f"{windows.avg_star_rating:.3f}"
            if windows.distinct_within_3_se is not None:
                yield "estimates within 3 standard errors", f"{windows.distinct_within_3_se:.1%}"
            yield "CloudWatch points of the average", f"{windows.cloudwatch_points:,}"
        if (anomalies := self.anomalies) is not None:
            yield "anomalies", f"{anomalies.anomalies:,}"
            yield "alerts", f"{anomalies.alerts:,}"
            if anomalies.bursts is not None:
                yield "bursts found / generated", f"{anomalies.bursts_found} / {anomalies.bursts}"
        yield "repeats", f"{self.repeats:,}"
        yield "seconds", f"{self.seconds:.1f}"
        if self.truth_matches is not None:
            yield "truth matches", "yes" if self.truth_matches else "no"
        yield "reconciled", "yes" if self.reconciled else "NO"
