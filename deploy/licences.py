"""The list of all that is in the application's zip, with versions and licences."""

import importlib.metadata
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import cast

from packaging.utils import canonicalize_name

_LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)
_CLASSIFIER = "License :: OSI Approved :: "
_HEADING = re.compile(r"This project bundles the following dependencies under the (.+)")


class LicenceError(Exception):
    """The licence of something inside the zip is not known; the message names it."""


def licences(
    target: Path, shipped: Mapping[str, str], jar: Path, run_options: Mapping[str, str]
) -> str:
    """Return the text of the file `LICENSES`.

    Parameters
    ----------
    target
        Where the Python libraries are installed.
    shipped
        Their versions by canonical name.
    jar
        The connectors' jar; its NOTICE lists what is bundled in it.
    run_options
        Where these are in the zip.

    Raises
    ------
    LicenceError
        When a licence is not known.
    """
    folder = run_options["pyFiles"]
    python = [
        (f"{name} {version}", licence, ", ".join(folder + text for text in texts))
        for name, version, licence, texts in python_licences(target, shipped)
    ]
    java = [(artifact, licence, "") for artifact, licence in jar_licences(jar)]
    return "\n".join(
        [
            "What is in this zip, under which licence, and where the licence's text is.",
            "",
            f"{run_options['python']}, {folder}flink_jobs, {folder}udfs",
            *_table([("streaming-review-ml", "Apache-2.0", "LICENSE")]),
            "",
            f"Python libraries, in {folder}",
            *_table(python),
            "",
            f"Java libraries, in {run_options['jarfile']}; texts in its META-INF/NOTICE,"
            " META-INF/NOTICE.txt, META-INF/LICENSE, META-INF/LICENSE.txt and META-INF/licenses/",
            *_table(java),
            "",
        ]
    )


def _table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    rows = list(rows)
    names, kinds = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"  {a:{names}}  {b:{kinds}}  {c}".rstrip() for a, b, c in rows]


def python_licences(
    target: Path, shipped: Mapping[str, str]
) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield name, version, licence, and the licence's files below `target`, of each library.

    Raises
    ------
    LicenceError
        When a library does not name its licence, or is not there.
    """
    found: dict[str, importlib.metadata.Distribution] = {
        canonicalize_name(distribution.name): distribution
        for distribution in importlib.metadata.distributions(path=[str(target)])
    }
    for name, version in shipped.items():
        if name not in found:
            raise LicenceError(f"{name} {version} is not in {target}")
        texts = sorted(
            file.as_posix()
            for file in found[name].files or ()
            if file.parts[0].endswith(".dist-info") and _LICENCE_FILE.search(file.name)
        )
        yield name, version, _licence(name, cast(Message, found[name].metadata)), texts


def _licence(name: str, metadata: Message) -> str:
    if expression := metadata["License-Expression"]:
        return str(expression)
    classifiers = metadata.get_all("Classifier", [])
    named = [line.removeprefix(_CLASSIFIER) for line in classifiers if line.startswith(_CLASSIFIER)]
    if named:
        return ", ".join(named)
    # Some put the whole text here.
    first = str(metadata["License"] or "").strip().partition("\n")[0]
    if not first:
        raise LicenceError(f"{name} does not say under which licence it is")
    return first


def jar_licences(jar: Path) -> list[tuple[str, str]]:
    """Return the artifacts (`group:name:version`) that a jar's NOTICE lists, with their licences.

    Raises
    ------
    LicenceError
        When it lists none.
    """
    with zipfile.ZipFile(jar) as archive:
        notice = archive.read("META-INF/NOTICE").decode()
    found: dict[str, str] = {}
    licence = ""
    for line in notice.splitlines():
        if heading := _HEADING.match(line):
            licence = heading[1].partition("(")[0].strip().rstrip(".")
        elif licence and (artifact := re.fullmatch(r"- ([\w.-]+:[\w.-]+:[\w.-]+)\s*", line)):
            found[artifact[1]] = licence
    if not found:
        raise LicenceError(f"the NOTICE in {jar} lists nothing")
    return sorted(found.items())
