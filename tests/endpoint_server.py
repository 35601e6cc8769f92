"""The local endpoint server inside a test."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from deploy.local.endpoint import create_app, create_runner


@contextlib.contextmanager
def serving(models: Mapping[str, Any], **options: Any) -> Iterator[str]:
    """Serve on a free port from a thread; give the address."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    address: list[str] = []
    stops: list[asyncio.Event] = []

    async def serve() -> None:
        runner = create_runner(create_app("reviews", models, **options))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        stop = asyncio.Event()
        started.set()
        stops.append(stop)
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(30)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(lambda: stops[0].set())
        thread.join(30)
        loop.close()
