"""What detectors find in labelled streams of reviews, how late, and how often they are wrong.

All get the same features and the same rule that makes events of scores. Ours has the threshold that
the job has by default; each other one that which gives it about one false alert in 10,000 reviews
on quiet streams of other seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from flink_jobs.config import AnomaliesConfig
from tests.anomalies import rivals
from tests.anomalies.bursts import (
    SHARES,
    SIZES,
    Burst,
    Labelled,
    StreamOptions,
    burst_plan,
    labelled_stream,
)
from tests.anomalies.calibration import LEVELS, STREAMS, frequencies
from tests.anomalies.scoring import evaluate
from tests.anomalies.series import catalogue
from udfs.core.anomaly import make_detector
from udfs.core.anomaly_events import CALM_REVIEWS, COOL_DOWN_REVIEWS, AnomalyTracker
from udfs.core.review_features import ReviewFeatures, make_review_detector
from udfs.core.scored_records import ScoredReview
from udfs.core.simhash import simhash

SEEDS = range(1, 21)
QUIET_SEEDS = range(101, 107)
CALIBRATION_SEEDS, CALIBRATION_RECORDS = range(6), 31_000
CATALOGUE_SEEDS = (1, 2)

BURSTS, QUIET_REVIEWS = 8, 12_000
LEAST_SIZE, LEAST_SHARE = 50, 0.1
"""Of the bursts that must be found."""

FALSE_PER_10K = 1.0
_AFTERMATH = 200
_BATCH = 500
_CATEGORY = "Gift_Card"
_WORN_PREDICTION = {1: 13 / 14, 2: 1 / 14}


@dataclass(frozen=True, slots=True)
class Stream:
    """A labelled stream as the detectors get it."""

    labelled: Sequence[Labelled]
    reviews: Sequence[ScoredReview]
    features: Sequence[Mapping[str, float]]

    @classmethod
    def make(cls, options: StreamOptions, seed: int) -> Stream:
        """Make a stream, with the fingerprints of its bodies and the features of its reviews."""
        labelled = list(labelled_stream(options, seed))
        fingerprints = simhash([each.body for each in labelled]).tolist()
        reviews = [
            ScoredReview(
                "reviews", "shard", str(number), f"R{number}", each.star_rating, options.category,
                len(each.body), each.event_time_ms, fingerprint, each.body[:160],
            )
            for number, (each, fingerprint) in enumerate(zip(labelled, fingerprints, strict=True))
        ]  # fmt: skip
        return cls(labelled, reviews, [each.x for each in ReviewFeatures().observe(reviews)])

    def bursts(self) -> dict[Burst, list[int]]:
        """Return the places of each burst's own reviews."""
        found: dict[Burst, list[int]] = {}
        for place, each in enumerate(self.labelled):
            if each.burst is not None:
                found.setdefault(each.burst, []).append(place)
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a burst: its own reviews up to the alert, None where there was none."""

    burst: Burst
    delay_reviews: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a detector's alerts in some streams amount to."""

    outcomes: Sequence[Outcome]
    false_alerts: int
    reviews: int

    def figures(self) -> dict[str, Any]:
        """Return recall and delay over the bursts that must be found, and false alerts."""
        large = [each for each in self.outcomes if _is_large(each.burst)]
        return {
            **_recall_and_delay(large),
            "false_alerts_per_10k": round(10_000 * self.false_alerts / self.reviews, 3),
        }

    def table(self) -> dict[str, dict[str, Any]]:
        """Return recall and delay by size, share and kind of all bursts."""
        groups: dict[str, Callable[[Burst], bool]] = {
            **{f"{size} reviews": partial(_has, "size", size) for size in SIZES},
            **{f"{share:.0%} of the traffic": partial(_has, "share", share) for share in SHARES},
            **{kind: partial(_has, "kind", kind) for kind in ("identical", "paraphrased")},
        }
        return {
            name: _recall_and_delay([each for each in self.outcomes if belongs(each.burst)])
            for name, belongs in groups.items()
        }


def _has(attribute: str, value: object, burst: Burst) -> bool:
    return bool(getattr(burst, attribute) == value)


def _is_large(burst: Burst) -> bool:
    return burst.size >= LEAST_SIZE and burst.share >= LEAST_SHARE


def _recall_and_delay(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    delays = [each.delay_reviews for each in outcomes if each.delay_reviews is not None]
    return {
        "burst_recall": round(len(delays) / len(outcomes), 4) if outcomes else None,
        "median_delay_reviews": median(delays) if delays else None,
        "bursts": len(outcomes),
    }


def labelled_streams(seeds: Sequence[int] = SEEDS) -> list[Stream]:
    """Return a stream a seed: with bursts of all kinds, and every fourth a quiet one."""
    return [
        Stream.make(
            StreamOptions(_CATEGORY, burst_plan(seed, BURSTS))
            if seed % 4
            else StreamOptions(_CATEGORY, (), before=QUIET_REVIEWS),
            seed,
        )
        for seed in seeds
    ]


def quiet_streams(seeds: Sequence[int] = QUIET_SEEDS) -> list[Stream]:
    """Return streams without any burst."""
    options = StreamOptions(_CATEGORY, (), before=QUIET_REVIEWS)
    return [Stream.make(options, seed) for seed in seeds]


def our_alerts(stream: Stream) -> list[int]:
    """Return the places of the reviews that open an event, as the job would have it."""
    options = AnomaliesConfig()
    detector = make_review_detector(warm_up=options.warm_up_reviews)
    tracker = AnomalyTracker(detector, options.threshold)
    return [
        start + place
        for start in range(0, len(stream.reviews), _BATCH)
        for place, each in enumerate(tracker.track(stream.reviews[start : start + _BATCH]))
        if each.alert
    ]


def alerts_of(scores: Sequence[float], threshold: float) -> list[int]:
    """Return where scores open an event, by the rule of `AnomalyTracker`.

    >>> alerts_of([0.0] * 5 + [1.0, 1.0] + [0.0] * 200 + [1.0], 0.5)
    [5, 207]
    """
    found: list[int] = []
    is_open, calm, since = False, 0, COOL_DOWN_REVIEWS
    for place, score in enumerate(scores):
        if score >= threshold:
            if not is_open and since >= COOL_DOWN_REVIEWS:
                found.append(place)
            is_open, calm = True, 0
        elif is_open:
            calm += 1
            if calm >= CALM_REVIEWS:
                is_open, calm, since = False, 0, 0
        else:
            since += 1
    return found


def threshold_for(all_scores: Sequence[Sequence[float]]) -> float:
    """Return the least threshold with no more false alerts on quiet streams than are allowed."""
    together = np.sort(np.concatenate([np.asarray(scores) for scores in all_scores]))
    allowed = FALSE_PER_10K * len(together) / 10_000
    best = float(together[-1]) + 1e-12
    for above in (2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000):
        threshold = float(together[-above])
        if sum(len(alerts_of(scores, threshold)) for scores in all_scores) > allowed:
            break
        best = threshold
    return best


def judge(streams: Sequence[Stream], all_alerts: Sequence[Sequence[int]]) -> Verdict:
    """Compare alerts with what is wrong in the streams.

    An alert within a burst finds it; one in the 200 reviews after is neither right nor false.
    """
    outcomes, false_alerts, reviews = [], 0, 0
    for stream, alerts in zip(streams, all_alerts, strict=True):
        reviews += len(stream.labelled)
        explained: set[int] = set()
        for burst, places in stream.bursts().items():
            inside = [alert for alert in alerts if places[0] <= alert <= places[-1]]
            explained |= {
                alert for alert in alerts if places[0] <= alert <= places[-1] + _AFTERMATH
            }
            delay = sum(place <= inside[0] for place in places) if inside else None
            outcomes.append(Outcome(burst, delay))
        false_alerts += len(set(alerts) - explained)
    return Verdict(outcomes, false_alerts, reviews)


def cusum_delay_reviews(streams: Sequence[Stream], quiet: Sequence[Stream]) -> float:
    """Return the median delay of a CUSUM of ratings that is told both distributions.

    It knows how ratings are distributed every day and in the burst with its share of the traffic,
    and sums log-likelihood ratios (E. S. Page, "Continuous Inspection Schemes", Biometrika, 1954),
    with about one false alert in 10,000 quiet reviews. What it misses counts with all its reviews.
    """
    everyday = np.bincount(
        [each.star_rating for stream in quiet for each in stream.labelled], minlength=6
    ) + np.array([0, 1, 1, 1, 1, 1])
    usual = everyday / everyday.sum()
    campaign = np.array([_WORN_PREDICTION.get(rating, 0.0) for rating in range(6)])
    gains, thresholds = {}, {}
    for share in SHARES:
        unusual = (1 - share) * usual + share * campaign
        gains[share] = np.log(np.maximum(unusual, 1e-12) / np.maximum(usual, 1e-12))
        thresholds[share] = threshold_for(
            [_cusum(stream.labelled, gains[share]) for stream in quiet]
        )
    delays = []
    for stream in streams:
        for burst, places in stream.bursts().items():
            if not _is_large(burst):
                continue
            sums = _cusum(stream.labelled[: places[-1] + 1], gains[burst.share])
            hit = next(
                (place for place in range(places[0], places[-1] + 1)
                 if sums[place] >= thresholds[burst.share]),
                places[-1],
            )  # fmt: skip
            delays.append(sum(place <= hit for place in places))
    return median(delays)


def _cusum(labelled: Sequence[Labelled], gains: Any) -> list[float]:
    total, sums = 0.0, []
    steps = gains.tolist()
    for each in labelled:
        total = max(0.0, total + steps[each.star_rating])
        sums.append(total)
    return sums


def simhash_per_s(streams: Sequence[Stream]) -> int:
    """Return how many bodies a core takes the fingerprints of in a second."""
    start_s = time.process_time()
    for stream in streams:
        bodies = [each.body for each in stream.labelled]
        for start in range(0, len(bodies), _BATCH):
            simhash(bodies[start : start + _BATCH])
    return _per_s(streams, time.process_time() - start_s)


def _per_s(streams: Sequence[Stream], seconds: float) -> int:
    return round(sum(len(stream.reviews) for stream in streams) / seconds)


def calibration() -> dict[str, dict[str, Any]]:
    """Return by stream how often scores are beyond one minus p, as a multiple of p."""
    found: dict[str, dict[str, Any]] = {}
    for name, kind in STREAMS.items():
        runs = [
            frequencies(
                make_detector,
                kind.make(np.random.default_rng(seed), CALIBRATION_RECORDS).tolist(),
            )
            for seed in CALIBRATION_SEEDS
        ]
        multiples = {p: float(np.mean([run[p] for run in runs])) / p for p in LEVELS}
        least = 0.5 if kind.is_continuous else 0.0
        found[name] = {f"p={p}": round(multiple, 2) for p, multiple in multiples.items()}
        found[name]["is_within"] = all(least <= each <= 2 for each in multiples.values())
    return found


def catalogue_scores() -> dict[str, float]:
    """Return what each detector is worth on the catalogue of series; see `scoring`."""
    series = [each for seed in CATALOGUE_SEEDS for each in catalogue(seed)]
    records = [
        [
            {"value": value, "t": number * each.interval_s}
            for number, value in enumerate(each.values.tolist())
        ]
        for each in series
    ]
    return {
        name: round(evaluate(series, score_all(records)).score, 1)
        for name, score_all in rivals.OF_SERIES.items()
    }


def figures(on_progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Return all figures, ours first, the others' in `rivals`."""
    on_progress("making streams of reviews")
    streams, quiet = labelled_streams(), quiet_streams()
    on_progress("ours")
    start_s = time.process_time()
    alerts = [our_alerts(stream) for stream in streams]
    core_s = time.process_time() - start_s
    ours = judge(streams, alerts)
    others = {}
    for name, score_all in rivals.OF_REVIEWS.items():
        on_progress(name)
        features = [stream.features for stream in (*quiet, *streams)]
        scores = score_all(features)
        threshold = threshold_for(scores[: len(quiet)])
        alerts = [alerts_of(each, threshold) for each in scores[len(quiet) :]]
        others[name] = judge(streams, alerts).figures()
    on_progress("calibration, and the catalogue of series")
    found = ours.figures()
    return {
        **found,
        "cusum_delay_reviews": cusum_delay_reviews(streams, quiet),
        "core_per_s": _per_s(streams, core_s),
        "simhash_per_s": simhash_per_s(streams),
        "rivals": others,
        "by_size_share_and_kind": ours.table(),
        "calibration": calibration(),
        "catalogue_score": catalogue_scores(),
    }
