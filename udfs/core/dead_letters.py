"""What a dead letter keeps of the record that it stands for."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

MAX_PAYLOAD_BYTES = 64 * 1024
"""Bytes of the original that a dead letter carries at most."""

MIN_PAYLOAD_BYTES = 256
"""Bytes of the original that a dead letter carries in any case, of a longer original the first."""

PAYLOAD_BYTES_PER_S = 256 * 1024
"""Default budget of a job.

In base64, with about 600 bytes for its other fields, 1,000 letters/s of `MIN_PAYLOAD_BYTES` take
0.9 MiB/s: one shard reaches its limits of records and of bytes together.
"""

_BURST_S = 4


@dataclass(frozen=True, slots=True)
class PayloadDigest:
    """The start of a record's bytes, the SHA-256 (hex) of all of them, and how many they are."""

    payload: bytes
    payload_sha256: str
    payload_bytes: int


class PayloadBudget:
    """Token bucket: payload bytes that dead letters may carry.

    A letter carries up to `MAX_PAYLOAD_BYTES` of its payload while the bucket holds that many
    bytes, else at most `MIN_PAYLOAD_BYTES`. Both are taken from the bucket: in a flood, the short
    payloads leave nothing for long ones. In any t seconds n letters carry at most
    `burst_bytes + bytes_per_s * t + n * MIN_PAYLOAD_BYTES` bytes.

    Parameters
    ----------
    bytes_per_s
        Rate at which the bucket fills, in bytes of payload per second.
    clock
        Seconds from any start, never going back.

    Attributes
    ----------
    burst_bytes
        Capacity of the bucket, which is full at first: four seconds of the rate, at least one
        payload of `MAX_PAYLOAD_BYTES`.
    shortened
        Number of letters so far that carry less because the bucket was empty.

    Examples
    --------
    >>> budget = PayloadBudget(bytes_per_s=16 * 1024, clock=lambda: 0.0)
    >>> [budget.take(100_000), budget.take(100_000), budget.take(100)]
    [65536, 256, 100]
    """

    def __init__(self, bytes_per_s: float, clock: Callable[[], float]) -> None:
        self.burst_bytes = max(_BURST_S * bytes_per_s, MAX_PAYLOAD_BYTES)
        self.shortened = 0
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._tokens = self.burst_bytes
        self._filled_s = clock()

    def take(self, payload_bytes: int) -> int:
        """Return how many bytes of a payload the next letter carries."""
        now_s = self._clock()
        gained = (now_s - self._filled_s) * self._bytes_per_s
        self._tokens = min(self.burst_bytes, self._tokens + gained)
        self._filled_s = now_s
        kept = min(payload_bytes, MAX_PAYLOAD_BYTES)
        if kept > max(self._tokens, MIN_PAYLOAD_BYTES):
            kept = MIN_PAYLOAD_BYTES
            self.shortened += 1
        self._tokens = max(0.0, self._tokens - kept)
        return kept


def digest(payload: bytes | None, budget: PayloadBudget) -> PayloadDigest:
    """Describe a record's bytes within the budget; None counts as no bytes.

    Hash and size are always those of all bytes: a payload shorter than `payload_bytes` was cut.

    >>> digest(b"abc", PayloadBudget(1024, clock=lambda: 0.0)).payload_bytes
    3
    """
    data = payload or b""
    kept = data[: budget.take(len(data))]
    return PayloadDigest(kept, hashlib.sha256(data).hexdigest(), len(data))
