"""Puts records into the `reviews` stream at a rate, and writes down what became of each."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.records import Outgoing
from deploy.stream_writer import (
    MAX_BATCH_RECORDS,
    MAX_RECORD_BYTES,
    RefusedError,
    StreamWriter,
    Taken,
    batches,
    size,
)
from deploy.unsent import UnsentRow, write_unsent
from udfs.core.source_ids import source_part

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """A record and its number among those to send, from 1 on."""

    number: int
    record: Outgoing

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.record.data

    @property
    def partition_key(self) -> str:
        """That of the record."""
        return self.record.partition_key


class Sender(threading.Thread):
    """Sends until its records end, a limit is reached or it is told to stop.

    Records that the stream throttles are sent again. A call whose answer is lost ends the sending,
    because the stream may have taken its records, and a second call might put them in twice.

    Parameters
    ----------
    kinesis, stream
        Where to; a client that makes one attempt a call (`StreamWriter`).
    records
        What, taken one by one at the moment of sending.
    truth_path
        JSON lines, one a record that was taken: its source_id and all that is known of it. Appended
        to where `skip` or `only` continues an earlier run.
    rate_per_s
        Records a second; None sends as fast as the stream takes them.
    limit, duration_s
        Bounds of the run; None for none.
    skip, only
        Leave out the first `skip` records; send only those with these numbers, from 1 on.
    clock
        Seconds from any start, never going back.
    wait
        Waits for so many seconds and returns whether to send nothing more; by default until
        `stop` is called.
    now
        Time in UTC; names the list of unsent records.

    Attributes
    ----------
    sent
        Records that the stream has taken.
    refused
        Records that no stream can take, because they exceed Kinesis' 1 MiB.
    last_row
        Every record up to this number is in the stream, was refused or left out, or is one of
        `unsent`; none after it was tried.
    unsent
        Records of the last batch that the stream is not known to have taken, by their number.
    unsent_path
        File beside `truth_path` that lists these records. None if there are none, and in a run with
        `only`, because the given list is still valid.
    error
        What ended the thread before its time, else None.
    """

    def __init__(
        self,
        kinesis: "KinesisClient",
        stream: str,
        records: Iterator[Outgoing],
        truth_path: Path,
        *,
        rate_per_s: float | None,
        limit: int | None = None,
        duration_s: float | None = None,
        skip: int = 0,
        only: Collection[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(name="sender", daemon=True)
        rows = (
            Row(number, record)
            for number, record in enumerate(records, start=1)
            if number > skip and (only is None or number in only)
        )
        self._rows = islice(rows, limit)
        self._truth_path = truth_path
        self._is_continued = skip > 0 or only is not None
        self._is_listed = only is not None
        self._rate_per_s = rate_per_s
        self._duration_s = duration_s
        self._stop_event = threading.Event()
        self._clock = clock
        self._wait = wait or self._stop_event.wait
        self._now = now
        self._writer: StreamWriter[Row] = StreamWriter(kinesis, stream, self._wait)
        self.sent = 0
        self.refused = 0
        self.last_row = skip
        self.unsent: dict[int, Row] = {}
        self.unsent_path: Path | None = None
        self.error: BaseException | None = None

    def stop(self) -> None:
        """Send nothing more; what is under way is finished."""
        self._stop_event.set()

    def run(self) -> None:
        """Send; called by `start`."""
        try:
            with self._truth_path.open(
                "a" if self._is_continued else "w", encoding="utf-8"
            ) as truth:
                for taken in self._send_all():
                    truth.write(json.dumps(_truth(taken), ensure_ascii=False) + "\n")
                    del self.unsent[taken.record.number]
        except Exception as error:  # whatever it is, the run must hear of it
            self.error = error
            if self.unsent and not self._is_listed:
                self.unsent_path = self._list_unsent()

    def _send_all(self) -> Iterator[Taken[Row]]:
        start_s = self._clock()
        taken = 0
        while not self._stop_event.is_set():
            elapsed_s = self._clock() - start_s
            if self._duration_s is not None and elapsed_s >= self._duration_s:
                return
            due = MAX_BATCH_RECORDS
            if self._rate_per_s is not None:
                due = min(due, int(elapsed_s * self._rate_per_s) + 1 - taken)
            if due <= 0:
                self._wait(_TICK_S)
                continue
            chunk, error = _take(self._rows, due)
            taken += len(chunk)
            for batch in batches(self._takeable(chunk)):
                self.last_row = batch[-1].number
                self.unsent = {row.number: row for row in batch}
                for record in self._writer.put(batch):
                    self.sent += 1
                    yield record
            if chunk:
                self.last_row = chunk[-1].number
            if error is not None:
                raise error
            if not chunk:
                return

    def _takeable(self, chunk: Iterable[Row]) -> Iterator[Row]:
        for row in chunk:
            if size(row) > MAX_RECORD_BYTES:
                self.refused += 1
            else:
                yield row

    def _list_unsent(self) -> Path:
        now = self._now()
        path = self._truth_path.with_name(f"unsent-{now:%Y%m%dT%H%M%SZ}.jsonl")
        write_unsent(
            path,
            (
                UnsentRow(
                    row=row.number,
                    tried_at=now.isoformat(),
                    payload_sha256=hashlib.sha256(row.data).hexdigest(),
                    partition_key=row.partition_key,
                    review_id=row.record.review_id,
                )
                for row in self.unsent.values()
            ),
        )
        return path

    def stopped_state(self) -> list[str]:
        """Return what state a run that ended with an error left things in, a line each."""
        lines = [f"{self._truth_path} lists the {self.sent:,} records that the stream has taken"]
        if self.unsent:
            listed = list(self.unsent.values())
            first, last = listed[0], listed[-1]
            rows = f"{len(self.unsent):,} records, rows {first.number:,} to {last.number:,}"
            ids = f"(review ids {first.record.review_id} to {last.record.review_id})"
            lines.append(
                f"the stream has not taken {rows} {ids}"
                if isinstance(self.error, RefusedError)
                else f"the stream may have taken {rows} {ids}"
            )
        if self.unsent_path is not None:
            lines.append(f"{self.unsent_path} lists them")
        lines.append(f"nothing after row {self.last_row:,} was sent")
        return lines


def _take(rows: Iterator[Row], count: int) -> tuple[list[Row], Exception | None]:
    """Take up to `count` rows, and what ended them: those before an error are worth sending."""
    taken: list[Row] = []
    try:
        taken.extend(islice(rows, count))
    except Exception as error:
        return taken, error
    return taken, None


def _truth(taken: Taken[Row]) -> dict[str, object]:
    record = taken.record.record
    return {
        "source_shard": taken.shard,
        "source_sequence_number": taken.sequence_number,
        "source_part": source_part(record.data),
        "fate": record.fate,
        "review_id": record.review_id,
        "product_category": record.product_category,
        "star_rating": record.star_rating,
        "is_late": record.is_late,
        "burst": record.burst,
    }
