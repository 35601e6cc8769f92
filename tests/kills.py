"""Kills that are aimed: Python workers end while a checkpoint waits for what they have in hand.

Without an exchange ahead of the Python operators of `review_scoring`, each such kill lost all
reviews of a bundle but one: see decision 15.
"""

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping

import psutil

from deploy.local.stack import Stack
from tests.workers import python_workers

LATENCY_MS = 1_000
"""Of the endpoint meanwhile: a bundle is in hand for as long."""

PROPERTIES: Mapping[str, Mapping[str, str]] = {
    # Few rows and much time: bundles end by their number of rows, those of both functions together.
    "application": {"bundle_rows": "20", "bundle_time_ms": "5000"}
}
"""Of the job, over the sample's."""

FLINK_OVERRIDES: Mapping[str, str] = {
    "execution.checkpointing.interval": "1 s",
    # One restart after the other, each at once.
    "restart-strategy.exponential-delay.initial-backoff": "100 ms",
    "restart-strategy.exponential-delay.max-backoff": "500 ms",
}
"""Of the cluster, over its own."""


@contextlib.contextmanager
def slow_endpoint(stack: Stack) -> Iterator[None]:
    """Let the endpoint answer late."""
    faults = f"{stack.info.endpoint_url}/faults"
    _ask(faults, "PUT", {"latency_ms": LATENCY_MS})
    try:
        yield
    finally:
        _ask(faults, "DELETE")


def is_moment(stack: Stack, job_id: str) -> bool:
    """Return whether requests are under way, and a checkpoint has been triggered meanwhile."""
    cluster = stack.cluster
    if not cluster.is_running(job_id) or not python_workers(stack):
        return False
    is_in_progress = cluster.get(f"/jobs/{job_id}/checkpoints")["counts"]["in_progress"] > 0
    return is_in_progress and _ask(f"{stack.info.endpoint_url}/stats")["served"] > 0


def kill_workers(stack: Stack) -> float:
    """Kill -9 of every Python worker; return when, in ms from the epoch."""
    since_ms = time.time() * 1000
    for worker in python_workers(stack):
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    return since_ms


def _ask(url: str, method: str = "GET", body: Mapping[str, float] | None = None) -> dict[str, int]:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, method=method)
    with urllib.request.urlopen(request, timeout=5) as response:
        answer: dict[str, int] = json.load(response)
        return answer
