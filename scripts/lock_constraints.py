"""Print the versions of poetry.lock as pip constraints.

pip installs from these rather than poetry, because poetry resolves torch to a build
with gigabytes of CUDA packages on machines that have no GPU. The CUDA packages that
only such a build asks for are left out, and so is torch itself under --without-torch:
a notebook service that ships its own torch keeps it.
"""

from __future__ import annotations

import argparse
import tomllib
from collections import Counter
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "poetry.lock"
CUDA_ONLY = ("nvidia-", "cuda-", "triton")


def constraints(lock: Path, *, without_torch: bool = False) -> list[str]:
    """Return `name==version` lines in the order of the lock file.

    A package locked at several versions, one for each range of Pythons, carries the
    lock's marker, so that pip sees one of them.
    """
    packages = tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    seen = Counter(package["name"] for package in packages)
    return [
        f"{package['name']}=={package['version']}"
        + (f" ; {package['markers']}" if seen[package["name"]] > 1 else "")
        for package in packages
        if not package["name"].startswith(CUDA_ONLY)
        and not (without_torch and package["name"] == "torch")
    ]


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-torch", action="store_true")
    arguments = parser.parse_args()
    print("\n".join(constraints(LOCK, without_torch=arguments.without_torch)))


if __name__ == "__main__":
    main()
