"""The limit by itself, and a scorer against endpoints that throttle, in virtual time."""

import asyncio
import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.virtual_time import run
from udfs.core.concurrency import REJECTED, ConcurrencyLimit
from udfs.core.failures import EndpointError, FailureKind
from udfs.core.invocations import Answer, ScoringOptions
from udfs.core.predictions import Scored
from udfs.core.scoring import Scorer


def test_a_burst_of_throttled_requests_decreases_the_limit_once() -> None:
    async def burst(limit: ConcurrencyLimit) -> None:
        async def request() -> None:
            async with limit.slot() as slot:
                await asyncio.sleep(0.1)
                limit.failed(slot, REJECTED)

        await asyncio.gather(*(request() for _ in range(requests)))

    limit, requests = ConcurrencyLimit(10, 10.0, first=10), 10
    run(burst(limit))
    assert limit.slots == 7
    requests = 7
    run(burst(limit))
    # Nothing was answered since the burst before.
    assert limit.slots == 1


def test_rejections_between_answers_leave_a_share_of_the_limit() -> None:
    async def one_of_two_is_answered() -> None:
        for _ in range(2):
            slots = [await limit.acquire() for _ in range(limit.slots)]
            limit.failed(slots[0], REJECTED)
            limit.answered(slots[1], 64, 0.1)
            for _ in slots:
                limit.release()

    limit = ConcurrencyLimit(10, 10.0, first=10)
    run(one_of_two_is_answered())
    assert limit.slots == 5


def test_the_limit_doubles_with_each_round_trip_until_something_fails() -> None:
    async def requests() -> None:
        async def request() -> None:
            async with limit.slot() as slot:
                await asyncio.sleep(0.1)
                limit.answered(slot, 64, 0.1)
                slots.append(limit.slots)

        await asyncio.gather(*(request() for _ in range(100)))

    limit, slots = ConcurrencyLimit(32, 10.0), []
    run(requests())
    assert [slots[place] for place in (0, 2, 6, 14, 30)] == [2, 4, 8, 16, 32]


def test_a_queue_lowers_the_limit_before_requests_time_out() -> None:
    async def requests() -> None:
        async def request() -> None:
            async with limit.slot() as slot:
                begin_s = asyncio.get_running_loop().time()
                async with workers:
                    await asyncio.sleep(2.0)
                latency_s = asyncio.get_running_loop().time() - begin_s
                latencies_s.append(latency_s)
                limit.answered(slot, 64, latency_s)

        workers = asyncio.Semaphore(2)
        await asyncio.gather(*(request() for _ in range(200)))

    limit, latencies_s = ConcurrencyLimit(32, 10.0), []
    run(requests())
    assert max(latencies_s) < 10.0
    assert limit.slots <= 5


def test_answers_add_a_slot_in_two_round_trips_up_to_the_most() -> None:
    limit, slots = ConcurrencyLimit(6, 10.0, first=6), []

    async def throttle() -> None:
        for _ in range(10):
            async with limit.slot() as slot:
                limit.failed(slot, REJECTED)

    async def request() -> None:
        async with limit.slot() as slot:
            await asyncio.sleep(0.1)
            limit.answered(slot, 64, 0.1)
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
        async with limit.slot() as slot:
            limit.failed(slot, REJECTED)
        for _ in range(100):
            async with limit.slot() as slot:
                limit.answered(slot, 64, 0.1)

    limit = ConcurrencyLimit(10, 10.0, first=10)
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

    limit = ConcurrencyLimit(most, 10.0, first=most)
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
            raise EndpointError("ThrottlingException", FailureKind.LOAD)
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
        assert scorer.slots >= 24

    endpoint = Limited(0, latency_s=0.084)
    scorer = Scorer(endpoint, ScoringOptions(max_request_rows=1), rng=random.Random(1))
    run(simulated())
