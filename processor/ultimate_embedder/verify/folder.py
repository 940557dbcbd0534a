"""The bundles that a folder is or holds."""

from __future__ import annotations

import os
from pathlib import Path

from ..export.layout import MANIFEST, SUMS


def bundles_in(folder: Path) -> list[Path]:
    """Return the folder itself if it is a bundle, else the bundles right beneath it.

    A folder that has lost its manifest is still taken for one by its list of sums or
    its ids. Hidden folders are none: runs in progress stand there.
    """
    if _looks_like_bundle(folder):
        return [folder]
    inner = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    return [path for path in inner if not _hidden(path) and _looks_like_bundle(path)]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _looks_like_bundle(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if any((folder / name).is_file() for name in (MANIFEST, SUMS)):
        return True
    ids = f"{folder.resolve().name}_ids.jsonl"
    return (folder / ids).is_file()
