"""Puts records into the `reviews` stream at a rate, and writes down what became of each."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.ledger import SourceId
from deploy.local.records import Outgoing
from udfs.core.source_ids import source_part

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

MAX_BATCH_RECORDS = 500
MAX_BATCH_BYTES = 5 * 1024 * 1024
"""Bounds of PutRecords (Amazon Kinesis Data Streams API reference)."""
MAX_RECORD_BYTES = 1024 * 1024

_TICK_S = 0.05


def batches(
    records: Iterable[Outgoing], max_records: int = MAX_BATCH_RECORDS
) -> Iterator[list[Outgoing]]:
    """Cut records into batches within the bounds of PutRecords, in order."""
    batch: list[Outgoing] = []
    size = 0
    for record in records:
        record_bytes = _size(record)
        if batch and (len(batch) == max_records or size + record_bytes > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record_bytes
    if batch:
        yield batch


class Sender(threading.Thread):
    """Sends until its records end, a limit is reached or it is told to stop.

    Records that the stream turns down are sent again. A call that fails ends the sending, because
    it leaves open what the stream has taken, and a second one might put records in twice.

    Parameters
    ----------
    kinesis, stream
        Where to; a client that makes one attempt a call, for the same reason.
    records
        What, taken one by one at the moment of sending.
    truth_path
        JSON lines, one a record that was taken: its source_id and all that is known of it.
    rate_per_s
        Records a second; None sends as fast as the stream takes them.
    limit, duration_s
        Bounds of the run; None for none.
    clock
        Seconds from any start, never going back.
    wait
        Waits for so many seconds and returns whether to send nothing more; by default until
        `stop` is called.

    Attributes
    ----------
    sent
        Records that the stream has taken.
    refused
        Records that no stream can take, because they exceed Kinesis' 1 MiB.
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
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        super().__init__(name="sender", daemon=True)
        self._kinesis = kinesis
        self._stream = stream
        self._records = records if limit is None else islice(records, limit)
        self._truth_path = truth_path
        self._rate_per_s = rate_per_s
        self._duration_s = duration_s
        self._stop_event = threading.Event()
        self._clock = clock
        self._wait = wait or self._stop_event.wait
        self.sent = 0
        self.refused = 0
        self.error: BaseException | None = None

    def stop(self) -> None:
        """Send nothing more; what is under way is finished."""
        self._stop_event.set()

    def run(self) -> None:
        """Send; called by `start`."""
        try:
            with self._truth_path.open("w", encoding="utf-8") as truth:
                for record, source_id in self._send_all():
                    truth.write(json.dumps(_truth(record, source_id), ensure_ascii=False) + "\n")
        except Exception as error:  # whatever it is, the run must hear of it
            self.error = error

    def _send_all(self) -> Iterator[tuple[Outgoing, SourceId]]:
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
            chunk = list(islice(self._records, due))
            if not chunk:
                return
            taken += len(chunk)
            for batch in batches(self._takeable(chunk)):
                yield from self._put(batch)

    def _takeable(self, chunk: list[Outgoing]) -> Iterator[Outgoing]:
        for record in chunk:
            if _size(record) > MAX_RECORD_BYTES:
                self.refused += 1
            else:
                yield record

    def _put(self, batch: list[Outgoing]) -> Iterator[tuple[Outgoing, SourceId]]:
        while batch:
            entries: list[PutRecordsRequestEntryTypeDef] = [
                {"Data": record.data, "PartitionKey": record.partition_key} for record in batch
            ]
            response = self._kinesis.put_records(StreamName=self._stream, Records=entries)
            again = []
            for record, result in zip(batch, response["Records"], strict=True):
                if result.get("ErrorCode"):
                    again.append(record)
                else:
                    self.sent += 1
                    yield (
                        record,
                        SourceId(
                            result["ShardId"], result["SequenceNumber"], source_part(record.data)
                        ),
                    )
            if again and self._wait(2 * _TICK_S):
                return
            batch = again


def _size(record: Outgoing) -> int:
    return len(record.data) + len(record.partition_key.encode())


def _truth(record: Outgoing, source_id: SourceId) -> dict[str, object]:
    return {
        "source_shard": source_id.shard,
        "source_sequence_number": source_id.sequence_number,
        "source_part": source_id.part,
        "fate": record.fate,
        "review_id": record.review_id,
        "product_category": record.product_category,
        "star_rating": record.star_rating,
        "is_late": record.is_late,
        "burst": record.burst,
    }
