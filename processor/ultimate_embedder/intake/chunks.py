"""Chunk files in: find collections, read their chunks, set aside what is unusable.

A chunk file is read whole, one at a time, so its size is bounded. Everything read
comes out again, as a `RawChunk` or as a `Quarantined`.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UsageError
from ..records import Chunk, Metadata, Quarantined
from ..settings import kaggle_folder

MAX_CHUNK_FILE_BYTES = 256 * 2**20
MAX_TEXT_CHARACTERS = 4 * 2**20  # one chunk; tokenizing takes some 180 bytes each
CHUNK_FILE_PATTERNS = ("*_chunks.json", "chunks*.json")
CHUNK_FILE_SUFFIX = "_chunks.json"
ROOT_SUBDIR = "_root"
KAGGLE_CHUNK_FOLDERS = ("Chunked", "output")

_LIST_KEYS = ("chunks", "data", "records", "items")
_OWN_KEYS = ("collection", "source_subdir", "source")
_FILE_SYSTEMS_OWN = "lost+found"  # at the top of a volume, and closed to all


@dataclass(frozen=True, slots=True)
class CollectionFolder:
    """A folder that becomes one searchable set. `files` are sorted bytewise."""

    name: str
    path: Path
    files: tuple[Path, ...]

    @property
    def total_bytes(self) -> int:
        """Size of all chunk files together, of those that tell theirs."""
        return sum(_size(path) for path in self.files)


class NanOrInfinity:
    """Stands for a number that JSON cannot hold until it is met; its name is shown."""


_NOT_JSON = NanOrInfinity()


def find_collections(root: Path) -> list[CollectionFolder]:
    """Return the first-level folders of `root` that hold chunk files at any depth.

    A folder that cannot be looked through counts too: chunk files may lie there. Under
    Kaggle's input folder the roots are the attached data sets, or their folders named
    `Chunked` or `output`.

    Raises:
        UsageError: `root` is no folder, or two roots hold a collection of one name.
    """
    if not root.is_dir():
        raise UsageError(
            f"The folder of chunk files does not exist: {root}.",
            cure="Name it with --chunked-dir, or make it with chunk_docs_v5.py.",
        )
    found: dict[str, CollectionFolder] = {}
    for base in _roots(root):
        for folder in sorted(base.iterdir(), key=lambda path: os.fsencode(path.name)):
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            if folder.name == _FILE_SYSTEMS_OWN:
                continue
            files = tuple(_chunk_files(folder))
            if not files:
                continue
            if folder.name in found:
                raise UsageError(
                    f"Two folders hold a collection called '{folder.name}': "
                    f"{found[folder.name].path} and {folder}.",
                    cure="Rename one of them.",
                )
            found[folder.name] = CollectionFolder(folder.name, folder, files)
    return list(found.values())


def is_collection(root: Path) -> bool:
    """Say whether chunk files lie in `root` itself."""
    return any(_is_chunk_file(path.name) for path in root.iterdir())


def told_too_deep(folder: CollectionFolder, chunk: Chunk) -> str | None:
    """Return a warning where a chunk says that it belongs to the folder above."""
    named = chunk.metadata.get("collection_name")
    if named == folder.name or named != folder.path.absolute().parent.name:
        return None
    return (
        f"chunks in '{folder.name}' say they belong to '{named}': is --chunked-dir "
        "one folder too deep?"
    )


def _roots(root: Path) -> list[Path]:
    if root.absolute() != kaggle_folder().absolute() / "input":
        return [root]
    roots = []
    for data_set in sorted(path for path in root.iterdir() if path.is_dir()):
        inner = [data_set / name for name in KAGGLE_CHUNK_FOLDERS]
        roots += [path for path in inner if path.is_dir()] or [data_set]
    return roots


def _chunk_files(folder: Path) -> list[Path]:
    """Walk without following linked folders, so that no loop can form.

    A folder that cannot be listed stands among the files, to be set aside as one.
    """
    files: list[Path] = []
    unreadable: list[Path] = []

    def note(error: OSError) -> None:
        unreadable.append(Path(os.fsdecode(error.filename)))

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if _is_chunk_file(name)]
    return sorted(
        files + unreadable, key=lambda path: os.fsencode(path.relative_to(folder))
    )


def _is_chunk_file(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in CHUNK_FILE_PATTERNS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # it is set aside when it is read
        return 0


def read_chunk_file(
    folder: CollectionFolder, path: Path
) -> Iterator[Chunk | Quarantined]:
    """Yield the chunks of one file in its order, each usable or set aside."""
    relative = path.relative_to(folder.path).as_posix()
    name = relative.encode("utf-8", "backslashreplace").decode("utf-8")
    if name != relative:
        yield Quarantined(name, None, "file_name_not_utf8")
        return
    try:
        entries = _load(folder.path, path)
    except _Unusable as error:
        yield Quarantined(name, None, error.reason, error.detail)
        return
    if not entries:
        yield Quarantined(name, None, "no_entries")
    for index, entry in enumerate(entries):
        try:
            yield _chunk(folder.name, PurePosixPath(relative), index, entry)
        except _Unusable as error:
            yield Quarantined(name, index, error.reason, error.detail)


class _Unusable(Exception):
    """A file or entry cannot be used; caught in this module and nowhere else."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def _load(folder: Path, path: Path) -> list[Any]:
    """Return the entries of a chunk file, whatever accepted shape it has."""
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _Unusable("outside_folder", "a link that leaves the collection")
        if path.is_dir():
            raise _Unusable("unreadable", "a folder that cannot be listed")
        size = path.stat().st_size
        if size > MAX_CHUNK_FILE_BYTES:
            raise _Unusable(
                "too_large", f"{size} bytes, the limit is {MAX_CHUNK_FILE_BYTES}"
            )
        content = path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise _Unusable("unreadable", type(error).__name__) from error
    if not content.strip():
        raise _Unusable("empty_file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unusable("not_utf8", f"byte {error.start}") from error
    try:
        document = json.loads(
            text, parse_constant=lambda _: _NOT_JSON, parse_float=_float
        )
    except json.JSONDecodeError as error:
        raise _Unusable("not_json", f"line {error.lineno}: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise _Unusable("not_json", type(error).__name__) from error
    return _entries(document)


def _float(literal: str) -> float | NanOrInfinity:
    value = float(literal)
    return value if math.isfinite(value) else _NOT_JSON


def _entries(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        for key in _LIST_KEYS:
            if isinstance(document.get(key), list):
                return list(document[key])
        return [document]
    raise _Unusable("wrong_type", f"{_called(document)}, not a list or object")


def _called(value: object) -> str:
    """Return what JSON calls a value: `a number`, `a list`."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "a number"


def _chunk(collection: str, file: PurePosixPath, index: int, entry: Any) -> Chunk:
    if not isinstance(entry, dict):
        raise _Unusable("wrong_type", f"{_called(entry)}, not an object")
    text = entry.get("text")
    if text is None:
        raise _Unusable("no_text")
    if not isinstance(text, str):
        raise _Unusable("wrong_type", f"text is {_called(text)}")
    if not text.strip():
        raise _Unusable("blank_text")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _Unusable(
            "too_long", f"{len(text)} characters, the limit is {MAX_TEXT_CHARACTERS}"
        )
    if not _encodable(text):
        raise _Unusable("lone_surrogate", "the text is no valid Unicode")
    metadata = entry.get("metadata")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise _Unusable("wrong_type", f"metadata is {_called(metadata)}")
    subdir, inner = _place(file)
    filename = _filename(file, inner, metadata)
    if not _encodable(filename):
        raise _Unusable("lone_surrogate", "the file name is no valid Unicode")
    source = filename if subdir == ROOT_SUBDIR else f"{subdir}/{filename}"
    own = {"collection": collection, "source_subdir": subdir, "source": source}
    return Chunk(
        chunk_id=f"{collection}:{subdir}:{filename}:chunk:{index}",
        collection=collection,
        source_subdir=subdir,
        filename=filename,
        index=index,
        text=text,
        metadata=_with_own(metadata, own),
    )


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _place(file: PurePosixPath) -> tuple[str, PurePosixPath]:
    """Split a chunk file's folder into the source_subdir and what lies below it."""
    folders = file.parent.parts
    if not folders:
        return ROOT_SUBDIR, PurePosixPath()
    return folders[0], PurePosixPath(*folders[1:])


def _filename(file: PurePosixPath, inner: PurePosixPath, metadata: Metadata) -> str:
    given = metadata.get("filename")
    name = given if isinstance(given, str) and given else None
    name = name or file.name.removesuffix(CHUNK_FILE_SUFFIX) or file.name
    # Joined as text: joining as paths would drop the folder before a rooted name.
    return "/".join((*inner.parts, name))


def _with_own(metadata: Metadata, own: dict[str, str]) -> Metadata:
    """Set our three fields; a different incoming value moves under `original`."""
    differing = {
        key: metadata[key]
        for key in _OWN_KEYS
        if key in metadata and metadata[key] != own[key]
    }
    merged = {**metadata, **own}
    if differing:
        if "original" in metadata:
            differing["original"] = metadata["original"]
        merged["original"] = differing
    return merged
