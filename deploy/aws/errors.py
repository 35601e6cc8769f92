"""What can go wrong, in words: the problem, the state things are in, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `python -m deploy`, for scripts."""

    DONE = 0
    FAILED = 1
    """It did not work out; the message says how far it came."""
    WRONG_INPUT = 2
    """Options or properties are wrong; nothing was changed."""
    ROLLED_BACK = 3
    """The new release did not become healthy; the previous one runs again."""
    UNHEALTHY = 4
    """Something does not run as it should, and somebody has to look."""
    INTERRUPTED = 130


class DeployError(Exception):
    """A command that did not work out.

    Parameters
    ----------
    problem
        What went wrong.
    state
        What state things are in, a line each.
    steps
        What to do next, a line each.
    code
        The exit code.
    """

    def __init__(
        self,
        problem: str,
        *,
        state: Sequence[str] = (),
        steps: Sequence[str] = (),
        code: Exit = Exit.FAILED,
    ) -> None:
        self.problem = problem
        self.state = tuple(state)
        self.steps = tuple(steps)
        self.code = code
        lines = [problem]
        if state:
            lines += ["State:", *(f"  - {line}" for line in state)]
        if steps:
            lines += ["Next:", *(f"  - {line}" for line in steps)]
        super().__init__("\n".join(lines))
