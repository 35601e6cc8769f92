"""Which part of a Kinesis record a review is: what its sequence number leaves open.

Sub-records of a record that the Kinesis Producer Library aggregated share its sequence number, and
so do reviews of one record (property `several_per_record`). A digest of the bytes tells them apart,
and is the same when the record is read again. Sub-records of one aggregate with the same bytes
have one identity, and count once.
"""

import hashlib

_DIGITS = 16


def source_part(payload: bytes | None, position: int | None = None) -> str:
    """Return the identity of a review within its record.

    Parameters
    ----------
    payload
        The bytes of the review; None counts as no bytes.
    position
        Place among the reviews of the record, from 0 on; None: the record is one review.

    Returns
    -------
    str
        The first 16 hexadecimal digits of the SHA-256 of the bytes, as `payload_sha256` of a dead
        letter begins, and `-` with the position where there is one.

    Examples
    --------
    >>> source_part(b"abc"), source_part(b"abc", 2)
    ('ba7816bf8f01cfea', 'ba7816bf8f01cfea-2')
    """
    digest = hashlib.sha256(payload or b"").hexdigest()[:_DIGITS]
    return digest if position is None else f"{digest}-{position}"
