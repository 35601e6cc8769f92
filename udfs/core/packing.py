"""How a batch of texts is cut into requests."""

from collections.abc import Iterator, Sequence


def pack(texts: Sequence[str], max_rows: int, max_bytes: int) -> Iterator[slice]:
    """Cut a batch into requests of neighbouring rows, in order and about equally many.

    A text is taken at the most that any content type can make of it, so a request never exceeds
    `max_bytes` unless a single text does.

    >>> list(pack(["a"] * 5, 4, 1000))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    rows = len(texts)
    requests = -(-rows // max_rows)
    each = -(-rows // requests) if requests else 0
    start = 0
    while start < rows:
        stop = min(start + each, rows)
        if _max_bytes(texts[start:stop]) > max_bytes:
            stop, size = start + 1, _max_bytes(texts[start : start + 1])
            while (size := size + _max_bytes(texts[stop : stop + 1])) <= max_bytes:
                stop += 1
        yield slice(start, stop)
        start = stop


class RequestSize:
    """How many rows a request may have, so that it is answered in good time.

    An endpoint without latency is asked for `most` rows at once, since every request costs the
    client a millisecond or so; one with a slow model for no more than it does in `time_s`, but
    for 64 in any case. The time that a row takes is an exponentially weighted moving average.

    >>> size = RequestSize(most=512, time_s=0.1)
    >>> size.rows
    64
    >>> for _ in range(20):
    ...     size.took(64, 0.032)
    >>> size.rows
    195
    """

    _LEAST = 64
    _WEIGHT = 0.2

    def __init__(self, most: int, time_s: float) -> None:
        self._most = most
        self._least = min(self._LEAST, most)
        self._time_s = time_s
        self._row_s = time_s / self._least

    @property
    def rows(self) -> int:
        """Rows of the next request, at most."""
        return max(self._least, min(self._most, int(self._time_s / self._row_s)))

    def took(self, rows: int, seconds: float) -> None:
        """Note how long a request of `rows` rows took."""
        # A clock may stand still: an answer takes a microsecond at least.
        self._row_s += self._WEIGHT * (max(seconds, 1e-6) / rows - self._row_s)


def _max_bytes(texts: Sequence[str]) -> int:
    # Six bytes for an escaped control character, and room for each row's frame: see `Codec`.
    return 6 * sum(map(len, texts)) + 64 * len(texts)
