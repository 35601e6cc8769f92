"""Builds the zip that runs on Managed Service for Apache Flink: `make package`.

The same sources, lock file and jar give the same bytes, on whichever machine of the same Python.
What is inside:

- `main.py`, the entry script;
- `python/`: `flink_jobs`, `udfs` and the libraries that the service lacks, unpacked;
- `lib/flink-aws-connectors.jar`: both connectors;
- `LICENSE`, `LICENSES`: the project's licence, and those of all that is inside.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.libraries import Libraries, LockError, locked_libraries, read_lock
from deploy.licences import LicenceError, licences

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PACKAGE_DIR = PROJECT_ROOT / "build" / "package"
NAME = "streaming-review-ml.zip"

RUN_OPTIONS = {
    "python": "main.py",
    "jarfile": "lib/flink-aws-connectors.jar",
    "pyFiles": "python/",
}
"""Of the group `kinesis.analytics.flink.run.options`: paths inside the zip."""

MAX_BYTES = 512_000_000
"""Of the zip; what the service takes."""

PYTHON_VERSION = "3.11"
# river has no wheel for anything older. Amazon Linux 2023 has glibc 2.34.
PLATFORM = "x86_64-manylinux_2_28"

_JAR = PROJECT_ROOT / "build" / "flink-aws-connectors.jar"
_SOURCES = ("flink_jobs", "udfs")
# Written by the installer: commands, and notes on the machine that it ran on.
_NOT_SHIPPED = re.compile(
    r"^(bin/|\.lock$)|(^|/)__pycache__/|\.pyc$"
    r"|\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|uv_\w+\.json)$"
)
_PACKED_ALREADY = (".jar", ".gz")
# The oldest that a zip can say.
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644


class PackageError(Exception):
    """No zip could be built; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """A zip that was built.

    Attributes
    ----------
    path, sha256
        The file and its digest in hexadecimal.
    zip_bytes, unpacked_bytes
        Its size and that of its contents.
    entries
        Number of files in it.
    glibc
        The oldest GNU C library that the compiled modules run with.
    largest
        Bytes in the zip by part (`python/scipy`), the largest first.
    libraries
        What went into it.
    """

    path: Path
    sha256: str
    zip_bytes: int
    unpacked_bytes: int
    entries: int
    glibc: str
    largest: tuple[tuple[str, int], ...]
    libraries: Libraries


def build(path: Path) -> Package:
    """Build the zip.

    Parameters
    ----------
    path
        The zip to write; its directory is created.

    Raises
    ------
    PackageError
        When a library or its licence is missing, or the zip is too large for the service.
    """
    if not _JAR.exists():
        raise PackageError(f"no {_JAR}; run: make package")
    try:
        libraries = locked_libraries(
            PROJECT_ROOT / "pyproject.toml", PROJECT_ROOT / "requirements.lock"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="libraries-") as directory:
            target = Path(directory)
            install(target, libraries.shipped)
            files = dict(_sources()) | dict(_installed(target))
            glibc = _needed_glibc(files)
            texts = {"LICENSES": licences(target, libraries.shipped, _JAR, RUN_OPTIONS)}
            _write(path, files, texts)
    except (LockError, LicenceError) as error:
        raise PackageError(str(error)) from error
    package = _described(path, glibc, libraries)
    check_size(package)
    return package


def check_size(package: Package) -> None:
    """Do nothing if the service takes a zip of this size.

    Raises
    ------
    PackageError
        Names the largest parts.
    """
    if package.zip_bytes > MAX_BYTES:
        raise PackageError(
            f"{package.path} has {package.zip_bytes / 1e6:.1f} MB, the service takes"
            f" {MAX_BYTES / 1e6:.0f}; the largest parts: {_parts(package)}"
        )


def install(target: Path, packages: Mapping[str, str]) -> None:
    """Install locked packages, and nothing else, for the service into a directory.

    Parameters
    ----------
    target
        The directory.
    packages
        Their versions by canonical name.

    Raises
    ------
    PackageError
        When one cannot be had as a wheel; holds the installer's words.
    """
    install_locked(
        packages,
        *("--python", sys.executable, "--target", str(target), "--link-mode", "copy"),
        *("--python-platform", PLATFORM, "--python-version", PYTHON_VERSION),
        *("--only-binary", ":all:"),
    )


def install_locked(packages: Mapping[str, str], *options: str) -> None:
    """Run `uv pip install` for locked packages without what they depend on; hashes are checked.

    Raises
    ------
    PackageError
        When it fails; holds its words.
    """
    lock = read_lock(PROJECT_ROOT / "requirements.lock")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.writelines(lock[name].lines for name in sorted(packages))
        requirements.flush()
        line = ["pip", "install", "--no-deps", "--require-hashes", *options]
        line += ["--requirements", requirements.name]
        # Most of it was fetched by `make setup`, and asking the index for each takes long.
        try:
            run_uv(*line, "--offline")
        except PackageError:
            run_uv(*line)


def run_uv(*arguments: str) -> None:
    """Run the `uv` that `make setup` has installed.

    Raises
    ------
    PackageError
        When there is none, or it fails; holds its words.
    """
    version = re.search(
        r"^UV_VERSION := (\S+)$", (PROJECT_ROOT / "Makefile").read_text(), flags=re.MULTILINE
    )
    uv = PROJECT_ROOT / f"build/uv-{version and version[1]}/bin/uv"
    if not uv.exists():
        raise PackageError(f"no {uv}; run: make setup")
    result = subprocess.run([str(uv), *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise PackageError(f"uv {' '.join(arguments[:2])} failed:\n{result.stderr.strip()}")


def _sources() -> Iterator[tuple[str, Path]]:
    yield RUN_OPTIONS["python"], PROJECT_ROOT / "deploy" / "main.py"
    yield RUN_OPTIONS["jarfile"], _JAR
    yield "LICENSE", PROJECT_ROOT / "LICENSE"
    for source in _SOURCES:
        for path in (PROJECT_ROOT / source).rglob("*.py"):
            yield RUN_OPTIONS["pyFiles"] + path.relative_to(PROJECT_ROOT).as_posix(), path


def _installed(target: Path) -> Iterator[tuple[str, Path]]:
    for path in target.rglob("*"):
        name = path.relative_to(target).as_posix()
        if path.is_file() and not _NOT_SHIPPED.search(name):
            yield RUN_OPTIONS["pyFiles"] + name, path


def _needed_glibc(files: Mapping[str, Path]) -> str:
    """Return the newest version of the GNU C library that a compiled module asks for."""
    versions = {
        tuple(int(part) for part in found.split(b"."))
        for name, path in files.items()
        if re.search(r"\.so(\.|$)", name)
        for found in re.findall(rb"\0GLIBC_([\d.]+)(?=\0)", path.read_bytes())
    }
    return ".".join(str(part) for part in max(versions, default=()))


def _write(path: Path, files: Mapping[str, Path], texts: Mapping[str, str]) -> None:
    draft = path.with_suffix(".tmp")
    with zipfile.ZipFile(draft, "w") as archive:
        for name in sorted([*files, *texts]):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix, also when built elsewhere
            entry.external_attr = _MODE << 16
            is_packed = name.endswith(_PACKED_ALREADY)
            entry.compress_type = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
            data = texts[name].encode() if name in texts else files[name].read_bytes()
            archive.writestr(entry, data)
    draft.replace(path)


def _described(path: Path, glibc: str, libraries: Libraries) -> Package:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    parts: Counter[str] = Counter()
    for entry in entries:
        parts["/".join(entry.filename.split("/")[:2])] += entry.compress_size
    return Package(
        path=path,
        sha256=sha256(path),
        zip_bytes=path.stat().st_size,
        unpacked_bytes=sum(entry.file_size for entry in entries),
        entries=len(entries),
        glibc=glibc,
        largest=tuple(parts.most_common()),
        libraries=libraries,
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parts(package: Package) -> str:
    return ", ".join(f"{name} {size / 1e6:.1f}" for name, size in package.largest[:4])


def main(arguments: list[str] | None = None) -> int:
    """Build the zip and say what it is."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.package",
        description=(__doc__ or "").splitlines()[0],
        epilog="For example: python -m deploy.package --output application.zip",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=PACKAGE_DIR / NAME,
        metavar="ZIP",
        help="the zip to write (default: build/package/" + NAME + ")",
    )
    path: Path = parser.parse_args(arguments).output
    start_s = time.monotonic()
    print("installing the service's Python libraries and packing them", flush=True)
    try:
        package = build(path.absolute())
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    shipped = package.libraries.shipped
    print(
        f"{path}: {package.zip_bytes / 1e6:.1f} MB of {MAX_BYTES / 1e6:.0f}, unpacked"
        f" {package.unpacked_bytes / 1e6:.1f} MB in {package.entries:,} files,"
        f" {time.monotonic() - start_s:.0f} s\n"
        f"sha256 {package.sha256}\n"
        f"largest, in MB: {_parts(package)}\n"
        f"libraries: {', '.join(f'{name} {version}' for name, version in shipped.items())}\n"
        f"needs Linux x86_64, Python {PYTHON_VERSION}, glibc {package.glibc} or newer"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
