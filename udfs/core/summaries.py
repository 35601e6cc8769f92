"""What is known of the reviews of a window, in a few kilobytes, whatever their number.

A `Summary` is exact where it can be (a count for each rating, hence number, average and quantiles
of the ratings) and a sketch where it must be (distinct ids, body lengths, terms). Summaries merge:
that of an hour is made of those of batches, and reads no review again.
"""

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from operator import itemgetter
from typing import Any, NamedTuple, Self, TypeVar

from udfs.core.scored_records import body_of
from udfs.core.sketches import DistinctSketch, LengthSketch, TermSketch

FORMAT_VERSION = 1
"""Of `Summary.to_bytes`; earlier versions are read too."""

STARS = (1, 2, 3, 4, 5)

ALL = "All"
"""The category of what is summarised over all categories; a review of this name is in no other."""

LENGTH_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
"""The quantiles of the body length that are published: their ranks, by name."""

_STOP_WORDS = """
    about after all also and any are because been before but can could did does don for from get
    got had has have her here him his how its just like more most much not now off one only other
    our out over same she should some such than that the their them then there these they this
    too very was way well were what when where which while who why will with would you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Terms that say nothing of a review."""

_TERM = re.compile(r"[^\W\d_]{3,32}")
_HEADER = struct.Struct("<B5Q")
_LENGTH = struct.Struct("<I")

# Terms that are counted before the sketch takes them, about 150 bytes each.
_TERMS_AT_ONCE = 100_000

S = TypeVar("S", DistinctSketch, LengthSketch, TermSketch)


class Reviews(NamedTuple):
    """Reviews by columns, all of one length.

    `body_lengths` are characters, `payloads` the records of `scored-reviews`, where the terms are
    read from. None: lengths, or terms, are not counted.
    """

    review_ids: Sequence[str]
    star_ratings: Sequence[int]
    body_lengths: Sequence[int] | None = None
    payloads: Sequence[bytes] | None = None


class Summary:
    """Ratings, distinct ids, body lengths and terms of some reviews.

    Attributes
    ----------
    counts
        Reviews with one star, two, ... five; exact.
    review_ids
        The distinct ids.
    lengths, terms
        Body lengths in characters; how many reviews have a term. None where they are not counted,
        also in what was merged with such a one.

    Examples
    --------
    >>> summary = Summary.of(Reviews(["R1", "R2"], [5, 4]), lg_k=12)
    >>> summary.reviews, summary.average, round(summary.review_ids.estimate, 3)
    (2, 4.5, 2.0)
    >>> summary.merge(Summary.from_bytes(summary.to_bytes()))
    >>> summary.counts, round(summary.review_ids.estimate, 3)
    ([0, 0, 0, 2, 2], 2.0)
    """

    __slots__ = ("counts", "lengths", "review_ids", "terms")

    def __init__(
        self,
        counts: Sequence[int],
        review_ids: DistinctSketch,
        lengths: LengthSketch | None,
        terms: TermSketch | None,
    ) -> None:
        self.counts = list(counts)
        self.review_ids = review_ids
        self.lengths = lengths
        self.terms = terms

    @classmethod
    def of(cls, reviews: Reviews, lg_k: int) -> Self:
        """Return the summary of some reviews, ratings from 1 to 5; `lg_k` of `DistinctSketch`."""
        ratings = Counter(reviews.star_ratings)
        review_ids = DistinctSketch(lg_k)
        review_ids.update(reviews.review_ids)
        lengths = terms = None
        if reviews.body_lengths is not None:
            lengths = LengthSketch()
            lengths.update(reviews.body_lengths)
        if reviews.payloads is not None:
            terms = _counted_terms(map(body_of, reviews.payloads))
        return cls([ratings[stars] for stars in STARS], review_ids, lengths, terms)

    def merge(self, other: "Summary") -> None:
        """Add the reviews of another summary."""
        self.counts = [
            ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)
        ]
        self.review_ids.merge(other.review_ids)
        self.lengths = _merged(self.lengths, other.lengths)
        self.terms = _merged(self.terms, other.terms)

    @property
    def reviews(self) -> int:
        """How many reviews there are, each copy of an id counted."""
        return sum(self.counts)

    @property
    def average(self) -> float:
        """The average rating: the double next to it."""
        stars = sum(rating * count for rating, count in zip(STARS, self.counts, strict=True))
        return stars / self.reviews

    def rating_quantile(self, rank: float) -> int:
        """Return the least rating that at least this share of the reviews does not exceed.

        >>> Summary([2, 0, 0, 0, 2], DistinctSketch(12), None, None).rating_quantile(0.5)
        1
        """
        seen = 0
        for rating, count in zip(STARS, self.counts, strict=True):
            seen += count
            if seen >= rank * self.reviews and seen:
                return rating
        raise ValueError("there is no review")

    def to_bytes(self) -> bytes:
        """Return the summary in format `FORMAT_VERSION`.

        One byte with the version, the five counts (unsigned, 64 bit), then ids, lengths and terms,
        each as DataSketches serialises it behind its length (unsigned, 32 bit; 0: not counted). All
        numbers are little-endian.
        """
        parts = [_HEADER.pack(FORMAT_VERSION, *self.counts)]
        for sketch in (self.review_ids, self.lengths, self.terms):
            data = b"" if sketch is None else sketch.to_bytes()
            parts += [_LENGTH.pack(len(data)), data]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the summary that `to_bytes` wrote, in this release or an earlier one.

        Raises
        ------
        ValueError
            The bytes are no summary, or that of a later release.
        """
        if not data or data[0] != FORMAT_VERSION:
            version = data[0] if data else None
            raise ValueError(f"no summary of a version up to {FORMAT_VERSION}: {version}")
        try:
            _, *counts = _HEADER.unpack_from(data)
            ids, lengths, terms = _parts(data)
        except struct.error as error:
            raise ValueError(f"a summary that is cut short: {error}") from error
        return cls(
            counts,
            DistinctSketch.from_bytes(ids),
            LengthSketch.from_bytes(lengths) if lengths else None,
            TermSketch.from_bytes(terms) if terms else None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)


def summarise(
    categories: Sequence[str], panes: Sequence[int], reviews: Reviews, lg_k: int
) -> dict[int, Summary]:
    """Summarise a batch by category and pane.

    Parameters
    ----------
    categories, panes
        Of each review; a pane is any number that those of one pane share.
    reviews
        As many.
    lg_k
        Of the distinct ids.

    Returns
    -------
    dict
        The summary of each category and pane, by the place (from 0) of its last review.
    """
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place, key in enumerate(zip(categories, panes, strict=True)):
        groups[key].append(place)
    return {places[-1]: Summary.of(_taken(reviews, places), lg_k) for places in groups.values()}


def of_panes(summaries: Mapping[int, Summary], panes: Sequence[int]) -> dict[int, Summary]:
    """Merge the summaries of a batch over the categories.

    Parameters
    ----------
    summaries
        What `summarise` returned; not changed.
    panes
        What it was given.

    Returns
    -------
    dict
        The summary of each pane, by the place (from 0) of its last review.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for place in summaries:
        places[panes[place]].append(place)
    merged = {}
    for of_pane in places.values():
        first, *others = of_pane
        merged[max(of_pane)] = total = copy(summaries[first])
        for place in others:
            total.merge(summaries[place])
    return merged


def _taken(reviews: Reviews, places: Sequence[int]) -> Reviews:
    # Of one place, it would take what is there, not a sequence of one.
    take = itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1))
    return Reviews(
        take(reviews.review_ids),
        take(reviews.star_ratings),
        None if reviews.body_lengths is None else take(reviews.body_lengths),
        None if reviews.payloads is None else take(reviews.payloads),
    )


def terms_of(body: str) -> set[str]:
    """Return the terms of a text: its words of 3 to 32 letters in lower case, less `STOP_WORDS`.

    A word is what stands together of letters of any script; of a longer one, pieces of 32.

    >>> sorted(terms_of("Gift cards make GREAT gifts, and it's the best gift!"))
    ['best', 'cards', 'gift', 'gifts', 'great', 'make']
    """
    return set(_TERM.findall(body.lower())) - STOP_WORDS


def _counted_terms(bodies: Iterable[str]) -> TermSketch:
    sketch = TermSketch()
    counts = Counter[str]()
    for body in bodies:
        counts.update(terms_of(body))
        if len(counts) > _TERMS_AT_ONCE:
            sketch.update(counts)
            counts.clear()
    sketch.update(counts)
    return sketch


def _merged(ours: S | None, theirs: S | None) -> S | None:
    if ours is None or theirs is None:
        return None
    ours.merge(theirs)
    return ours


def _parts(data: bytes) -> Iterator[bytes]:
    place = _HEADER.size
    for _ in range(3):
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if place + length > len(data):
            raise struct.error(f"{length} bytes are announced, {len(data) - place} are there")
        yield data[place : place + length]
        place += length
