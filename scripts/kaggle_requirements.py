"""Print requirements for a notebook service that ships its own torch.

They are what the package needs without extras, at the versions of poetry.lock. Left
out are torch, the packages that only torch asks for, and CUDA packages: the service's
own build of torch, made for its driver, stays as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lock_constraints import CUDA_ONLY, LOCK

ROOT = LOCK.parent
TARGET = ROOT / "scripts" / "requirements_kaggle.txt"
HEADER = """\
# What a Kaggle notebook needs besides its own torch. Made from poetry.lock by
# scripts/kaggle_requirements.py --write; edits here are lost.
"""


def canonical(requirement: str) -> str:
    """Return the normalised package name at the start of a requirement (PEP 503)."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if match is None:
        raise ValueError(f"Not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def needed(roots: list[str], packages: list[Mapping[str, Any]]) -> set[str]:
    """Return the names reachable from `roots` without passing through torch."""
    edges: dict[str, set[str]] = {}
    for package in packages:
        asked = map(canonical, package.get("dependencies", {}))
        edges.setdefault(canonical(package["name"]), set()).update(asked)
    reached: set[str] = set()
    waiting = [canonical(root) for root in roots]
    while waiting:
        name = waiting.pop()
        if name in reached or name == "torch" or name.startswith(CUDA_ONLY):
            continue
        reached.add(name)
        waiting.extend(edges.get(name, ()))
    return reached


def _marker(package: Mapping[str, Any]) -> str:
    """Return ` ; marker`; the lock has one for all groups or one for each."""
    marker = package.get("markers")
    if isinstance(marker, Mapping):
        marker = marker.get("main")
    return f" ; {marker}" if marker else ""


def requirements(pyproject: Path, lock: Path) -> str:
    """Return the text of the requirements file."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    packages = tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    names = needed(project["dependencies"], packages)
    lines = [
        f"{package['name']}=={package['version']}{_marker(package)}"
        for package in packages
        if canonical(package["name"]) in names
        and "main" in package["groups"]
        and not package["optional"]
    ]
    return HEADER + "\n".join(lines) + "\n"


def main() -> int:
    """Parse the command line; print, write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help=f"write {TARGET.name}")
    mode.add_argument(
        "--check", action="store_true", help=f"exit 1 if {TARGET.name} differs"
    )
    arguments = parser.parse_args()
    text = requirements(ROOT / "pyproject.toml", LOCK)
    if arguments.check:
        return int(TARGET.read_text(encoding="utf-8") != text)
    if arguments.write:
        TARGET.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
