"""A watermark that follows every shard, not only the reader that reads several of them."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

_MAX_GAP_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class WatermarkOptions:
    """How the watermark follows the shards; all in seconds, none negative.

    Attributes
    ----------
    delay_s
        The watermark stays so far behind the latest event time of the slowest shard.
    discovery_s
        No watermark is emitted for this long after the first record: shards start one after the
        other, and records of the first must not make those of the others late.
    idle_timeout_s
        A shard that is silent for so long no longer counts.
    """

    delay_s: float = 10.0
    discovery_s: float = 5.0
    idle_timeout_s: float = 30.0


@dataclass(slots=True)
class _Shard:
    latest_ms: int
    heard_s: float


@dataclass(slots=True)
class ShardWatermarks:
    """The watermark of one reader of several shards: of one subtask of a source.

    Flink's own watermark takes all that a subtask reads as one stream. A backlog on several shards
    is then out of order by as much as one shard is read ahead of another, whatever the delay. Here
    every shard has its own latest event time, and the watermark is the least of these less the
    delay; it never goes back.

    Silence is measured on a clock of its own that takes no gap between two calls for more than a
    quarter of `idle_timeout_s`. Back pressure or an outage upstream silences all shards together;
    the one that is read first afterwards must not make the others idle, hence late.

    Memory: one entry a shard that is not idle.

    Parameters
    ----------
    options
        See `WatermarkOptions`.
    clock
        Seconds from any start, never going back.

    Examples
    --------
    >>> options = WatermarkOptions(delay_s=10, discovery_s=0)
    >>> watermarks = ShardWatermarks(options, clock=lambda: 0.0)
    >>> watermarks.advance({"shard 0": 60_000, "shard 1": 40_000})
    30000
    >>> watermarks.advance({"shard 0": 90_000})  # held by shard 1
    30000
    >>> watermarks.advance({"shard 1": 80_000})
    70000
    >>> watermarks.advance({"shard 2": 50_000})  # it never goes back
    70000
    """

    options: WatermarkOptions
    clock: Callable[[], float]
    _shards: dict[Hashable, _Shard] = field(default_factory=dict)
    _watermark_ms: int | None = None
    _called_s: float | None = None
    _elapsed_s: float = 0.0

    def advance(self, latest_ms: Mapping[Hashable, int]) -> int | None:
        """Take some records and return the watermark after them.

        Parameters
        ----------
        latest_ms
            The latest event time of each shard that the records come from, in milliseconds since
            the epoch. A shard is whatever is in order but for the delay.

        Returns
        -------
        int or None
            Milliseconds since the epoch; None during discovery, and without any record so far.
        """
        options = self.options
        now_s = self.clock()
        if self._called_s is not None:
            max_gap_s = _MAX_GAP_SHARE * options.idle_timeout_s
            self._elapsed_s += min(now_s - self._called_s, max_gap_s)
        self._called_s = now_s
        for name, event_time_ms in latest_ms.items():
            shard = self._shards.setdefault(name, _Shard(event_time_ms, self._elapsed_s))
            shard.latest_ms = max(shard.latest_ms, event_time_ms)
            shard.heard_s = self._elapsed_s
        idle_since_s = self._elapsed_s - options.idle_timeout_s
        # One that is heard again begins anew.
        self._shards = {
            name: shard for name, shard in self._shards.items() if shard.heard_s > idle_since_s
        }
        if self._shards and self._elapsed_s >= options.discovery_s:
            slowest_ms = min(shard.latest_ms for shard in self._shards.values())
            watermark_ms = slowest_ms - round(options.delay_s * 1000)
            self._watermark_ms = max(watermark_ms, self._watermark_ms or watermark_ms)
        return self._watermark_ms
