"""The zip as `make package` builds it, and what is said when a library is missing from it."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from rich.console import Console

from deploy import package
from deploy.libraries import locked_libraries
from deploy.licences import jar_licences
from deploy.local.jobs import JAR
from deploy.verify_package import VerifyError, verify


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> package.Package:
    return package.build(tmp_path_factory.mktemp("package") / "application.zip")


# Flink gives this variable to its workers; the client and the check of the imports have it not.
MISSING_IN_WORKERS = """
import os
if "BOOT_LOG_DIR" in os.environ:
    raise ModuleNotFoundError("No module named 'datasketches'")
"""


def altered(
    built: package.Package, path: Path, alter: Callable[[str, bytes], bytes | None]
) -> Path:
    """Write the zip with other files, or without those for which `alter` returns None."""
    changes = 0
    with zipfile.ZipFile(built.path) as whole, zipfile.ZipFile(path, "w") as broken:
        for entry in whole.infolist():
            data = whole.read(entry)
            other = alter(entry.filename, data)
            changes += other != data
            if other is not None:
                broken.writestr(entry, other)
    assert changes
    return path


def test_everything_is_in_it_and_nothing_that_the_service_has(built: package.Package) -> None:
    with zipfile.ZipFile(built.path) as archive:
        names = archive.namelist()
        licences = archive.read("LICENSES").decode()
    assert set(package.RUN_OPTIONS.values()) - {"python/"} <= set(names)
    assert [name for name in names if name.endswith(".jar")] == ["lib/flink-aws-connectors.jar"]
    for source in (*Path("flink_jobs").rglob("*.py"), *Path("udfs").rglob("*.py")):
        assert f"python/{source}" in names
    infos = {name.split("/")[1] for name in names if ".dist-info/" in name}
    libraries = locked_libraries(Path("pyproject.toml"), Path("requirements.lock"))
    assert {
        canonicalize_name(info.removesuffix(".dist-info").rpartition("-")[0]) for info in infos
    } == set(libraries.shipped)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert not {"numpy", "pandas", "pyarrow", "pyflink", "apache_beam", "google", "moto"} & {
        name.split("/")[1] for name in names if name.startswith("python/")
    }
    for name, version in libraries.shipped.items():
        assert f"  {name} {version} " in licences
    for artifact in ("amazon-kinesis-client", "software.amazon.awssdk:firehose"):
        assert artifact in licences


def test_the_connectors_jar_lists_what_is_bundled_in_it() -> None:
    listed = {artifact for artifact, _ in jar_licences(JAR)}
    with zipfile.ZipFile(JAR) as jar:
        names = jar.namelist()
        marks = [name for name in names if name.endswith("/pom.properties")]
        bundled = {
            ":".join(properties[key] for key in ("groupId", "artifactId", "version"))
            for properties in (
                dict(re.findall(r"^(\w+)=(\S+)", jar.read(mark).decode(), re.MULTILINE))
                for mark in marks
            )
        }
        factories = jar.read("META-INF/services/org.apache.flink.table.factories.Factory").decode()
    assert "software.amazon.awssdk:firehose:2.20.144" in bundled
    assert bundled <= listed
    version = "4.3.0-1.19"
    assert {
        f"org.apache.flink:flink-connector-{name}:{version}"
        for name in ("kinesis", "aws-kinesis-firehose")
    } <= listed
    assert len(set(names)) == len(names)
    classes = [line for line in factories.splitlines() if line and not line.startswith("#")]
    assert {name.rpartition(".")[2] for name in classes} == {
        "KinesisDynamicTableFactory",
        "KinesisDynamicTableSinkFactory",
        "KinesisFirehoseDynamicTableFactory",
    }
    # One copy of the SDK, under a name of its own; none of what Flink has.
    foreign = ("software/", "com/", "io/", "org/apache/flink/connector/base/", "org/joda/")
    assert not [name for name in names if name.startswith(foreign)]


def test_its_figures_are_those_of_the_file(built: package.Package) -> None:
    assert built.zip_bytes == built.path.stat().st_size < package.MAX_BYTES
    assert built.sha256 == package.sha256(built.path)
    with zipfile.ZipFile(built.path) as archive:
        assert built.entries == len(archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    # scipy, river and the others are compiled for the service, whatever this machine is.
    assert built.glibc == "2.28"


def test_a_zip_that_is_too_large_is_refused(
    built: package.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MAX_BYTES", built.zip_bytes - 1)
    with pytest.raises(package.PackageError, match=r"the service takes \d\d; .*lib/flink-aws"):
        package.check_size(built)
    monkeypatch.setattr(package, "MAX_BYTES", built.zip_bytes)
    package.check_size(built)


def test_a_missing_library_is_named_before_anything_starts(
    built: package.Package, tmp_path: Path
) -> None:
    def without(name: str, data: bytes) -> bytes | None:
        return None if name.startswith(("python/pydantic/", "python/datasketches/")) else data

    broken = altered(built, tmp_path / "broken.zip", without)
    with pytest.raises(VerifyError) as raised:
        verify(broken, tmp_path / "work", Console(quiet=True))
    named = str(raised.value).removeprefix("missing from the zip: ").split(", ")
    assert sorted(named) == ["datasketches (import datasketches)", "pydantic (import pydantic)"]


def test_a_library_that_only_the_workers_miss_is_named_by_the_job(
    built: package.Package, tmp_path: Path
) -> None:
    def without(name: str, data: bytes) -> bytes | None:
        is_it = name == "python/datasketches/__init__.py"
        return data + MISSING_IN_WORKERS.encode() if is_it else data

    broken = altered(built, tmp_path / "broken.zip", without)
    with pytest.raises(VerifyError, match=r"^missing from the zip: datasketches \(import data"):
        verify(broken, tmp_path / "work", Console(quiet=True))
