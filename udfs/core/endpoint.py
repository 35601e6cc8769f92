"""SageMaker's InvokeEndpoint as an `Invoke`: one aiobotocore client, and its table of errors.

Sources of the table: the InvokeEndpoint reference of the Amazon SageMaker Runtime API (codes,
statuses, members of `ModelError`), and what containers answer under load. TorchServe and Multi
Model Server answer 503 when their queue is full, when no worker is left and, the latter, also for
an exception of the handler; gunicorn and nginx 502 and 504 when a worker has died or is too slow;
containers of one's own often 429. Where a container closes the connection or does not answer within
60 s, SageMaker gives 0 for its status.
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
from botocore.parsers import ResponseParserError

from udfs.core.codec import CODECS, BadAnswerError, ContentType
from udfs.core.failures import EndpointError, FailureKind
from udfs.core.invocations import Answer
from udfs.core.predictions import ScoreReason
from udfs.core.throttling import is_throttling

# Beside throttling (`is_throttling`).
_KINDS_BY_CODE = {
    **dict.fromkeys(
        (
            # The variant's instances are not there yet.
            "ModelNotReadyException",
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "RequestTimeout",
            "RequestTimeoutException",
        ),
        FailureKind.LOAD,
    ),
    **dict.fromkeys(
        (
            "InternalFailure",
            "InternalDependencyException",
            "InternalServerException",
            # Temporary credentials that were renewed too late; the next attempt has new ones.
            "ExpiredToken",
            "ExpiredTokenException",
        ),
        FailureKind.SERVICE,
    ),
}
# Of answers without a code of the service's own, as from a proxy.
_KINDS_BY_STATUS = {
    **dict.fromkeys((408, 429, 502, 503, 504), FailureKind.LOAD),
    **dict.fromkeys((500, 530), FailureKind.SERVICE),
}
# The container's own status. All other 4xx are about the rows, all others about rows or model.
_LOAD_STATUSES = frozenset({0, 408, 429, 502, 503, 504})
_SERVICE_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    aiohttp.ClientError,
    OSError,
)

# An endpoint has at most ten production variants. Each has a concurrency limit, so has its default.
_MAX_LIMITS = 11
_DESCRIPTION_TIMEOUT_S = 5.0


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
    max_in_flight
        Requests in flight to one variant, at most: there are connections for those to all.
    timeout_s
        Of the socket: one attempt's time, so that a hung connection is given back.
    """

    name: str
    region: str
    endpoint_url: str | None = None
    target_variant: str | None = None
    content_type: ContentType = "application/jsonlines"
    max_in_flight: int = 32
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
            _client("sagemaker-runtime", options, options.timeout_s)
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
        request: dict[str, str | bytes] = {
            "EndpointName": self._options.name,
            "ContentType": self._codec.content_type,
            "Accept": self._codec.content_type,
            "InferenceId": inference_id,
        }
        target_variant = variant or self._options.target_variant
        if target_variant is not None:
            request["TargetVariant"] = target_variant
        try:
            request["Body"] = self._codec.encode(texts)
            response = await self._client.invoke_endpoint(**request)
            body = await response["Body"].read()
        except _ERRORS as error:
            failure = classified(error, names_variant=variant is not None)
            if failure.kind is FailureKind.CALL and target_variant is not None:
                raise EndpointError(
                    f"{failure} (target variant {target_variant!r}; {await self._variants()})",
                    FailureKind.CALL,
                ) from error
            raise failure from error
        try:
            labels = self._codec.decode(body)
        except BadAnswerError as error:
            raise EndpointError(
                str(error),
                FailureKind.MODEL,
                reason=ScoreReason.BAD_ANSWER,
                variant=response.get("InvokedProductionVariant"),
            ) from error
        return Answer(labels, response.get("InvokedProductionVariant", ""))

    async def _variants(self) -> str:
        """Say which variants the endpoint has, for the message of an error."""
        try:
            async with _client("sagemaker", self._options, _DESCRIPTION_TIMEOUT_S) as client:
                endpoint = await client.describe_endpoint(EndpointName=self._options.name)
        except _ERRORS as error:
            return f"the existing ones cannot be listed: {classified(error)}"
        variants = endpoint.get("ProductionVariants", [])
        names = sorted(variant["VariantName"] for variant in variants)
        return f"existing variants: {', '.join(names)}"


def _client(service: str, options: EndpointOptions, timeout_s: float) -> Any:
    return get_session().create_client(
        service,
        region_name=options.region,
        endpoint_url=options.endpoint_url,
        config=AioConfig(
            max_pool_connections=options.max_in_flight * _MAX_LIMITS,
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1},
        ),
    )


_ERRORS = (
    boto.ClientError,
    boto.BotoCoreError,
    ResponseParserError,
    # Of botocore's parsers: a member of an error that is not of its type.
    ValueError,
    aiohttp.ClientError,
    OSError,
)


def classified(error: Exception, *, names_variant: bool = False) -> EndpointError:
    """Return a failed call as an `EndpointError` of its kind.

    Parameters
    ----------
    error
        One of the SDK's, or of the connection.
    names_variant
        Whether the request named a variant of its own: a call that the service refuses may then be
        answered without that name.
    """
    if not isinstance(error, boto.ClientError):
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, boto.ConnectTimeoutError):
            return EndpointError(message, FailureKind.LOAD)
        # The connection's own clock may be quicker than the scorer's.
        if isinstance(error, (boto.ReadTimeoutError, TimeoutError)):
            return EndpointError(message, FailureKind.LOAD, reason=ScoreReason.TIMEOUT)
        if isinstance(error, _SERVICE_ERRORS):
            return EndpointError(message, FailureKind.SERVICE)
        if isinstance(error, boto.BotoCoreError):
            return EndpointError(message, FailureKind.CALL)
        return EndpointError(message, FailureKind.MODEL, reason=ScoreReason.BAD_ANSWER)
    response: dict[str, Any] = dict(error.response)
    code = str(response.get("Error", {}).get("Code", ""))
    status = _number(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = f"{code} ({status}): {response.get('Error', {}).get('Message', '')}"[:1000]
    if code == "ModelError":
        return _model_error(message, response)
    if status == 413:
        return EndpointError(message, FailureKind.ROWS, reason=ScoreReason.REQUEST_TOO_LARGE)
    kind = _KINDS_BY_CODE.get(code) or _KINDS_BY_STATUS.get(status or 0)
    if is_throttling(code):
        kind = FailureKind.LOAD
    if kind is None:
        is_variant = names_variant and code in ("ValidationError", "ValidationException")
        kind = FailureKind.VARIANT if is_variant else FailureKind.CALL
    return EndpointError(message, kind)


def _model_error(message: str, response: dict[str, Any]) -> EndpointError:
    original = response.get("OriginalStatusCode", 0)
    status = _number(original)
    if status in _LOAD_STATUSES:
        kind = FailureKind.LOAD
    elif status is not None and 400 <= status < 500:
        kind = FailureKind.ROWS
    else:
        kind = FailureKind.MODEL
    return EndpointError(
        f"{message} (original status {original})",
        kind,
        reason=ScoreReason.MODEL_ERROR,
        variant=_variant_of(str(response.get("LogStreamArn", ""))),
    )


def _number(value: object) -> int | None:
    """Return a status as a number; None where it is not one.

    >>> _number(503), _number("503"), _number("abc"), _number(None)
    (503, 503, None, None)
    """
    try:
        return int(str(value))
    except ValueError:
        return None


def _variant_of(log_stream_arn: str) -> str | None:
    """Return the variant whose container has written a log stream; None if it does not say.

    >>> _variant_of("arn:aws:logs:r:1:log-group:/aws/sagemaker/Endpoints/e:log-stream:B/i-1")
    'B'
    """
    stream = log_stream_arn.partition(":log-stream:")[2]
    return stream.partition("/")[0] or None
