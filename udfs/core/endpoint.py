"""SageMaker's InvokeEndpoint as an `Invoke`: JSON Lines over one aiobotocore client.

Request and answer follow the JSON Lines form of SageMaker's inference containers; errors follow the
InvokeEndpoint reference (Amazon SageMaker Runtime API).
"""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import exceptions as boto

from udfs.core.scoring import Answer, EndpointError, ScoreReason

CONTENT_TYPE = "application/jsonlines"

_RETRYABLE_CODES = frozenset(
    {
        # Throttling comes as a 400: only the code tells.
        "ThrottlingException",
        "ThrottledException",
        "Throttling",
        "ProvisionedThroughputExceededException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
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
_RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 530})


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
        The variant to ask, None to leave the choice to the endpoint's weights.
    max_connections
        Connections kept open; no fewer than requests in flight.
    timeout_s
        Of the socket: one attempt's time, so that a hung connection is given back.
    """

    name: str
    region: str
    endpoint_url: str | None = None
    target_variant: str | None = None
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

    async def __call__(self, texts: Sequence[str], inference_id: str) -> Answer:
        """Ask for the ratings of `texts` in one request.

        Raises
        ------
        EndpointError
            Whatever went wrong, sorted by `classified` and by what the answer looks like.
        """
        request = {
            "EndpointName": self._options.name,
            "ContentType": CONTENT_TYPE,
            "Accept": CONTENT_TYPE,
            "InferenceId": inference_id,
            "Body": encode(texts),
        }
        if self._options.target_variant is not None:
            request["TargetVariant"] = self._options.target_variant
        try:
            response = await self._client.invoke_endpoint(**request)
            body = await response["Body"].read()
        except (boto.ClientError, boto.BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise classified(error) from error
        return Answer(decode(body), response.get("InvokedProductionVariant", ""))


def encode(texts: Sequence[str]) -> bytes:
    r"""Return the request body: a line `{"features": [text]}` for each text.

    >>> encode(["good", "bad"])
    b'{"features": ["good"]}\n{"features": ["bad"]}'
    """
    return "\n".join(
        json.dumps({"features": [text]}, ensure_ascii=False) for text in texts
    ).encode()


def decode(body: bytes) -> list[object]:
    r"""Return the labels of an answer with a line `{"predicted_label": n}` for each row.

    Raises
    ------
    EndpointError
        A line is not JSON or has no label.

    >>> decode(b'{"predicted_label": 4}\n{"predicted_label": 1}\n')
    [4, 1]
    """
    try:
        return [json.loads(line)["predicted_label"] for line in body.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EndpointError(
            f"the answer is not one JSON object with predicted_label a line: {error!r}"[:300],
            is_retryable=True,
            reason=ScoreReason.BAD_ANSWER,
        ) from error


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
    return EndpointError(
        message, is_retryable=code in _RETRYABLE_CODES or status in _RETRYABLE_STATUSES
    )
