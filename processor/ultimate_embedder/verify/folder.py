"""The bundles that a folder is or holds."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from ..errors import UsageError
from ..export.layout import MANIFEST, SUMS, BundleNames


def bundles_in(folder: Path) -> list[Path]:
    """Return the folder itself if it is a bundle, else the bundles right beneath it.

    A folder that has lost its manifest is still taken for one by its list of sums or
    any other of its files. Hidden folders are none: runs in progress stand there.
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
    patterns = _patterns(folder.resolve().name)
    return any(next(folder.glob(one), None) is not None for one in patterns)


def _patterns(collection: str) -> tuple[str, ...]:
    """Return what the files and folders of a collection's bundle are called."""
    try:
        names = BundleNames(glob.escape(collection))
    except UsageError:  # no bundle can have that name
        return ()
    each = (names.dense("*"), names.index("*"), names.postings("*"))
    return (names.ids, names.points, names.sparse, names.rerank, *each)
