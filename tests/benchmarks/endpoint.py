"""The local endpoint around a model that does nothing.

`python -m tests.benchmarks.endpoint --name NAME --port N`. It costs what the server and the
container's handler cost, and shares the machine with the job.
"""

import argparse
import asyncio
from collections.abc import Sequence

from deploy.local.endpoint import create_app, serve


class FiveStars:
    """Predicts 5 for every text."""

    def predict(self, texts: Sequence[str]) -> list[int]:
        return [5] * len(texts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(create_app(options.name, {"constant": FiveStars()}), options.port))
