r"""Local SageMaker endpoint: the runtime API in front of the container's own handler.

Start it with `python -m deploy.local.endpoint --name reviews --port 8090 --model-dir build/model`,
then use its address as the endpoint URL of any AWS SDK's SageMaker runtime client. Every directory
of the model directory that holds a model is a production variant. Signatures are not checked.

Control calls inject faults, see `deploy.local.endpoint_faults.Faults`. Faults that a call does not
name are off:

    curl -X PUT http://127.0.0.1:8090/faults \
        -d '{"latency_ms": 20, "max_served": 8, "error_rates": {"ThrottlingException": 0.1}}'
    curl -X PUT http://127.0.0.1:8090/faults \
        -d '{"max_served": 8, "max_queued": 8, "shed_status": 503, "crash_text": "crash me",
             "broken_variants": {"hashing-bayes": 500}}'
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from aiohttp import web
from pydantic import ValidationError

from deploy.local.endpoint_containers import Container, CrashedError, Places, QueueFullError
from deploy.local.endpoint_faults import (
    CRASH_TEXT,
    ERROR_STATUSES,
    HANG,
    HANG_TEXT,
    MALFORMED,
    MODEL_ERROR,
    RESET,
    SHORT,
    THROTTLED,
    FaultInjector,
    Faults,
    hashed_rating,
    original_status,
    parsed_faults,
)
from deploy.model import inference
from udfs.core.invocations import MAX_REQUEST_BYTES
from udfs.core.validation import problems_of

HOST = "127.0.0.1"

_ACCOUNT = "123456789012"
_REGION = "us-east-1"
# The container's default for requests without Content-Type or Accept.
_DEFAULT_TYPE = "application/json"
_MAX_MESSAGE_CHARS = 1024
# Python runs one of them at a time; the second lets small requests pass a large one.
_PREDICTION_THREADS = 2
_SHUTDOWN_TIMEOUT_S = 5.0

_log = logging.getLogger("endpoint")


class ModelLoadError(Exception):
    """A model is missing or cannot be loaded; the message names the directory or the file."""


class ServiceError(Exception):
    """Error answer of the service.

    Attributes
    ----------
    status
        HTTP status.
    code
        Error code that SDKs report; None where the service sends none, and SDKs report the status.
    body
        The members of the error: `Message`, and for `ModelError` three more.
    """

    def __init__(self, status: int, code: str | None, message: str, **members: str | int):
        super().__init__(message)
        self.status = status
        self.code = code
        self.body: dict[str, str | int] = {"Message": message, **members}


@dataclass(frozen=True, slots=True)
class _Call:
    request: web.Request
    body: bytes
    variant: str
    # Set when the client disconnects.
    departed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def content_type(self) -> str:
        return self.request.headers.get("Content-Type", _DEFAULT_TYPE)


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    content_type: str
    records: int


class Endpoint:
    """Endpoint with its variants, faults and counts.

    Parameters
    ----------
    name
        Of the endpoint.
    models
        A model for each production variant, at least one; all have the same weight.
    seed
        Of the choice of a variant for requests that name none, and of the faults.
    faults
        Faults from the start.

    Raises
    ------
    ValueError
        There is no model, or the faults name a variant without one.
    """

    def __init__(self, name: str, models: Mapping[str, Any], *, seed: int, faults: Faults):
        if not models:
            raise ValueError("an endpoint needs at least one variant")
        faults = faults.checked(models)
        self._injector = FaultInjector(faults, seed=seed)
        self._places = Places(faults)
        self._containers = {variant: Container() for variant in models}
        self._name = name
        self._models = dict(models)
        self._random = random.Random(seed)
        self._requests = 0
        self._errors = 0
        self._variant_requests = dict.fromkeys(self._models, 0)
        self._records = dict.fromkeys(self._models, 0)
        self._executor = ThreadPoolExecutor(_PREDICTION_THREADS, thread_name_prefix="predict")
        self._under_way: set[asyncio.Task[web.Response]] = set()

    async def invoke(self, request: web.Request) -> web.Response:
        """InvokeEndpoint: answer, count, and report an error as the service does."""
        self._requests += 1
        try:
            call = await self._call(request)
        except ServiceError as error:
            return self._error_response(request, error)
        self._variant_requests[call.variant] += 1
        # A task of its own, which only ends with the client if the faults say so.
        work = asyncio.create_task(self._response(call))
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            call.departed.set()
            if self._injector.faults.notices_departures:
                work.cancel()
            raise

    async def describe(self, request: web.Request) -> web.Response:
        """DescribeEndpoint of the SageMaker API: which variants there are. No other operation."""
        operation = request.headers.get("X-Amz-Target", "").partition(".")[2]
        name = (await request.json()).get("EndpointName")
        if operation != "DescribeEndpoint" or name != self._name:
            problem = f"{operation} of {name} is not simulated."
            error = ServiceError(400, "ValidationException", problem)
            return self._error_response(request, error)
        names = self._existing_variants()
        return web.json_response(
            {
                "EndpointName": self._name,
                "EndpointStatus": "InService",
                "ProductionVariants": [{"VariantName": name} for name in names],
            }
        )

    async def ping(self, request: web.Request) -> web.Response:
        """Answer 200: the server listens only after it has loaded the models."""
        return web.Response()

    async def stats(self, request: web.Request) -> web.Response:
        """Return the counts, see `create_app`."""
        return web.json_response(
            {
                "requests": self._requests,
                "records": sum(self._records.values()),
                "by_variant": self._records,
                "by_variant_requests": self._variant_requests,
                "errors": self._errors,
                "served": self._places.served,
                "most_served": self._places.most_served,
                "queued": self._places.queued,
                "faults": self._injector.injected,
            }
        )

    async def show_faults(self, request: web.Request) -> web.Response:
        """Return the present faults."""
        return web.json_response(self._injector.faults.model_dump())

    async def put_faults(self, request: web.Request) -> web.Response:
        """Replace all faults by those in the request."""
        try:
            faults = parsed_faults(await request.read(), self._models)
        except ValidationError as error:
            return web.json_response({"problems": problems_of(error)}, status=400)
        self._replace(faults)
        return await self.show_faults(request)

    async def delete_faults(self, request: web.Request) -> web.Response:
        """Remove all faults."""
        self._replace(Faults())
        return await self.show_faults(request)

    async def shutting_down(self, app: web.Application) -> None:
        """Release requests that hang or queue when `app` begins to stop."""
        self._replace(Faults())

    async def closing(self, app: web.Application) -> AsyncIterator[None]:
        """Cancel what is still under way and free the prediction threads when `app` stops."""
        yield
        for work in self._under_way:
            work.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _replace(self, faults: Faults) -> None:
        self._injector.replace(faults)
        self._places.replace(faults)
        for container in self._containers.values():
            container.restart()

    async def _call(self, request: web.Request) -> _Call:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise ServiceError(
                413, None, f"HTTP content length exceeded {MAX_REQUEST_BYTES} bytes."
            ) from error
        variant = self._variant(
            request.match_info["name"], request.headers.get("X-Amzn-SageMaker-Target-Variant")
        )
        return _Call(request, body, variant)

    async def _response(self, call: _Call) -> web.Response:
        try:
            return await self._attended(call)
        except ServiceError as error:
            return self._error_response(call.request, error)

    def _error_response(self, request: web.Request, error: ServiceError) -> web.Response:
        self._errors += 1
        inference_id = request.headers.get("X-Amzn-SageMaker-Inference-Id", "-")
        _log.warning(
            "%d %s, inference id %r: %s", error.status, error.code or "", inference_id, error
        )
        headers = {} if error.code is None else {"x-amzn-ErrorType": error.code}
        return web.json_response(error.body, status=error.status, headers=headers)

    async def _attended(self, call: _Call) -> web.Response:
        try:
            return await self._containers[call.variant].run(self._placed(call))
        except QueueFullError as error:
            raise self._shed(call.variant) from error
        except CrashedError as error:
            self._injector.injected["crashed"] += 1
            raise self._model_error(call.variant, 0, "The container crashed.") from error

    async def _placed(self, call: _Call) -> web.Response:
        async with self._places.place(call.variant):
            return await self._served(call)

    async def _served(self, call: _Call) -> web.Response:
        variant, faults = call.variant, self._injector.faults
        fate = self._fate(call)
        if fate == CRASH_TEXT:
            self._containers[variant].crash(faults.crash_recovery_ms / 1000)
            raise CrashedError
        if fate == HANG_TEXT and not await self._injector.hang(timeout_s=faults.hang_s):
            message = f"The container did not answer within {faults.hang_s:g} s."
            raise self._model_error(variant, 0, message)
        if fate == HANG:
            await self._injector.hang(call.departed)
        if fate in (HANG, HANG_TEXT, RESET):
            return _closed(call.request, is_reset=fate == RESET)
        try:
            if fate not in (None, SHORT, MALFORMED):
                raise self._error(fate, variant)
            answer = await self._answer(call, is_short=fate == SHORT)
        except ServiceError:
            await self._injector.delay(variant)
            raise
        await self._injector.delay(variant, answer.records)
        self._records[variant] += answer.records
        return web.Response(
            body=answer.body[: len(answer.body) // 2] + b"{" if fate == MALFORMED else answer.body,
            headers={
                "Content-Type": answer.content_type,
                "x-Amzn-Invoked-Production-Variant": variant,
            },
        )

    def _fate(self, call: _Call) -> str | None:
        if self._containers[call.variant].is_down:
            self._injector.injected["recovering"] += 1
            return f"{MODEL_ERROR}/503"
        texts: list[str] = []
        if self._injector.faults.has_marks:
            # The container itself reports a body that it cannot read.
            with contextlib.suppress(inference.RequestError):
                texts = inference.input_fn(call.body, call.content_type)
        return self._injector.fate(call.variant, texts)

    async def _answer(self, call: _Call, *, is_short: bool) -> _Answer:
        accept = call.request.headers.get("Accept", "*/*")
        accept = _DEFAULT_TYPE if accept == "*/*" else accept
        try:
            if self._injector.faults.labels == "hash":
                return _predict(None, call.body, call.content_type, accept, is_short)
            return await asyncio.get_running_loop().run_in_executor(
                self._executor,
                _predict,
                self._models[call.variant],
                call.body,
                call.content_type,
                accept,
                is_short,
            )
        except inference.RequestError as error:
            raise self._model_error(call.variant, error.status, str(error)) from error
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise self._model_error(call.variant, 500, message) from error

    def _variant(self, endpoint: str, target: str | None) -> str:
        if endpoint != self._name:
            raise ServiceError(
                400, "ValidationError", f"Endpoint {endpoint} of account {_ACCOUNT} not found."
            )
        variants = self._existing_variants()
        if target is None:
            return self._random.choice(variants)
        if target not in variants:
            raise ServiceError(
                400,
                "ValidationError",
                f"Variant {target} of endpoint {endpoint} of account {_ACCOUNT} not found.",
            )
        return target

    def _existing_variants(self) -> list[str]:
        removed = self._injector.faults.removed_variants
        return [variant for variant in self._models if variant not in removed]

    def _shed(self, variant: str) -> ServiceError:
        status = self._injector.faults.shed_status
        if status is None:
            self._injector.injected[THROTTLED] += 1
            return self._error(THROTTLED, variant)
        self._injector.injected["shed"] += 1
        return self._model_error(variant, status, "The container is overloaded.")

    def _error(self, code: str, variant: str) -> ServiceError:
        if code.partition("/")[0] == MODEL_ERROR:
            return self._model_error(variant, original_status(code), "injected")
        return ServiceError(ERROR_STATUSES[code], code, f"{code}: injected.")

    def _model_error(self, variant: str, status: int | str, message: str) -> ServiceError:
        message = message[:_MAX_MESSAGE_CHARS]
        group = f"/aws/sagemaker/Endpoints/{self._name}"
        side = "client" if isinstance(status, int) and 400 <= status < 500 else "server"
        return ServiceError(
            ERROR_STATUSES[MODEL_ERROR],
            MODEL_ERROR,
            f'Received {side} error ({status}) from primary with message "{message}".'
            f" See {group} in account {_ACCOUNT} for more information.",
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=f"arn:aws:logs:{_REGION}:{_ACCOUNT}:log-group:{group}"
            f":log-stream:{variant}/local",
        )


def _predict(model: Any, body: bytes, content_type: str, accept: str, is_short: bool) -> _Answer:
    """Answer a request as the container does; without a model, hash the texts."""
    texts = inference.input_fn(body, content_type)
    labels = (
        [hashed_rating(text) for text in texts]
        if model is None
        else inference.predict_fn(texts, model)
    )
    answer, answer_type = inference.output_fn(labels[:-1] if is_short else labels, accept)
    return _Answer(answer.encode(), answer_type, len(texts))


def _closed(request: web.Request, *, is_reset: bool) -> web.Response:
    """Close the connection without an answer; the returned response is never sent."""
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
        `POST /endpoints/NAME/invocations`; `POST /`, DescribeEndpoint with the names of the
        variants; `GET /ping`, 200; `GET /stats`, the JSON object
        `{"requests", "records", "by_variant": {variant: records}, "by_variant_requests": {variant:
        requests}, "errors", "served", "most_served", "queued", "faults": {name: count}}`; `GET`,
        `PUT` and `DELETE /faults`. Requests count when they arrive, records when they are answered.
        `served` and `queued` are the present numbers; `most_served` is the highest of `served`
        since the start or the last change of the faults. Serve it through `create_runner`.

    Raises
    ------
    ValueError
        There is no model, or the faults name a variant without one.
    """
    endpoint = Endpoint(name, models, seed=seed, faults=faults or Faults())
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.on_shutdown.append(endpoint.shutting_down)
    app.cleanup_ctx.append(endpoint.closing)
    app.router.add_post("/endpoints/{name}/invocations", endpoint.invoke)
    app.router.add_post("/", endpoint.describe)
    app.router.add_get("/ping", endpoint.ping)
    app.router.add_get("/stats", endpoint.stats)
    app.router.add_get("/faults", endpoint.show_faults)
    app.router.add_put("/faults", endpoint.put_faults)
    app.router.add_delete("/faults", endpoint.delete_faults)
    return app


def create_runner(app: web.Application) -> web.AppRunner:
    """Build the runner that `app` needs: it cancels the handlers of clients that disconnect."""
    return web.AppRunner(
        app, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_S, handler_cancellation=True
    )


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
        A model is missing or cannot be loaded.
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
        TCP port, 0 for any free port; the log names it.

    Raises
    ------
    OSError
        The port is taken.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = create_runner(app)
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
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free port.")] = 8090,
    model_dir: Annotated[
        Path, typer.Option(help="Directory with one directory for each variant and its model.")
    ] = Path("build/model"),
    seed: Annotated[
        int, typer.Option(help="Seed of the choice of variants and of the faults.")
    ] = 0,
    faults: Annotated[str, typer.Option(help="Faults from the start, as JSON.")] = "{}",
) -> None:
    """Serve the models as a SageMaker endpoint on 127.0.0.1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        models = load_models(model_dir)
        first_faults = parsed_faults(faults, models)
        _log.info("endpoint %s, variants %s", name, ", ".join(models))
        asyncio.run(serve(create_app(name, models, seed=seed, faults=first_faults), port))
    except ValidationError as error:
        typer.echo(f"endpoint: --faults: {'; '.join(problems_of(error))}", err=True)
        raise typer.Exit(2) from error
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
