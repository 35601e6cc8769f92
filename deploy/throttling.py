"""Throttled calls to AWS: how they are recognised, and how long to wait after them."""

from __future__ import annotations

import random

from botocore.exceptions import ClientError

from udfs.core.throttling import is_throttling


def error_code(error: BaseException) -> str:
    """Return the service's code of an error, empty where the service has not answered."""
    return error.response["Error"].get("Code", "") if isinstance(error, ClientError) else ""


def is_throttled(error: BaseException) -> bool:
    """Return whether the service asks to slow down, and has done nothing."""
    return is_throttling(error_code(error))


def backoff_s(failures: int, first_s: float, longest_s: float, rng: random.Random) -> float:
    """Return how long to wait after a number of failures in a row, in seconds.

    The bound doubles with each failure, from `first_s` after the first one to `longest_s`. The
    pause is drawn evenly from its upper half.

    >>> 2.0 <= backoff_s(3, 1.0, 10.0, random.Random()) <= 4.0
    True
    """
    bound_s = min(first_s * 2.0 ** (failures - 1), longest_s)
    return rng.uniform(bound_s / 2, bound_s)
