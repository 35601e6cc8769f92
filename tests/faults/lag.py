"""How far behind each job is, and how long it took to catch up."""

import bisect
import threading
import time
from collections.abc import Callable, Mapping

_SAMPLE_S = 0.2


class LagSeries:
    """Lags by job: for how long the oldest record that a job is not done with has been sent.

    Told by counts, hence by the order of sending: a record that is overtaken counts as long as
    another would.

    Examples
    --------
    >>> lags = LagSeries()
    >>> lags.add(0.0, 10, {"a": 0})
    {'a': 0.0}
    >>> lags.add(1.0, 20, {"a": 5})
    {'a': 1.0}
    >>> lags.add(2.0, 30, {"a": 12})
    {'a': 1.0}
    >>> lags.add(3.0, 30, {"a": 30})
    {'a': 0.0}
    >>> lags.highest("a", 0.0), lags.last_above({"a": 0.5})
    (1.0, 2.0)
    """

    def __init__(self) -> None:
        # Whole samples: a reader on another thread finds each complete.
        self._samples: list[tuple[float, int, dict[str, float]]] = []

    def add(self, now_s: float, sent: int, through: Mapping[str, int]) -> dict[str, float]:
        """Take a sample; return the lag of each job in seconds."""
        lags_s = {job: self._lag_s(now_s, sent, count) for job, count in through.items()}
        self._samples.append((now_s, sent, lags_s))
        return lags_s

    def highest(self, job: str, since_s: float) -> float:
        """Return the longest lag of a job since a moment, in seconds; 0 without a sample."""
        first = bisect.bisect_left(self._samples, since_s, key=lambda sample: sample[0])
        return max((lags_s.get(job, 0.0) for _, _, lags_s in self._samples[first:]), default=0.0)

    def last_above(self, limits_s: Mapping[str, float]) -> float:
        """Return when a job's lag was last above its limit; the first sample's time if never."""
        for now_s, _, lags_s in reversed(self._samples):
            if any(lag_s > limits_s[job] for job, lag_s in lags_s.items()):
                return now_s
        return self._samples[0][0] if self._samples else 0.0

    def _lag_s(self, now_s: float, sent: int, through: int) -> float:
        # The first sample in which the first record that is not through had been sent.
        first = bisect.bisect_right(self._samples, through, key=lambda sample: sample[1])
        if first < len(self._samples):
            return now_s - self._samples[first][0]
        return 0.0


class LagRecorder(threading.Thread):
    """Samples the lags until it is stopped.

    Parameters
    ----------
    sent, through
        Return how many records were sent, and with how many of them each job is done.

    Attributes
    ----------
    series
        The samples so far; times are those of `time.monotonic`.
    latest_s
        The last of them, by job.
    error
        What ended the thread before its time, else None.
    """

    def __init__(self, sent: Callable[[], int], through: Callable[[], Mapping[str, int]]) -> None:
        super().__init__(name="lags", daemon=True)
        self._sent = sent
        self._through = through
        self._stop_event = threading.Event()
        self.series = LagSeries()
        self.latest_s: dict[str, float] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        """Sample; called by `start`."""
        try:
            while not self._stop_event.wait(_SAMPLE_S):
                # In this order: what comes through in between makes no lag.
                sent = self._sent()
                self.latest_s = self.series.add(time.monotonic(), sent, self._through())
        except Exception as error:  # without lags, nothing can be said of a recovery
            self.error = error

    def stop(self) -> None:
        """End the sampling."""
        self._stop_event.set()
        self.join()
