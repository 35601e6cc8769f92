"""How far a command has come, for when AWS breaks it off: credentials end, a permission lacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from deploy.aws.errors import DeployError, Exit


@dataclass
class Progress:
    """How far it has come.

    Attributes
    ----------
    state
        What state things are in, in words.
    step
        What to do next, where it is broken off here.
    is_changed
        Whether anything that runs is, or may be, other than before.
    """

    state: str
    step: str
    is_changed: bool = False

    def now(self, state: str, step: str) -> None:
        """Note that something has changed."""
        self.state, self.step, self.is_changed = state, step, True


@contextlib.contextmanager
def broken_off_in_words(state: str, step: str) -> Iterator[Progress]:
    """Say how far it came where a call to AWS fails that nobody else has put into words.

    Parameters
    ----------
    state, step
        As those of `Progress`, at the beginning.

    Raises
    ------
    DeployError
        In the place of botocore's errors.
    """
    progress = Progress(state, step)
    try:
        yield progress
    except (ClientError, BotoCoreError) as error:
        raise DeployError(
            f"broken off: {error}",
            state=[progress.state],
            steps=["look what state things are in: python -m deploy status", progress.step],
            code=Exit.UNHEALTHY if progress.is_changed else Exit.FAILED,
        ) from error
