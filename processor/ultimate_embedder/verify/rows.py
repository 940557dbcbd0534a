"""Row by row through all text files at once: the same chunks, the same vectors.

The files are read side by side, a line of each at a time, so that memory does not grow
with the bundle but for eight bytes a chunk (the ids seen).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from ..export.jsonl import Point, parse_point
from ..export.layout import MANIFEST
from ..export.strict_json import Line, read_lines
from ..records import point_id, text_sha256
from .opened import OpenBundle
from .report import Findings, blame_no_bundle
from .sparse import SparseCheck, parse_sparse_row

_T = TypeVar("_T")
Parsed = tuple[Line, _T | None]


class SeenIds:
    """The chunk ids of a bundle as 64-bit hashes, eight bytes each."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted: npt.NDArray[np.uint64] | None = None

    def add(self, chunk_id: str) -> None:
        """Remember the id of the next row."""
        self._hashes.append(_hash(chunk_id))

    def repeated_rows(self) -> list[int]:
        """Return the rows whose id stood in an earlier row."""
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        _, first = np.unique(hashes, return_index=True)
        return [int(row) for row in np.setdiff1d(np.arange(len(hashes)), first)]

    def __contains__(self, chunk_id: str) -> bool:
        if self._sorted is None:
            self._sorted = np.sort(np.frombuffer(self._hashes, dtype=np.uint64))
        wanted = np.uint64(_hash(chunk_id))
        place = int(np.searchsorted(self._sorted, wanted))
        return place < len(self._sorted) and bool(self._sorted[place] == wanted)


def _hash(text: str) -> int:
    encoded = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def check_rows(bundle: OpenBundle, findings: Findings) -> SeenIds:
    """Compare ids, points and sparse vectors of every row; return the ids."""
    names, seen = bundle.names, SeenIds()
    check = _RowCheck(bundle, findings, seen)
    files = {
        names.ids: _parse_id,
        names.points: _parse_point,
        names.sparse: lambda content: parse_sparse_row(orjson.loads(content)),
    }
    streams = [
        parsed_lines(bundle.path / name, name, parse, findings)
        if bundle.file(name)
        else iter(())
        for name, parse in files.items()
    ]
    counts = Counter[str]()
    for row, parsed in enumerate(zip_longest(*streams)):
        for name, item in zip(files, parsed, strict=True):
            counts[name] += item is not None
        check.row(row, *(item or (None, None) for item in parsed))
    for name in files:
        if bundle.file(name) and counts[name] != bundle.manifest.chunk_count:
            findings.add(
                name,
                f"line {counts[name]}",
                f"ends there instead of at line {bundle.manifest.chunk_count}",
            )
    check.finish()
    _say_checked(bundle, counts, findings)
    return seen


def _say_checked(bundle: OpenBundle, counts: Counter[str], findings: Findings) -> None:
    """Say what of the rows was compared, and what was not for want of a file."""
    names, compared, rows = bundle.names, list[str](), 0
    for name, held in ((names.ids, "ids"), (names.points, "texts, vectors")):
        if not findings.skip(f"{held} of rows", name) and bundle.file(name):
            compared.append(held)
            rows = rows or counts[name]
    if compared:
        findings.checks.append(f"{rows} rows: {', '.join(compared)}")


def parsed_lines(
    path: Path, name: str, parse: Callable[[bytes], _T], findings: Findings
) -> Iterator[Parsed[_T]]:
    """Yield each line with what it holds, or None after noting what is wrong.

    A file that cannot be read to its end is a finding, and its lines end there.
    """
    for line in _lines(path, name, findings):
        place = f"line {line.number}, byte {line.offset}"
        if not line.ended:
            findings.add(name, place, "the last line breaks off")
        try:
            yield line, parse(line.content)
        except orjson.JSONDecodeError as error:
            fault = f"line {line.number}, byte {line.offset + error.pos}"
            findings.add(name, fault, f"no JSON: {error.msg}")
            yield line, None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            findings.add(name, place, f"has another shape: {error!r}")
            yield line, None


def _lines(path: Path, name: str, findings: Findings) -> Iterator[Line]:
    read = 0
    try:
        for line in read_lines(path):
            read = line.number
            yield line
    except OSError as error:
        blame_no_bundle(error)
        problem = f"cannot be read further: {error.strerror or error}"
        findings.add(name, f"line {read}", problem)


def _parse_id(content: bytes) -> tuple[int, str, str, str]:
    record = orjson.loads(content)
    return (
        record["row"],
        record["point_id"] + "",
        record["chunk_id"] + "",
        record["text_sha256"] + "",
    )


def _parse_point(content: bytes) -> Point:
    point = parse_point(orjson.loads(content))
    if not isinstance(point.text, str) or not isinstance(point.chunk_id, str):
        raise ValueError("text or chunk_id is no string")
    if not isinstance(point.metadata, dict):
        raise ValueError("metadata is no object")
    return point


class _RowCheck:
    """Compares what the files say of one row after another."""

    def __init__(self, bundle: OpenBundle, findings: Findings, seen: SeenIds) -> None:
        self._bundle = bundle
        self._findings = findings
        self._seen = seen
        self._sparse = SparseCheck(bundle, findings)
        self._subdirs = Counter[str]()
        runs = bundle.manifest.dense_run or ()
        self._primary = runs[0].model if runs else next(iter(bundle.vectors), "")

    def row(
        self,
        row: int,
        ids: tuple[Any, Any],
        points: tuple[Any, Any],
        sparse: tuple[Any, Any],
    ) -> None:
        """Check one row; a part that is missing or unreadable is None."""
        (id_line, entry), (point_line, point), (sparse_line, vectors) = (
            ids,
            points,
            sparse,
        )
        if entry is not None:
            self._check_id(row, id_line, entry)
        if point is not None:
            self._check_point(row, point_line, point)
            if entry is not None:
                self._compare(id_line, entry, point_line, point)
        if vectors is not None:
            known = entry[2] if entry else None
            seen = None if point is None else (point_line, point)
            self._sparse.row(row, sparse_line, known, vectors, seen)

    def finish(self) -> None:
        """Check what only the whole shows."""
        names = self._bundle.names
        for row in self._seen.repeated_rows():
            self._findings.add(names.ids, f"row {row}", "the chunk_id stood before")
        self._sparse.finish()
        stated = self._bundle.manifest.source_subdirs
        if not stated or not self._subdirs:
            return
        if self._findings.skip("chunks of source subdirectories", names.points):
            return
        for name in sorted(stated.keys() | self._subdirs.keys()):
            wanted = stated[name].chunks if name in stated else 0
            if self._subdirs[name] != wanted:
                self._findings.add(
                    MANIFEST,
                    f"source_subdirs {name!r}",
                    f"{wanted} chunks, the points hold {self._subdirs[name]}",
                )

    def _check_id(self, row: int, line: Line, entry: tuple[int, str, str, str]) -> None:
        number, point, chunk_id, _ = entry
        place = f"line {line.number}, byte {line.offset}"
        name = self._bundle.names.ids
        self._seen.add(chunk_id)
        if number != row:
            self._findings.add(name, place, f"row is {number} instead of {row}")
        if point != point_id(chunk_id):
            self._findings.add(name, place, "point_id is not the UUIDv5 of chunk_id")

    def _compare(
        self, id_line: Line, entry: tuple[int, str, str, str], line: Line, point: Point
    ) -> None:
        """Compare a point with its line of the ids; name the file that is damaged."""
        names = self._bundle.names
        in_ids = self._bundle.suspect(names.points, names.ids) == names.ids
        name, other = (names.ids, "points") if in_ids else (names.points, "ids")
        at = id_line if in_ids else line
        place = f"line {at.number}, byte {at.offset}"
        if point.chunk_id != entry[2]:
            self._findings.add(name, place, f"chunk_id differs from the {other} file")
        if text_sha256(point.text) != entry[3]:
            self._findings.add(
                name,
                place,
                "text_sha256 is not that of the text in the points file"
                if in_ids
                else "text does not have the text_sha256 of the ids file",
            )

    def _check_point(self, row: int, line: Line, point: Point) -> None:
        name = self._bundle.names.points
        place = f"line {line.number}, byte {line.offset}"

        def wrong(problem: str) -> None:
            self._findings.add(name, place, problem)

        if point.point_id is not None and point.point_id != point_id(point.chunk_id):
            wrong("id is not the UUIDv5 of chunk_id")
        if point.metadata.get("collection") != self._bundle.manifest.collection:
            wrong("metadata.collection is another collection")
        self._subdirs[str(point.metadata.get("source_subdir"))] += 1
        self._check_vectors(row, point, place)

    def _check_vectors(self, row: int, point: Point, place: str) -> None:
        name = self._bundle.names.points
        simple = point.point_id is None
        models = {self._primary if simple else key: v for key, v in point.dense.items()}
        stated = {run.model for run in self._bundle.manifest.dense_run or ()}
        if not simple and stated and models.keys() != stated:
            self._findings.add(name, place, f"has vectors of {sorted(models)}")
        for key, vector in models.items():
            stored = self._bundle.vectors.get(key)
            if stored is None or row >= len(stored):
                continue
            expected = np.ascontiguousarray(stored[row])
            if vector.tobytes() == expected.tobytes():
                continue
            stored_in = self._bundle.names.dense(key)
            if self._bundle.suspect(name, stored_in) == name:
                self._findings.add(
                    name, place, f"the vector of '{key}' differs from the .npy file"
                )
            else:
                self._findings.add(
                    stored_in, f"row {row}", "differs from the points file"
                )
