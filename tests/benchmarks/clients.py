"""Clients of the endpoint that work without Flink, each until it is ended.

`python -m tests.benchmarks.clients NAME --url URL --endpoint NAME`, with one of `CLIENTS`.
"""

import argparse
import asyncio
import itertools
from collections.abc import Callable, Iterator

import aiohttp
import boto3

from deploy.local.emulator import CLIENT_CONFIG
from tests.benchmarks.sources import review_bodies
from udfs.core.codec import CODECS

_CONNECTIONS = 8
_ROWS = 512


def sequential(url: str, endpoint: str) -> None:
    """Ask for one review after the other with boto3, as a Lambda does; the connection is kept."""
    client = boto3.client("sagemaker-runtime", endpoint_url=url, config=CLIENT_CONFIG)
    codec = CODECS["application/jsonlines"]
    for text in _texts():
        answer = client.invoke_endpoint(
            EndpointName=endpoint,
            ContentType="application/jsonlines",
            Accept="application/jsonlines",
            Body=codec.encode([text]),
        )
        codec.decode(answer["Body"].read())


def flood(url: str, endpoint: str) -> None:
    """Send the same large requests over and over, unsigned, and decode no answer.

    What the endpoint then answers is the most that it gives beside whoever asks.
    """
    body = CODECS["application/jsonlines"].encode(list(itertools.islice(_texts(), _ROWS)))
    headers = {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"}
    address = f"{url}/endpoints/{endpoint}/invocations"

    async def ask(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.post(address, data=body, headers=headers) as answer:
                answer.raise_for_status()
                await answer.read()

    async def ask_all() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(ask(session) for _ in range(_CONNECTIONS)))

    asyncio.run(ask_all())


CLIENTS: dict[str, Callable[[str, str], None]] = {"sequential": sequential, "flood": flood}


def _texts() -> Iterator[str]:
    """Yield the reviews of the jobs' source, all of them different."""
    bodies = review_bodies()
    for number in itertools.count():
        yield f"{bodies[number % len(bodies)]} {number}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=CLIENTS)
    parser.add_argument("--url", required=True)
    parser.add_argument("--endpoint", required=True)
    options = parser.parse_args()
    CLIENTS[options.name](options.url, options.endpoint)
