"""Versions of the main libraries, asked for without importing them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata

from .. import libraries

DISTRIBUTION = "ultimate-embedder"
SHOWN = (
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "faiss-cpu",
    "qdrant-client",
)

_ABSENT = "not installed"
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*\(?(?P<bounds>[^;()]*)")
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)")


def own_version() -> str:
    """Return the version of this package, `not installed` in a bare checkout."""
    return libraries.installed_versions([DISTRIBUTION]).get(DISTRIBUTION, _ABSENT)


def installed_versions() -> dict[str, str]:
    """Return the version of each main library, `not installed` where it is missing."""
    found = libraries.installed_versions(SHOWN)
    return {name: found.get(name, _ABSENT) for name in SHOWN}


def version_warnings(
    versions: Mapping[str, str], requirements: list[str] | None = None
) -> list[str]:
    """Return a line for each library outside the range this package was made for.

    `requirements` are those of the installed package unless given.
    """
    if requirements is None:
        requirements = _own_requirements()
    warnings = []
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        name = found["name"] if found else ""
        version = versions.get(name, "")
        if found and version[:1].isdigit() and not _fits(version, found["bounds"]):
            bounds = found["bounds"].strip()
            warnings.append(f"{name} {version} is outside {bounds}, the tested range.")
    return warnings


def _own_requirements() -> list[str]:
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []  # run from a checkout that was not installed


def _fits(version: str, bounds: str) -> bool:
    number = _number(version)
    checks = {
        ">=": lambda bound: number >= bound,
        "<=": lambda bound: number <= bound,
        "==": lambda bound: number == bound,
        "<": lambda bound: number < bound,
        ">": lambda bound: number > bound,
    }
    return all(checks[sign](_number(bound)) for sign, bound in _BOUND.findall(bounds))


def _number(version: str) -> tuple[int, ...]:
    """Return the release part, without trailing zeros: 2.10.0+cpu is (2, 10)."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in release[0].split(".")] if release else [0]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
