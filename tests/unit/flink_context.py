"""In the place of Flink's function context: takes metrics, needs no Java."""

from collections import Counter


class FakeContext:
    """A function context whose counters are `counts`, by group and name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def get_metric_group(self) -> "_Group":
        return _Group(self.counts, "")


class _Group:
    def __init__(self, counts: Counter[str], name: str) -> None:
        self._counts = counts
        self._name = name

    def add_group(self, name: str) -> "_Group":
        return _Group(self._counts, f"{self._name}{name}.")

    def counter(self, name: str) -> "_Counter":
        return _Counter(self._counts, f"{self._name}{name}")


class _Counter:
    def __init__(self, counts: Counter[str], name: str) -> None:
        self._counts = counts
        self._name = name

    def inc(self, count: int = 1) -> None:
        self._counts[self._name] += count
