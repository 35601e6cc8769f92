"""The model's side: SageMaker's scikit-learn container, the endpoint and its variants."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from deploy.aws import artifacts
from deploy.aws.clock import Clock
from deploy.aws.errors import DeployError, Exit
from deploy.aws.history import History, Release, release_id
from deploy.aws.progress import broken_off_in_words
from deploy.aws.session import Aws, Say
from deploy.aws.stack import Stack, StackState

if TYPE_CHECKING:
    from mypy_boto3_sagemaker import SageMakerClient

CONTAINER_VERSION = "1.2-1"
"""Of the prebuilt scikit-learn container: the newest that the SDK knows. What is in it stands in
deploy/model/container-requirements.txt."""

_INSTANCE_TYPE = "ml.m5.large"


@dataclass(frozen=True)
class VariantState:
    """A variant of the endpoint: its share of the requests and its instances."""

    name: str
    weight: float
    instances: int


@dataclass(frozen=True)
class EndpointState:
    """What SageMaker says of the endpoint."""

    status: str
    reason: str
    variants: tuple[VariantState, ...]


def container_image(region: str) -> str:
    """Return the address of the scikit-learn container's image in a region; asks nobody.

    Raises
    ------
    DeployError
        The container does not exist there.
    """
    # It tells of configuration files that it did not find.
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)
    # Slow to import; most commands do without.
    from sagemaker import image_uris

    try:
        image: str = image_uris.retrieve(
            "sklearn",
            region,
            version=CONTAINER_VERSION,
            py_version="py3",
            instance_type=_INSTANCE_TYPE,
            image_scope="inference",
        )
    except ValueError as error:
        raise DeployError(
            f"no scikit-learn container {CONTAINER_VERSION} in {region}: {error}",
            steps=["name another region: --region"],
            code=Exit.WRONG_INPUT,
        ) from error
    return image


def endpoint_state(aws: Aws, endpoint: str) -> EndpointState | None:
    """Return what there is, None where there is no such endpoint."""
    client: SageMakerClient = aws.client("sagemaker")
    try:
        found = client.describe_endpoint(EndpointName=endpoint)
    except ClientError as error:
        if "Could not find" in error.response["Error"]["Message"]:
            return None
        raise
    return EndpointState(
        found["EndpointStatus"],
        found.get("FailureReason", ""),
        tuple(
            VariantState(
                variant["VariantName"],
                variant.get("CurrentWeight", 0.0),
                variant.get("CurrentInstanceCount", 0),
            )
            for variant in found.get("ProductionVariants", [])
        ),
    )


def weight_parameters(weights: Mapping[str, float]) -> dict[str, str]:
    """Return the stack's parameters for the variants' shares of the requests.

    Raises
    ------
    DeployError
        No such variant, or no weight above 0.

    Examples
    --------
    >>> weight_parameters({"tfidf-logistic": 9, "hashing-bayes": 1})
    {'WeightTfidfLogistic': '9', 'WeightHashingBayes': '1'}
    """
    unknown = sorted(set(weights) - set(artifacts.VARIANTS))
    if unknown:
        raise DeployError(
            f"there is no variant {', '.join(unknown)}",
            steps=[f"there are: {', '.join(artifacts.VARIANTS)}"],
            code=Exit.WRONG_INPUT,
        )
    if weights and max(weights.values()) <= 0:
        raise DeployError("one variant needs a weight above 0", code=Exit.WRONG_INPUT)
    return {
        artifacts.VARIANTS[variant].replace("Model", "Weight"): f"{weight:g}"
        for variant, weight in weights.items()
    }


def update_endpoint(
    aws: Aws, stack: Stack, clock: Clock, say: Say, weights: Mapping[str, float]
) -> None:
    """Put trained models and weights in place; SageMaker goes back where an alarm goes off.

    What works is put on record, so that `rollback` leads to the models before it.

    Raises
    ------
    DeployError
        It did not work out: with the code `ROLLED_BACK` where the endpoint serves what it served
        before.
    """
    weighted = weight_parameters(weights)
    state = stack.existing()
    with broken_off_in_words(
        "the endpoint serves what it served, or SageMaker is still changing it",
        "again: python -m deploy endpoint",
    ):
        _update_endpoint(aws, stack, state, clock, say, weighted)


def _update_endpoint(
    aws: Aws,
    stack: Stack,
    state: StackState,
    clock: Clock,
    say: Say,
    weighted: Mapping[str, str],
) -> None:
    models = artifacts.models(aws, say)
    bucket = state.outputs["BucketName"]
    for model in models.values():
        artifacts.upload(aws, bucket, model, say)
    parameters = {
        **state.parameters,
        **weighted,
        "ModelImage": container_image(aws.region),
        **{artifacts.VARIANTS[variant]: model.key for variant, model in models.items()},
    }
    say("updating the endpoint; a new model is watched for ten minutes")
    endpoint = state.outputs["EndpointName"]
    try:
        changed = stack.apply(stack.template(), parameters, is_new=False)
    except DeployError as error:
        now = endpoint_state(aws, endpoint)
        serving = "does not exist" if now is None else f"is {now.status} {now.reason}".strip()
        raise DeployError(
            error.problem,
            state=[*error.state, f"endpoint {endpoint} {serving}"],
            steps=[
                "where an alarm took it back: python -m deploy status names the alarm",
                *error.steps,
            ],
            code=Exit.ROLLED_BACK if now and now.status == "InService" else Exit.UNHEALTHY,
        ) from error
    if changed:
        History(aws, bucket).add(Release(release_id(clock.now()), stack.template(), parameters))
    say(f"endpoint {endpoint} {'is updated' if changed else 'has all this already'}")
