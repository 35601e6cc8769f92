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
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from flink_jobs.config_checks import (
    checked_namespace,
    checked_region,
    checked_url,
    shared_names,
    topic_problem,
    without_users,
)
from udfs.core.categories import CategoryOptions, parse_allowed
from udfs.core.codec import ContentType
from udfs.core.dead_letters import PAYLOAD_BYTES_PER_S
from udfs.core.endpoint import EndpointOptions
from udfs.core.invocations import MAX_REQUEST_BYTES, ScoringOptions
from udfs.core.parsing import ParsingOptions, ReviewFormat
from udfs.core.publishing import PublishingOptions, longest_s
from udfs.core.scored_records import MAX_LEAD_S
from udfs.core.scoring import isolation_s
from udfs.core.splitting import separate
from udfs.core.watermarks import WatermarkOptions
from udfs.core.windows import WindowSpec, parse_windows

MANAGED_PROPERTIES = Path("/etc/flink/application_properties.json")
"""Where Managed Service for Apache Flink mounts the runtime properties."""

RUN_OPTIONS_GROUP = "kinesis.analytics.flink.run.options"
"""The service's own group: what `flink run` is told. Not read by the jobs."""

MAX_RETENTION_S = 365 * 86_400
"""The longest that a Kinesis stream can keep a record: no event can be older in a replay."""

# In base64 a raw record of this size still fits Firehose's 1,000 KiB with its other fields.
_MAX_BODY_BYTES = 700 * 1024
_DEFAULT_MAX_BODY_BYTES = 256 * 1024

MAX_BUNDLE_BYTES = 500 * 1024 * 1024
"""Bound of the largest bodies of a bundle together.

A vectorised function then takes at most 512 MiB beyond its input (tests/unit/test_memory.py).
"""

Url = Annotated[str, AfterValidator(checked_url)]

JobName = Literal["review_scoring", "review_metrics", "rating_anomalies"]


class ConfigError(Exception):
    """The configuration is unusable; the message names every problem, one a line."""

    def __init__(self, source: Path | str, problems: list[str]) -> None:
        self.source = str(source)
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{count} in {source}:\n{lines}")


class Group(BaseModel):
    """A property group: its name is that of the field that holds it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False
    )


class ApplicationConfig(Group):
    """Group `application`: which job this application runs, and the engine's bounds.

    Attributes
    ----------
    job
        The job that `deploy/main.py` submits.
    checkpoint_timeout_s
        A checkpoint that takes longer is given up.
    bundle_rows, bundle_time_ms
        A Python operator hands rows on when it has so many or has waited so long. More rows make
        larger requests; more time adds to the latency of a slow stream. The largest bodies of a
        bundle take at most `MAX_BUNDLE_BYTES`, in every job.
    """

    job: JobName
    checkpoint_timeout_s: int = Field(600, ge=10, le=86_400)
    bundle_rows: int = Field(2_000, ge=1, le=50_000)
    bundle_time_ms: int = Field(200, ge=1, le=60_000)


class AwsConfig(Group):
    """Group `aws`: the region, and a stand-in's address (`endpoint_url`) on a laptop.

    There are no credentials among the properties: they come from the SDKs' default chain, on AWS
    from the application's role.
    """

    region: Annotated[str, AfterValidator(checked_region)]
    endpoint_url: Url | None = None


class ReviewsConfig(Group):
    """Group `reviews`: the source stream and what counts as a review (see `ParsingOptions`).

    Attributes
    ----------
    initial_position
        Where a job without a snapshot starts. With `LATEST`, what arrives before the first
        checkpoint is skipped if the job fails by then.
    read_interval_ms
        Between two reads of a shard, which allows five a second to all its readers together.
    several_per_record
        Whether a record may hold several reviews: JSON objects one after the other or in an array,
        or lines of TSV. Each is a review, or a dead letter, of its own.
    """

    stream: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    format: ReviewFormat = "json"
    initial_position: Literal["LATEST", "TRIM_HORIZON"] = "TRIM_HORIZON"
    read_interval_ms: int = Field(250, ge=200, le=60_000)
    max_body_bytes: int = Field(_DEFAULT_MAX_BODY_BYTES, ge=1, le=_MAX_BODY_BYTES)
    max_event_age_s: float = Field(86_400.0, gt=0, le=MAX_RETENTION_S)
    max_event_lead_s: float = Field(5.0, ge=0, le=MAX_LEAD_S)
    require_time_zone: bool = False
    several_per_record: bool = False

    def separate(self, payload: bytes) -> list[tuple[bytes, int | None]]:
        """Return the reviews of a record, each with its place in it: see `splitting.separate`."""
        if not self.several_per_record:
            return [(payload, None)]
        return separate(payload, self.parsing_options())

    def parsing_options(self) -> ParsingOptions:
        """Return what the parser needs."""
        return ParsingOptions(
            format=self.format,
            max_body_bytes=self.max_body_bytes,
            max_event_age_s=self.max_event_age_s,
            max_event_lead_s=self.max_event_lead_s,
            require_time_zone=self.require_time_zone,
        )


class CategoriesConfig(Group):
    """Group `categories`: names to keep; any other counts as `Other` (see `CategoryOptions`).

    Attributes
    ----------
    allowed
        A list such as `Gift_Card, Books` or `["Gift_Card", "Books"]`: see
        `udfs.core.categories.parse_allowed`.
    max_categories
        Bound of the names that `review_scoring` keeps: of `allowed` or, without it, of each
        subtask.
    """

    allowed: Annotated[frozenset[str], BeforeValidator(parse_allowed)] = frozenset()
    max_categories: int = Field(1_000, ge=1, le=100_000)

    def category_options(self) -> CategoryOptions:
        """Return what the parser's wrapper needs."""
        return CategoryOptions(allowed=self.allowed, max_categories=self.max_categories)


class EndpointConfig(Group):
    """Group `endpoint`: the SageMaker endpoint and how it is asked (see `ScoringOptions`).

    `endpoint_url` is the address of a stand-in for SageMaker's runtime API; `target_variant` and
    `content_type` are explained in `EndpointOptions`.
    """

    name: str = Field(pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    endpoint_url: Url | None = None
    target_variant: str | None = Field(None, pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")
    content_type: ContentType = "application/jsonlines"
    max_request_rows: int = Field(512, ge=1, le=10_000)
    max_request_bytes: int = Field(MAX_REQUEST_BYTES, ge=1, le=MAX_REQUEST_BYTES)
    request_time_ms: int = Field(100, ge=1, le=60_000)
    max_in_flight: int = Field(32, ge=1, le=1_000)
    attempt_timeout_s: float = Field(10.0, ge=0.01, le=70)
    max_attempts: int = Field(3, ge=1, le=100)
    deadline_s: float = Field(150.0, gt=0, le=86_400)

    def scoring_options(self) -> ScoringOptions:
        """Return how requests are packed, bounded and retried."""
        return ScoringOptions(
            max_request_rows=self.max_request_rows,
            max_request_bytes=self.max_request_bytes,
            request_time_s=self.request_time_ms / 1000,
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
            content_type=self.content_type,
            max_in_flight=self.max_in_flight,
            timeout_s=self.attempt_timeout_s,
        )


class ScoredReviewsConfig(Group):
    """Group `scored_reviews`: the stream of scored reviews, which one job writes and others read.

    Attributes
    ----------
    initial_position, read_interval_ms
        As in the group `reviews`.
    repeat_horizon_s
        For so long a reader remembers a source_id, and drops the record that comes with it again.
        Memory grows with it: about 200 bytes a record.
    """

    stream: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    initial_position: Literal["LATEST", "TRIM_HORIZON"] = "TRIM_HORIZON"
    read_interval_ms: int = Field(250, ge=200, le=60_000)
    repeat_horizon_s: int = Field(3_600, ge=60, le=604_800)


class WindowsConfig(Group):
    """Group `windows`: which there are, when they close, and what is counted in them.

    Attributes
    ----------
    sizes
        A list such as `5 s, 1 h, 5 min every 1 min, 1 d by 1 h`: see
        `udfs.core.windows.parse_windows`.
    watermark_delay_s
        How far event times may lie back behind the latest one of their shard.
    discovery_s
        So long after its first record a reader closes no window, so that every shard is heard.
    idle_timeout_s
        A shard that is silent for so long holds windows back no longer; what it brings afterwards
        may be late.
    lg_k
        HyperLogLog keeps 2 to this power registers: 12 gives a standard error of 1.6 %. With more
        than 20, a window's record would exceed what Kinesis takes.
    body_lengths
        Whether the quantiles of the bodies' lengths are counted.
    top_terms
        So many terms of a window are named; 0: terms are not counted.
    """

    sizes: Annotated[tuple[WindowSpec, ...], BeforeValidator(parse_windows)] = parse_windows("5 s")
    watermark_delay_s: float = Field(10.0, ge=0, le=86_400)
    discovery_s: float = Field(5.0, ge=0, le=3_600)
    idle_timeout_s: float = Field(30.0, ge=0.001, le=86_400)
    lg_k: int = Field(12, ge=4, le=20)
    body_lengths: bool = True
    top_terms: int = Field(10, ge=0, le=100)

    def watermark_options(self) -> WatermarkOptions:
        """Return how the watermark follows the shards."""
        return WatermarkOptions(
            delay_s=self.watermark_delay_s,
            discovery_s=self.discovery_s,
            idle_timeout_s=self.idle_timeout_s,
        )


class AnomaliesConfig(Group):
    """Group `anomalies`: from which score on a review counts as an anomaly.

    Attributes
    ----------
    threshold
        Of the anomaly score, which is one minus a tail probability.
    warm_up_reviews
        The first reviews of a category, which are only learned from.
    """

    threshold: float = Field(0.9999, gt=0, lt=1)
    warm_up_reviews: int = Field(150, ge=20, le=100_000)


class CloudWatchConfig(Group):
    """Group `cloudwatch`: the namespace of the metrics."""

    namespace: Annotated[str, AfterValidator(checked_namespace)] = "kinesis/analytics/AVGStarRating"


class AlertsConfig(Group):
    """Group `alerts`: the SNS topic that alerts go to."""

    topic_arn: str = Field(pattern=r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}$")


class PublishingConfig(Group):
    """Group `publishing`: how CloudWatch and SNS are asked (see `PublishingOptions`)."""

    attempt_timeout_s: float = Field(5.0, ge=0.01, le=60)
    max_attempts: int = Field(5, ge=1, le=20)

    def publishing_options(self, aws: AwsConfig) -> PublishingOptions:
        """Return what the clients need."""
        return PublishingOptions(
            region=aws.region,
            endpoint_url=aws.endpoint_url,
            attempt_timeout_s=self.attempt_timeout_s,
            max_attempts=self.max_attempts,
        )


class StreamConfig(Group):
    """Groups `review_metrics`, `rating_anomalies`: a stream that is written."""

    stream: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")


class DeadLettersConfig(StreamConfig):
    """Group `dead_letters`: the stream of dead letters, which every job writes.

    Attributes
    ----------
    payload_bytes_per_s
        Bytes of payload that the letters of one job and stage may carry per second; beyond it,
        payloads are shortened (see `PayloadBudget`). Each subtask has an equal share.
    """

    payload_bytes_per_s: int = Field(PAYLOAD_BYTES_PER_S, ge=1_024, le=1_024 * 1_024 * 1_024)


class DeliveryConfig(Group):
    """Groups `raw_archive`, `scored_archive`, `metrics_archive`: a Firehose delivery stream."""

    delivery_stream: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")


class ReviewScoringConfig(Group):
    """All that the job `review_scoring` needs; each field is the property group of its name."""

    application: ApplicationConfig
    aws: AwsConfig
    reviews: ReviewsConfig
    categories: CategoriesConfig
    endpoint: EndpointConfig
    scored_reviews: ScoredReviewsConfig
    dead_letters: DeadLettersConfig
    raw_archive: DeliveryConfig
    scored_archive: DeliveryConfig


class ReviewMetricsConfig(Group):
    """All that the job `review_metrics` needs; each field is the property group of its name."""

    application: ApplicationConfig
    aws: AwsConfig
    scored_reviews: ScoredReviewsConfig
    windows: WindowsConfig
    review_metrics: StreamConfig
    metrics_archive: DeliveryConfig
    cloudwatch: CloudWatchConfig
    publishing: PublishingConfig
    dead_letters: DeadLettersConfig


class RatingAnomaliesConfig(Group):
    """All that the job `rating_anomalies` needs; each field is the property group of its name."""

    application: ApplicationConfig
    aws: AwsConfig
    scored_reviews: ScoredReviewsConfig
    anomalies: AnomaliesConfig
    rating_anomalies: StreamConfig
    alerts: AlertsConfig
    publishing: PublishingConfig
    dead_letters: DeadLettersConfig


JobConfig = ReviewScoringConfig | ReviewMetricsConfig | RatingAnomaliesConfig

JOB_CONFIGS: dict[str, type[JobConfig]] = {
    "review_scoring": ReviewScoringConfig,
    "review_metrics": ReviewMetricsConfig,
    "rating_anomalies": RatingAnomaliesConfig,
}

_GROUPS: dict[str, type[Group]] = {
    name: cast(type[Group], field.annotation)
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
    job, groups = _load(path)
    config = JOB_CONFIGS[job]
    return config.model_validate({name: groups[name] for name in config.model_fields})


def load_groups(path: Path) -> dict[str, Group]:
    """Read and check the same, and return every group that the file holds, by name.

    For whoever looks after several jobs with one file, as with the laptop's sample.
    """
    return _load(path)[1]


def _load(path: Path) -> tuple[JobName, dict[str, Group]]:
    problems: list[str] = []
    properties = _read(path, problems)
    groups: dict[str, Group] = {}
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
    if job is None and "application" not in properties:
        problems.append(
            "group 'application' is missing; its property 'job' names the job:"
            f" {', '.join(JOB_CONFIGS)}"
        )
    for name, field in (JOB_CONFIGS[job].model_fields if job is not None else {}).items():
        if name not in properties:
            missing: list[str] = []
            _validate(name, cast(type[Group], field.annotation), {}, groups, missing)
            if missing:
                problems += [f"group {name!r} is missing; {job} needs it", *missing]
    problems.extend(_contradictions(groups))
    if problems or job is None:
        raise ConfigError(path, problems)
    return job, groups


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
    model: type[Group],
    values: Mapping[str, Any],
    groups: dict[str, Group],
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
                value = without_users(repr(detail["input"]))
                problems.append(f"{name}.{key} = {value}: {_in_words(detail)}")
    else:
        groups[name] = group


def _in_words(detail: Any) -> str:
    if detail["type"] == "string_pattern_mismatch":
        return f"does not match {detail['ctx']['pattern']}"
    message: str = detail["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _suggestion(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def _contradictions(groups: Mapping[str, Group]) -> list[str]:
    problems = []
    application, reviews = groups.get("application"), groups.get("reviews")
    categories = groups.get("categories")
    if (
        isinstance(categories, CategoriesConfig)
        and len(categories.allowed) > categories.max_categories
    ):
        problems.append(
            f"categories.allowed has {len(categories.allowed)} names: at most"
            f" categories.max_categories = {categories.max_categories} are allowed"
        )
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
    aws, publishing = groups.get("aws"), groups.get("publishing")
    if (
        isinstance(application, ApplicationConfig)
        and isinstance(aws, AwsConfig)
        and isinstance(publishing, PublishingConfig)
    ):
        bound_s = longest_s(publishing.publishing_options(aws))
        if bound_s > application.checkpoint_timeout_s / 3:
            problems.append(
                f"publishing.max_attempts = {publishing.max_attempts} of attempt_timeout_s ="
                f" {publishing.attempt_timeout_s} may take {bound_s:.0f} s: must be at most a third"
                f" of application.checkpoint_timeout_s = {application.checkpoint_timeout_s}"
            )
    windows, scored_reviews = groups.get("windows"), groups.get("scored_reviews")
    if (
        isinstance(windows, WindowsConfig)
        and isinstance(scored_reviews, ScoredReviewsConfig)
        and windows.idle_timeout_s * 1_000 < scored_reviews.read_interval_ms
    ):
        problems.append(
            f"windows.idle_timeout_s = {windows.idle_timeout_s}: must be at least"
            f" scored_reviews.read_interval_ms = {scored_reviews.read_interval_ms}, or every shard"
            " is idle between two reads"
        )
    alerts = groups.get("alerts")
    if (
        isinstance(aws, AwsConfig)
        and isinstance(alerts, AlertsConfig)
        and (problem := topic_problem(alerts.topic_arn, aws.region)) is not None
    ):
        problems.append(f"alerts.topic_arn = {alerts.topic_arn!r}: {problem}")
    if isinstance(application, ApplicationConfig):
        max_body_bytes = _DEFAULT_MAX_BODY_BYTES
        if isinstance(reviews, ReviewsConfig):
            max_body_bytes = reviews.max_body_bytes
        bundle_bytes = application.bundle_rows * max_body_bytes
        if bundle_bytes > MAX_BUNDLE_BYTES:
            problems.append(
                f"application.bundle_rows = {application.bundle_rows} of reviews.max_body_bytes ="
                f" {max_body_bytes} may take {bundle_bytes} bytes of memory: at most"
                f" {MAX_BUNDLE_BYTES} are allowed"
            )
    streams = {
        f"{name}.stream": group.stream
        for name, group in groups.items()
        if isinstance(group, ReviewsConfig | ScoredReviewsConfig | StreamConfig)
    }
    problems += shared_names(streams, "jobs would read what they write, or records of another kind")
    deliveries = {
        f"{name}.delivery_stream": group.delivery_stream
        for name, group in groups.items()
        if isinstance(group, DeliveryConfig)
    }
    problems += shared_names(deliveries, "their records would be mixed in S3")
    return problems
