"""Runtime properties to typed configuration, every problem named at once.

The managed service mounts its properties as a JSON list of `{"PropertyGroupId", "PropertyMap"}`
with string values; the laptop uses a file of the same shape. Each group has one model here. All
groups of a file are checked, whichever job it names, and unknown groups and keys are problems,
because a misspelt property would otherwise silently keep its default.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from udfs.core.endpoint import EndpointOptions
from udfs.core.parsing import ParsingOptions, ReviewFormat
from udfs.core.scoring import MAX_REQUEST_BYTES, ScoringOptions, isolation_s

MANAGED_PROPERTIES = Path("/etc/flink/application_properties.json")
"""Where Managed Service for Apache Flink mounts the runtime properties."""

RUN_OPTIONS_GROUP = "kinesis.analytics.flink.run.options"
"""The service's own group: what `flink run` is told. Not read by the jobs."""

# In base64 a raw record of this size still fits Firehose's 1,000 KiB with its other fields.
_MAX_BODY_BYTES = 700 * 1024

_MAX_BUNDLE_BYTES = 512 * 1024 * 1024

JobName = Literal["review_scoring"]


class ConfigError(Exception):
    """The configuration is unusable; the message names every problem, one a line."""

    def __init__(self, source: Path | str, problems: list[str]) -> None:
        self.source = str(source)
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{count} in {source}:\n{lines}")


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class ApplicationConfig(_Group):
    """Group `application`: which job this application runs, and the engine's bounds.

    Attributes
    ----------
    job
        The job that `deploy/main.py` submits.
    checkpoint_timeout_s
        A checkpoint that takes longer is given up.
    bundle_rows, bundle_time_ms
        A Python operator hands rows on when it has so many or has waited so long. More rows make
        larger requests; more time adds to the latency of a slow stream.
    """

    job: JobName
    checkpoint_timeout_s: int = Field(600, ge=10, le=86_400)
    bundle_rows: int = Field(1_000, ge=1, le=100_000)
    bundle_time_ms: int = Field(500, ge=1, le=60_000)


class AwsConfig(_Group):
    """Group `aws`: the region, and a stand-in's address (`endpoint_url`) on a laptop.

    There are no credentials among the properties: they come from the SDKs' default chain, on AWS
    from the application's role.
    """

    region: str = Field(min_length=1)
    endpoint_url: str | None = Field(None, pattern=r"^https?://[^\s/]+/?$")


class ReviewsConfig(_Group):
    """Group `reviews`: the source stream and what counts as a review (see `ParsingOptions`).

    Attributes
    ----------
    initial_position
        Where a job without a snapshot starts. With `LATEST`, what arrives before the first
        checkpoint is skipped if the job fails by then.
    read_interval_ms
        Between two reads of a shard, which allows five a second to all its readers together.
    """

    stream: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    format: ReviewFormat = "json"
    initial_position: Literal["LATEST", "TRIM_HORIZON"] = "TRIM_HORIZON"
    read_interval_ms: int = Field(250, ge=200, le=60_000)
    max_body_bytes: int = Field(256 * 1024, ge=1, le=_MAX_BODY_BYTES)
    max_event_age_s: float = Field(86_400.0, gt=0, allow_inf_nan=False)
    max_event_lead_s: float = Field(5.0, ge=0, allow_inf_nan=False)

    def parsing_options(self) -> ParsingOptions:
        """Return what the parser needs."""
        return ParsingOptions(
            format=self.format,
            max_body_bytes=self.max_body_bytes,
            max_event_age_s=self.max_event_age_s,
            max_event_lead_s=self.max_event_lead_s,
        )


class EndpointConfig(_Group):
    """Group `endpoint`: the SageMaker endpoint and how it is asked (see `ScoringOptions`).

    `endpoint_url` is the address of a stand-in for SageMaker's runtime API.
    """

    name: str = Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    endpoint_url: str | None = Field(None, pattern=r"^https?://[^\s/]+/?$")
    target_variant: str | None = Field(None, pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    max_request_rows: int = Field(64, ge=1, le=10_000)
    max_request_bytes: int = Field(MAX_REQUEST_BYTES, ge=1, le=MAX_REQUEST_BYTES)
    max_in_flight: int = Field(16, ge=1, le=1_000)
    attempt_timeout_s: float = Field(10.0, gt=0, le=70)
    max_attempts: int = Field(3, ge=1, le=100)
    deadline_s: float = Field(120.0, gt=0, allow_inf_nan=False)

    def scoring_options(self) -> ScoringOptions:
        """Return how requests are packed, bounded and retried."""
        return ScoringOptions(
            max_request_rows=self.max_request_rows,
            max_request_bytes=self.max_request_bytes,
            max_in_flight=self.max_in_flight,
            attempt_timeout_s=self.attempt_timeout_s,
            max_attempts=self.max_attempts,
            deadline_s=self.deadline_s,
        )

    def endpoint_options(self, region: str) -> EndpointOptions:
        """Return what the client needs."""
        return EndpointOptions(
            name=self.name,
            region=region,
            endpoint_url=self.endpoint_url,
            target_variant=self.target_variant,
            max_connections=self.max_in_flight,
            timeout_s=self.attempt_timeout_s,
        )


class StreamConfig(_Group):
    """Groups `scored_reviews` and `dead_letters`: a Kinesis stream that is written."""

    stream: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")


class DeliveryConfig(_Group):
    """Groups `raw_archive` and `scored_archive`: a Firehose delivery stream that is written."""

    delivery_stream: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")


class ReviewScoringConfig(_Group):
    """All that the job `review_scoring` needs; each field is the property group of its name."""

    application: ApplicationConfig
    aws: AwsConfig
    reviews: ReviewsConfig
    endpoint: EndpointConfig
    scored_reviews: StreamConfig
    dead_letters: StreamConfig
    raw_archive: DeliveryConfig
    scored_archive: DeliveryConfig


JobConfig = ReviewScoringConfig

JOB_CONFIGS: dict[str, type[JobConfig]] = {"review_scoring": ReviewScoringConfig}

_GROUPS: dict[str, type[_Group]] = {
    name: cast(type[_Group], field.annotation)
    for config in JOB_CONFIGS.values()
    for name, field in config.model_fields.items()
}


def load_config(path: Path) -> JobConfig:
    """Read and check the runtime properties of one application.

    Parameters
    ----------
    path
        JSON file in the managed service's shape.

    Returns
    -------
    JobConfig
        The configuration of the job that the group `application` names.

    Raises
    ------
    ConfigError
        Names every problem of the file: unreadable, wrong shape, missing, unknown, misspelt and
        ill-typed groups and properties, and values that do not fit each other.
    """
    problems: list[str] = []
    properties = _read(path, problems)
    groups: dict[str, _Group] = {}
    for name, values in properties.items():
        if name == RUN_OPTIONS_GROUP:
            continue
        model = _GROUPS.get(name)
        if model is None:
            problems.append(f"group {name!r} is unknown{_suggestion(name, _GROUPS)}")
        else:
            _validate(name, model, values, groups, problems)
    application = groups.get("application")
    job = application.job if isinstance(application, ApplicationConfig) else None
    needed = JOB_CONFIGS[job].model_fields if job is not None else {"application": None}
    for name in needed:
        if name not in properties:
            if job is None:
                problems.append(
                    "group 'application' is missing; its property 'job' names the job:"
                    f" {', '.join(JOB_CONFIGS)}"
                )
            else:
                problems.append(f"group {name!r} is missing; {job} needs it")
                _validate(name, _GROUPS[name], {}, groups, problems)
    problems.extend(_contradictions(groups))
    if problems or job is None:
        raise ConfigError(path, problems)
    config = JOB_CONFIGS[job]
    return config.model_validate({name: groups[name] for name in config.model_fields})


def _read(path: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Return the property maps by group, noting what has not the service's shape."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, [f"the file cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise ConfigError(path, [f"the file is not JSON: {error}"]) from None
    if not isinstance(document, list):
        raise ConfigError(path, ["the file is not a JSON list of property groups"])
    properties: dict[str, dict[str, Any]] = {}
    for position, entry in enumerate(document):
        name = entry.get("PropertyGroupId") if isinstance(entry, dict) else None
        values = entry.get("PropertyMap") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(values, dict):
            problems.append(
                f'entry {position} is not {{"PropertyGroupId": name, "PropertyMap": {{...}}}}'
            )
        elif name in properties:
            problems.append(f"group {name!r} stands twice")
        else:
            properties[name] = values
    return properties


def _validate(
    name: str,
    model: type[_Group],
    values: Mapping[str, Any],
    groups: dict[str, _Group],
    problems: list[str],
) -> None:
    strings = {key: value for key, value in values.items() if isinstance(value, str)}
    problems.extend(
        f"{name}.{key} is a JSON {type(value).__name__}; the service gives all values as strings"
        for key, value in values.items()
        if key not in strings
    )
    try:
        group = model.model_validate(strings)
    except ValidationError as error:
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "missing":
                if key not in values:
                    problems.append(f"{name}.{key} is missing")
            elif detail["type"] == "extra_forbidden":
                problems.append(f"{name}.{key} is unknown{_suggestion(key, model.model_fields)}")
            else:
                problems.append(f"{name}.{key} = {detail['input']!r}: {_in_words(detail)}")
    else:
        groups[name] = group


def _in_words(detail: Any) -> str:
    if detail["type"] == "string_pattern_mismatch":
        return f"does not match {detail['ctx']['pattern']}"
    message: str = detail["msg"]
    return message[0].lower() + message[1:]


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def _contradictions(groups: Mapping[str, _Group]) -> list[str]:
    problems = []
    application, reviews = groups.get("application"), groups.get("reviews")
    endpoint = groups.get("endpoint")
    if isinstance(endpoint, EndpointConfig):
        least_s = isolation_s(endpoint.scoring_options())
        if endpoint.deadline_s < least_s:
            problems.append(
                f"endpoint.deadline_s = {endpoint.deadline_s}: must be at least {least_s:.1f}, the"
                " time to find a row on which the model hangs (attempt_timeout_s, max_attempts and"
                " max_request_rows decide it)"
            )
        if (
            isinstance(application, ApplicationConfig)
            and endpoint.deadline_s > application.checkpoint_timeout_s / 3
        ):
            problems.append(
                f"endpoint.deadline_s = {endpoint.deadline_s}: must be at most a third of"
                f" application.checkpoint_timeout_s = {application.checkpoint_timeout_s}, because"
                " a checkpoint may have to wait for two batches under way"
            )
    if isinstance(application, ApplicationConfig) and isinstance(reviews, ReviewsConfig):
        bundle_bytes = application.bundle_rows * reviews.max_body_bytes
        if bundle_bytes > _MAX_BUNDLE_BYTES:
            problems.append(
                f"application.bundle_rows = {application.bundle_rows} of reviews.max_body_bytes ="
                f" {reviews.max_body_bytes} may take {bundle_bytes} bytes of memory: at most"
                f" {_MAX_BUNDLE_BYTES} are allowed"
            )
    return problems
