"""A labelled stream of one category's reviews: everyday ones, runs of bad luck, and bursts.

A burst is a campaign: reviews with one star that come on top of the usual ones until it has had its
say, all with the same text or each a paraphrase of one. A natural run is bad reviews in a row,
each in its own words: nothing to wake up for.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from deploy.local import texts

Kind = Literal["identical", "paraphrased"]

SIZES = (20, 50, 100, 200, 500)
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)

_RATING_WEIGHTS = (17, 8, 10, 18, 47)
_WRONG_PREDICTION = 1 / 7
_RUN_SHARE = 1 / 1_500
_DAY_S = 86_400.0
_MAX_DISORDER_S = 5.0


@dataclass(frozen=True, slots=True)
class Burst:
    """What is wrong in a stream: so many reviews, so large a share of the traffic meanwhile."""

    number: int
    kind: Kind
    size: int
    share: float


@dataclass(frozen=True, slots=True)
class Labelled:
    """A review as the anomaly job sees it, and the burst that it belongs to, if any."""

    star_rating: int
    body: str
    event_time_ms: int
    burst: Burst | None


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a stream is like.

    Attributes
    ----------
    category
        One of `texts.CATEGORIES`.
    bursts
        In their order; empty: a quiet stream.
    before
        Everyday reviews before the first, in between, and after the last.
    reviews_per_s
        Of everyday reviews, on average over a day.
    """

    category: str
    bursts: tuple[Burst, ...]
    before: int = 1_500
    reviews_per_s: float = 0.05


def burst_plan(seed: int, count: int) -> tuple[Burst, ...]:
    """Return bursts of all sizes and shares, every other one identical."""
    rng = random.Random(f"plan/{seed}")
    bursts = []
    for number in range(count):
        kind: Kind = "identical" if (number + seed) % 2 else "paraphrased"
        bursts.append(Burst(number, kind, rng.choice(SIZES), rng.choice(SHARES)))
    return tuple(bursts)


def labelled_stream(options: StreamOptions, seed: int) -> Iterator[Labelled]:
    """Make the reviews of one category, in the order of their arrival."""
    return iter(_Stream(options, random.Random(f"stream/{seed}")).reviews())


@dataclass
class _Stream:
    options: StreamOptions
    rng: random.Random
    now_s: float = 1.79e9
    run_left: int = 0
    made: list[Labelled] = field(default_factory=list)

    def reviews(self) -> list[Labelled]:
        for burst in self.options.bursts:
            self._usual(self.options.before)
            message = _Message(self.options.category, burst.kind, self.rng)
            left = burst.size
            while left:
                # Those of the burst come on top: traffic grows by their share.
                if self.rng.random() < burst.share:
                    self._step(burst.share)
                    self._add(1, message.text(), burst)
                    left -= 1
                else:
                    self._step(burst.share)
                    self._everyday()
        self._usual(self.options.before)
        return self.made

    def _usual(self, count: int) -> None:
        for _ in range(count):
            self._step(0.0)
            self._everyday()

    def _step(self, share: float) -> None:
        day = 1 + 0.6 * math.sin(2 * math.pi * self.now_s / _DAY_S)
        self.now_s += self.rng.expovariate(self.options.reviews_per_s * day / (1 - share))

    def _everyday(self) -> None:
        rng = self.rng
        if not self.run_left and rng.random() < _RUN_SHARE:
            self.run_left = rng.randint(4, 12)
        if self.run_left:
            self.run_left -= 1
            rating = rng.choice((1, 1, 2))
        else:
            rating = rng.choices((1, 2, 3, 4, 5), _RATING_WEIGHTS)[0]
        self._add(rating, texts.review_text(self.options.category, rating, rng), None)

    def _add(self, rating: int, body: str, burst: Burst | None) -> None:
        rng = self.rng
        if rng.random() < _WRONG_PREDICTION:
            rating = min(5, max(1, rating + rng.choice((-1, 1))))
        event_time_s = self.now_s - _MAX_DISORDER_S * rng.random() ** 2
        self.made.append(Labelled(rating, body, round(event_time_s * 1_000), burst))


class _Message:
    """What a campaign has to say, word by word or in ever other words."""

    def __init__(self, category: str, kind: Kind, rng: random.Random) -> None:
        self._kind, self._rng = kind, rng
        self._sentences = texts.furious_text(category, rng).split(". ")
        self._category = category

    def text(self) -> str:
        if self._kind == "identical":
            return ". ".join(self._sentences)
        rng, sentences = self._rng, []
        for sentence in rng.sample(self._sentences, len(self._sentences)):
            words = [
                rng.choice(_OTHER_WORDS) if rng.random() < 0.12 else word
                for word in sentence.split(" ")
                if rng.random() > 0.08
            ]
            sentences.append(" ".join(words))
        if len(sentences) > 2 and rng.random() < 0.3:
            sentences.pop()
        if rng.random() < 0.3:
            sentences.append(texts.review_text(self._category, 1, rng).split(". ")[0])
        return ". ".join(sentences)


_OTHER_WORDS = (
    "really", "honestly", "this", "thing", "never", "again", "awful", "bad", "people", "should",
    "know", "money", "avoid", "seller", "simply", "such", "rubbish", "everyone", "please", "what",
)  # fmt: skip
