"""What a dead letter keeps of the record that it stands for."""

import hashlib
from dataclasses import dataclass

MAX_PAYLOAD_BYTES = 64 * 1024
"""Bytes of the original that a dead letter carries; all of it stays in the source stream."""


@dataclass(frozen=True, slots=True)
class PayloadDigest:
    """The start of a record's bytes, the SHA-256 (hex) of all of them, and how many they are."""

    payload: bytes
    payload_sha256: str
    payload_bytes: int


def digest(payload: bytes | None) -> PayloadDigest:
    """Describe a record's bytes within the limits of the sink; None counts as no bytes.

    >>> digest(b"abc").payload_bytes
    3
    """
    data = payload or b""
    return PayloadDigest(data[:MAX_PAYLOAD_BYTES], hashlib.sha256(data).hexdigest(), len(data))
