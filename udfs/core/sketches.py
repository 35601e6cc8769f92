"""Mergeable sketches: how many different texts, how long the bodies, which terms how often.

All are those of Apache DataSketches (https://datasketches.apache.org): HLL for distinct counts, KLL
for quantiles, frequent items for terms. Any of its libraries, in whatever language, reads what
`to_bytes` writes. The library does not check all of what it reads: only bytes that come from
`to_bytes` are safe, and others may end the process.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from datasketches import (
    frequent_items_error_type,
    frequent_strings_sketch,
    hll_sketch,
    hll_union,
    kll_floats_sketch,
    tgt_hll_type,
)

BOUND_DEVIATIONS = 2
"""The bounds of an estimate lie so many standard deviations apart from it: 95 % are within."""

_KLL_K = 200
_LG_TERMS = 10
_HLL_FORM = tgt_hll_type.HLL_4


class DistinctSketch:
    """An approximate set of texts that can be pickled.

    What it holds, and what it estimates, follows from the set alone: not from the order in which
    texts and other sketches came, nor from how often.

    Parameters
    ----------
    lg_k
        Binary logarithm of the number of registers, 4 to 21: 12 takes about 2 KiB and estimates
        with a standard error of 1.04 / sqrt(4096) = 1.6 %. Small sets are counted exactly, but for
        collisions of 26-bit hashes.

    Examples
    --------
    >>> morning, evening = DistinctSketch(12), DistinctSketch(12)
    >>> morning.update(["R1", "R2", "R1"])
    >>> evening.update(["R3"])
    >>> round(morning.estimate, 3)
    2.0
    >>> morning.merge(evening)
    >>> round(morning.estimate, 3)
    3.0
    >>> restored = DistinctSketch.from_bytes(morning.to_bytes())
    >>> restored.estimate == morning.estimate
    True
    """

    __slots__ = ("_union",)

    def __init__(self, lg_k: int) -> None:
        self._union = hll_union(lg_k)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the sketch that `to_bytes` wrote.

        Raises
        ------
        ValueError
            The bytes are no HLL sketch.
        """
        try:
            stored = hll_sketch.deserialize(data)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"not an HLL sketch: {error}") from error
        sketch = cls(stored.lg_config_k)
        sketch._union.update(stored)
        return sketch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def update(self, texts: Iterable[str]) -> None:
        """Add texts; what is in the set already changes nothing."""
        for _ in map(self._union.update, texts):
            pass

    def merge(self, other: "DistinctSketch") -> None:
        """Add all texts of another sketch; the result has the lesser of the two precisions."""
        self._union.update(other._union.get_result(tgt_hll_type.HLL_8))

    def _result(self) -> Any:
        # A sketch that has seen every text itself estimates by the order in which they came, a
        # little better than from its registers. Merged with itself it only has its registers.
        result = self._union.get_result(tgt_hll_type.HLL_8)
        union = hll_union(result.lg_config_k)
        union.update(result)
        union.update(result)
        return union.get_result(_HLL_FORM)

    @property
    def estimate(self) -> float:
        """About how many different texts there are."""
        return float(self._result().get_estimate())

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound: see `BOUND_DEVIATIONS`."""
        result = self._result()
        return (
            float(result.get_lower_bound(BOUND_DEVIATIONS)),
            float(result.get_upper_bound(BOUND_DEVIATIONS)),
        )

    def to_bytes(self) -> bytes:
        """Return the compact serialisation of DataSketches."""
        return bytes(self._result().serialize_compact())


class _Sketch:
    """What `LengthSketch` and `TermSketch` have in common: each wraps one sketch of a type."""

    _type: ClassVar[Any]
    _name: ClassVar[str]

    __slots__ = ("_sketch",)

    _sketch: Any

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the sketch that `to_bytes` wrote; `ValueError` where the bytes are none."""
        sketch = cls()
        try:
            sketch._sketch = cls._type.deserialize(data)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"not a {cls._name}: {error}") from error
        return sketch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def merge(self, other: Self) -> None:
        """Add all that another sketch holds."""
        self._sketch.merge(other._sketch)

    def to_bytes(self) -> bytes:
        """Return the serialisation of DataSketches."""
        return bytes(self._sketch.serialize())


class LengthSketch(_Sketch):
    """An approximate distribution of lengths that can be pickled.

    A quantile's rank is off by at most `rank_error`, with a probability of 99 %. The sketch chooses
    at random what it keeps: of the same lengths two sketches may differ within that bound. Up to
    200 lengths are kept as they are.

    Examples
    --------
    >>> lengths = LengthSketch()
    >>> lengths.update(range(1, 101))
    >>> lengths.quantiles([0.5, 0.9])
    [50, 90]
    """

    _type, _name = kll_floats_sketch, "KLL sketch of floats"

    __slots__ = ()

    def __init__(self) -> None:
        # Floats are what the other libraries have too; whole numbers up to 2^24 are exact in them.
        self._sketch = kll_floats_sketch(_KLL_K)

    def update(self, lengths: Iterable[int]) -> None:
        """Add lengths."""
        self._sketch.update(np.fromiter(lengths, dtype=np.float32))

    @property
    def count(self) -> int:
        """How many lengths were added."""
        return int(self._sketch.n)

    @property
    def rank_error(self) -> float:
        """The bound of the error of a rank, as a share of all lengths."""
        return float(self._sketch.normalized_rank_error(False))

    def quantiles(self, ranks: Sequence[float]) -> list[int]:
        """Return the lengths that these shares of all do not exceed; of none, no lengths."""
        if self._sketch.is_empty():
            return []
        return [round(length) for length in self._sketch.get_quantiles(list(ranks), True)]


class Frequent(NamedTuple):
    """A text that was counted at least `lower` and at most `upper` times."""

    text: str
    lower: int
    upper: int


class TermSketch(_Sketch):
    """Approximate counts of texts, the frequent ones, that can be pickled.

    Whatever makes up more than `MAX_ERROR` of all counts is among the frequent ones. Up to 768
    different texts are counted exactly.

    Examples
    --------
    >>> terms = TermSketch()
    >>> terms.update({"gift": 3, "card": 1})
    >>> terms.top(1)
    [Frequent(text='gift', lower=3, upper=3)]
    """

    MAX_ERROR = 3.5 / 2**_LG_TERMS
    """Between lower and upper bound lies at most this share of all counts together."""

    _type, _name = frequent_strings_sketch, "sketch of frequent strings"

    __slots__ = ()

    def __init__(self) -> None:
        self._sketch = frequent_strings_sketch(_LG_TERMS)

    def update(self, counts: Mapping[str, int]) -> None:
        """Add so many of each text."""
        for text, count in counts.items():
            self._sketch.update(text, count)

    @property
    def total(self) -> int:
        """All counts together."""
        return int(self._sketch.total_weight)

    def top(self, k: int) -> list[Frequent]:
        """Return the k most frequent texts at most, by their upper bounds, then by name."""
        items = self._sketch.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        found = [Frequent(text, int(lower), int(upper)) for text, _, lower, upper in items]
        return sorted(found, key=lambda item: (-item.upper, item.text))[:k]


def merge_estimate(sketches: Iterable[bytes]) -> float:
    """Return about how many different texts serialised sketches hold together; of none, 0.

    >>> merge_estimate([])
    0.0
    """
    total: DistinctSketch | None = None
    for data in sketches:
        sketch = DistinctSketch.from_bytes(data)
        if total is None:
            total = sketch
        else:
            total.merge(sketch)
    return 0.0 if total is None else total.estimate
