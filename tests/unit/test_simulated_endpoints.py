"""Whatever the endpoint does: no healthy row is given up, every poison row is, in bounded requests.

`make test-long` is the long run, with `SIMULATED_CASES=10000`.
"""

import math
import os
import random
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

from tests.unit.simulated_endpoint import (
    Poison,
    SimulatedEndpoint,
    SimulatedVariant,
    rating_of,
)
from tests.unit.virtual_time import run
from udfs.core.failures import EndpointUnavailableError
from udfs.core.invocations import ScoringOptions
from udfs.core.predictions import Failed, Scored
from udfs.core.scoring import Scorer
from udfs.core.trials import part_rows

CASES = int(os.environ.get("SIMULATED_CASES", "500"))
BATCHES = 3
REQUESTS_OF_A_POISON_ROW = 40


@dataclass(frozen=True)
class Case:
    """One endpoint, and the batches that it is asked."""

    seed: int
    rows: int
    variants: dict[str, SimulatedVariant]
    preferences: list[str | None]
    poison: dict[str, Poison]
    options: ScoringOptions

    @property
    def texts(self) -> list[str]:
        return [f"text {row}" for row in range(self.rows)]

    def best_rows(self, variant: SimulatedVariant) -> int:
        """Rows of a request of a client that knows the latency, by the same options."""
        options = self.options
        quick = max(64.0, (options.request_time_s - variant.latency_s) / variant.row_s)
        longest_s = options.attempt_timeout_s / 4
        longest = (longest_s - variant.latency_s) / variant.row_s
        return max(1, min(options.max_request_rows, int(quick), int(longest)))

    def requests_of_an_oracle(self) -> int:
        """Requests a batch of a client that also knows the capacity.

        What names different variants, or one that is not there, cannot share requests.
        """
        fit, requests = self.fit(), 0
        for preferred in set(self.preferences):
            rows = self.preferences.count(preferred)
            chosen = [fit[preferred]] if preferred in fit else list(fit.values())
            # Nobody knows which variant the endpoint will choose.
            requests += math.ceil(rows / min(map(self.best_rows, chosen)))
        return requests

    def fit(self) -> dict[str, SimulatedVariant]:
        return {name: v for name, v in self.variants.items() if v.broken_status is None}

    def shares(self, fit: dict[str, SimulatedVariant]) -> dict[str, float]:
        free = sum(preferred not in fit for preferred in self.preferences)
        weights = sum(v.weight for v in fit.values())
        return {
            name: sum(preferred == name for preferred in self.preferences)
            + free * v.weight / weights
            for name, v in fit.items()
        }

    def work_s(self) -> float:
        """How long the endpoint works on a batch, if it is asked as well as can be."""
        fit = self.fit()
        slowest_s = 0.0
        for name, rows in self.shares(fit).items():
            v = fit[name]
            best = min(map(self.best_rows, fit.values()))
            requests = math.ceil(rows / best)
            request_s = v.latency_s + v.row_s * min(best, rows)
            rounds = math.ceil(requests / min(v.capacity, self.options.max_in_flight))
            slowest_s = max(slowest_s, rounds * request_s)
        return slowest_s + sum(self.verdict_s(kind, fit) for kind in self.poison.values())

    def verdict_s(self, kind: Poison, fit: dict[str, SimulatedVariant]) -> float:
        """How long it takes at least to be sure of a poison row, as the rules are."""
        levels, rows = 0, self.options.max_request_rows
        while rows > 1:
            levels, rows = levels + 1, part_rows(rows)
        attempts = self.options.max_attempts
        answer_s = max(v.latency_s + 8 * v.row_s for v in fit.values())
        if kind == "hang":
            held_s = [
                self.options.attempt_timeout_s if v.notices_departures else v.hang_s + 10
                for v in fit.values()
            ]
            return (levels + 2 + attempts) * max(held_s) + 30 * answer_s
        if kind == "crash":
            recovery_s = max(v.recovery_s for v in fit.values())
            return (levels + 2 + 2 * attempts) * (3 * recovery_s + 1) + 40 * answer_s
        return (8 * levels + 40) * answer_s


def variants() -> st.SearchStrategy[SimulatedVariant]:
    return st.builds(
        SimulatedVariant,
        capacity=st.sampled_from([1, 2, 3, 4, 8, 16, 32, 64]),
        overload=st.sampled_from(["queue", "throttle", 0, 429, 500, 502, 503, 504]),
        latency_s=st.sampled_from([0.001, 0.02, 0.1, 0.3, 1.0]),
        row_s=st.sampled_from([0.00001, 0.0003, 0.001, 0.02, 0.05, 0.2]),
        notices_departures=st.booleans(),
        hang_s=st.sampled_from([2.0, 60.0]),
        recovery_s=st.sampled_from([0.05, 0.5, 1.0]),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = draw(st.sampled_from([1, 2, 5, 8, 40, 300, 2_000]))
    found = {"A": draw(variants())}
    preferences: list[str | None] = [None] * rows
    if draw(st.booleans()):
        found["B"] = draw(variants())
        if draw(st.booleans()):
            found["B"].broken_status = draw(st.sampled_from([400, 404, 415]))
            found["B"].weight = draw(st.sampled_from([1.0, 9.0]))
        choices = draw(st.lists(st.sampled_from([None, "A", "B", "gone"]), min_size=1, max_size=4))
        preferences = [choices[row % len(choices)] for row in range(rows)]
    most = draw(st.sampled_from([0, 0, 1, 3, 10]))
    places = draw(st.lists(st.integers(0, rows - 1), max_size=min(most, rows), unique=True))
    kinds = st.sampled_from(["reject", "fail", "malformed", "hang", "crash"])
    return Case(
        draw(st.integers(0, 10_000)),
        rows,
        found,
        preferences,
        {f"text {row}": draw(kinds) for row in places},
        ScoringOptions(),
    )


@settings(
    max_examples=CASES,
    deadline=None,
    # The long run looks for new cases, the test suite is to find the same each time.
    derandomize=CASES <= 500,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases())
# The control takes the only place there is: what is sent beside it is shed.
@example(
    Case(
        0,
        300,
        {"A": SimulatedVariant(capacity=1, overload=500, latency_s=0.3, row_s=0.001)},
        [None] * 300,
        {"text 149": "reject"},
        ScoringOptions(),
    )
)
@pytest.mark.timeout(3_600)
def test_an_endpoint_in_trouble_costs_time_and_poison_rows_alone(case: Case) -> None:
    endpoint = SimulatedEndpoint(case.variants, case.poison, case.seed)
    scorer = Scorer(endpoint, case.options, rng=random.Random(case.seed))
    must_finish = 3 * case.work_s() <= case.options.deadline_s
    is_all_poison = len(case.poison) == case.rows
    note(f"work {case.work_s():.1f} s, oracle {case.requests_of_an_oracle()} requests a batch")
    batches = 0

    async def batch() -> None:
        nonlocal batches
        try:
            results = await scorer.score(case.texts, case.preferences)
        except EndpointUnavailableError as error:
            # By chance an endpoint can go on choosing the variant that is broken.
            if must_finish and not is_all_poison and endpoint.misrouted <= 40:
                pytest.fail(str(error))
            return
        batches += 1
        for text, preferred, result in zip(case.texts, case.preferences, results, strict=True):
            if text in case.poison:
                assert isinstance(result, Failed), text
            else:
                assert isinstance(result, Scored), result
                assert result.star_rating == rating_of(text)
                differs = preferred is not None and preferred != result.model_variant
                assert result.requested_variant == (preferred if differs else None)

    async def all_batches() -> None:
        for _ in range(BATCHES):
            await batch()

    run(all_batches())
    note(f"{endpoint.requests} requests")
    if batches == BATCHES:
        most = 4 * case.requests_of_an_oracle() + REQUESTS_OF_A_POISON_ROW * len(case.poison)
        # Until its size, its speed and its variants are known.
        learning = 8 * len(set(case.preferences))
        assert endpoint.requests - endpoint.misrouted <= BATCHES * most + learning
