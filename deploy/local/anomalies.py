"""Double entry for anomalies: scored reviews against their rows, events against their alerts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.local.ledger import SourceId


@dataclass(frozen=True, slots=True)
class AnomalyFigures:
    """What was found unusual; the names are those of `summary.json`.

    `bursts` are those that were generated, None where nothing was; `bursts_found` those in which
    an alert's review lies.
    """

    anomalies: int
    alerts: int
    bursts_found: int
    bursts: int | None


@dataclass
class AnomalyLedger:
    """The rows of `rating-anomalies`, their events, and the alerts that came of them.

    Attributes
    ----------
    rows
        Whether each review is an anomaly.
    events
        The reviews of each event, by event id.
    alerts
        The review that opened the event, by event id.
    unpublished
        Reviews that opened an event whose alert SNS did not take.
    """

    rows: dict[SourceId, bool] = field(default_factory=dict)
    events: dict[str, set[SourceId]] = field(default_factory=dict)
    alerts: dict[str, SourceId] = field(default_factory=dict)
    unpublished: set[SourceId] = field(default_factory=set)
    repeats: int = 0

    def add_row(self, record: Mapping[str, Any]) -> bool:
        """Note a record of `rating-anomalies`; False for a repeat."""
        source_id = SourceId.of(record)
        if (event_id := record["event_id"]) is not None:
            self.events.setdefault(event_id, set()).add(source_id)
        if source_id in self.rows:
            self.repeats += 1
            return False
        self.rows[source_id] = record["is_anomaly"]
        return True

    def add_alert(self, alert: Mapping[str, Any]) -> bool:
        """Note a message of the topic; False for a repeat."""
        if alert["event_id"] in self.alerts:
            self.repeats += 1
            return False
        self.alerts[alert["event_id"]] = SourceId.of(alert)
        return True

    def add_unpublished(self, source_id: SourceId) -> None:
        """Note an alert that could not be published, by the review that opened its event."""
        self.unpublished.add(source_id)

    def figures(self, bursts: Mapping[SourceId, str] | None) -> AnomalyFigures:
        """Return the counts.

        Parameters
        ----------
        bursts
            The label of each review that was generated as part of a burst; None where the reviews
            were not generated.
        """
        labels = bursts or {}
        return AnomalyFigures(
            anomalies=sum(self.rows.values()),
            alerts=len(self.alerts),
            bursts_found=len({labels[key] for key in self.alerts.values() if key in labels}),
            bursts=None if bursts is None else len(set(bursts.values())),
        )

    def problems(self, scored: Collection[SourceId]) -> list[str]:
        """Name the reviews without a row, the events without an alert, and the other way round."""
        known = set(scored)
        records = {
            "scored reviews have no row of rating-anomalies": known - self.rows.keys(),
            "rows of rating-anomalies are of no scored review": self.rows.keys() - known,
        }
        events = {
            "events have no alert": {
                event_id
                for event_id, reviews in self.events.items()
                if event_id not in self.alerts and not reviews & self.unpublished
            },
            "alerts are of no event, or of a review outside it": {
                event_id
                for event_id, review in self.alerts.items()
                if review not in self.events.get(event_id, ())
            },
        }
        return [
            *(f"{len(s)} {words}, such as {min(s)}" for words, s in records.items() if s),
            *(f"{len(s)} {words}, such as {min(s)}" for words, s in events.items() if s),
        ]
