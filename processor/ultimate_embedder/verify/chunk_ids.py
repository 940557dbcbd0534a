"""Chunk ids: each says where its chunk is from, stands once, and follows the last."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from ..export.strict_json import read_lines
from .opened import OpenBundle
from .report import Findings

_SEPARATOR = ":chunk:"
_INDEX = re.compile(r"0|[1-9][0-9]*")
FORM = "{collection}:{subdir}:{filename}:chunk:{index}"

Place = tuple[bytes, bytes, int]
"""(source_subdir, filename, index): what the rows of a bundle are sorted by."""


def place_of(
    chunk_id: str, collection: str, subdirs: Collection[str] = ()
) -> Place | None:
    """Return the place that an id names, or None where it has another form.

    `subdirs` are the names to choose from, the longest that fits; without them the
    name ends at the first colon.
    """
    head, found, index = chunk_id.rpartition(_SEPARATOR)
    prefix = f"{collection}:"
    if not found or not _INDEX.fullmatch(index) or not head.startswith(prefix):
        return None
    rest = head.removeprefix(prefix)
    fits = [name for name in subdirs if rest.startswith(f"{name}:")]
    if subdirs and not fits:
        return None
    subdir = max(fits, key=len) if fits else rest.partition(":")[0]
    filename = rest[len(subdir) + 1 :]
    if not subdir or not filename:
        return None
    return _bytes(subdir), _bytes(filename), int(index)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


@dataclass(slots=True)
class ChunkIdCheck:
    """Looks at one id after another; the counts are of those found wrong."""

    collection: str
    subdirs: Collection[str] = ()
    malformed: int = 0
    out_of_order: int = 0
    _last: Place | None = None

    def fault(self, chunk_id: str) -> str | None:
        """Return what is wrong with the next id, or None."""
        place = place_of(chunk_id, self.collection, self.subdirs)
        if place is None:
            self.malformed += 1
            return f"chunk_id is not of the form {FORM}"
        last, self._last = self._last, place
        if last is not None and place <= last:
            self.out_of_order += 1
            return "chunk_id does not follow that of the row before"
        return None


def read_chunk_ids(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield line, byte and chunk id of the lines of an ids file that have one."""
    for line in read_lines(path):
        try:
            chunk_id = orjson.loads(line.content)["chunk_id"]
        except (ValueError, KeyError, TypeError):
            continue  # told of where the lines are compared with the other files
        if isinstance(chunk_id, str):
            yield line.number, line.offset, chunk_id


def check_chunk_ids(bundle: OpenBundle, findings: Findings) -> None:
    """Check form and order of the ids; that each stands once is checked by row."""
    name = bundle.names.ids
    path = bundle.file(name)
    if path is None:
        return
    manifest = bundle.manifest
    check = ChunkIdCheck(manifest.collection, manifest.source_subdirs)
    try:
        for number, offset, chunk_id in read_chunk_ids(path):
            if problem := check.fault(chunk_id):
                findings.add(name, f"line {number}, byte {offset}", problem)
    except OSError:
        return  # told of where the rows are compared
    findings.checks.append("form and order of the chunk ids")
