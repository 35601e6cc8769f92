"""The async client of the UDF against the local endpoint server, and its sorting of errors."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from deploy.local.endpoint_faults import Faults
from tests.endpoint_server import serving
from udfs.core.endpoint import EndpointOptions, SageMakerInvoke, classified
from udfs.core.failures import EndpointError, FailureKind
from udfs.core.invocations import Answer, ScoringOptions
from udfs.core.predictions import Failed, Scored
from udfs.core.scoring import Scorer


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
    assert (raised.value.kind, raised.value.reason) == (FailureKind.MODEL, "bad_answer")


def test_an_unknown_endpoint_is_nobodys_fault_and_no_retry_mends_it() -> None:
    with serving({"A": Length()}) as address, pytest.raises(EndpointError) as raised:
        ask(options(address, name="other"), ["a"])
    assert "ValidationError (400)" in str(raised.value)
    assert (raised.value.kind, raised.value.reason) == (FailureKind.CALL, None)


def test_an_endpoint_that_is_not_there_may_come_back() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EndpointError) as raised:
            ask(options(address), ["a"])
    assert (raised.value.kind, raised.value.reason) == (FailureKind.SERVICE, None)


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
    ("error", "kind", "reason"),
    [
        (client_error("ThrottlingException", 400), "load", None),
        (client_error("TooManyRequestsException", 429), "load", None),
        (client_error("429", 429), "load", None),
        (client_error("ModelNotReadyException", 429), "load", None),
        (client_error("ServiceUnavailable", 503), "load", None),
        (client_error("", 502), "load", None),
        (client_error("RequestTimeout", 408), "load", None),
        (client_error("InternalFailure", 500), "service", None),
        (client_error("InternalDependencyException", 530), "service", None),
        (client_error("ExpiredTokenException", 403), "service", None),
        (client_error("ModelError", 424, OriginalStatusCode=400), "rows", "model_error"),
        (client_error("ModelError", 424, OriginalStatusCode=415), "rows", "model_error"),
        (client_error("ModelError", 424, OriginalStatusCode=500), "model", "model_error"),
        (client_error("ModelError", 424, OriginalStatusCode=507), "model", "model_error"),
        (client_error("ModelError", 424, OriginalStatusCode="abc"), "model", "model_error"),
        (client_error("ModelError", 424, OriginalStatusCode=None), "model", "model_error"),
        (client_error("ModelError", 424), "load", "model_error"),
        *(
            (client_error("ModelError", 424, OriginalStatusCode=status), "load", "model_error")
            for status in (0, 408, 429, 502, 503, 504, "503")
        ),
        (client_error("413", 413), "rows", "request_too_large"),
        (client_error("ValidationError", 400), "call", None),
        (client_error("AccessDeniedException", 403), "call", None),
        (client_error("", "abc"), "call", None),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), "service", None),
        (CredentialRetrievalError(provider="iam-role", error_msg="slow"), "service", None),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1"), "load", "timeout"),
        (aiohttp.ServerTimeoutError("no data"), "load", "timeout"),
        (ConnectTimeoutError(endpoint_url="http://127.0.0.1"), "load", None),
        (aiohttp.ClientPayloadError("cut short"), "service", None),
        (ConnectionResetError(), "service", None),
        (NoCredentialsError(), "call", None),
        (ResponseParserError("unable to parse"), "model", "bad_answer"),
        (ValueError("invalid literal for int()"), "model", "bad_answer"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_errors_are_classified(error: Exception, kind: str, reason: str | None) -> None:
    found = classified(error)
    assert (found.kind, found.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("arn", "variant"),
    [
        ("arn:aws:logs:r:1:log-group:/aws/sagemaker/Endpoints/e:log-stream:B/i-1", "B"),
        ("arn:aws:logs:r:1:log-group:/aws/sagemaker/Endpoints/e", None),
        ("", None),
    ],
)
def test_a_model_error_names_the_variant_whose_log_it_is_in(arn: str, variant: str | None) -> None:
    error = client_error("ModelError", 424, OriginalStatusCode=400, LogStreamArn=arn)
    assert classified(error).variant == variant


def test_a_variant_of_the_row_that_does_not_exist_may_be_left_out() -> None:
    error = client_error("ValidationError", 400)
    assert classified(error, names_variant=True).kind is FailureKind.VARIANT


def test_a_status_that_is_not_a_number_does_not_escape_the_client() -> None:
    with (
        serving({"A": Length()}, faults=Faults(error_rates={"ModelError/abc": 1.0})) as address,
        pytest.raises(EndpointError) as raised,
    ):
        ask(options(address), ["a"])
    assert raised.value.kind is FailureKind.MODEL


def test_a_wrong_variant_of_the_options_is_an_error_that_lists_the_existing_ones() -> None:
    with (
        serving({"A": Length(), "B": Length()}) as address,
        pytest.raises(EndpointError, match=r"'C'.*existing variants: A, B") as raised,
    ):
        ask(options(address, target_variant="C"), ["a"])
    assert raised.value.kind is FailureKind.CALL


def test_a_wrong_variant_of_the_row_is_told_apart_from_that() -> None:
    with (
        serving({"A": Length()}) as address,
        pytest.raises(EndpointError, match="Variant C") as raised,
    ):
        ask(options(address, target_variant="A"), ["a"], "C")
    assert raised.value.kind is FailureKind.VARIANT
