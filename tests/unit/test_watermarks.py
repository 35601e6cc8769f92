import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.watermarks import ShardWatermarks, WatermarkOptions


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def watermarks(
    delay_s: float = 10, discovery_s: float = 0, idle_timeout_s: float = 30
) -> tuple[ShardWatermarks, Clock]:
    clock = Clock()
    return ShardWatermarks(WatermarkOptions(delay_s, discovery_s, idle_timeout_s), clock), clock


def test_there_is_none_during_discovery() -> None:
    marks, clock = watermarks(discovery_s=5)
    assert marks.advance({"a": 100_000}) is None
    clock.now_s = 4.9
    assert marks.advance({"a": 160_000}) is None
    clock.now_s = 5.0
    # What came first from a shard that was heard late still holds it.
    assert marks.advance({"b": 101_000}) == 91_000


def test_there_is_none_before_the_first_record() -> None:
    marks, _ = watermarks()
    assert marks.advance({}) is None


def test_event_times_before_the_epoch_count_too() -> None:
    marks, _ = watermarks(delay_s=1)
    assert marks.advance({"a": 1_000}) == 0
    assert marks.advance({"a": 500}) == 0


def test_an_idle_shard_holds_no_longer_and_may_come_back() -> None:
    marks, clock = watermarks(idle_timeout_s=20)
    assert marks.advance({"a": 100_000, "b": 100_000}) == 90_000
    for _ in range(3):
        clock.now_s += 5
        assert marks.advance({"a": 100_000 + round(clock.now_s * 1000)}) == 90_000
    clock.now_s += 5
    assert marks.advance({"a": 120_000}) == 110_000
    assert marks.advance({"b": 100_500}) == 110_000
    # It is heard again, and holds again.
    assert marks.advance({"a": 200_000}) == 110_000
    assert marks.advance({"b": 199_000}) == 189_000


def test_a_pause_of_all_shards_makes_none_idle() -> None:
    marks, clock = watermarks(idle_timeout_s=20)
    marks.advance({"a": 100_000, "b": 100_000})
    clock.now_s = 60
    # The first shard brings its whole backlog before the other is heard.
    assert marks.advance({"a": 160_000}) == 90_000
    clock.now_s = 61
    assert marks.advance({"b": 101_000}) == 91_000


def test_idle_shards_take_no_memory() -> None:
    marks, clock = watermarks(idle_timeout_s=1)
    for number in range(10_000):
        clock.now_s += 0.25
        marks.advance({f"shard {number}": number})
    assert len(marks._shards) < 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**6), st.floats(0, 60))))
def test_it_never_goes_back_and_never_overtakes_its_records(
    records: Iterable[tuple[str, int, float]],
) -> None:
    marks, clock = watermarks(delay_s=3, discovery_s=1, idle_timeout_s=10)
    before: int | None = None
    latest_ms = 0
    for shard, event_time_ms, pause_s in records:
        clock.now_s += pause_s
        latest_ms = max(latest_ms, event_time_ms)
        mark = marks.advance({shard: event_time_ms})
        if mark is not None:
            assert mark <= latest_ms - 3_000
        if before is not None:
            assert mark is not None
            assert mark >= before
        before = mark


@pytest.mark.parametrize("ahead", [1, 10, 60_000])
def test_no_record_of_a_backlog_is_late_however_far_a_shard_is_read_ahead(ahead: int) -> None:
    rng = random.Random(ahead)
    shards = {
        name: [second * 1000 - rng.randint(0, 9_999) for second in range(60, 120)]
        for name in ("a", "b", "c", "d")
    }
    marks, clock = watermarks(discovery_s=5)
    # All are heard within discovery; from then on one is read ahead of the others.
    for name, event_times in shards.items():
        clock.now_s += 1
        assert marks.advance({name: event_times.pop(0)}) is None
    clock.now_s += 5
    while shards:
        name = rng.choice(sorted(shards))
        for event_time_ms in shards[name][:ahead]:
            mark = marks.advance({name: event_time_ms})
            assert mark is None or event_time_ms > mark
        shards[name] = shards[name][ahead:]
        if not shards[name]:
            del shards[name]
