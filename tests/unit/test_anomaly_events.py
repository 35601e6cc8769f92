import json
import random
from pathlib import Path

import pytest

from tests.anomalies.bursts import Burst, StreamOptions, labelled_stream
from udfs.core.anomaly_events import (
    CALM_REVIEWS,
    AnomalyTracker,
    Judgement,
    StateVersionError,
)
from udfs.core.review_features import make_review_detector
from udfs.core.scored_records import ScoredReview
from udfs.core.simhash import bit_counts, simhash

THRESHOLD = 0.9999
SAVED = Path(__file__).parent / "saved"


def review(number: int, star_rating: int, body_length: int, fingerprint: int) -> ScoredReview:
    return ScoredReview(
        "reviews", "s", str(number), f"R{number}", star_rating, "Café", body_length,
        number * 2_000, fingerprint, "All of it",
    )  # fmt: skip


def usual(count: int, seed: int = 1, start: int = 0) -> list[ScoredReview]:
    rng = random.Random(seed)
    return [
        review(
            start + number,
            rng.choice((1, 3, 4, 5, 5)),
            round(rng.lognormvariate(4.5, 0.6)),
            rng.getrandbits(64) - 2**63,
        )
        for number in range(count)
    ]


def campaign(count: int, start: int) -> list[ScoredReview]:
    return [review(number, 1, 900, 12_345) for number in range(start, start + count)]


def new_tracker() -> AnomalyTracker:
    return AnomalyTracker(make_review_detector(), THRESHOLD)


def tracked(tracker: AnomalyTracker, reviews: list[ScoredReview]) -> list[Judgement]:
    return tracker.track(reviews)


def alerts(judgements: list[Judgement]) -> list[str]:
    return [judgement.event_id or "" for judgement in judgements if judgement.alert]


def test_an_event_gives_one_alert_and_closes_when_it_is_calm() -> None:
    tracker = new_tracker()
    assert alerts(tracked(tracker, usual(600))) == []
    judgements = tracked(tracker, campaign(60, start=600))
    assert alerts(judgements) == ["Café-1"]
    opened = next(place for place, each in enumerate(judgements) if each.alert)
    assert opened < 15
    assert {each.event_id for each in judgements[opened:]} == {"Café-1"}
    after = tracked(tracker, usual(800, seed=2, start=660))
    assert alerts(after) == []
    belonging = [place for place, each in enumerate(after) if each.event_id is not None]
    assert belonging == list(range(len(belonging)))
    assert CALM_REVIEWS <= len(belonging) < 300
    again = tracked(tracker, campaign(60, start=1_460))
    assert alerts(again) == ["Café-2"]


def test_an_alert_reads_well_and_parses() -> None:
    tracker = new_tracker()
    tracked(tracker, usual(600))
    judgements = tracked(tracker, campaign(60, start=600))
    (judgement,) = [each for each in judgements if each.alert]
    alert = json.loads(judgement.alert or "")
    assert alert["event_id"] == judgement.event_id == "Café-1"
    assert alert["anomaly_score"] == judgement.anomaly_score >= alert["threshold"] == THRESHOLD
    assert alert["severity"] in ("notable", "serious", "critical")
    assert alert["summary"].startswith(
        f"{alert['severity'].capitalize()}: reviews of Café have changed: "
    )
    assert alert["explanation"] == json.loads(judgement.explanation or "")
    shares = [part["share"] for part in alert["explanation"].values()]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert shares == sorted(shares, reverse=True)
    assert alert["records"]["reviews"] == 30
    assert alert["records"]["last"]["review_id"] == alert["review_id"]
    # Of the newest 30 those that show it: from the campaign alone, though it has just begun.
    assert len(alert["examples"]) == 5
    assert all(int(each["review_id"][1:]) >= 600 for each in alert["examples"])
    assert all(each["excerpt"] == "All of it" for each in alert["examples"])


def test_state_goes_on_where_it_was_and_is_tens_of_kilobytes() -> None:
    straight, stopped = new_tracker(), new_tracker()
    reviews = [*usual(700), *campaign(50, start=700), *usual(50, seed=3, start=750)]
    expected = tracked(straight, reviews)
    found = []
    for start in range(0, len(reviews), 41):
        found += tracked(stopped, reviews[start : start + 41])
        dump = stopped.dump()
        assert len(dump) < 100_000
        stopped = new_tracker()
        stopped.load(dump)
    assert found == expected
    assert alerts(found) == ["Café-1"]


def test_state_that_was_written_before_is_read() -> None:
    """The file was written by `dump` after `usual(400)`, and is never written again."""
    tracker, now = new_tracker(), new_tracker()
    tracker.load((SAVED / "anomaly-2.json").read_bytes())
    tracked(now, usual(400))
    following = [*usual(100, seed=4, start=400), *campaign(40, start=500)]
    found = tracked(tracker, following)
    assert alerts(found) == ["Café-1"]
    assert [each.event_id for each in found] == [each.event_id for each in tracked(now, following)]


def test_state_of_another_version_is_refused() -> None:
    tracker = new_tracker()
    other = json.dumps(json.loads(tracker.dump()) | {"version": 3}).encode()
    with pytest.raises(StateVersionError, match="version 3; this release reads 1 and 2"):
        tracker.load(other)


def test_of_the_first_version_event_ids_go_on() -> None:
    """The file was written by the first version, after an event."""
    tracker = new_tracker()
    tracker.load((SAVED / "anomaly-1.json").read_bytes())
    found = tracked(tracker, [*usual(600), *campaign(60, start=600)])
    assert {each.anomaly_score for each in found[:100]} == {0.0}
    assert alerts(found) == ["Café-2"]


@pytest.mark.parametrize("kind", ["identical", "paraphrased"])
def test_a_campaign_is_found_and_bad_luck_is_not(kind: str) -> None:
    burst = Burst(0, "identical" if kind == "identical" else "paraphrased", 60, 0.3)
    options = StreamOptions("Gift_Card", (burst,), before=1_000)
    stream = list(labelled_stream(options, seed=11))
    fingerprints = simhash([each.body for each in stream]).tolist()
    tracker = new_tracker()
    opened = [
        number
        for number, (each, fingerprint) in enumerate(zip(stream, fingerprints, strict=True))
        if tracker.track(
            [
                ScoredReview(
                    "reviews",
                    "s",
                    str(number),
                    "R",
                    each.star_rating,
                    "Gift_Card",
                    len(each.body),
                    each.event_time_ms,
                    fingerprint,
                )
            ]
        )[0].alert
    ]
    of_burst = [number for number, each in enumerate(stream) if each.burst]
    # With little history a chance likeness is news; from the 700th review on nothing but the burst.
    (alert,) = [number for number in opened if number >= 700]
    assert of_burst[0] < alert <= of_burst[-1]


def test_near_duplicates_have_fingerprints_near_each_other() -> None:
    fingerprints = simhash(
        [
            "This game is a total waste of money, do not buy it, I want a refund",
            "this game is a total waste of money: do not buy it! I want my refund",
            "Lovely songs and a great sound, my daughter plays them all the time",
            "...",
            None,
        ]
    )
    near, far = bit_counts(fingerprints[1:3] ^ fingerprints[0])
    assert near <= 12 < far
    assert fingerprints[3:].tolist() == [0, 0]
