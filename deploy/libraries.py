"""Which locked libraries the application's zip must hold, and which the service brings.

The service has `apache-flink` and what comes with it, in versions that are its own business within
the bounds that those packages set each other. All else that the jobs need is shipped, and so is a
package of the service's of which the jobs' libraries ask for more than those bounds promise (see
docs/decisions/0006-what-the-zip-leaves-out.md).
"""

import importlib.metadata
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ENGINE = "apache-flink"

# Where the zip runs, whatever the machine that builds it.
_TARGET = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.0",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}

# Whoever asks for the roots.
_PROJECT = ""

Requires = Callable[[str], Iterable[Requirement]]
"""The requirements of a package, by its canonical name."""


class LockError(Exception):
    """The installed packages are not those of the lock file; the message says which."""


@dataclass(frozen=True)
class Libraries:
    """What goes into the zip and what does not; names are canonical.

    Attributes
    ----------
    shipped
        Versions of the packages that the zip holds.
    service
        Versions, as locked, of those that the service has; some may be shipped too.
    """

    shipped: Mapping[str, str]
    service: Mapping[str, str]


def locked_libraries(pyproject: Path, lock: Path) -> Libraries:
    """Divide what the jobs need at run time.

    Parameters
    ----------
    pyproject
        Its `project.dependencies` are what the jobs need.
    lock
        The requirements with their versions; this environment must have been installed from it.

    Raises
    ------
    LockError
        When a package that is needed is missing from the lock or this environment, or has another
        version here.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    versions = {name: locked.version for name, locked in read_lock(lock).items()}

    def requires(name: str) -> Iterable[Requirement]:
        if name not in versions:
            raise LockError(f"{name} is needed, but not in {lock}; run: make lock")
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise LockError(f"{name} is locked, but not installed; run: make setup") from None
        if distribution.version != versions[name]:
            raise LockError(
                f"{name} {distribution.version} is installed, {versions[name]} is locked;"
                " run: make setup"
            )
        return [Requirement(line) for line in distribution.requires or ()]

    shipped, service = divide([Requirement(line) for line in project["dependencies"]], requires)
    return Libraries(
        {name: versions[name] for name in sorted(shipped)},
        {name: versions[name] for name in sorted(service)},
    )


def divide(dependencies: Iterable[Requirement], requires: Requires) -> tuple[set[str], set[str]]:
    """Return the packages to ship, and those that come with the engine.

    Examples
    --------
    >>> packages = {
    ...     "apache-flink": ["numpy>=1.22", "grpcio"], "grpcio": ["typing-extensions>=4.12"],
    ...     "pydantic": ["typing-extensions>=4.16"], "river": ["numpy>=1.23"],
    ... }
    >>> shipped, service = divide(
    ...     [Requirement(name) for name in ("apache-flink", "pydantic", "river")],
    ...     lambda name: [Requirement(line) for line in packages.get(name, ())],
    ... )
    >>> sorted(shipped)
    ['pydantic', 'river', 'typing-extensions']
    >>> sorted(service)
    ['apache-flink', 'grpcio', 'numpy', 'typing-extensions']
    """
    dependencies = list(dependencies)
    needed = _closure(dependencies, requires)
    # What the engine names itself it works with closely; another copy would get in its way.
    close = {ENGINE, *(canonicalize_name(need.name) for need in _needs(ENGINE, (), requires))}
    service = set(
        _closure(
            [need for need in dependencies if canonicalize_name(need.name) == ENGINE], requires
        )
    )
    shipped = set(needed) - service
    while True:
        more = {
            name
            for name in service - close - shipped
            for by, need in needed[name]
            if by in shipped | {_PROJECT}
            and not need.specifier.contains(
                _oldest(need for by, need in needed[name] if by in service), prereleases=True
            )
        }
        if not more:
            return shipped, service
        shipped |= more


def _closure(
    roots: Iterable[Requirement], requires: Requires
) -> dict[str, list[tuple[str, Requirement]]]:
    """Return the packages that `roots` lead to, each with who asks for it and how."""
    found: dict[str, list[tuple[str, Requirement]]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    ahead = [(_PROJECT, need) for need in roots]
    while ahead:
        by, need = ahead.pop()
        name, extras = canonicalize_name(need.name), frozenset(need.extras)
        found.setdefault(name, []).append((by, need))
        if (name, extras) not in seen:
            seen.add((name, extras))
            ahead += [(name, further) for further in _needs(name, extras, requires)]
    return found


def _needs(name: str, extras: Iterable[str], requires: Requires) -> Iterator[Requirement]:
    """Yield the requirements of a package that hold on the service."""
    for need in requires(name):
        if need.marker is None or any(
            need.marker.evaluate({**_TARGET, "extra": extra}) for extra in ("", *extras)
        ):
            yield need


def _oldest(needs: Iterable[Requirement]) -> Version:
    """Return the oldest version that requirements allow together.

    >>> _oldest([Requirement("six>=1.4,<2"), Requirement("six~=1.9"), Requirement("six")])
    <Version('1.9')>
    """
    return max(
        (
            Version(bound.version.removesuffix(".*"))
            for need in needs
            for bound in need.specifier
            if bound.operator in (">=", ">", "==", "~=")
        ),
        default=Version("0"),
    )


@dataclass(frozen=True)
class Locked:
    """A package as `requirements.lock` has it: its version, and its lines without the comments."""

    version: str
    lines: str


def read_lock(path: Path) -> dict[str, Locked]:
    """Return the locked packages by canonical name."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    entries = re.findall(r"^([\w.-]+)==(\S+)((?:.*\\\n)*.*\n)", text, flags=re.MULTILINE)
    return {
        canonicalize_name(name): Locked(version, f"{name}=={version}{rest}")
        for name, version, rest in entries
    }
