"""What the documents list must be what there is."""

import re
from pathlib import Path

import pytest

from flink_jobs.config import JOB_CONFIGS
from udfs.core.parsing import ParseReason
from udfs.core.predictions import ScoreReason
from udfs.core.publishing import PublishReason

README = Path("README.md").read_text(encoding="utf-8")
ARCHITECTURE = Path("docs/architecture.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_property_and_no_other() -> None:
    table = README.split("## Properties")[1].split("\n## ")[0]
    listed: set[tuple[str, str]] = set()
    groups: list[str] = []
    for row in re.findall(r"^\| (.*?)\| (.*?)\|", table, flags=re.MULTILINE):
        groups = re.findall(r"`(\w+)`", row[0]) or groups
        listed |= {(group, key) for group in groups for key in re.findall(r"`(\w+)`", row[1])}
    assert listed == {
        (group, key)
        for config in JOB_CONFIGS.values()
        for group, field in config.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }


@pytest.mark.parametrize("reason", [*ParseReason, *ScoreReason, *PublishReason])
def test_every_reason_of_a_dead_letter_is_explained(reason: str) -> None:
    assert f"`{reason}`" in ARCHITECTURE


def test_links_lead_somewhere() -> None:
    for document in [Path("README.md"), *Path("docs").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document}: {target}"


def test_no_place_is_left_to_fill_in() -> None:
    for document in [Path("README.md"), *Path("docs").rglob("*.md")]:
        assert "@@" not in document.read_text(encoding="utf-8"), document
