"""The async client of the UDF against the local endpoint server, and its sorting of errors."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
)

from tests.endpoint_server import serving
from udfs.core.endpoint import EndpointOptions, SageMakerInvoke, classified
from udfs.core.predictions import Failed, Scored
from udfs.core.scoring import Answer, EndpointError, Scorer, ScoringOptions


class Length:
    def predict(self, texts: Sequence[str]) -> list[int]:
        if "poison" in texts:
            raise ValueError("poisoned")
        return [min(len(text), 5) for text in texts]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")


def options(address: str, **changes: Any) -> EndpointOptions:
    values = {"name": "reviews", "region": "us-east-1", "endpoint_url": address, **changes}
    return EndpointOptions(**values)


def ask(endpoint: EndpointOptions, texts: Sequence[str], variant: str | None = None) -> Answer:
    async def once() -> Answer:
        async with SageMakerInvoke(endpoint) as invoke:
            return await invoke(texts, "request-1", variant)

    return asyncio.run(once())


def test_labels_come_back_in_row_order_from_the_variant_that_was_asked() -> None:
    with serving({"A": Length(), "B": Length()}) as address:
        for variant in ("A", "B"):
            answer = ask(options(address, target_variant=variant), ["a", "é\u2028", "\x00b\nc"])
            assert answer == Answer([1, 2, 4], variant)


def test_a_variant_of_the_request_comes_before_that_of_the_options() -> None:
    with serving({"A": Length(), "B": Length()}) as address:
        answer = ask(options(address, target_variant="A"), ["a"], "B")
    assert answer.model_variant == "B"


@pytest.mark.parametrize("body", [b"{", b"[]"])
def test_an_answer_of_another_form_may_be_the_rows_fault(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    from deploy.model import inference

    monkeypatch.setattr(inference, "output_fn", lambda labels, accept: (body.decode(), accept))
    with serving({"A": Length()}) as address, pytest.raises(EndpointError) as raised:
        ask(options(address), ["a"])
    assert (raised.value.is_retryable, raised.value.reason) == (True, "bad_answer")


def test_an_unknown_endpoint_is_nobodys_fault_and_no_retry_mends_it() -> None:
    with serving({"A": Length()}) as address, pytest.raises(EndpointError) as raised:
        ask(options(address, name="other"), ["a"])
    assert "ValidationError (400)" in str(raised.value)
    assert (raised.value.is_retryable, raised.value.reason) == (False, None)


def test_an_endpoint_that_is_not_there_may_come_back() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EndpointError) as raised:
            ask(options(address), ["a"])
    assert (raised.value.is_retryable, raised.value.reason) == (True, None)


def test_a_poison_row_fails_alone_through_the_real_client() -> None:
    async def score(address: str) -> list[Scored | Failed]:
        async with SageMakerInvoke(options(address)) as invoke:
            scoring = ScoringOptions(max_attempts=1, backoff_base_s=0.0)
            return await Scorer(invoke, scoring).score(["a", "bb", "poison", "ccc"])

    with serving({"A": Length()}) as address:
        results = asyncio.run(score(address))
    assert [row.star_rating if isinstance(row, Scored) else row.reason for row in results] == [
        1,
        2,
        "model_error",
        3,
    ]


def client_error(code: str, status: int, **members: Any) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": "why"},
            "ResponseMetadata": {"HTTPStatusCode": status},  # type: ignore[typeddict-item]
            **members,
        },
        "InvokeEndpoint",
    )


@pytest.mark.parametrize(
    ("error", "is_retryable", "reason"),
    [
        (client_error("ThrottlingException", 400), True, None),
        (client_error("ModelNotReadyException", 429), True, None),
        (client_error("ServiceUnavailable", 503), True, None),
        (client_error("InternalFailure", 500), True, None),
        (client_error("InternalDependencyException", 530), True, None),
        (client_error("", 502), True, None),
        (client_error("ModelError", 424, OriginalStatusCode=503), True, "model_error"),
        (client_error("ModelError", 424, OriginalStatusCode=400), False, "model_error"),
        (client_error("ModelError", 424, OriginalStatusCode=0), True, "model_error"),
        (client_error("ExpiredTokenException", 403), True, None),
        (client_error("RequestTimeout", 408), True, None),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), True, None),
        (CredentialRetrievalError(provider="iam-role", error_msg="slow"), True, None),
        (client_error("413", 413), False, "request_too_large"),
        (client_error("ValidationError", 400), False, None),
        (client_error("AccessDeniedException", 403), False, None),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1"), True, None),
        (aiohttp.ClientPayloadError("cut short"), True, None),
        (ConnectionResetError(), True, None),
        (NoCredentialsError(), False, None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_errors_are_sorted_by_code(
    error: Exception, is_retryable: bool, reason: str | None
) -> None:
    found = classified(error)
    assert (found.is_retryable, found.reason) == (is_retryable, reason)


@pytest.mark.parametrize(
    ("error", "is_throttling"),
    [
        (client_error("ThrottlingException", 400), True),
        (client_error("TooManyRequestsException", 429), True),
        (client_error("429", 429), True),
        # The variant's resources are not there yet.
        (client_error("ModelNotReadyException", 429), True),
        (client_error("ValidationError", 400), False),
        (client_error("ServiceUnavailable", 503), False),
        (client_error("ModelError", 424, OriginalStatusCode=429), False),
        (ConnectionResetError(), False),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_throttling_is_told_by_its_code(error: Exception, is_throttling: bool) -> None:
    assert classified(error).is_throttling is is_throttling
