import random
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core import simhash as module
from udfs.core.simhash import MAX_CHARACTERS, simhash

TRICKY = [
    None,
    "",
    " \n\t",
    "...",
    "\U0001f600",
    "a",
    "A a A",
    "İSTANBUL ıstanbul",
    "ﬁne ﬁnè fine\u0301",
    "電子書 とても 良い",
    "می\u200cخواهم",
    "_ __ a_b 1 ² ½",
    "a\x00b\ufffec\ud800d",
    "x" * 20_000,
    "word " * 5_000,
    " " * MAX_CHARACTERS + "beyond",
    "".join(f"{chr(0x4E00 + number)} " for number in range(MAX_CHARACTERS // 2)),
]


def generated(texts: int) -> list[str]:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(1, 8))) for _ in range(3_000)]
    return [" ".join(rng.choices(words, k=rng.randint(0, 300))) for _ in range(texts)]


def by_definition(text: str | None) -> int:
    """Return the fingerprint of one text, a word at a time."""
    words = set(module._WORD.findall(text[:MAX_CHARACTERS].lower())) if text else set()
    votes = [0] * 64
    for word in words:
        (hashed,) = pd.util.hash_array(np.array([word], dtype=object), categorize=False).tolist()
        for bit in range(64):
            votes[bit] += hashed >> bit & 1
    # Bits are packed from the highest of each byte, as they are unpacked.
    number = sum(1 << bit for bit in range(64) if 2 * votes[bit] > len(words))
    return number - (1 << 64 if number >> 63 else 0)


def test_fingerprints_are_those_that_states_and_streams_hold() -> None:
    assert zlib.crc32(simhash([*TRICKY, *generated(500)]).tobytes()) == 1_568_107_805


@given(st.lists(st.none() | st.text() | st.sampled_from(TRICKY[:-4]), max_size=8))
def test_fingerprints_are_as_defined(texts: list[str | None]) -> None:
    assert simhash(texts).tolist() == [by_definition(text) for text in texts]


@pytest.mark.parametrize("words", [1, 100, 1_000_000])
def test_how_many_words_are_counted_at_once_does_not_matter(
    words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TRICKY, *generated(100)]
    expected = simhash(texts).tolist()
    monkeypatch.setattr(module, "_WORDS_AT_ONCE", words)
    assert simhash(texts).tolist() == expected
    assert simhash(texts[::-1]).tolist() == expected[::-1]
