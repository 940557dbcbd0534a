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


def places_of(
    chunk_id: str, collection: str, subdirs: Collection[str] = ()
) -> list[Place]:
    """Return the places that an id can name, sorted; none where it has another form.

    `subdirs` are the names to choose from: both `a` and `a:b` fit an id that goes on
    with `a:b:`. Without them the name ends at the first colon.
    """
    head, found, index = chunk_id.rpartition(_SEPARATOR)
    prefix = f"{collection}:"
    if not found or not _INDEX.fullmatch(index) or not head.startswith(prefix):
        return []
    rest = head.removeprefix(prefix)
    names = subdirs or (rest.partition(":")[0],)
    return sorted(
        (_bytes(name), _bytes(rest.removeprefix(f"{name}:")), int(index))
        for name in names
        if name and rest.startswith(f"{name}:") and len(rest) > len(name) + 1
    )


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


@dataclass(slots=True)
class ChunkIdCheck:
    """Looks at one id after another; the counts are of those found wrong.

    An id that can name several places has the first that follows the last one: where
    any choice puts all ids in order, that one does.
    """

    collection: str
    subdirs: Collection[str] = ()
    malformed: int = 0
    out_of_order: int = 0
    _last: Place | None = None

    def fault(self, chunk_id: str) -> str | None:
        """Return what is wrong with the next id, or None."""
        places = places_of(chunk_id, self.collection, self.subdirs)
        if not places:
            self.malformed += 1
            return f"chunk_id is not of the form {FORM}"
        last = self._last
        following = [place for place in places if last is None or place > last]
        self._last = (following or places)[0]
        if not following:
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
    if not findings.is_broken(name):
        findings.checks.append("form and order of the chunk ids")
