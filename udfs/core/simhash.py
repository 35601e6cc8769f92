"""Fingerprints of texts that are close where the texts are: SimHash, over all texts of a batch.

Each word is hashed to 64 bits; a bit of the fingerprint is what the bits of most words are. Texts
that share most of their words differ in few bits (M. S. Charikar, "Similarity Estimation Techniques
from Rounding Algorithms", STOC 2002).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BITS = 64
MAX_CHARACTERS = 8_192
"""Only the first `MAX_CHARACTERS` characters of a text are fingerprinted."""

# A word takes about 0.7 KiB while its bits are counted.
_WORDS_AT_ONCE = 8_192

_U64 = np.uint64
_WORD = re.compile(r"\w+")


def simhash(texts: Sequence[str | None]) -> NDArray[np.int64]:
    """Return a fingerprint for each text, as a signed integer of 64 bits.

    The same words, in any order and case, make the same fingerprint, on any machine and in any
    process. A text without a word, or None, has 0. Memory beyond texts and result is bounded: tens
    of MiB, whatever the number of texts.

    Examples
    --------
    >>> one, two, other = simhash(["A fine game!", "a fine game", "it broke at once"]).tolist()
    >>> one == two, one == other
    (True, False)
    """
    fingerprints = np.zeros(len(texts), dtype=np.int64)
    words: list[str] = []
    counts: list[int] = []
    for place, text in enumerate(texts, 1):
        # In a set each word counts once, however often it is said.
        found = set(_WORD.findall(text[:MAX_CHARACTERS].lower())) if text else ()
        words += found
        counts.append(len(found))
        if len(words) >= _WORDS_AT_ONCE or place == len(texts):
            fingerprints[place - len(counts) : place] = _of_words(words, counts)
            words, counts = [], []
    return fingerprints


def _of_words(words: Sequence[str], counts: Sequence[int]) -> NDArray[np.int64]:
    """Return the fingerprints of texts, each of the next `counts[i]` words."""
    fingerprints = np.zeros(len(counts), dtype=np.int64)
    if not words:
        return fingerprints
    codes, unique = pd.factorize(np.array(words, dtype=object))
    hashes = pd.util.hash_array(np.asarray(unique, dtype=object), categorize=False)
    bits = np.unpackbits(hashes.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1).astype(
        np.int32
    )
    lengths = np.array(counts)
    filled = lengths > 0
    starts = (np.cumsum(lengths) - lengths)[filled]
    votes = np.add.reduceat(bits[codes], starts, axis=0)
    packed = np.packbits(2 * votes > lengths[filled][:, None], axis=1)
    fingerprints[filled] = packed.reshape(-1).view("<i8")
    return fingerprints


def bit_counts(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return how many of the 64 bits of each number are 1; of `one ^ other`: how many differ.

    Bits are added in ever wider groups (H. S. Warren, "Hacker's Delight", 2012, chapter 5).

    >>> bit_counts(np.array([0, -1, 5]) ^ np.array([0, 0, 4])).tolist()
    [0, 64, 1]
    """
    bits = numbers.view(np.uint64)
    pairs = bits - ((bits >> _U64(1)) & _U64(0x5555555555555555))
    fours = (pairs & _U64(0x3333333333333333)) + ((pairs >> _U64(2)) & _U64(0x3333333333333333))
    eights = (fours + (fours >> _U64(4))) & _U64(0x0F0F0F0F0F0F0F0F)
    counts: NDArray[np.uint64] = (eights * _U64(0x0101010101010101)) >> _U64(56)
    return counts.astype(np.uint8)
