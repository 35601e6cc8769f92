"""The arithmetic by which detectors are compared."""

import numpy as np
import pytest

from tests.anomalies.bursts import Burst, StreamOptions
from tests.anomalies.quality import Stream, alerts_of, cusum_delay_reviews, judge, threshold_for

BURST = Burst(0, "identical", 60, 0.5)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream.make(StreamOptions("Gift_Card", (BURST,), before=400), seed=1)


def test_an_alert_with_the_first_review_of_a_burst_is_perfect(stream: Stream) -> None:
    places = stream.bursts()[BURST]
    assert len(places) == BURST.size
    found = judge([stream], [[places[0]]]).figures()
    assert (found["burst_recall"], found["median_delay_reviews"]) == (1, 1)
    assert found["false_alerts_per_10k"] == 0


def test_silence_finds_nothing_and_is_never_wrong(stream: Stream) -> None:
    found = judge([stream], [[]]).figures()
    assert (found["burst_recall"], found["median_delay_reviews"]) == (0, None)
    assert found["false_alerts_per_10k"] == 0


def test_alerts_before_a_burst_are_false_and_those_just_after_are_nothing(stream: Stream) -> None:
    places = stream.bursts()[BURST]
    found = judge([stream], [[places[0] - 1, places[-1] + 1]]).figures()
    assert found["burst_recall"] == 0
    assert found["false_alerts_per_10k"] == pytest.approx(10_000 / len(stream.labelled), abs=0.01)


def test_the_delay_counts_the_bursts_own_reviews_alone(stream: Stream) -> None:
    places = stream.bursts()[BURST]
    (outcome,) = judge([stream], [[places[4] - 1]]).outcomes
    assert outcome.delay_reviews in (3, 4)
    (outcome,) = judge([stream], [[places[9], places[20]]]).outcomes
    assert outcome.delay_reviews == 10


def test_every_burst_stands_in_the_table_by_size_share_and_kind(stream: Stream) -> None:
    table = judge([stream], [[]]).table()
    assert {name: row["bursts"] for name, row in table.items() if row["bursts"]} == {
        "50% of the traffic": 1,
        "identical": 1,
    }


def test_a_threshold_allows_one_false_alert_in_ten_thousand() -> None:
    rng = np.random.default_rng(1)
    quiet = [rng.random(20_000) for _ in range(2)]
    threshold = threshold_for(quiet)
    assert 0 < sum(len(alerts_of(scores, threshold)) for scores in quiet) <= 4


def test_a_cusum_that_knows_both_distributions_finds_a_burst_soon(stream: Stream) -> None:
    quiet = Stream.make(StreamOptions("Gift_Card", (), before=6_000), seed=2)
    assert 3 < cusum_delay_reviews([stream], [quiet]) < 30
