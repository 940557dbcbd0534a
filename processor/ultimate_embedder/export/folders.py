"""Which folders are bundles or hold some, and what to say of one that is none."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from ..errors import NotABundle, UsageError
from .layout import MANIFEST, SUMS, BundleNames

_NAMES_TOLD = 10


def bundles_in(folder: Path) -> list[Path]:
    """Return the folder itself if it is a bundle, else the bundles right beneath it.

    A folder that has lost its manifest is still taken for one by its list of sums or
    any other of its files, and so is one that may not be looked into: it is told of,
    not passed over. Hidden folders are none: runs in progress stand there.

    Raises:
        NotABundle: the folder cannot be listed.
    """
    if looks_like_bundle(folder):
        return [folder]
    try:
        inner = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    except OSError as error:
        raise NotABundle(
            f"The folder {folder} cannot be read: {error.strerror}.",
            cure="Mend its permissions, or name another.",
        ) from error
    return [path for path in inner if not _hidden(path) and looks_like_bundle(path)]


def looks_like_bundle(folder: Path) -> bool:
    """Whether a folder holds a file of a bundle, or may not be looked into."""
    if not folder.is_dir():
        return False
    try:
        if any((folder / name).is_file() for name in (MANIFEST, SUMS)):
            return True
    except PermissionError:
        return True
    patterns = _patterns(folder.resolve().name)
    return any(next(folder.glob(one), None) is not None for one in patterns)


def no_bundle(folder: Path) -> NotABundle:
    """Return the error that says what to name instead of a folder that is no bundle."""
    if not folder.is_dir():
        missing = f"There is no folder {folder}."
        return NotABundle(
            f"{folder} is no folder." if folder.exists() else missing,
            cure="Name the folder of one collection.",
        )
    inner = [path.name for path in bundles_in(folder)]
    if not inner:
        return NotABundle(
            f"{folder} holds no bundle.", cure="Name the folder of one collection."
        )
    more = ", ..." if len(inner) > _NAMES_TOLD else ""
    return NotABundle(
        f"{folder} is not a bundle itself.",
        cure="Name the folder of one collection; "
        f"{folder} holds: {', '.join(inner[:_NAMES_TOLD])}{more}.",
    )


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _patterns(collection: str) -> tuple[str, ...]:
    """Return what the files and folders of a collection's bundle are called."""
    try:
        names = BundleNames(glob.escape(collection))
    except UsageError:  # no bundle can have that name
        return ()
    each = (names.dense("*"), names.index("*"), names.postings("*"))
    return (names.ids, names.points, names.sparse, names.rerank, *each)
