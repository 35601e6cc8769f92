"""Time and waiting, which tests and dry runs do without."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """Return the time in UTC."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class ImaginedClock:
    """A clock that waits for nothing: it goes on by as much as it is asked to wait.

    Examples
    --------
    >>> clock = ImaginedClock(datetime(2026, 1, 1, tzinfo=UTC))
    >>> clock.sleep(90)
    >>> clock.now().isoformat()
    '2026-01-01T00:01:30+00:00'
    """

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        """Return the time in UTC."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Go on by `seconds`."""
        self._now += timedelta(seconds=seconds)


def poll(
    clock: Clock, probe: Callable[[], T | None], *, timeout_s: float, every_s: float = 10.0
) -> T | None:
    """Ask until there is an answer.

    Parameters
    ----------
    clock
        Waits between two questions.
    probe
        Returns None as long as there is no answer.
    timeout_s, every_s
        How long to ask, and how often, in seconds.

    Returns
    -------
    T or None
        The answer; None where there was none in time.
    """
    deadline = clock.now() + timedelta(seconds=timeout_s)
    while (answer := probe()) is None:
        if clock.now() >= deadline:
            return None
        clock.sleep(every_s)
    return answer
