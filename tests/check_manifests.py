"""Checks deploy/kubernetes/ against the operator's own resource definition: `make check-manifests`.

    python -m tests.check_manifests CRD.yml

Kubernetes drops fields that the definition does not know; here they are errors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

MANIFESTS = Path("deploy/kubernetes")
KIND = "FlinkDeployment"


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from YAML(typ="safe").load_all(path.read_text(encoding="utf-8"))


def schema(definition: Path, version: str) -> dict[str, Any]:
    (document,) = documents(definition)
    (found,) = (item for item in document["spec"]["versions"] if item["name"] == version)
    return dict(strict(found["schema"]["openAPIV3Schema"]))


def strict(part: Any) -> Any:
    """Return a schema that knows no other fields than those it names."""
    if isinstance(part, list):
        return [strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {key: strict(value) for key, value in part.items()}
    if part.pop("x-kubernetes-int-or-string", False):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if isinstance(part.get("properties"), dict) and not part.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        part.setdefault("additionalProperties", False)
        # The definition leaves these to Kubernetes.
        if {"spec", "status"} <= set(part["properties"]):
            part["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
    return part


def main() -> int:
    definition = Path(sys.argv[1])
    checked = problems = 0
    for path in sorted(MANIFESTS.glob("*.yaml")):
        for document in documents(path):
            if document["kind"] != KIND:
                continue
            version = document["apiVersion"].rpartition("/")[2]
            checked += 1
            for error in Draft202012Validator(schema(definition, version)).iter_errors(document):
                problems += 1
                where = ".".join(str(part) for part in error.absolute_path)
                print(f"{path}: {document['metadata']['name']}: {where}: {error.message}")
    print(f"{checked} {KIND}s checked, {problems} problems")
    return 0 if checked and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
