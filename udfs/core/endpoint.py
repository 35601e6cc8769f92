"""SageMaker's InvokeEndpoint as an `Invoke`: one aiobotocore client.

Errors follow the InvokeEndpoint reference (Amazon SageMaker Runtime API).
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import exceptions as boto

from udfs.core.codec import CODECS, BadAnswerError, ContentType
from udfs.core.predictions import ScoreReason
from udfs.core.scoring import Answer, EndpointError

# Throttling comes as a 400: only the code tells.
_THROTTLING_CODES = frozenset(
    {
        "ThrottlingException",
        "ThrottledException",
        "Throttling",
        "RequestThrottled",
        "RequestThrottledException",
        "ProvisionedThroughputExceededException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "SlowDown",
    }
)
_RETRYABLE_CODES = frozenset(
    {
        "ModelNotReadyException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "InternalFailure",
        "InternalDependencyException",
        "InternalServerException",
        "RequestTimeout",
        "RequestTimeoutException",
        # Temporary credentials that were renewed too late; the next attempt has new ones.
        "ExpiredToken",
        "ExpiredTokenException",
    }
)
_RETRYABLE_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    aiohttp.ClientError,
    OSError,
)
_RETRYABLE_STATUSES = frozenset({408, 500, 502, 503, 504, 530})


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Which endpoint, and how to reach it.

    Attributes
    ----------
    name
        Endpoint name.
    region
        AWS region.
    endpoint_url
        Address of another server that speaks the API, None for AWS.
    target_variant
        The variant to ask for texts that name none; None to leave the choice to the endpoint's
        weights.
    content_type
        Of request and answer, see `CODECS`.
    max_connections
        Connections kept open; no fewer than requests in flight.
    timeout_s
        Of the socket: one attempt's time, so that a hung connection is given back.
    """

    name: str
    region: str
    endpoint_url: str | None = None
    target_variant: str | None = None
    content_type: ContentType = "application/jsonlines"
    max_connections: int = 16
    timeout_s: float = 10.0


class SageMakerInvoke:
    """An `Invoke` that asks a SageMaker endpoint; an async context manager.

    Credentials come from the SDK's default chain. The SDK's own retries are off: `Scorer` retries.

    Examples
    --------
    >>> async def rate(texts):
    ...     options = EndpointOptions(name="reviews", region="us-east-1")
    ...     async with SageMakerInvoke(options) as invoke:
    ...         return (await invoke(texts, "an-inference-id")).labels
    """

    def __init__(self, options: EndpointOptions) -> None:
        self._options = options
        self._codec = CODECS[options.content_type]
        self._exit = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        options = self._options
        self._client = await self._exit.enter_async_context(
            get_session().create_client(
                "sagemaker-runtime",
                region_name=options.region,
                endpoint_url=options.endpoint_url,
                config=AioConfig(
                    max_pool_connections=options.max_connections,
                    connect_timeout=options.timeout_s,
                    read_timeout=options.timeout_s,
                    retries={"total_max_attempts": 1},
                ),
            )
        )
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit.aclose()

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None = None
    ) -> Answer:
        """Ask for the ratings of `texts` in one request.

        Raises
        ------
        EndpointError
            Whatever went wrong, sorted by `classified` and by what the answer looks like.
        """
        request = {
            "EndpointName": self._options.name,
            "ContentType": self._codec.content_type,
            "Accept": self._codec.content_type,
            "InferenceId": inference_id,
            "Body": self._codec.encode(texts),
        }
        target_variant = variant or self._options.target_variant
        if target_variant is not None:
            request["TargetVariant"] = target_variant
        try:
            response = await self._client.invoke_endpoint(**request)
            body = await response["Body"].read()
        except (boto.ClientError, boto.BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise classified(error) from error
        try:
            labels = self._codec.decode(body)
        except BadAnswerError as error:
            raise EndpointError(
                str(error), is_retryable=True, reason=ScoreReason.BAD_ANSWER
            ) from error
        return Answer(labels, response.get("InvokedProductionVariant", ""))


def classified(error: Exception) -> EndpointError:
    """Sort a failed call by whether it may heal and whether its rows may be to blame.

    Throttling, 5xx and lost connections heal. A ModelError is about the rows; with an original
    status 5xx, or none, it may heal as well. Whatever else the service says (no such endpoint, no
    such variant, access denied, no credentials) is about the call itself and no later call mends
    it.
    """
    if not isinstance(error, boto.ClientError):
        return EndpointError(
            f"{type(error).__name__}: {error}", is_retryable=isinstance(error, _RETRYABLE_ERRORS)
        )
    response: dict[str, Any] = dict(error.response)
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = f"{code} ({status}): {response.get('Error', {}).get('Message', '')}"[:1000]
    if code == "ModelError":
        original_status = int(response.get("OriginalStatusCode", 0))
        return EndpointError(
            f"{message} (original status {original_status})",
            # Where the container does not answer in time, SageMaker gives 0 for its status.
            is_retryable=original_status == 0 or original_status >= 500,
            reason=ScoreReason.MODEL_ERROR,
        )
    if status == 413:
        return EndpointError(message, is_retryable=False, reason=ScoreReason.REQUEST_TOO_LARGE)
    is_throttling = code in _THROTTLING_CODES or status == 429
    return EndpointError(
        message,
        is_retryable=is_throttling or code in _RETRYABLE_CODES or status in _RETRYABLE_STATUSES,
        is_throttling=is_throttling,
    )
