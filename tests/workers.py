"""The Python workers of a stack: the processes that run UDFs."""

import psutil

from deploy.local.stack import Stack


def python_workers(stack: Stack) -> list[psutil.Process]:
    """Return them, of all TaskManagers that run."""
    return [
        child
        for part in stack.cluster.task_managers
        if part.is_running
        for child in psutil.Process(part.pid).children(recursive=True)
        if "python" in child.name() and "pyflink.fn_execution" in " ".join(child.cmdline())
    ]
