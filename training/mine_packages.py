"""The text files of software packages: pinned source archives and installed ones.

Files are read, never imported or run. Packages whose metadata names no
permissive licence are left out.
"""

from __future__ import annotations

import email.parser
import importlib.metadata
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.mine_words import word_list

LARGEST_FILE = 2_500_000
SUFFIXES = word_list("suffixes")
# Copies of other people's work, translations, and subjects that are judged on.
LEFT_OUT = re.compile(
    r"(^|/)(_?vendor(ed)?|third[-_]?party|extern(al|s)?|node_modules|locale|licenses?"
    r"|deps|submodules|\.git|dist|po|translations?|(docs?|source|content)/"
    r"(zh|ja|ko|fr|es|de|pt|ru|tr|uk|id|pl|it|fa|vi|hi|zh[-_]\w+))/|\.min\.|qdrant"
    r"|(^|/)[\w.-]*(change(s|log)|release|whats_?new|history|news)[\w.-]*(/|\.(rst|md|txt)$)"
    r"|/aaz/|kubernetes|k8s|nl2bash|cosqa|(^|/)(authors|contributors|thanks)",
    re.IGNORECASE,
)
PERMISSIVE = re.compile(
    r"\b(mit|bsd|0bsd|apache|psf|python software foundation|python-2|isc|hpnd|upl)\b",
    re.IGNORECASE,
)
OTHER = re.compile(
    r"gpl|gnu|mpl|mozilla|cecill|proprietary|non-?commercial|eupl|sleepycat|epl|agpl"
    r"|cc[- ]by|artistic",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Package:
    """A package's name, version, licence as its metadata says, and text files."""

    name: str
    version: str
    licence: str
    files: Mapping[str, bytes]


def licence_of(metadata: Mapping[str, list[str]]) -> str | None:
    """The permissive licence that a package's metadata names; None for any other.

    An expression decides where there is one; else the classifiers; else the
    first line of the free field. In an expression every part joined by AND has
    to be permissive, and one of the parts joined by OR.
    """
    expressions = metadata.get("License-Expression", [])
    if expressions:
        return expressions[0] if _expression_is_fit(expressions[0]) else None
    named = [
        c.rpartition("::")[2].strip()
        for c in metadata.get("Classifier", [])
        if c.startswith("License ::") and not c.endswith("OSI Approved")
    ]
    free = metadata.get("License", [])
    named = named or [field.strip().split("\n")[0][:80] for field in free]
    fit = [n for n in named if PERMISSIVE.search(n)]
    if not fit or any(OTHER.search(n) for n in named):
        return None
    return ", ".join(fit)


def _expression_is_fit(expression: str) -> bool:
    parts = re.split(r"\s+AND\s+", expression.replace("(", " ").replace(")", " "))
    return all(
        any(
            PERMISSIVE.search(choice) and not OTHER.search(choice)
            for choice in re.split(r"\s+OR\s+", part)
        )
        for part in parts
    )


def _fields(text: str) -> dict[str, list[str]]:
    message = email.parser.HeaderParser().parsestr(text)
    return {key: [str(v) for v in message.get_all(key, [])] for key in message}


def _is_wanted(path: str, size: int) -> bool:
    return (
        PurePosixPath(path).suffix.lower() in SUFFIXES
        and 60 <= size <= LARGEST_FILE
        and not LEFT_OUT.search(path)
    )


def from_archive(path: Path) -> Package | None:
    """The package in a source archive; None where its licence does not fit."""
    files: dict[str, bytes] = {}
    fields: dict[str, list[str]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            inner = member.name.partition("/")[2]
            if not member.isfile():
                continue
            if inner == "PKG-INFO":
                handle = archive.extractfile(member)
                fields = (
                    _fields(handle.read().decode(errors="replace")) if handle else {}
                )
            elif _is_wanted(inner, member.size):
                handle = archive.extractfile(member)
                if handle:
                    files[inner] = handle.read()
    licence = licence_of(fields)
    if licence is None:
        return None
    name, version = fields["Name"][0], fields["Version"][0]
    return Package(name, version, licence, dict(sorted(files.items())))


def from_installed(name: str) -> Package | None:
    """An installed package; None where it is absent or its licence does not fit."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    metadata = distribution.metadata
    keys = ("License-Expression", "Classifier", "License")
    licence = licence_of({key: metadata.get_all(key) or [] for key in keys})
    if licence is None:
        return None
    files = {}
    for file in distribution.files or []:
        path = Path(str(file.locate()))
        if path.is_file() and _is_wanted(str(file), path.stat().st_size):
            files[str(file)] = path.read_bytes()
    return Package(name, distribution.version, licence, dict(sorted(files.items())))


def texts(package: Package, *suffixes: str) -> Iterator[tuple[str, str]]:
    """The path and text of a package's files with one of the suffixes, by path."""
    for path, data in package.files.items():
        if path.lower().endswith(suffixes):
            yield path, data.decode("utf-8", errors="replace").replace("\r\n", "\n")
