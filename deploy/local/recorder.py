"""Takes what the tails hand over, from their threads, into the ledgers and the view."""

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from deploy.local.anomalies import AnomalyLedger
from deploy.local.ledger import DeadLetter, Ledger, SourceId
from deploy.local.metrics import Point
from deploy.local.outputs import (
    AlertOutput,
    AnomalyOutput,
    DeadLetterOutput,
    OfReview,
    Output,
    ScoredOutput,
    WindowOutput,
    json_object,
    problem,
)
from deploy.local.summary import Summary
from deploy.local.tails import Arrived
from deploy.local.view import LATEST_ROWS, LatestAnomaly, LatestReview, LatestWindow, Snapshot
from deploy.local.windows import ALL, Review, WindowLedger
from udfs.core.source_ids import source_part
from udfs.core.windows import WindowSpec, parse_windows

_RECENT_WINDOWS = 100


class Recorder:
    """One ledger a job; safe to use from several threads.

    Parameters
    ----------
    jobs
        Those that run. What the others would have to do is not asked for.
    reviews_stream
        Name of the stream that is sent to.
    lg_k
        Of the windows' sketches.
    sizes
        Which windows there are.
    separate
        Returns the reviews of a record that was sent, each with its place in it.
    """

    def __init__(
        self,
        jobs: Collection[str],
        reviews_stream: str,
        lg_k: int = 12,
        sizes: Sequence[WindowSpec] = parse_windows("5 s"),
        separate: Callable[[bytes], Iterable[tuple[bytes, int | None]]] = lambda data: (
            (data, None),
        ),
    ) -> None:
        self._separate = separate
        self._lock = threading.Lock()
        self._ledger = Ledger(reviews_stream)
        self._windows = WindowLedger(lg_k, sizes)
        self._anomalies = AnomalyLedger()
        self._is_scoring = "review_scoring" in jobs
        self._has_windows = "review_metrics" in jobs
        self._has_anomalies = "rating_anomalies" in jobs
        self._latest: deque[LatestReview] = deque(maxlen=LATEST_ROWS)
        self._latest_windows: deque[LatestWindow] = deque(maxlen=_RECENT_WINDOWS)
        self._latest_anomalies: deque[LatestAnomaly] = deque(maxlen=LATEST_ROWS)
        self._latest_alerts: deque[LatestAnomaly] = deque(maxlen=LATEST_ROWS)
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._unreadable: Counter[str] = Counter()
        self._first_unreadable: dict[str, str] = {}

    def sent(self, record: Arrived) -> None:
        """Take a record of `reviews`."""
        with self._lock:
            for review, place in self._separate(record.data):
                self._ledger.add_sent(
                    SourceId(record.shard, record.sequence_number, source_part(review, place))
                )

    def scored(self, record: Arrived) -> None:
        """Take a record of `scored-reviews`."""
        self._take("scored-reviews", ScoredOutput, json_object(record.data), self._scored)

    def _scored(self, review: Mapping[str, Any]) -> None:
        source_id = SourceId.of(review)
        if self._ledger.add_scored(source_id):
            if self._has_windows:
                self._windows.add_review(source_id, Review.of(review))
            self._latest.appendleft(
                LatestReview(
                    review["star_rating"],
                    review["product_category"],
                    review["review_body"],
                    review["model_variant"],
                )
            )

    def dead_letter(self, record: Arrived) -> None:
        """Take a record of `dead-letters`."""
        self._take("dead-letters", DeadLetterOutput, json_object(record.data), self._dead_letter)

    def _dead_letter(self, fields: Mapping[str, Any]) -> None:
        letter = DeadLetter.of(fields)
        if not self._ledger.add_dead_letter(letter, fields["reason"]):
            return
        self._reasons[letter.stage, fields["reason"]] += 1
        if letter.stage == "late":
            self._windows.add_late(SourceId.of(fields))
        elif letter.stage == "publish":
            if letter.source_stream == self._ledger.reviews_stream:
                self._anomalies.add_unpublished(SourceId.of(fields))
            else:
                self._windows.add_without_points(letter.source_shard, letter.source_sequence_number)

    def s3_raw(self, line: Mapping[str, Any]) -> None:
        """Take a line of the raw archive."""
        self._take("raw/", OfReview, line, lambda of: self._ledger.add_s3_raw(SourceId.of(of)))

    def s3_scored(self, line: Mapping[str, Any]) -> None:
        """Take a line of the scored archive."""
        self._take(
            "scored/", OfReview, line, lambda of: self._ledger.add_s3_scored(SourceId.of(of))
        )

    def s3_window(self, line: Mapping[str, Any]) -> None:
        """Take a line of the windows' archive."""
        self._take("metrics/", WindowOutput, line, self._windows.add_archived)

    def window(self, record: Arrived) -> None:
        """Take a record of `review-metrics`."""
        self._take("review-metrics", WindowOutput, json_object(record.data), self._window)

    def _window(self, window: Mapping[str, Any]) -> None:
        if self._windows.add_window(window):
            self._latest_windows.append(
                LatestWindow(
                    window["window"],
                    window["window_end"],
                    window["product_category"],
                    window["reviews"],
                    window["avg_star_rating"],
                    window["distinct_reviews"],
                )
            )

    def anomaly(self, record: Arrived) -> None:
        """Take a record of `rating-anomalies`."""
        self._take("rating-anomalies", AnomalyOutput, json_object(record.data), self._anomaly)

    def _anomaly(self, row: Mapping[str, Any]) -> None:
        if self._anomalies.add_row(row) and row["is_anomaly"]:
            self._latest_anomalies.appendleft(
                LatestAnomaly(
                    row["event_time"],
                    row["product_category"],
                    row["anomaly_score"],
                    row["event_id"] or "",
                )
            )

    def alert(self, message: Mapping[str, Any]) -> None:
        """Take a message of the topic."""
        self._take("the topic of alerts", AlertOutput, message, self._alert)

    def _alert(self, message: Mapping[str, Any]) -> None:
        if self._anomalies.add_alert(message):
            self._latest_alerts.appendleft(
                LatestAnomaly(
                    message["event_time"],
                    message["product_category"],
                    message["anomaly_score"],
                    message["event_id"],
                    message["summary"],
                )
            )

    def _take(
        self,
        place: str,
        model: type[Output],
        fields: Mapping[str, Any],
        note: Callable[[Mapping[str, Any]], object],
    ) -> None:
        """Note a record, or that it cannot be read: the summary says so."""
        found = problem(model, fields)
        with self._lock:
            if found is None:
                try:
                    note(fields)
                except ValueError as error:
                    found = str(error)
            if found is not None:
                self._unreadable[place] += 1
                self._first_unreadable.setdefault(place, found)

    def windows_in_cloudwatch(self) -> tuple[dict[str, int], Sequence[str], int, int] | None:
        """Return what to read back with `read_points`; None: nothing.

        Metrics, categories, first and last time (ms) of their points.
        """
        with self._lock:
            windows = self._windows
            if not (keys := windows.published.keys()):
                return None
            times_ms = [windows.point_ms(key) for key in keys]
            categories = sorted({key.category for key in keys})
            return windows.metrics(), categories, min(times_ms), max(times_ms)

    def through(self) -> dict[str, int]:
        """Return how many of the records that were sent each job is done with."""
        with self._lock:
            return self._through()

    def _through(self) -> dict[str, int]:
        if not self._is_scoring:
            return {}
        dead = len(self._ledger.dead)
        done = {"review_scoring": len(self._ledger.scored) + dead}
        if self._has_windows:
            windows = self._windows
            done["review_metrics"] = windows.windowed_reviews + len(windows.late) + dead
        if self._has_anomalies:
            done["rating_anomalies"] = len(self._anomalies.rows) + dead
        return done

    def snapshot(
        self, phase: str, seconds: float, sent: int, addresses: Mapping[str, str]
    ) -> Snapshot:
        """Return what the view shows now."""
        with self._lock:
            ledger, counts = self._ledger, {"reviews (in)": sent}
            through = self._through()
            # The last windows close only at the end.
            through.pop("review_metrics", None)
            if self._is_scoring:
                counts["scored-reviews (out)"] = len(ledger.scored)
            counts["dead-letters (out)"] = len(ledger.letters)
            if self._has_windows:
                counts["review-metrics (out)"] = len(self._windows.published)
            if self._has_anomalies:
                counts["rating-anomalies (out)"] = len(self._anomalies.rows)
            if self._is_scoring:
                counts["S3 raw/ (out)"] = len(ledger.s3_raw)
                counts["S3 scored/ (out)"] = len(ledger.s3_scored)
            if self._has_windows:
                counts["S3 metrics/ (out)"] = len(self._windows.archived)
            return Snapshot(
                phase=phase,
                seconds=seconds,
                counts=counts,
                under_way=max(0, sent - min(through.values(), default=sent)),
                latest=tuple(self._latest),
                windows=_newest(self._latest_windows) if self._has_windows else None,
                anomalies=(
                    (*tuple(self._latest_alerts)[: LATEST_ROWS // 2], *self._latest_anomalies)
                    if self._has_anomalies
                    else None
                ),
                dead_letters=dict(self._reasons),
                addresses=addresses,
            )

    def summary(
        self,
        truth_path: Path,
        seconds: float,
        sent: int,
        refused: int,
        problems: Sequence[str],
        points: Iterable[Point] = (),
    ) -> Summary:
        """Reconcile against the truth; call it when sender and tails have ended.

        Parameters
        ----------
        truth_path
            What the sender wrote.
        seconds
            How long the run took.
        sent, refused
            As the sender counted them.
        problems
            What went wrong besides.
        points
            What CloudWatch holds.
        """
        ledger, windows, anomalies = self._ledger, self._windows, self._anomalies
        late: set[SourceId] = set()
        bursts: dict[SourceId, str] = {}
        with truth_path.open(encoding="utf-8") as truth:
            for line in truth:
                record = json.loads(line)
                source_id = SourceId.of(record)
                ledger.add_acknowledged(source_id)
                if record["fate"] is not None:
                    ledger.add_fate(source_id, record["fate"])
                if record["is_late"]:
                    late.add(source_id)
                if record["burst"] is not None:
                    bursts[source_id] = record["burst"]
        for point in points:
            windows.add_point(point)
        has_truth = bool(ledger.fates)
        words = [*problems]
        if len(ledger.acknowledged) != sent:
            words.append(f"{sent} were sent, yet got {len(ledger.acknowledged)} source_ids")
        words += ledger.sending_problems()
        words += [
            f"{count} records of {place} are unreadable, the first: {self._first_unreadable[place]}"
            for place, count in self._unreadable.items()
        ]
        of_job: dict[str, list[str]] = {}
        contradictions: dict[str, list[str]] = {}
        if self._is_scoring:
            of_job["review_scoring"] = ledger.scoring_problems()
            contradictions["review_scoring"] = ledger.truth_problems() if has_truth else []
        if self._has_windows:
            of_job["review_metrics"] = windows.problems()
            contradictions["review_metrics"] = windows.truth_problems(late) if has_truth else []
        if self._has_anomalies:
            of_job["rating_anomalies"] = anomalies.problems(ledger.scored)
        against_truth = [*chain.from_iterable(contradictions.values())]
        return Summary(
            sent=len(ledger.sent),
            scoring=ledger.figures() if self._is_scoring else None,
            windows=windows.figures() if self._has_windows else None,
            anomalies=anomalies.figures(bursts if has_truth else None)
            if self._has_anomalies
            else None,
            dead_letters=ledger.dead_letters(),
            repeats=ledger.repeats + windows.repeats + anomalies.repeats,
            seconds=seconds,
            truth_matches=not against_truth if has_truth else None,
            problems=(*words, *chain.from_iterable(of_job.values()), *against_truth),
            refused=refused,
            faulty_jobs=frozenset(
                job
                for found in (of_job, contradictions)
                for job, problems_found in found.items()
                if problems_found
            ),
        )


def _newest(windows: Iterable[LatestWindow]) -> tuple[LatestWindow, ...]:
    """Return the windows that ended last, `All` and the fullest of them first."""
    # Stable: the last criterion first.
    ranked = sorted(windows, key=lambda window: (window.product_category != ALL, -window.reviews))
    return tuple(sorted(ranked, key=lambda window: window.window_end, reverse=True))
