"""The Kubernetes manifests and the image: the jobs there are, with sound properties."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flink_jobs.config import JOB_CONFIGS, load_config

MANIFESTS = Path("deploy/kubernetes/jobs.yaml")
DOCKERFILE = Path("deploy/Dockerfile").read_text(encoding="utf-8")


def documents(kind: str) -> list[dict[str, Any]]:
    found = YAML(typ="safe").load_all(MANIFESTS.read_text(encoding="utf-8"))
    return [document for document in found if document["kind"] == kind]


def test_every_job_has_a_deployment_with_properties_that_it_takes(tmp_path: Path) -> None:
    properties = {
        document["metadata"]["name"]: document["data"]["application_properties.json"]
        for document in documents("ConfigMap")
    }
    jobs = []
    for document in documents("FlinkDeployment"):
        pod = document["spec"]["podTemplate"]["spec"]
        (volume,) = pod["volumes"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        # Where flink_jobs.config looks without being told.
        assert mount == {"name": volume["name"], "mountPath": "/etc/flink", "readOnly": True}
        path = tmp_path / "application_properties.json"
        path.write_text(properties[volume["configMap"]["name"]], encoding="utf-8")
        config = load_config(path)
        jobs.append(config.application.job)
        assert document["metadata"]["name"] == config.application.job.replace("_", "-")
    assert sorted(jobs) == sorted(JOB_CONFIGS)


def test_deployments_differ_only_in_their_names() -> None:
    shapes = set()
    for document in documents("FlinkDeployment"):
        name = document["metadata"]["name"]
        shapes.add(repr(document).replace(name, "NAME"))
    assert len(shapes) == 1


def test_the_manifests_name_what_the_image_holds() -> None:
    for document in documents("FlinkDeployment"):
        arguments = document["spec"]["job"]["args"]
        assert arguments == [
            "--python",
            "/opt/application/main.py",
            "--pyFiles",
            "/opt/application/python",
        ]
    assert "/opt/application" in DOCKERFILE


def test_the_image_has_the_engine_that_is_tested() -> None:
    lock = Path("requirements.lock").read_text(encoding="utf-8")
    (version,) = re.findall(r"^apache-flink==(\S+)", lock, flags=re.MULTILINE)
    assert f"FROM flink:{version}-scala_2.12-java17" in DOCKERFILE
    assert f'"apache-flink=={version}"' in DOCKERFILE
    for document in documents("FlinkDeployment"):
        assert version in document["spec"]["job"]["jarURI"]
        assert document["spec"]["flinkVersion"] == "v" + "_".join(version.split(".")[:2])


def test_the_image_does_not_run_as_root() -> None:
    instructions = re.findall(r"^([A-Z]+) (.*)$", DOCKERFILE, flags=re.MULTILINE)
    users = [value for name, value in instructions if name == "USER"]
    assert users[-1:] == ["flink"]
