import bisect
import pickle
import random
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from datasketches import hll_sketch, hll_union, tgt_hll_type
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.sketches import DistinctSketch, LengthSketch, TermSketch, merge_estimate


def sketch_of(texts: Iterable[str], lg_k: int = 12) -> DistinctSketch:
    sketch = DistinctSketch(lg_k)
    sketch.update(texts)
    return sketch


def ids(*numbers: int) -> list[str]:
    return [f"R{number}" for number in numbers]


def registers(sketch: DistinctSketch) -> dict[int, int]:
    """Return the registers that are not 0.

    By the format of DataSketches: up to some hundred texts are a list or set of coupons, 26 bits of
    address below 6 of value; more are registers.
    """
    stored = hll_sketch.deserialize(sketch.to_bytes())
    union = hll_union(stored.lg_config_k)
    union.update(stored)
    result = union.get_result(tgt_hll_type.HLL_8)
    data = np.frombuffer(bytes(result.serialize_compact()), dtype=np.uint8)
    mode, of_list, of_set, of_registers = data[7] & 3, 8, 12, 40
    if mode == 2:
        return {place: int(value) for place, value in enumerate(data[of_registers:]) if value}
    coupons = data[of_list if mode == 0 else of_set :].view(np.uint32)
    found: dict[int, int] = {}
    for coupon in coupons.tolist():
        place = coupon & (2**stored.lg_config_k - 1)
        found[place] = max(coupon >> 26, found.get(place, 0))
    return found


@given(st.lists(st.text(min_size=1), max_size=200))
def test_small_sets_are_counted_nearly_exactly(texts: list[str]) -> None:
    sketch = sketch_of(texts)
    assert sketch.estimate == pytest.approx(len(set(texts)), rel=0.001)
    lower, upper = sketch.bounds
    assert lower <= sketch.estimate <= upper


@pytest.mark.parametrize("count", [10_000, 200_000])
def test_large_sets_are_within_three_standard_errors(count: int) -> None:
    sketch = sketch_of(ids(*range(count)))
    assert sketch.estimate == pytest.approx(count, rel=3 * 1.04 / 64)
    assert len(sketch.to_bytes()) < 3_000


# Of every mode of a sketch with 2^12 registers, and next to where the modes change.
counts = st.sampled_from([0, 1, 7, 8, 30, 200, 383, 384, 385, 500, 3_000])
seeds = st.integers(0, 2**32)


def split(all_ids: list[str], seed: int, parts: int) -> list[list[str]]:
    """Return the ids shuffled, some of them twice, in so many parts of any length."""
    rng = random.Random(seed)
    again = [*all_ids, *all_ids[: rng.randint(0, len(all_ids))]]
    rng.shuffle(again)
    cuts = sorted(rng.randint(0, len(again)) for _ in range(parts - 1))
    return [again[a:b] for a, b in zip([0, *cuts], [*cuts, len(again)], strict=True)]


@given(counts, seeds, st.integers(1, 7))
def test_registers_are_the_same_after_any_order_and_grouping(
    count: int, seed: int, number: int
) -> None:
    whole, parts = sketch_of(ids(*range(count))), split(ids(*range(count)), seed, number)
    one_by_one, pairwise = DistinctSketch(12), [sketch_of(part) for part in parts]
    for part in parts:
        one_by_one.merge(sketch_of(part))
    while len(pairwise) > 1:
        first, second = pairwise.pop(0), pairwise.pop(0)
        second.merge(first)
        pairwise.append(second)
    for merged in (one_by_one, *pairwise):
        assert registers(merged) == registers(whole)
        # Hence a window that is published again has the same estimate.
        assert (merged.estimate, merged.bounds) == (whole.estimate, whole.bounds)


@given(counts, seeds, st.sampled_from([4, 8, 12, 14]))
def test_repeated_input_changes_nothing(count: int, seed: int, lg_k: int) -> None:
    sketch = sketch_of(ids(*range(count)), lg_k)
    before = registers(sketch)
    for part in split(ids(*range(count)), seed, 3):
        sketch.update(part)
    sketch.merge(sketch_of(ids(*range(count)), lg_k))
    sketch.merge(sketch)
    assert registers(sketch) == before


@pytest.mark.parametrize("count", [0, 3, 100, 383, 384, 50_000])
def test_a_restored_sketch_goes_on_as_the_one_before(count: int) -> None:
    sketch = sketch_of(ids(*range(count)))
    restored = pickle.loads(pickle.dumps(sketch))
    assert registers(restored) == registers(sketch)
    for each in (sketch, restored):
        each.update(ids(*range(count, count + 1_000)))
    assert registers(restored) == registers(sketch)
    assert restored.estimate == sketch.estimate


def test_the_lesser_precision_wins() -> None:
    fine, coarse = sketch_of(map(str, range(5_000)), 14), sketch_of(map(str, range(5_000)), 8)
    coarse_bytes = coarse.to_bytes()
    for ours, theirs in ((fine, coarse), (coarse, DistinctSketch.from_bytes(fine.to_bytes()))):
        ours.merge(theirs)
        assert registers(ours) == registers(DistinctSketch.from_bytes(coarse_bytes))


def test_merged_bytes_are_estimated_together() -> None:
    parts = [sketch_of(ids(*range(start, start + 2_000))).to_bytes() for start in (0, 1_000)]
    assert merge_estimate(parts) == pytest.approx(3_000, rel=3 * 1.04 / 64)


@pytest.mark.parametrize("sketch", [DistinctSketch, LengthSketch, TermSketch])
@pytest.mark.parametrize("data", [b"", b"abc", b"something else, and some more of it"])
def test_bytes_of_something_else_are_refused(
    sketch: type[DistinctSketch | LengthSketch | TermSketch], data: bytes
) -> None:
    with pytest.raises(ValueError, match="not a"):
        sketch.from_bytes(data)


@given(
    st.lists(st.lists(st.integers(0, 716_800), max_size=400), min_size=1, max_size=12),
    st.floats(0.0, 1.0),
)
def test_quantiles_are_within_the_bound_of_the_sketch(parts: list[list[int]], rank: float) -> None:
    merged = LengthSketch()
    for part in parts:
        sketch = LengthSketch()
        sketch.update(part)
        merged.merge(pickle.loads(pickle.dumps(sketch)))
    lengths = sorted(length for part in parts for length in part)
    assert merged.count == len(lengths)
    if not lengths:
        assert merged.quantiles([rank]) == []
        return
    (quantile,) = merged.quantiles([rank])
    assert quantile in lengths
    # The stated bound holds for 99 of 100; all of what may be drawn here is within twice of it.
    allowed = 2 * merged.rank_error if len(lengths) > 200 else 1e-9
    assert bisect.bisect_left(lengths, quantile) / len(lengths) <= rank + allowed
    assert bisect.bisect_right(lengths, quantile) / len(lengths) >= rank - allowed


def test_quantiles_are_within_the_bound_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    misses = 0
    for _ in range(300):
        lengths = rng.integers(1, 5_000, 20_000)
        merged = LengthSketch()
        for part in np.array_split(lengths, 20):
            sketch = LengthSketch()
            sketch.update(part.tolist())
            merged.merge(sketch)
        (quantile,) = merged.quantiles([0.5])
        misses += abs(np.mean(lengths <= quantile) - 0.5) > merged.rank_error
    assert misses <= 300 * 0.05


@given(
    st.lists(
        st.dictionaries(st.integers(0, 3_000).map("t{}".format), st.integers(1, 1_000)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 3_000),
)
def test_terms_are_counted_within_the_bound_of_the_sketch(
    parts: list[dict[str, int]], spread: int
) -> None:
    # Beside what is drawn, more different terms than the sketch has room for.
    parts = [*parts, {f"t{number}": 1 for number in range(spread)}]
    merged, truth = TermSketch(), Counter[str]()
    for part in parts:
        sketch = TermSketch()
        sketch.update(part)
        merged.merge(pickle.loads(pickle.dumps(sketch)))
        truth.update(part)
    assert merged.total == truth.total()
    allowed = TermSketch.MAX_ERROR * truth.total()
    found = merged.top(10_000)
    for item in found:
        assert item.lower <= truth[item.text] <= item.upper
        assert item.upper - item.lower <= allowed
    missing = truth.keys() - {item.text for item in found}
    assert all(truth[text] <= allowed for text in missing)
    if len(truth) <= 700:
        assert {item.text: item.lower for item in found} == truth
    assert merged.top(3) == found[:3]
    assert [item.upper for item in found] == sorted((i.upper for i in found), reverse=True)
