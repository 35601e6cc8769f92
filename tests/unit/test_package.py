import os
import zipfile
from pathlib import Path

import pytest

from deploy import package
from deploy.licences import LicenceError, jar_licences, python_licences
from deploy.local.jobs import PROPERTIES
from deploy.local.stack import read_properties
from deploy.verify_package import missing_libraries
from flink_jobs.config import RUN_OPTIONS_GROUP

# What a job says of a worker that lacks a library, less most of its frames.
WORKER_FAILURE = """\
java.lang.RuntimeException: Error received from SDK harness for instruction 1: Traceback (most \
recent call last):
  File "/env/lib/python3.11/site-packages/apache_beam/runners/worker/sdk_worker.py", line 295, in f
    response = task()
  File "/tmp/dist/python-files/blob_p/python/udfs/core/sketches.py", line 9, in <module>
    from datasketches import hll_sketch
ModuleNotFoundError: No module named 'datasketches'
"""


def test_the_sample_has_the_run_options_of_the_zip() -> None:
    assert read_properties(PROPERTIES)[RUN_OPTIONS_GROUP] == package.RUN_OPTIONS


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for number, order in enumerate([("b.py", "a.jar"), ("a.jar", "b.py")]):
        directory = tmp_path / str(number)
        directory.mkdir()
        for name in order:
            (directory / name).write_bytes(name.encode() * 1000)
            os.utime(directory / name, (number * 1e6, number * 1e6))
            (directory / name).chmod(0o600 if number else 0o755)
        package._write(
            directory / "p.zip", {name: directory / name for name in order}, {"TEXT": "ü\n"}
        )
        written.append((directory / "p.zip").read_bytes())
        assert sorted(path.name for path in directory.iterdir()) == ["a.jar", "b.py", "p.zip"]
    assert written[0] == written[1]
    with zipfile.ZipFile(tmp_path / "0" / "p.zip") as archive:
        assert archive.namelist() == ["TEXT", "a.jar", "b.py"]
        assert archive.testzip() is None
        assert archive.read("TEXT") == "ü\n".encode()


def test_what_an_installer_notes_about_its_machine_stays_out(tmp_path: Path) -> None:
    shipped = ["river/stats/a.py", "river/a.so", "river-0.dist-info/METADATA", "bin.py"]
    notes = [
        *("bin/jp.py", ".lock", "river/__pycache__/a.cpython-311.pyc", "river/b.pyc"),
        *(f"river-0.dist-info/{name}" for name in ("RECORD", "INSTALLER", "direct_url.json")),
    ]
    for name in [*shipped, *notes]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert {name for name, _ in package._installed(tmp_path)} == {f"python/{n}" for n in shipped}


def test_the_newest_c_library_that_a_module_asks_for_is_found(tmp_path: Path) -> None:
    for name, data in {
        "a.so": b"\0GLIBC_2.9\0GLIBC_2.17\0",
        "b.so.1": b"\0GLIBC_2.2.5\0GLIBC_PRIVATE\0",
        "c.py": b"\0GLIBC_9.9\0",
    }.items():
        (tmp_path / name).write_bytes(data)
    assert package._needed_glibc({path.name: path for path in tmp_path.iterdir()}) == "2.17"


def distribution(directory: Path, name: str, metadata: str, *texts: str) -> None:
    info = directory / f"{name.replace('-', '_')}-1.0.dist-info"
    for text in texts:
        (info / text).parent.mkdir(parents=True, exist_ok=True)
        (info / text).touch()
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n{metadata}", encoding="utf-8")
    files = sorted(path for path in info.rglob("*") if path.is_file())
    (info / "RECORD").write_text(
        "".join(f"{path.relative_to(directory)},,\n" for path in files), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT AND Zlib\nLicense: other\n", "MIT AND Zlib"),
        ("Classifier: License :: OSI Approved :: BSD License\n", "BSD License"),
        ("License: Apache License 2.0\n        All of its text\n", "Apache License 2.0"),
    ],
)
def test_a_licence_is_found_wherever_it_stands(
    metadata: str, expected: str, tmp_path: Path
) -> None:
    distribution(tmp_path, "the-library", metadata, "licenses/LICENSE.md", "top_level.txt")
    assert list(python_licences(tmp_path, {"the-library": "1.0"})) == [
        ("the-library", "1.0", expected, ["the_library-1.0.dist-info/licenses/LICENSE.md"])
    ]


def test_a_library_without_a_licence_is_refused_by_name(tmp_path: Path) -> None:
    distribution(tmp_path, "free-for-all", "")
    with pytest.raises(LicenceError, match="free-for-all"):
        list(python_licences(tmp_path, {"free-for-all": "1.0"}))
    with pytest.raises(LicenceError, match="elsewhere 2 is not in"):
        list(python_licences(tmp_path, {"elsewhere": "2"}))


def test_what_a_jar_bundles_is_read_from_its_notice(tmp_path: Path) -> None:
    heading = "This project bundles the following dependencies under the"
    notice = f"""Us
- not:an:artifact
{heading} Apache Software License 2.0. (http://x)

- joda-time:joda-time:2.8.1
- org.a:b-c:1.0.Final

{heading} BSD license.
See files.

- com.google.protobuf:protobuf-java:3.11.4
- XML parsing - by someone
"""
    with zipfile.ZipFile(tmp_path / "a.jar", "w") as jar:
        jar.writestr("META-INF/NOTICE", notice)
    assert jar_licences(tmp_path / "a.jar") == [
        ("com.google.protobuf:protobuf-java:3.11.4", "BSD license"),
        ("joda-time:joda-time:2.8.1", "Apache Software License 2.0"),
        ("org.a:b-c:1.0.Final", "Apache Software License 2.0"),
    ]


def test_a_missing_library_is_named_by_import_and_distribution() -> None:
    assert missing_libraries(WORKER_FAILURE) == (
        "missing from the zip: datasketches (import datasketches)"
    )
    twice = (
        "No module named 'dateutil.tz'\nNo module named 'dateutil.tz'\nNo module named 'nowhere'"
    )
    assert missing_libraries(twice) == (
        "missing from the zip: python-dateutil (import dateutil.tz), ? (import nowhere)"
    )
