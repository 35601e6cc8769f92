import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from deploy.libraries import LockError, divide, locked_libraries, read_lock

PYPROJECT, LOCK = Path("pyproject.toml"), Path("requirements.lock")

PACKAGES = {
    "apache-flink": ["numpy>=1.22", "beam", "winonly; sys_platform == 'win32'"],
    "beam": ["typing-extensions>=4.12", "urllib3>=1.26"],
    "numpy": [],
    "typing-extensions": [],
    "urllib3": [],
    "winonly": [],
    "boto": ["urllib3>=1.25,<3"],
    "model": ["typing-extensions>=4.16", "numpy>=1.26", "fast[speed]"],
    "fast": ["turbo; extra == 'speed'", "docs; extra == 'docs'"],
    "turbo": ["macos; platform_system == 'Darwin'"],
}


def divided(*names: str, packages: dict[str, list[str]] | None = None) -> tuple[set[str], set[str]]:
    known = packages or PACKAGES
    return divide(
        [Requirement(name) for name in names],
        lambda name: [Requirement(line) for line in known[name]],
    )


def test_what_the_engine_brings_is_left_out() -> None:
    shipped, service = divided("apache-flink", "boto")
    assert shipped == {"boto"}
    assert service == {"apache-flink", "beam", "numpy", "typing-extensions", "urllib3"}


def test_a_package_of_the_service_that_may_be_too_old_is_shipped_too() -> None:
    shipped, _ = divided("apache-flink", "model")
    assert "typing-extensions" in shipped
    # The engine names it itself: another copy would get in its way.
    assert "numpy" not in shipped


def test_markers_and_extras_count_for_the_service_not_for_this_machine() -> None:
    shipped, service = divided("apache-flink", "model")
    assert shipped == {"model", "fast", "turbo", "typing-extensions"}
    assert "winonly" not in service


@given(st.sets(st.sampled_from(["boto", "model", "fast", "fast[speed]"])))
def test_all_that_is_needed_is_either_shipped_or_on_the_service(names: set[str]) -> None:
    shipped, service = divided("apache-flink", *names)
    needed = {Requirement(name).name for name in names}
    if names & {"model", "fast[speed]"}:
        needed.add("turbo")
    assert shipped >= needed
    assert shipped & service == ({"typing-extensions"} if "model" in names else set())


def test_what_an_extra_asks_for_is_asked_for() -> None:
    packages = {**PACKAGES, "fast": ["urllib3>=2; extra == 'speed'"]}
    assert divided("apache-flink", "fast", packages=packages)[0] == {"fast"}
    assert divided("apache-flink", "fast[speed]", packages=packages)[0] == {"fast", "urllib3"}


def test_the_project_ships_no_package_that_the_engine_names() -> None:
    libraries = locked_libraries(PYPROJECT, LOCK)
    versions = {name: locked.version for name, locked in read_lock(LOCK).items()}
    for name, version in {**libraries.shipped, **libraries.service}.items():
        assert versions[name] == version
    assert {"boto3", "aiobotocore", "pydantic", "river", "datasketches"} <= libraries.shipped.keys()
    engine = {"apache-flink", "apache-beam", "numpy", "pandas", "pyarrow", "protobuf", "setuptools"}
    assert engine <= libraries.service.keys() - libraries.shipped.keys()
    # Of the laptop, of the tests and of the deployment.
    assert not {"moto", "rich", "typer", "pytest", "sagemaker"} & libraries.shipped.keys()
    assert not {"moto", "rich", "typer", "pytest", "sagemaker"} & libraries.service.keys()


def test_every_package_of_the_lock_is_read_with_its_hashes() -> None:
    lock = read_lock(LOCK)
    text = LOCK.read_text(encoding="utf-8")
    assert len(lock) == len(re.findall(r"^[\w.-]+==", text, flags=re.MULTILINE))
    assert sum(entry.lines.count("--hash=") for entry in lock.values()) == text.count("--hash=")
    assert not any("# via" in entry.lines for entry in lock.values())


@pytest.mark.parametrize(
    ("found", "replacement", "message"),
    [
        ("pydantic==", "pedantic==", "pydantic is needed, but not in .*; run: make lock"),
        ("river==0.", "river==9.", r"river 0\S+ is installed, 9\S+ is locked; run: make setup"),
    ],
)
def test_another_environment_than_the_locked_one_is_refused(
    found: str, replacement: str, message: str, tmp_path: Path
) -> None:
    text = LOCK.read_text(encoding="utf-8")
    changed = re.sub(rf"^{re.escape(found)}", replacement, text, flags=re.MULTILINE)
    (tmp_path / "requirements.lock").write_text(changed, encoding="utf-8")
    with pytest.raises(LockError, match=message):
        locked_libraries(PYPROJECT, tmp_path / "requirements.lock")
