"""An `Invoke` for the workers of an embedded Flink; its requests can be read back from files."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from udfs.core.failures import EndpointError, FailureKind
from udfs.core.invocations import Answer
from udfs.core.predictions import ScoreReason

POISON = "poison"
OUTAGE = "outage"
GONE = "Gone"


def rating_of(text: str) -> int:
    return sum(text.encode()) % 5 + 1


class FakeEndpoint:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        (self._directory / "closed").touch()

    async def __call__(
        self, texts: Sequence[str], inference_id: str, variant: str | None
    ) -> Answer:
        (self._directory / f"{inference_id}.json").write_text(json.dumps(list(texts)))
        if POISON in texts:
            raise EndpointError("bad", FailureKind.ROWS, reason=ScoreReason.MODEL_ERROR)
        if OUTAGE in texts:
            raise EndpointError("no such endpoint", FailureKind.CALL)
        if variant == GONE:
            raise EndpointError("no such variant", FailureKind.VARIANT)
        return Answer([rating_of(text) for text in texts], variant or "VariantA")


def requests(directory: Path) -> list[list[str]]:
    return [json.loads(path.read_text()) for path in directory.glob("*.json")]
