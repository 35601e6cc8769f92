r"""A SageMaker endpoint on the laptop: the runtime API in front of the container's own handler.

`python -m deploy.local.endpoint --name reviews --port 8090 --model-dir build/model`, then any AWS
SDK's SageMaker runtime client with that address as its endpoint URL. Every directory of the model
directory that holds a model is a production variant. Signatures are not checked.

What goes wrong on purpose is told by control calls, see `deploy.local.endpoint_faults.Faults`; what
is not named is off:

    curl -X PUT http://127.0.0.1:8090/faults \
        -d '{"latency_ms": 20, "max_served": 8, "error_rates": {"ThrottlingException": 0.1}}'
    curl http://127.0.0.1:8090/faults
    curl -X DELETE http://127.0.0.1:8090/faults
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import signal
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from aiohttp import web
from pydantic import ValidationError

from deploy.local.endpoint_faults import (
    ERROR_STATUSES,
    HANG,
    MALFORMED,
    RESET,
    SHORT,
    THROTTLED,
    FaultInjector,
    Faults,
    QueueFullError,
    hashed_rating,
    problems_of,
)
from deploy.model import inference
from udfs.core.scoring import MAX_REQUEST_BYTES

HOST = "127.0.0.1"

_ACCOUNT = "123456789012"
_REGION = "us-east-1"
# What the container makes of a request that says neither.
_DEFAULT_TYPE = "application/json"
_MAX_MESSAGE_CHARS = 1024
# Python runs one of them at a time; the second lets small requests pass a large one.
_PREDICTION_THREADS = 2
_SHUTDOWN_TIMEOUT_S = 5.0
# How soon a request that hangs notices that its client has left.
_HANG_POLL_S = 0.1

_log = logging.getLogger("endpoint")


class ModelLoadError(Exception):
    """There is no model, or one cannot be loaded; the message names the directory or the file."""


class ServiceError(Exception):
    """An error that the service answers with.

    Attributes
    ----------
    status
        HTTP status.
    code
        What SDKs report as the error code; None where the service sends none, and SDKs report the
        status.
    body
        The members of the error: `Message`, and for `ModelError` three more.
    """

    def __init__(self, status: int, code: str | None, message: str, **members: str | int):
        super().__init__(message)
        self.status = status
        self.code = code
        self.body: dict[str, str | int] = {"Message": message, **members}


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    content_type: str
    records: int


class Endpoint:
    """One endpoint: its variants, and what it has done so far.

    Parameters
    ----------
    name
        Of the endpoint.
    models
        A model for each production variant, at least one; all have the same weight.
    seed
        Of the choice of a variant for requests that name none, and of the faults.
    faults
        What goes wrong from the start.
    """

    def __init__(self, name: str, models: Mapping[str, Any], *, seed: int, faults: Faults):
        if not models:
            raise ValueError("an endpoint needs at least one variant")
        self._injector = FaultInjector(faults, seed=seed)
        self._name = name
        self._models = dict(models)
        self._random = random.Random(seed)
        self._requests = 0
        self._errors = 0
        self._records = dict.fromkeys(self._models, 0)
        self._executor = ThreadPoolExecutor(_PREDICTION_THREADS, thread_name_prefix="predict")

    async def invoke(self, request: web.Request) -> web.Response:
        """InvokeEndpoint: answer, count, and report an error as the service does."""
        self._requests += 1
        try:
            return await self._invocation(request)
        except ServiceError as error:
            self._errors += 1
            inference_id = request.headers.get("X-Amzn-SageMaker-Inference-Id", "-")
            _log.warning(
                "%d %s, inference id %r: %s", error.status, error.code or "", inference_id, error
            )
            headers = {} if error.code is None else {"x-amzn-ErrorType": error.code}
            return web.json_response(error.body, status=error.status, headers=headers)

    async def ping(self, request: web.Request) -> web.Response:
        """Say that the models are loaded: the server listens only from then on."""
        return web.Response()

    async def stats(self, request: web.Request) -> web.Response:
        """Count since the start: requests, those of them in error, records answered."""
        return web.json_response(
            {
                "requests": self._requests,
                "records": sum(self._records.values()),
                "by_variant": self._records,
                "errors": self._errors,
                "served": self._injector.served,
                "queued": self._injector.queued,
                "faults": self._injector.injected,
            }
        )

    async def show_faults(self, request: web.Request) -> web.Response:
        """Say what goes wrong on purpose."""
        return web.json_response(self._injector.faults.model_dump())

    async def put_faults(self, request: web.Request) -> web.Response:
        """Let only what the request names go wrong from now on."""
        try:
            faults = Faults.model_validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"problems": problems_of(error)}, status=400)
        self._injector.replace(faults)
        return await self.show_faults(request)

    async def delete_faults(self, request: web.Request) -> web.Response:
        """Let nothing go wrong from now on."""
        self._injector.replace(Faults())
        return await self.show_faults(request)

    async def shutting_down(self, app: web.Application) -> None:
        """Let go of the requests that hang or queue when `app` begins to end."""
        self._injector.replace(Faults())

    async def closing(self, app: web.Application) -> AsyncIterator[None]:
        """Free the prediction threads when `app` ends."""
        yield
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _invocation(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise ServiceError(
                413, None, f"HTTP content length exceeded {MAX_REQUEST_BYTES} bytes."
            ) from error
        variant = self._variant(
            request.match_info["name"], request.headers.get("X-Amzn-SageMaker-Target-Variant")
        )
        try:
            async with self._injector.place():
                return await self._served(request, variant, body)
        except QueueFullError as error:
            raise self._error(THROTTLED, variant) from error

    async def _served(self, request: web.Request, variant: str, body: bytes) -> web.Response:
        fate = self._injector.fate()
        if fate == HANG:
            await self._hang(request)
        if fate in (HANG, RESET):
            return _closed(request, is_reset=fate == RESET)
        try:
            if fate in ERROR_STATUSES:
                raise self._error(fate, variant)
            answer = await self._answer(request, variant, body, is_short=fate == SHORT)
        except ServiceError:
            await self._injector.delay(0)
            raise
        await self._injector.delay(answer.records)
        self._records[variant] += answer.records
        return web.Response(
            body=answer.body[: len(answer.body) // 2] + b"{" if fate == MALFORMED else answer.body,
            headers={
                "Content-Type": answer.content_type,
                "x-Amzn-Invoked-Production-Variant": variant,
            },
        )

    async def _answer(
        self, request: web.Request, variant: str, body: bytes, *, is_short: bool
    ) -> _Answer:
        content_type = request.headers.get("Content-Type", _DEFAULT_TYPE)
        accept = request.headers.get("Accept", "*/*")
        accept = _DEFAULT_TYPE if accept == "*/*" else accept
        try:
            if self._injector.faults.labels == "hash":
                return _predict(None, body, content_type, accept, is_short)
            return await asyncio.get_running_loop().run_in_executor(
                self._executor,
                _predict,
                self._models[variant],
                body,
                content_type,
                accept,
                is_short,
            )
        except inference.RequestError as error:
            raise self._model_error(variant, error.status, str(error)) from error
        except Exception as error:
            raise self._model_error(variant, 500, f"{type(error).__name__}: {error}") from error

    async def _hang(self, request: web.Request) -> None:
        hanging = asyncio.ensure_future(self._injector.hang())
        try:
            while not hanging.done() and request.transport is not None:
                await asyncio.wait([hanging], timeout=_HANG_POLL_S)
        finally:
            hanging.cancel()

    def _variant(self, endpoint: str, target: str | None) -> str:
        if endpoint != self._name:
            raise ServiceError(
                400, "ValidationError", f"Endpoint {endpoint} of account {_ACCOUNT} not found."
            )
        if target is None:
            return self._random.choice(list(self._models))
        if target not in self._models:
            raise ServiceError(
                400,
                "ValidationError",
                f"Variant {target} of endpoint {endpoint} of account {_ACCOUNT} not found.",
            )
        return target

    def _error(self, code: str, variant: str) -> ServiceError:
        if code == "ModelError":
            return self._model_error(variant, 500, "injected")
        return ServiceError(ERROR_STATUSES[code], code, f"{code}: injected.")

    def _model_error(self, variant: str, status: int, message: str) -> ServiceError:
        message = message[:_MAX_MESSAGE_CHARS]
        group = f"/aws/sagemaker/Endpoints/{self._name}"
        side = "client" if status < 500 else "server"
        return ServiceError(
            424,
            "ModelError",
            f'Received {side} error ({status}) from primary with message "{message}".'
            f" See {group} in account {_ACCOUNT} for more information.",
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=f"arn:aws:logs:{_REGION}:{_ACCOUNT}:log-group:{group}"
            f":log-stream:{variant}/local",
        )


def _predict(model: Any, body: bytes, content_type: str, accept: str, is_short: bool) -> _Answer:
    """Do what the container does with a request; without a model, hash the texts."""
    texts = inference.input_fn(body, content_type)
    labels = (
        [hashed_rating(text) for text in texts]
        if model is None
        else inference.predict_fn(texts, model)
    )
    answer, answer_type = inference.output_fn(labels[:-1] if is_short else labels, accept)
    return _Answer(answer.encode(), answer_type, len(texts))


def _closed(request: web.Request, *, is_reset: bool) -> web.Response:
    """Close the connection without an answer; what is returned goes nowhere."""
    if request.transport is not None:
        if is_reset:
            connection = request.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                # No lingering: the kernel sends RST.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


def create_app(
    name: str, models: Mapping[str, Any], *, seed: int = 0, faults: Faults | None = None
) -> web.Application:
    """Build the server of one endpoint; see `Endpoint` for the parameters.

    Returns
    -------
    web.Application
        `POST /endpoints/NAME/invocations`; `GET /ping`, 200; `GET /stats`, the JSON object
        `{"requests", "records", "by_variant": {variant: records}, "errors", "served", "queued",
        "faults": {name: count}}`; `GET`, `PUT` and `DELETE /faults`. Requests count when they
        arrive, records when they are answered; served and queued are those of now.

    Raises
    ------
    ValueError
        No model at all.
    """
    endpoint = Endpoint(name, models, seed=seed, faults=faults or Faults())
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.on_shutdown.append(endpoint.shutting_down)
    app.cleanup_ctx.append(endpoint.closing)
    app.router.add_post("/endpoints/{name}/invocations", endpoint.invoke)
    app.router.add_get("/ping", endpoint.ping)
    app.router.add_get("/stats", endpoint.stats)
    app.router.add_get("/faults", endpoint.show_faults)
    app.router.add_put("/faults", endpoint.put_faults)
    app.router.add_delete("/faults", endpoint.delete_faults)
    return app


def load_models(model_dir: Path) -> dict[str, Any]:
    """Load the model of every variant.

    Parameters
    ----------
    model_dir
        Has a directory for each variant, named like it, with the model in it.

    Returns
    -------
    dict
        Models by variant, in the order of the names.

    Raises
    ------
    ModelLoadError
        There is none, or one cannot be loaded.
    """
    models = {}
    for path in sorted(model_dir.glob(f"*/{inference.MODEL_FILE}")):
        try:
            models[path.parent.name] = inference.model_fn(str(path.parent))
        except Exception as error:  # unpickling fails in any way
            raise ModelLoadError(f"cannot load {path}: {type(error).__name__}: {error}") from error
    if not models:
        raise ModelLoadError(
            f"no {inference.MODEL_FILE} in a directory of {model_dir};"
            " train with python -m deploy.model.train"
        )
    return models


async def serve(app: web.Application, port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT, then let the requests in flight finish.

    Parameters
    ----------
    app
        From `create_app`.
    port
        TCP port, 0 for any that is free; the log names it.

    Raises
    ------
    OSError
        The port is taken.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        _log.info("serving on http://%s:%d", HOST, runner.addresses[0][1])
        await stopped.wait()
    finally:
        await runner.cleanup()
    _log.info("stopped")


cli = typer.Typer(add_completion=False)


@cli.command()
def main(
    name: Annotated[str, typer.Option(help="Name of the endpoint.")] = "reviews",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8090,
    model_dir: Annotated[
        Path, typer.Option(help="A directory for each variant, with its model.")
    ] = Path("build/model"),
    seed: Annotated[int, typer.Option(help="Of the choice of variants and faults.")] = 0,
    faults: Annotated[str, typer.Option(help="What goes wrong from the start, as JSON.")] = "{}",
) -> None:
    """Serve the models as a SageMaker endpoint on 127.0.0.1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        parsed_faults = Faults.model_validate_json(faults)
    except ValidationError as error:
        typer.echo(f"endpoint: --faults: {'; '.join(problems_of(error))}", err=True)
        raise typer.Exit(2) from error
    try:
        models = load_models(model_dir)
        _log.info("endpoint %s, variants %s", name, ", ".join(models))
        asyncio.run(serve(create_app(name, models, seed=seed, faults=parsed_faults), port))
    except ModelLoadError as error:
        typer.echo(f"endpoint: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        typer.echo(f"endpoint: port {port} of {HOST} is taken, choose another --port", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    cli()
