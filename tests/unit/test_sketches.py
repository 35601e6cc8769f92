import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.sketches import DistinctSketch, merge_estimate


def sketch_of(texts: object, lg_k: int = 12) -> DistinctSketch:
    sketch = DistinctSketch(lg_k)
    for text in texts:  # type: ignore[attr-defined]
        sketch.add(text)
    return sketch


@given(st.lists(st.text(min_size=1), max_size=200))
def test_small_sets_are_counted_nearly_exactly(texts: list[str]) -> None:
    sketch = sketch_of(texts)
    assert sketch.estimate == pytest.approx(len(set(texts)), rel=0.001)
    lower, upper = sketch.bounds
    assert lower <= sketch.estimate <= upper


@pytest.mark.parametrize("count", [10_000, 200_000])
def test_large_sets_are_within_three_standard_errors(count: int) -> None:
    sketch = sketch_of(f"R{number}" for number in range(count))
    assert sketch.estimate == pytest.approx(count, rel=3 * 1.04 / 64)
    assert len(sketch.to_bytes()) < 3_000


@given(st.integers(0, 3_000), st.integers(0, 3_000))
def test_merging_is_adding(ours: int, theirs: int) -> None:
    one = sketch_of(f"R{number}" for number in range(ours))
    other = sketch_of(f"R{number}" for number in range(theirs))
    merged = merge_estimate([one.to_bytes(), other.to_bytes()])
    assert merged == pytest.approx(max(ours, theirs), rel=3 * 1.04 / 64)


@pytest.mark.parametrize("count", [0, 3, 100, 50_000])
def test_a_restored_sketch_goes_on_as_the_one_before(count: int) -> None:
    sketch = sketch_of(f"R{number}" for number in range(count))
    restored = pickle.loads(pickle.dumps(sketch))
    for number in range(count, count + 1_000):
        sketch.add(f"R{number}")
        restored.add(f"R{number}")
    assert restored.to_bytes() == sketch.to_bytes()
    assert restored.estimate == sketch.estimate


def test_the_lesser_precision_wins() -> None:
    fine, coarse = sketch_of(map(str, range(5_000)), 14), sketch_of(map(str, range(5_000)), 8)
    fine.merge(coarse)
    assert len(fine.to_bytes()) < 300


def test_bytes_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="not an HLL sketch"):
        DistinctSketch.from_bytes(b"something else")
