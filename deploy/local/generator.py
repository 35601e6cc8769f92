"""Made-up reviews: sound, odd and broken ones, with the truth about each.

A review is first made in the shape of the public Amazon Customer Reviews data set, then turned
into a record of the `reviews` stream. What is in a record and what must become of it follow from
the seed alone; the clock decides the event times, and with them which records are late.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

from deploy.local import texts
from deploy.local.records import Fault, Outgoing, Sound, encode, faults, pad_body, to_json, utc_text
from udfs.core.parsing import ParseReason, ReviewFormat

SCORED = "scored"
"""The fate of a sound record."""

_RATING_WEIGHTS = (17, 8, 10, 18, 47)  # 1 to 5 stars, about as on Amazon
_PRODUCTS_PER_CATEGORY = 25
_ID_CHARACTERS = string.ascii_uppercase + string.digits
_FIRST_REVIEW_DATE = date(2012, 1, 1)
_REVIEW_DAYS = 1_300

_MIN_BODY_BOUND, _MAX_BODY_BOUND = 32 * 1024, 700 * 1024
_LARGEST_EVERY = 2_000
_REPEATED_ID_SHARE = 0.003
_NO_EVENT_TIME_SHARE = 0.05
_ODD_JSON_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class GeneratorOptions:
    """What the stream of reviews looks like.

    Attributes
    ----------
    format
        Of the records. TSV has no event time, hence no late records and no faults of that kind.
    categories
        At least one of `texts.CATEGORIES`.
    max_disorder_s
        Event times lie at most this far before the time of sending, in seconds, except those of
        late records; less than the watermark delay.
    watermark_delay_s
        That of the job that reads the stream, in seconds.
    late_share
        Share of late records among the sound ones, 0 to 0.5.
    min_lateness_s
        A late record's event time lies so far beyond the watermark delay, up to twice as far; more
        than 0. What stands still for longer than this makes such a record on time.
    late_free_s
        So long after the first record none is late, in seconds: nothing is before there is a
        watermark.
    broken_share
        Share of broken records, 0 to 0.5, evenly spread. Every reason comes up once in any 2,000
        records where this is 0.02 or more.
    burst_every, burst_reviews
        About every so many records an anomaly burst begins: so many consecutive reviews of one
        category, all with one star and a long outraged text. While it lasts, every other review
        belongs to it. `burst_reviews` 0: none.
    max_body_bytes
        The parser's bound, 32 to 700 KiB: oversize records go just beyond it, and about every
        2,000 records a sound one fills it to the last byte.

    Raises
    ------
    ValueError
        Names every option out of range.
    """

    format: ReviewFormat = "json"
    categories: Sequence[str] = texts.CATEGORIES
    max_disorder_s: float = 8.0
    watermark_delay_s: float = 10.0
    late_share: float = 0.005
    min_lateness_s: float = 60.0
    late_free_s: float = 10.0
    broken_share: float = 0.02
    burst_every: int = 2_000
    burst_reviews: int = 60
    max_body_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        wrong = []
        if self.format not in ("json", "tsv"):
            wrong.append(f"format is {self.format!r}, not json or tsv")
        if not self.categories or not set(self.categories) <= set(texts.CATEGORIES):
            wrong.append(f"categories must be among {', '.join(texts.CATEGORIES)}")
        if not 0 <= self.max_disorder_s < self.watermark_delay_s:
            wrong.append("max_disorder_s must be at least 0 and less than watermark_delay_s")
        wrong += [
            f"{name} must be 0 to 0.5"
            for name in ("late_share", "broken_share")
            if not 0 <= getattr(self, name) <= 0.5
        ]
        if self.min_lateness_s <= 0:
            wrong.append("min_lateness_s must be more than 0")
        if self.burst_reviews < 0 or self.burst_every < max(1, 4 * self.burst_reviews):
            wrong.append("burst_every must be at least four times burst_reviews")
        if not _MIN_BODY_BOUND <= self.max_body_bytes <= _MAX_BODY_BOUND:
            wrong.append(f"max_body_bytes must be {_MIN_BODY_BOUND} to {_MAX_BODY_BOUND}")
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, slots=True)
class CustomerReview:
    """A row of the Amazon Customer Reviews data set, in the order of its 15 columns."""

    marketplace: str
    customer_id: str
    review_id: str
    product_id: str
    product_parent: str
    product_title: str
    product_category: str
    star_rating: int
    helpful_votes: int
    total_votes: int
    vine: str
    verified_purchase: str
    review_headline: str
    review_body: str
    review_date: str


COLUMNS = tuple(field.name for field in fields(CustomerReview))
"""The columns of the Amazon Customer Reviews data set."""


def generate(
    options: GeneratorOptions, seed: int, clock: Callable[[], float]
) -> Iterator[Outgoing]:
    """Make records without end.

    Parameters
    ----------
    options
        What they look like.
    seed
        The same seed makes the same records, apart from what follows from the clock.
    clock
        Seconds since the epoch, never going back; read when a record is asked for, so that its
        event time is the time of sending (less the disorder). `time.time` outside of tests.

    Examples
    --------
    >>> first = next(generate(GeneratorOptions(), seed=1, clock=lambda: 1_795_467_600.0))
    >>> first.fate, first.product_category, first.star_rating
    ('scored', 'Mobile_Apps', 1)
    """
    first_s: float | None = None
    for draft in _drafts(options, seed):
        now_s = clock()
        first_s = now_s if first_s is None else first_s
        now = datetime.fromtimestamp(now_s, UTC)
        is_late = draft.lateness is not None and now_s - first_s >= options.late_free_s
        age = draft.lateness if draft.lateness is not None and is_late else draft.disorder
        review = draft.review
        yield Outgoing(
            draft.write(now, now - age),
            review.review_id,
            draft.fate,
            review.review_id,
            review.product_category,
            review.star_rating,
            is_late,
            draft.burst,
        )


def customer_reviews(
    seed: int, categories: Sequence[str] = texts.CATEGORIES
) -> Iterator[CustomerReview]:
    """Make sound reviews without end, in the shape of the Amazon Customer Reviews data set.

    Ratings are distributed about as there: mostly 5, then 4 and 1. The same seed makes the same
    reviews; `review_date` lies in 2012 to 2015, as there.
    """
    rng = random.Random(f"reviews/{seed}")
    while True:
        yield _customer_review(rng.choice(categories), rng)


def labelled_texts(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Return `count` review bodies and their ratings (1 to 5), to train and to test on.

    >>> bodies, ratings = labelled_texts(100, seed=1)
    >>> len(bodies), min(ratings), max(ratings)
    (100, 1, 5)
    """
    reviews = list(itertools.islice(customer_reviews(seed), count))
    return [review.review_body for review in reviews], [review.star_rating for review in reviews]


def write_tsv(path: Path, count: int, seed: int) -> None:
    """Write `count` reviews as the Amazon data set has them: a header, 15 columns, no quoting.

    A path that ends in `.gz` is compressed. Line ends in a body become `<br />`.
    """
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        file.write(("\t".join(COLUMNS) + "\n").encode())
        for review in itertools.islice(customer_reviews(seed), count):
            body = "<br />".join(review.review_body.replace("\t", " ").splitlines())
            row = astuple(replace(review, review_body=body))
            file.write(("\t".join(map(str, row)) + "\n").encode())


@dataclass(frozen=True, slots=True)
class _Draft:
    """A record but for its times. `write` takes the time of sending and the event time."""

    review: CustomerReview
    write: Callable[[datetime, datetime], bytes]
    disorder: timedelta
    fate: str = SCORED
    lateness: timedelta | None = None
    burst: str | None = None


@dataclass(slots=True)
class _Burst:
    label: str
    category: str
    remaining: int


class _Occasions:
    """One index in each block of `every`, at a random place between two fractions of it."""

    def __init__(
        self, every: float, rng: random.Random, earliest: float = 0.0, latest: float = 1.0
    ) -> None:
        self._every, self._rng = every, rng
        self._earliest, self._latest = earliest, latest
        self._block = -1
        self._advance()

    def _advance(self) -> None:
        self._block += 1
        place = self._rng.uniform(self._earliest, self._latest)
        self._next = (self._block + place) * self._every if self._every < math.inf else math.inf

    def due(self, index: int) -> bool:
        """Whether the next occasion has come; True once for each."""
        if index < self._next:
            return False
        self._advance()
        return True


def _drafts(options: GeneratorOptions, seed: int) -> Iterator[_Draft]:
    rng = random.Random(f"records/{seed}")
    share = options.broken_share
    broken = _Occasions(1 / share if share else math.inf, rng)
    largest = _Occasions(_LARGEST_EVERY, rng)
    # So close within their blocks that any 5,000 records hold two whole bursts.
    bursts = _Occasions(
        options.burst_every if options.burst_reviews else math.inf, rng, earliest=0.3, latest=0.45
    )
    next_faults = _faults_in_turn(options.format, rng)
    burst: _Burst | None = None
    burst_count = 0
    earlier_id = ""
    for index in itertools.count():
        if burst is None and bursts.due(index):
            burst_count += 1
            category = rng.choice(options.categories)
            burst = _Burst(f"burst-{burst_count}", category, options.burst_reviews)
        others = [c for c in options.categories if burst is None or c != burst.category]
        if broken.due(index):
            review = _customer_review(rng.choice(others or options.categories), rng)
            yield _broken(review, *next(next_faults), options, rng)
        elif burst and (not others or rng.random() < 0.5):
            yield _in_burst(burst, options, rng)
            burst.remaining -= 1
            burst = burst if burst.remaining else None
        else:
            review = _customer_review(rng.choice(others), rng)
            if earlier_id and rng.random() < _REPEATED_ID_SHARE:
                review = replace(review, review_id=earlier_id)
            earlier_id = review.review_id
            if largest.due(index):
                yield _largest(review, options, rng)
            else:
                yield _sound(review, options, rng)


def _sound(review: CustomerReview, options: GeneratorOptions, rng: random.Random) -> _Draft:
    disorder = _disorder(options, rng)
    if options.format == "tsv":
        return _Draft(review, _plain(review, options), disorder)
    if rng.random() < options.late_share:
        lateness_s = options.watermark_delay_s + options.min_lateness_s * rng.uniform(1, 2)
        lateness = timedelta(seconds=lateness_s)
        return _Draft(review, _plain(review, options), disorder, lateness=lateness)
    if rng.random() < _ODD_JSON_SHARE:
        odd = rng.choice(_ODD_JSON)
        return _Draft(review, lambda now, event: odd(_fields(review, event)), disorder)
    has_event_time = rng.random() >= _NO_EVENT_TIME_SHARE
    return _Draft(review, _plain(review, options, has_event_time), disorder)


def _broken(
    review: CustomerReview,
    reason: ParseReason,
    fault: Fault,
    options: GeneratorOptions,
    rng: random.Random,
) -> _Draft:
    def write(now: datetime, event_time: datetime) -> bytes:
        return fault(Sound(_fields(review, event_time), now, options.max_body_bytes, rng))

    return _Draft(review, write, _disorder(options, rng), fate=reason.value)


def _in_burst(burst: _Burst, options: GeneratorOptions, rng: random.Random) -> _Draft:
    body = texts.furious_text(burst.category, rng)
    review = replace(_customer_review(burst.category, rng, star_rating=1), review_body=body)
    return _Draft(review, _plain(review, options), _disorder(options, rng), burst=burst.label)


def _largest(review: CustomerReview, options: GeneratorOptions, rng: random.Random) -> _Draft:
    def write(now: datetime, event_time: datetime) -> bytes:
        return pad_body(
            options.max_body_bytes,
            review.review_headline,
            lambda body: _plain(replace(review, review_body=body), options)(now, event_time),
        )

    return _Draft(review, write, _disorder(options, rng))


def _plain(
    review: CustomerReview, options: GeneratorOptions, has_event_time: bool = True
) -> Callable[[datetime, datetime], bytes]:
    return lambda now, event_time: encode(
        review.review_id,
        review.product_category,
        review.review_body,
        event_time if has_event_time else None,
        options.format,
    )


def _disorder(options: GeneratorOptions, rng: random.Random) -> timedelta:
    # Squared: most records are nearly in order, as from real producers.
    return timedelta(seconds=options.max_disorder_s * rng.random() ** 2)


def _faults_in_turn(
    format: ReviewFormat, rng: random.Random
) -> Iterator[tuple[ParseReason, Fault]]:
    # Each round has every reason once, so that none is ever two rounds away.
    variants = {reason: itertools.cycle(choices) for reason, choices in faults(format).items()}
    while True:
        for reason in rng.sample(sorted(variants), len(variants)):
            yield reason, next(variants[reason])


def _fields(review: CustomerReview, event_time: datetime) -> dict[str, Any]:
    return {
        "review_id": review.review_id,
        "product_category": review.product_category,
        "review_body": review.review_body,
        "event_time": utc_text(event_time),
    }


def _in_other_zone(fields: dict[str, Any]) -> bytes:
    event_time = datetime.fromisoformat(fields["event_time"])
    elsewhere = event_time.astimezone(timezone(timedelta(hours=-8)))
    return to_json(fields | {"event_time": elsewhere.isoformat()})


# Legal, though not as `encode` writes them.
_ODD_JSON: tuple[Callable[[dict[str, Any]], bytes], ...] = (
    lambda fields: to_json(
        fields | {"marketplace": "US", "vine": False, "tags": ["verified", None, {"depth": 2}]}
    ),
    lambda fields: json.dumps(fields | {"review_body": fields["review_body"] + " \u2605"}).encode(),
    lambda fields: json.dumps(dict(reversed(fields.items())), indent=1).encode(),
    lambda fields: to_json(fields | {"event_time": None}),
    _in_other_zone,
)


def _customer_review(
    category: str, rng: random.Random, star_rating: int | None = None
) -> CustomerReview:
    if star_rating is None:
        star_rating = rng.choices((1, 2, 3, 4, 5), _RATING_WEIGHTS)[0]
    product_id, product_parent, product_title = rng.choice(_products(category))
    total_votes = int(rng.expovariate(0.5))
    return CustomerReview(
        marketplace="US",
        customer_id=str(rng.randrange(10_000_000, 54_000_000)),
        review_id="R" + _identifier(rng, 13),
        product_id=product_id,
        product_parent=product_parent,
        product_title=product_title,
        product_category=category,
        star_rating=star_rating,
        helpful_votes=rng.randint(0, total_votes),
        total_votes=total_votes,
        vine="N" if rng.random() < 0.99 else "Y",
        verified_purchase="Y" if rng.random() < 0.85 else "N",
        review_headline=texts.headline(category, star_rating, rng),
        review_body=texts.review_text(category, star_rating, rng),
        review_date=(_FIRST_REVIEW_DATE + timedelta(rng.randrange(_REVIEW_DAYS))).isoformat(),
    )


@cache
def _products(category: str) -> list[tuple[str, str, str]]:
    rng = random.Random(f"products/{category}")
    return [
        (
            "B00" + _identifier(rng, 7),
            str(rng.randrange(10_000_000, 1_000_000_000)),
            texts.product_title(category, rng),
        )
        for _ in range(_PRODUCTS_PER_CATEGORY)
    ]


def _identifier(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(_ID_CHARACTERS, k=length))
