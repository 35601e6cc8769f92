"""How the commands for AWS talk: lines, progress, questions, and one clear message at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import typer
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from deploy.aws.errors import DeployError, Exit
from deploy.aws.stack import Change
from flink_jobs.config import ConfigError

console = Console()
errors = Console(stderr=True)


def say(line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def fail(error: object, code: Exit) -> typer.Exit:
    """Print a message on standard error and return what ends the command."""
    errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(code)


@contextlib.contextmanager
def failures_in_words() -> Iterator[None]:
    """End the command with one message and an exit code of `Exit`."""
    try:
        yield
    except ConfigError as error:
        raise fail(f"{error}\nNothing was changed.", Exit.WRONG_INPUT) from None
    except DeployError as error:
        raise fail(error, error.code) from None
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise fail(
            f"no credentials for AWS: {error}\nNext:\n  - sign in (aws sso login, aws configure,"
            " or AWS_PROFILE), or see what would be done: --dry-run",
            Exit.WRONG_INPUT,
        ) from None
    except NoRegionError:
        raise fail(
            "no AWS region\nNext:\n  - name one: --region, or AWS_REGION", Exit.WRONG_INPUT
        ) from None
    except ClientError as error:
        detail = error.response["Error"]
        raise fail(
            f"AWS refuses {error.operation_name}: {detail.get('Code')}: {detail.get('Message')}\n"
            "Next:\n  - look what state things are in: python -m deploy status",
            Exit.FAILED,
        ) from None
    except (BotoCoreError, OSError) as error:
        raise fail(
            f"{error}\nNext:\n  - look what state things are in: python -m deploy status",
            Exit.FAILED,
        ) from None
    except KeyboardInterrupt:
        raise fail(
            "ended by Ctrl-C; what was begun on AWS goes on there\nNext:\n"
            "  - look what state things are in: python -m deploy status",
            Exit.INTERRUPTED,
        ) from None


@contextlib.contextmanager
def upload_bar() -> Iterator[Callable[[int], None]]:
    """Show the progress of uploads; what is given back is told of the bytes that were sent."""
    with Progress(
        "uploading", DownloadColumn(), TransferSpeedColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("uploading", total=None, visible=False)
        yield lambda sent: progress.update(task, advance=sent, visible=True)


def confirm_changes(is_confirmed: bool, changes: Sequence[Change]) -> bool:
    """Ask where a change takes away something that exists."""
    losses = [change for change in changes if change.loses_something]
    if not losses or is_confirmed:
        return True
    say("these resources go, with what is in them:")
    for change in losses:
        say(f"  {change}")
    return typer.confirm("go on?", default=False)
