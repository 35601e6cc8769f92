"""How a batch of texts is cut into requests."""

import math
from collections.abc import Sequence


def first_request(texts: Sequence[str], start: int, max_rows: int, max_bytes: int) -> slice:
    """Return the rows of the next request, where those before `start` have been sent.

    What is left is cut about equally. A text counts with its worst-case encoding, so that a request
    never exceeds `max_bytes` unless a single text does.

    >>> first_request(["a"] * 5, 1, 4, 1000)
    slice(1, 5, None)
    """
    left = len(texts) - start
    requests = -(-left // max_rows)
    stop = start + -(-left // requests)
    if _max_bytes(texts[start:stop]) > max_bytes:
        stop, size = start + 1, _max_bytes(texts[start : start + 1])
        while (size := size + _max_bytes(texts[stop : stop + 1])) <= max_bytes:
            stop += 1
    return slice(start, stop)


class RequestSize:
    """Adaptive number of rows of a request, so that it is answered in good time.

    An endpoint without latency is asked for `most` rows at once, since every request costs the
    client a millisecond or so; one with a slow model for what it does in `time_s`, but for 64 rows
    in any case, unless these take longer than `longest_s`.

    Requests that queue take longer, and smaller ones would not be quicker. So the time that a row
    takes is a moving average that follows slow answers slowly, and for `longest_s` the least of the
    latest answers. A time-out halves the rows; each answer gives a tenth back.

    >>> size = RequestSize(most=512, time_s=0.1, longest_s=2.5)
    >>> size.rows
    64
    >>> size.took(64, 0.032)
    >>> size.rows
    200
    >>> size.timed_out()
    >>> size.rows
    100
    """

    _LEAST = 64
    _QUICKER, _SLOWER = 0.3, 0.03
    _TIMED_OUT, _ANSWERED = 0.5, 1.1

    def __init__(self, most: int, time_s: float, longest_s: float) -> None:
        self._most = most
        self._time_s = time_s
        self._longest_s = longest_s
        self._mean_s: float | None = None
        self._least_s = LatestLeast()
        self._share = 1.0

    @property
    def rows(self) -> int:
        """Rows of the next request, at most."""
        quick = self._LEAST
        if self._mean_s is not None:
            quick = max(quick, int(self._time_s / self._mean_s))
        return max(1, min(int(self._share * min(self._most, quick)), self.longest))

    @property
    def longest(self) -> int:
        """Rows that are answered within `longest_s`, as far as is known."""
        if self._mean_s is None:
            return self._most
        return max(1, min(self._most, int(self._longest_s / self._least_s.value)))

    def took(self, rows: int, seconds: float) -> None:
        """Note how long a request of `rows` rows took."""
        # A clock may stand still: an answer takes a microsecond at least.
        row_s = max(seconds, 1e-6) / rows
        mean_s = row_s if self._mean_s is None else self._mean_s
        weight = self._QUICKER if row_s < mean_s else self._SLOWER
        self._mean_s = mean_s + weight * (row_s - mean_s)
        self._least_s.add(row_s)
        self._share = min(1.0, self._share * self._ANSWERED)

    def timed_out(self) -> None:
        """Note that a request was given up."""
        self._share = max(1 / self._most, self._share * self._TIMED_OUT)


class LatestLeast:
    """The least of the latest 100 to 200 values.

    >>> least = LatestLeast()
    >>> for value in [1.0] + 150 * [3.0]:
    ...     least.add(value)
    >>> least.value
    1.0
    >>> for value in 50 * [3.0]:
    ...     least.add(value)
    >>> least.value
    3.0
    """

    _VALUES = 100

    def __init__(self) -> None:
        self._before = self._now = math.inf
        self._count = 0

    @property
    def value(self) -> float:
        """The least value; infinite if there is none."""
        return min(self._before, self._now)

    def add(self, value: float) -> None:
        """Take a value."""
        if self._count == self._VALUES:
            self._before, self._now, self._count = self._now, math.inf, 0
        self._count += 1
        self._now = min(self._now, value)


def _max_bytes(texts: Sequence[str]) -> int:
    # Six bytes for an escaped control character, and room for each row's frame: see `Codec`.
    return 6 * sum(map(len, texts)) + 64 * len(texts)
