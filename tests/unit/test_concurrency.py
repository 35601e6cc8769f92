"""The limit by itself, and a scorer against endpoints that throttle, in virtual time."""

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.virtual_time import run
from udfs.core.concurrency import ConcurrencyLimit
from udfs.core.predictions import Scored
from udfs.core.scoring import Answer, EndpointError, Scorer, ScoringOptions


def test_a_burst_of_throttled_requests_decreases_the_limit_once() -> None:
    async def burst(limit: ConcurrencyLimit) -> None:
        async def request() -> None:
            async with limit.slot() as sent:
                await asyncio.sleep(0.1)
                limit.throttled(sent)

        await asyncio.gather(*(request() for _ in range(10)))

    limit = ConcurrencyLimit(10)
    run(burst(limit))
    assert limit.slots == 7
    run(burst(limit))
    # The seven of the first round trip, then the three that waited.
    assert limit.slots == 3
    for _ in range(10):
        run(burst(limit))
    assert limit.slots == 1


def test_answers_add_a_slot_in_two_round_trips_up_to_the_most() -> None:
    limit, slots = ConcurrencyLimit(6), []

    async def throttle() -> None:
        for _ in range(10):
            async with limit.slot() as sent:
                limit.throttled(sent)

    async def request() -> None:
        async with limit.slot():
            await asyncio.sleep(0.1)
            limit.answered()
            slots.append(limit.slots)

    async def requests() -> None:
        await throttle()
        await asyncio.gather(*(request() for _ in range(100)))

    run(requests())
    assert slots[0] == 1
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(slots))
    assert slots[-1] == 6
    # Two round trips with one slot, two with two, and so on.
    assert 26 <= slots.index(6) <= 34


def test_answers_add_nothing_while_slots_are_free() -> None:
    async def one_at_a_time(limit: ConcurrencyLimit) -> None:
        async with limit.slot() as sent:
            limit.throttled(sent)
        for _ in range(100):
            async with limit.slot():
                limit.answered()

    limit = ConcurrencyLimit(10)
    run(one_at_a_time(limit))
    assert limit.slots == 7


@given(st.integers(1, 4), st.integers(1, 20), st.data())
def test_slots_are_neither_lost_nor_made_when_requests_are_cancelled(
    most: int, requests: int, data: st.DataObject
) -> None:
    steps = data.draw(st.lists(st.integers(0, requests - 1), max_size=20))

    async def cancelling() -> None:
        async def request() -> None:
            async with limit.slot():
                assert limit.in_flight <= most
                await asyncio.sleep(0.1)

        tasks = [asyncio.ensure_future(request()) for _ in range(requests)]
        for step in steps:
            await asyncio.sleep(0.03)
            tasks[step].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limit.in_flight == 0
        # Nobody waits for a slot that was lost.
        await asyncio.gather(*(request() for _ in range(most)))

    limit = ConcurrencyLimit(most)
    run(cancelling())


BATCH = 100


class Limited:
    """Serves so many requests at once, each for so long, and throttles the others at once."""

    def __init__(self, most: int, latency_s: float) -> None:
        self.most = most
        self.latency_s = latency_s
        self.served = 0
        self.requests = 0
        self.throttled = 0

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Answer:
        self.requests += 1
        if self.served >= self.most:
            self.throttled += 1
            await asyncio.sleep(0.002)
            raise EndpointError("ThrottlingException", is_retryable=True, is_throttling=True)
        self.served += 1
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.served -= 1
        return Answer([3] * len(texts), "A")


async def scored_for(scorer: Scorer, seconds: float) -> int:
    """Score batches for so long; return the rows."""
    rows, until_s = 0, asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until_s:
        results = await scorer.score(["a"] * BATCH)
        assert all(isinstance(result, Scored) for result in results)
        rows += len(results)
    return rows


@pytest.mark.parametrize(("most", "most_throttled"), [(1, 0.4), (4, 0.1), (12, 0.02)])
def test_an_endpoint_of_limited_capacity_is_used_well_and_hardly_throttles(
    most: int, most_throttled: float
) -> None:
    async def simulated() -> tuple[float, float]:
        await scored_for(scorer, 20.0)
        endpoint.requests = endpoint.throttled = 0
        rows, loop = await scored_for(scorer, 60.0), asyncio.get_running_loop()
        return rows / (loop.time() - 20.0), endpoint.throttled / endpoint.requests

    endpoint = Limited(most, latency_s=0.084)
    scorer = Scorer(endpoint, ScoringOptions(max_request_rows=1), rng=random.Random(1))
    rows_per_s, throttled_share = run(simulated())
    assert throttled_share < most_throttled
    assert rows_per_s > 0.7 * most / 0.084


def test_two_workers_share_an_endpoint_about_evenly() -> None:
    async def simulated() -> list[int]:
        return await asyncio.gather(*(scored_for(scorer, 60.0) for scorer in scorers))

    endpoint = Limited(16, latency_s=0.084)
    scorers = [
        Scorer(endpoint, ScoringOptions(max_request_rows=1), rng=random.Random(seed))
        for seed in (1, 2)
    ]
    few, many = sorted(run(simulated()))
    assert few > 0.6 * many


def test_an_endpoint_that_throttles_everything_is_asked_ever_more_rarely() -> None:
    async def simulated() -> None:
        scoring = asyncio.ensure_future(scorer.score(["a"] * BATCH))
        await asyncio.sleep(60.0)
        endpoint.requests = 0
        await asyncio.sleep(20.0)
        asked = endpoint.requests
        assert 1 <= asked <= 60
        endpoint.most = 32
        before_s = asyncio.get_running_loop().time()
        await scoring
        assert asyncio.get_running_loop().time() - before_s < 15.0
        # And is back at its speed soon afterwards.
        await scored_for(scorer, 10.0)
        assert scorer.limit.slots >= 24

    endpoint = Limited(0, latency_s=0.084)
    scorer = Scorer(endpoint, ScoringOptions(max_request_rows=1), rng=random.Random(1))
    run(simulated())
