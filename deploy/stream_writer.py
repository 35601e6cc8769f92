"""Put records into a Kinesis stream, never twice without saying so.

PutRecords is not idempotent. A call that the stream has refused can be repeated; a call whose
answer was lost cannot, because the stream may have taken its records.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from botocore import exceptions as boto

from deploy.throttling import backoff_s, error_code, is_throttled

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import PutRecordsRequestEntryTypeDef

MAX_BATCH_RECORDS = 500
MAX_BATCH_BYTES = 5 * 1024 * 1024
"""Bounds of PutRecords (Amazon Kinesis Data Streams API reference)."""
MAX_RECORD_BYTES = 1024 * 1024

PATIENCE_S = 60.0
"""How long the stream may refuse all that is left of a batch, in seconds."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

# botocore raises these before it has sent a byte of the request.
_NOT_SENT = (
    *(boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError),
    *(boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError),
    *(boto.TokenRetrievalError, boto.SSOError, boto.ParamValidationError),
)
_REQUEST_TIMEOUT = 408


class Puttable(Protocol):
    """A record that can be put into a stream."""

    @property
    def data(self) -> bytes:
        """The payload."""

    @property
    def partition_key(self) -> str:
        """1 to 256 characters."""


R = TypeVar("R", bound=Puttable)


class Taken(NamedTuple, Generic[R]):
    """A record that is in the stream, and where."""

    record: R
    shard: str
    sequence_number: str


class PutError(Exception):
    """The stream has not taken all records of a batch.

    Attributes
    ----------
    records
        Those of the batch that the stream is not known to have taken.
    """

    def __init__(self, records: Sequence[Any], problem: str) -> None:
        super().__init__(problem)
        self.records = tuple(records)


class RefusedError(PutError):
    """The stream has taken none of `records`: they can be sent again."""


class UnknownOutcomeError(PutError):
    """The call was not answered: the stream may have taken `records`, all, some or none of them."""


def size(record: Puttable) -> int:
    """Return the bytes of a record that count towards Kinesis' bounds."""
    return len(record.data) + len(record.partition_key.encode())


def batches(records: Iterable[R], max_records: int = MAX_BATCH_RECORDS) -> Iterator[list[R]]:
    """Cut records into batches within the bounds of PutRecords, in order."""
    batch: list[R] = []
    batch_bytes = 0
    for record in records:
        record_bytes = size(record)
        if batch and (len(batch) == max_records or batch_bytes + record_bytes > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(record)
        batch_bytes += record_bytes
    if batch:
        yield batch


class StreamWriter(Generic[R]):
    """Puts batches of records into one stream.

    Records that the stream refuses, one by one or by throttling a call, are sent again after a
    pause that grows, with jitter. A call without a known outcome is never repeated.

    Parameters
    ----------
    kinesis
        A client that makes one attempt a call: `Aws.single_attempt_client`.
    stream
        Name of the stream.
    wait
        Waits for the given number of seconds; returns True to give up.
    rng
        Jitter of the pauses.

    Raises
    ------
    ValueError
        The client repeats calls by itself.
    """

    def __init__(
        self,
        kinesis: KinesisClient,
        stream: str,
        wait: Callable[[float], bool],
        rng: random.Random | None = None,
    ) -> None:
        config: Any = kinesis.meta.config
        attempts = (config.retries or {}).get("total_max_attempts")
        if attempts != 1:
            raise ValueError(
                "a StreamWriter needs a client that makes one attempt a call, because a second one"
                f" can put records twice: total_max_attempts must be 1, got {attempts}"
            )
        self._kinesis = kinesis
        self._stream = stream
        self._wait = wait
        self._rng = rng or random.Random()

    def put(self, batch: Sequence[R]) -> Iterator[Taken[R]]:
        """Put a batch within the bounds of PutRecords, and yield each record once it is taken.

        Raises
        ------
        RefusedError
            The stream refuses the rest of the batch, or throttles all of it for `PATIENCE_S`.
        UnknownOutcomeError
            The answer to a call was lost.
        """
        left = list(batch)
        failures, waited_s = 0, 0.0
        while left:
            refused, problem = [], ""
            for record, result in zip(left, self._call(left), strict=True):
                if code := result.get("ErrorCode"):
                    refused.append(record)
                    problem = f"{code}: {result.get('ErrorMessage', '')}"
                else:
                    yield Taken(record, result["ShardId"], result["SequenceNumber"])
            if len(refused) < len(left):
                failures, waited_s = 0, 0.0
            left = refused
            if not left:
                return
            if waited_s >= PATIENCE_S:
                raise RefusedError(left, f"no record accepted for {PATIENCE_S:.0f} s: {problem}")
            failures += 1
            pause_s = backoff_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S, self._rng)
            if self._wait(pause_s):
                raise RefusedError(left, f"stopped while the stream was throttling: {problem}")
            waited_s += pause_s

    def _call(self, records: Sequence[R]) -> Sequence[Any]:
        entries: list[PutRecordsRequestEntryTypeDef] = [
            {"Data": record.data, "PartitionKey": record.partition_key} for record in records
        ]
        try:
            return self._kinesis.put_records(StreamName=self._stream, Records=entries)["Records"]
        except Exception as error:
            if is_throttled(error):
                refusal = {"ErrorCode": error_code(error), "ErrorMessage": str(error)}
                return [refusal] * len(records)
            if _is_refusal(error):
                raise RefusedError(records, str(error)) from error
            raise UnknownOutcomeError(records, str(error)) from error


def _is_refusal(error: Exception) -> bool:
    if not isinstance(error, boto.ClientError):
        return isinstance(error, _NOT_SENT)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return 400 <= status < 500 and status != _REQUEST_TIMEOUT
