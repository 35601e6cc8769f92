"""Rows of a file that a stopped `send` may not have sent: list them, find out which arrived."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.aws.clock import Clock
from deploy.stream_reader import read_since

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

# By how much this machine's clock may be ahead of Kinesis'.
_CLOCKS = timedelta(minutes=5)


@dataclass(frozen=True)
class UnsentRow:
    """A row that the stream is not known to have taken.

    Attributes
    ----------
    row
        Its number in the file, from 1 on; empty lines and a header do not count.
    tried_at
        When it was tried, in ISO 8601.
    payload_sha256, partition_key
        Of the record.
    review_id
        None where it is not known.
    """

    row: int
    tried_at: str
    payload_sha256: str
    partition_key: str
    review_id: str | None


def write_unsent(path: Path, rows: Iterable[UnsentRow]) -> None:
    """Write rows as JSON lines."""
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def read_unsent(path: Path) -> list[UnsentRow]:
    """Read what `write_unsent` wrote.

    Raises
    ------
    ValueError
        The file is not one.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return [UnsentRow(**json.loads(line)) for line in file]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a list of unsent rows: {error}") from error


def missing(
    kinesis: KinesisClient,
    stream: str,
    rows: Sequence[UnsentRow],
    clock: Clock,
    progress: Callable[[str], None] = lambda line: None,
) -> list[UnsentRow]:
    """Return the rows that are not in the stream yet, whoever sent the others.

    A record is recognised by its partition key and payload. The stream must still keep what
    arrived when the rows were tried.

    Parameters
    ----------
    kinesis, stream
        Where the rows were sent to.
    rows
        Of one file.
    clock, progress
        As of `read_since`.

    Raises
    ------
    ValueError
        The stream no longer keeps that time.
    """
    if not rows:
        return []
    since = min(datetime.fromisoformat(row.tried_at) for row in rows) - _CLOCKS
    summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    if since < clock.now() - timedelta(hours=summary["RetentionPeriodHours"]):
        raise ValueError(
            f"{stream} keeps {summary['RetentionPeriodHours']} h; whether rows tried at"
            f" {since:%Y-%m-%d %H:%M} UTC arrived can no longer be read there"
        )
    wanted = {(row.partition_key, row.payload_sha256) for row in rows}
    arrived: Counter[tuple[str, str]] = Counter()
    for record in read_since(kinesis, stream, since, clock, progress):
        key = (record["PartitionKey"], hashlib.sha256(record["Data"]).hexdigest())
        if key in wanted:
            arrived[key] += 1
    found = []
    for row in rows:
        key = (row.partition_key, row.payload_sha256)
        if arrived[key] > 0:
            arrived[key] -= 1
        else:
            found.append(row)
    return found
