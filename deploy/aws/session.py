"""Clients of AWS: real ones, or those of a dry run, which print their calls and reach nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import boto3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import ParamValidationError
from botocore.model import OperationModel
from botocore.validate import ParamValidator

Say = Callable[[str], None]
"""Tells the user one line."""

# The SDK's own retries: throttling and 5xx, with growing pauses.
_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 6})
_SINGLE_ATTEMPT = Config(retries={"mode": "standard", "total_max_attempts": 1})


class World(Protocol):
    """What a dry run imagines AWS to answer."""

    def answer(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parsed answer to a call.

        An answer with the key `Error` is an error, as `{"Error": {"Code", "Message"}}`.
        """


@dataclass(frozen=True)
class DryRun:
    """Makes a session print its calls instead of making them.

    Attributes
    ----------
    world
        What the calls are answered with.
    say
        Gets a line for each call.
    """

    world: World
    say: Say


class Aws:
    """One account in one region.

    Parameters
    ----------
    region
        AWS region; None for that of the environment or the profile.
    profile
        Of the user's AWS configuration; None for the default one.
    dry_run
        Instead of AWS.

    Attributes
    ----------
    region
        AWS region.
    is_dry
        Whether nothing is really done.
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        profile: str | None = None,
        dry_run: DryRun | None = None,
    ) -> None:
        self._dry_run = dry_run
        self._clients: dict[tuple[str, bool], Any] = {}
        if dry_run is None:
            self.session = boto3.Session(region_name=region, profile_name=profile)
        else:
            # No profile and no credentials are looked for: nothing is signed or sent.
            self.session = boto3.Session("dry-run", "dry-run", region_name=region or "us-east-1")
        self.is_dry = dry_run is not None
        self.region: str = self.session.region_name or ""

    def client(self, service: str) -> Any:
        """Return the client of a service, always the same one; it repeats calls that failed."""
        return self._client(service, is_single_attempt=False)

    def single_attempt_client(self, service: str) -> Any:
        """Return the client for calls that must not be repeated, always the same one."""
        return self._client(service, is_single_attempt=True)

    def _client(self, service: str, *, is_single_attempt: bool) -> Any:
        key = (service, is_single_attempt)
        if key not in self._clients:
            config = _SINGLE_ATTEMPT if is_single_attempt else _CONFIG
            client = self.session.client(service, config=config)  # type: ignore[call-overload]
            if self._dry_run is not None:
                imagine(client, service, self._dry_run)
            self._clients[key] = client
        return self._clients[key]


def imagine(client: Any, service: str, dry_run: DryRun) -> None:
    """Let a client check and print its calls, and answer them from an imagined world."""
    asked: dict[str, Mapping[str, Any]] = {}

    def note(params: Mapping[str, Any], model: OperationModel, **_: Any) -> None:
        asked[model.name] = dict(params)

    def answer(model: OperationModel, **_: Any) -> tuple[AWSResponse, dict[str, Any]]:
        # By now the parameters have passed the check against the service's model.
        parameters = asked.pop(model.name)
        dry_run.say(shown_call(service, model.name, parameters))
        parsed = dict(dry_run.world.answer(service, model.name, parameters))
        status = 400 if "Error" in parsed else 200
        if status == 200:
            checked(parsed, model)
        parsed.setdefault("ResponseMetadata", {"HTTPStatusCode": status})
        return AWSResponse("", status, HTTPHeaders(), None), parsed

    client.meta.events.register("provide-client-params.*.*", note)
    client.meta.events.register("before-call.*.*", answer)


def checked(answer: Mapping[str, Any], model: OperationModel) -> None:
    """Check that a service could answer so.

    Raises
    ------
    ParamValidationError
        The answer does not fit the service's model.
    """
    if model.output_shape is not None:
        report = ParamValidator().validate(answer, model.output_shape)
        if report.has_errors():
            raise ParamValidationError(report=report.generate_report())


def shown_call(service: str, operation: str, parameters: Mapping[str, Any]) -> str:
    """Return a call as a line; what is long is told by its size.

    Examples
    --------
    >>> shown_call("sns", "Publish", {"TopicArn": "a", "Message": "x" * 2000})
    'sns Publish TopicArn=a Message=<2000 characters>'
    """
    shown = " ".join(f"{name}={_shown(value)}" for name, value in parameters.items())
    return f"{service} {operation} {shown}".rstrip()


def _shown(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if hasattr(value, "read"):
        return "<file>"
    if isinstance(value, str):
        return value if len(value) <= 200 else f"<{len(value)} characters>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
