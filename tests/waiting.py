"""Waiting for results, never for time to pass."""

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")

_POLL_S = 0.1


def until(
    result: Callable[[], T],
    is_enough: Callable[[T], bool] = bool,
    timeout_s: float = 90.0,
    hint: Callable[[], object] = lambda: "",
) -> T:
    """Ask for a result until it is enough, and return it.

    Fails when time is up, with the last result and what `hint` then says.
    """
    deadline_s = time.monotonic() + timeout_s
    while not is_enough(found := result()):
        if time.monotonic() > deadline_s:
            message = f"not enough after {timeout_s:g} s: {found!r} {hint()}"
            raise AssertionError(message.rstrip())
        time.sleep(_POLL_S)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended may wait as a zombie for whoever started it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]
