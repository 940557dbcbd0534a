"""The new folder of a repaired bundle, filled from the old one and what was made."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from ..export.layout import MANIFEST
from ..export.publish import fsync_folder
from .bench import Bench

_NO_LINKS = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


def find_strays(bench: Bench) -> tuple[str, ...]:
    """Return what stands in the folder and is not of the bundle, sorted."""
    expected = {*bench.listed, MANIFEST}
    folders = {parent.as_posix() for path in expected for parent in Path(path).parents}
    found = []
    for parent, inner, names in os.walk(bench.bundle):
        here = Path(parent).relative_to(bench.bundle)
        for name in list(inner):
            path = (here / name).as_posix()
            if path not in folders or (bench.bundle / path).is_symlink():
                found.append(path)
                inner.remove(name)
        paths = ((here / name).as_posix() for name in names)
        found += [path for path in paths if path not in expected]
    return tuple(sorted(found, key=os.fsencode))


def fill(staging: Path, bench: Bench, strays: tuple[str, ...], *, share: bool) -> None:
    """Put every file in its place: right ones, made ones, damaged ones as they are.

    With `share`, files of the old folder are linked, not copied.
    """
    for name in bench.listed:
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in bench.rebuilt:
            bench.good[name].replace(target)
        elif name in bench.good:
            _put(bench.good[name], target, share=share)
        elif os.path.lexists(bench.bundle / name):
            _put_any(bench.bundle / name, target, share=share)
    for name in strays:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        _put_any(bench.bundle / name, staging / name, share=share)


def fsync_tree(folder: Path) -> None:
    """Have all files and folders beneath on the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        fsync_folder(Path(parent))


def _put_any(source: Path, target: Path, *, share: bool) -> None:
    """Put a file, a link or a whole folder there."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        _put(source, target, share=share)


def _put(source: Path, target: Path, *, share: bool) -> None:
    if share:
        try:
            os.link(source, target, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
    shutil.copy2(source, target, follow_symlinks=False)
