"""Files of reviews with their expected outcome: `cases.toml` has them, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.corpus import FOLDER, cases
from udfs.core.parsing import ReviewFormat


@dataclass(frozen=True)
class FileCase:
    """A file, how it is replayed, and what is expected; see `cases.toml` for the names."""

    name: str
    file: str
    reviews: int = 0
    rejected: int = 0
    first: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    damaged: str = ""
    error: str = ""
    columns: str | None = None
    category: str | None = None
    format: ReviewFormat = "json"

    @property
    def path(self) -> Path:
        """Where the file is."""
        return FOLDER / self.file


def file_cases() -> list[FileCase]:
    """Return all files of the corpus, in the order of the table."""
    return [FileCase(**row) for row in cases("file")]
