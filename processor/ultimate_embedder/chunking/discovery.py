"""Which files of a folder tree are documents, by collection."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import UsageError
from ..intake.chunks import CHUNK_FILE_SUFFIX
from .formats import format_of

MAX_NAME_BYTES = 255

_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})


@dataclass(frozen=True, slots=True)
class Document:
    """A source file. Paths are relative to input and output, collection first."""

    path: PurePosixPath
    output: PurePosixPath


@dataclass(slots=True)
class Collection:
    """The documents of a first-level folder, sorted bytewise, and what is left out.

    `skipped` counts files that are no documents by extension; `refused` are
    (path, reason, detail) of documents that must not or cannot be read.
    """

    name: str
    documents: list[Document] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, str, str]] = field(default_factory=list)


def find_collections(root: Path, wanted: Sequence[str] = ()) -> list[Collection]:
    """Return the first-level folders of `root`, all or those wanted.

    Hidden folders, caches and `node_modules` are passed over. Links to folders are
    never followed, so no loop can form; links to files are, within `root`.

    Raises:
        UsageError: `root` is no folder that can be read, or a wanted one is missing.
    """
    if not root.is_dir():
        raise UsageError(
            f"There is no folder {root} (--input-dir).",
            cure="Name the folder whose first-level folders are collections.",
        )
    try:
        names = sorted(filter(_is_entered, _folders(root)), key=os.fsencode)
    except OSError as error:
        raise UsageError(
            f"The input folder cannot be read: {root} ({error.strerror})."
        ) from error
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise UsageError(
            f"No collection is called {', '.join(missing)}.",
            cure=f"Found: {', '.join(names) or 'none'}.",
        )
    return [_collect(root, name) for name in names if not wanted or name in wanted]


def loose_files(root: Path) -> int:
    """Return how many documents lie in `root` itself, outside any collection."""
    return sum(
        entry.is_file() and format_of(PurePosixPath(entry.name)) is not None
        for entry in os.scandir(root)
    )


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in os.scandir(root) if entry.is_dir()]


def _is_entered(name: str) -> bool:
    return not name.startswith(".") and name not in _SKIPPED_FOLDERS


def _collect(root: Path, name: str) -> Collection:
    found = Collection(name)
    if (root / name).is_symlink():
        found.refused.append(_linked_folder(root, PurePosixPath(name)))
        return found
    paths = []
    for parent, path in _walk(root, name, found):
        if format_of(path) is None:
            found.skipped[path.suffix.lower() or "no extension"] += 1
        elif (refusal := _refusal(root, path)) is not None:
            found.refused.append(refusal)
        else:
            paths.append((parent, path))
    paths.sort(key=lambda item: os.fsencode(item[1].as_posix()))
    by_folder: dict[PurePosixPath, list[PurePosixPath]] = {}
    for parent, path in paths:
        by_folder.setdefault(parent, []).append(path)
    for folder in by_folder.values():
        found.documents += map(Document, folder, output_paths(folder))
    found.documents.sort(key=lambda document: os.fsencode(document.path.as_posix()))
    return found


def _walk(
    root: Path, name: str, found: Collection
) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Yield (folder, file) below a collection; report folders not entered."""

    def unreadable(error: OSError) -> None:
        place = Path(error.filename).relative_to(root).as_posix()
        found.refused.append((place, "unreadable", str(error.strerror)))

    for parent, folders, names in os.walk(root / name, onerror=unreadable):
        here = PurePosixPath(Path(parent).relative_to(root).as_posix())
        for folder in folders:
            if _is_entered(folder) and Path(parent, folder).is_symlink():
                found.refused.append(_linked_folder(root, here / folder))
        folders[:] = sorted(filter(_is_entered, folders), key=os.fsencode)
        for file in names:
            yield here, here / file


def _linked_folder(root: Path, path: PurePosixPath) -> tuple[str, str, str]:
    place = path.as_posix()
    if _is_within(root, path):
        return place, "linked_folder", "a link; its target is read in its own place"
    return place, "outside_folder", "a link that leaves the input folder"


def _refusal(root: Path, path: PurePosixPath) -> tuple[str, str, str] | None:
    name = path.as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        return shown, "file_name_not_utf8", "rename it"
    if not _is_within(root, path):
        return name, "outside_folder", "a link that leaves the input folder"
    if not (root / path).is_file():
        return name, "unreadable", "not a file, or a link to none"
    if len((path.name + CHUNK_FILE_SUFFIX).encode()) > MAX_NAME_BYTES:
        return name, "name_too_long", "its chunk file could not be named; shorten it"
    return None


def _is_within(root: Path, path: PurePosixPath) -> bool:
    try:
        return (root / path).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def output_paths(files: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """Return the chunk file of each file of one folder: `<stem>_chunks.json`.

    Files that would share one keep their extension in the name: all of them, so that
    the order of discovery does not matter. Case is ignored, as some disks do.
    """
    names = [path.stem for path in files]
    while True:
        counts = Counter(name.casefold() for name in names)
        better = [
            path.name if counts[name.casefold()] > 1 else name
            for path, name in zip(files, names, strict=True)
        ]
        if better == names:
            break
        names = better
    return [
        path.with_name(name + CHUNK_FILE_SUFFIX)
        for path, name in zip(files, names, strict=True)
    ]
