"""The Python workers of a stack: the processes that run UDFs."""

import contextlib

import psutil

from deploy.local.stack import Stack


def python_workers(stack: Stack) -> list[psutil.Process]:
    """Return them, of all TaskManagers that run."""
    return [
        child
        for part in stack.cluster.task_managers
        if part.is_running
        for child in psutil.Process(part.pid).children(recursive=True)
        if _is_worker(child)
    ]


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        command = " ".join(process.cmdline())
        return "python" in process.name() and "pyflink.fn_execution" in command
    return False
