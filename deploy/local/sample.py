"""The sample of runtime properties, checked for all jobs at once."""

from pathlib import Path
from typing import cast

from pydantic import ValidationError

from flink_jobs.config import (
    JOB_CONFIGS,
    AlertsConfig,
    AnomaliesConfig,
    ApplicationConfig,
    AwsConfig,
    CategoriesConfig,
    CloudWatchConfig,
    ConfigError,
    DeadLettersConfig,
    DeliveryConfig,
    EndpointConfig,
    Group,
    PublishingConfig,
    ReviewsConfig,
    ScoredReviewsConfig,
    StreamConfig,
    WindowsConfig,
    load_groups,
)


class SampleConfig(Group):
    """All that any job needs; each field is the property group of its name."""

    application: ApplicationConfig
    aws: AwsConfig
    reviews: ReviewsConfig
    categories: CategoriesConfig
    endpoint: EndpointConfig
    scored_reviews: ScoredReviewsConfig
    windows: WindowsConfig
    anomalies: AnomaliesConfig
    review_metrics: StreamConfig
    rating_anomalies: StreamConfig
    dead_letters: DeadLettersConfig
    cloudwatch: CloudWatchConfig
    alerts: AlertsConfig
    publishing: PublishingConfig
    raw_archive: DeliveryConfig
    scored_archive: DeliveryConfig
    metrics_archive: DeliveryConfig

    @property
    def alerts_topic(self) -> str:
        """The name of the topic of alerts; the laptop's queue of its messages is called so too."""
        return self.alerts.topic_arn.rpartition(":")[2]


def load_sample(path: Path) -> SampleConfig:
    """Read and check runtime properties that serve every job.

    Raises
    ------
    ConfigError
        As of `flink_jobs.config.load_config`; also where a group is missing that any job needs.
    """
    groups = load_groups(path)
    problems = []
    for name, field in SampleConfig.model_fields.items():
        if name not in groups:
            try:
                groups[name] = cast(type[Group], field.annotation).model_validate({})
            except ValidationError:
                needs_it = next(job for job in JOB_CONFIGS if name in JOB_CONFIGS[job].model_fields)
                problems.append(f"group {name!r} is missing; {needs_it} needs it")
    if problems:
        raise ConfigError(path, problems)
    return SampleConfig.model_validate({name: groups[name] for name in SampleConfig.model_fields})
