"""How far behind a job is, told from counts."""

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.lag import LagSeries

STEPS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), min_size=1, max_size=40)


@given(STEPS)
def test_a_lag_is_the_age_of_the_oldest_record_that_is_not_through(
    steps: list[tuple[int, int]],
) -> None:
    lags, sent_at = LagSeries(), list[int]()
    through = 0
    for second, (sent, done) in enumerate(steps):
        sent_at += [second] * sent
        through = min(len(sent_at), through + done)
        expected = second - sent_at[through] if through < len(sent_at) else 0
        assert lags.add(second, len(sent_at), {"job": through}) == {"job": expected}


def test_the_last_sample_above_a_limit_is_found() -> None:
    lags = LagSeries()
    for second, through in enumerate([10, 10, 10, 50, 50, 60]):
        lags.add(second, 10 * (second + 1), {"steady": 10 * (second + 1), "job": through})
    # Behind by 0, 0, 1, 0, 0, 0 seconds: what is not through was sent in that very sample.
    assert lags.last_above({"steady": 0.0, "job": 0.5}) == 2
    assert lags.last_above({"steady": 0.0, "job": 1.0}) == 0
    assert (lags.highest("job", 0.0), lags.highest("job", 3.0), lags.highest("job", 9.0)) == (
        1,
        0,
        0,
    )
    assert lags.highest("steady", 0.0) == 0


def test_without_a_sample_nothing_is_behind() -> None:
    assert LagSeries().last_above({}) == LagSeries().highest("job", 0.0) == 0.0
