"""Sparse vectors: their rules, and one content in sparse file, points and postings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BundleError
from ..export.jsonl import Point, parse_sparse, sparse_fault
from ..export.layout import MANIFEST
from ..export.strict_json import Line
from ..records import Int64Array, SparseInferenceRun, SparseVector
from ..retrieval.postings import Postings
from .opened import OpenBundle
from .report import Findings, blame_no_bundle

VOCABULARY = "vocabulary_size"  # statistics of a model whose indices are token ids

_POSTINGS_FILES = ("terms", "offsets", "rows", "values", "statistics")


@dataclass(frozen=True, slots=True)
class SparseRow:
    """A line of the sparse file."""

    chunk_id: str
    vectors: dict[str, SparseVector]


def parse_sparse_row(record: Mapping[str, Any]) -> SparseRow:
    """Return the line that a parsed record holds.

    Raises:
        ValueError, KeyError, TypeError: it has another shape.
    """
    vectors = {k: parse_sparse(v) for k, v in record.items() if k != "chunk_id"}
    return SparseRow(record["chunk_id"], vectors)


class PostingsCheck:
    """Walks all inverted lists at once while rows go by: one cursor a term."""

    def __init__(self, postings: Postings) -> None:
        self.postings = postings
        self._cursors = postings.offsets[:-1].copy()
        self._passed_over = 0

    def agrees(self, row: int, vector: SparseVector) -> bool:
        """Whether the entries of this row are this vector; a row may be left out."""
        terms = self.postings.terms
        places = np.searchsorted(terms, vector.indices)
        known = places < len(terms)
        known[known] = terms[places[known]] == vector.indices[known]
        found = places[known]
        here = self._next_row(found) == row
        if not here.all():
            self._pass_over(found, row)
            here = self._next_row(found) == row
        at = self._cursors[found]
        self._cursors[found[here]] += 1
        if not (known.all() and here.all()):
            return False
        values = np.ascontiguousarray(self.postings.values[at])
        return values.tobytes() == vector.values.tobytes()

    def _next_row(self, places: Int64Array) -> Int64Array:
        """Return the row of the next entry of each list, -1 at its end."""
        at, ends = self._cursors[places], self.postings.offsets[1:][places]
        rows = np.full(len(places), -1, dtype=np.int64)
        rows[at < ends] = self.postings.rows[at[at < ends]]
        return rows

    def _pass_over(self, places: Int64Array, row: int) -> None:
        """Leave behind what lists hold of earlier rows, whose lines were damaged."""
        while True:
            following = self._next_row(places)
            behind = places[(following >= 0) & (following < row)]
            if not len(behind):
                return
            self._cursors[behind] += 1
            self._passed_over += len(behind)

    @property
    def entries_left(self) -> int:
        """Entries that no row has claimed."""
        left = (self.postings.offsets[1:] - self._cursors).sum()
        return int(left) + self._passed_over


class SparseCheck:
    """Compares the sparse vectors of one row after another in all their places."""

    def __init__(self, bundle: OpenBundle, findings: Findings) -> None:
        """Open the postings whose sums hold."""
        self._bundle = bundle
        self._findings = findings
        self._keys = set(bundle.sparse_keys)
        self._postings: dict[str, PostingsCheck] = {}
        self._counts = {key: Counter[str]() for key in bundle.sparse_keys}
        self._vocabulary = {
            run.sparse_model: run.statistics[VOCABULARY]
            for run in bundle.manifest.sparse_run or ()
            if isinstance(run.statistics.get(VOCABULARY), int)
        }
        for key in bundle.sparse_keys:
            self._open(key)

    def _open(self, key: str) -> None:
        folder = self._bundle.names.postings(key)
        files = [f"{folder}/{name}.npy" for name in _POSTINGS_FILES]
        if not all(self._bundle.usable(name) for name in files):
            self._findings.skip(f"inverted lists of {key}", *files)
            if not set(files) <= set(self._bundle.listed):
                self._findings.add(folder, "whole folder", "inverted lists are missing")
            return
        try:
            postings = Postings.open(self._bundle.path / folder)
        except (BundleError, EOFError, OSError) as error:
            blame_no_bundle(error)
            self._findings.add(folder, "whole folder", str(error))
            return
        if postings.documents != self._bundle.manifest.chunk_count:
            self._findings.add(
                folder, "statistics", f"N is {postings.documents}, not the chunk count"
            )
        self._postings[key] = PostingsCheck(postings)

    def row(
        self,
        row: int,
        line: Line,
        chunk_id: str | None,
        entry: SparseRow,
        point: tuple[Line, Point] | None,
    ) -> None:
        """Check the line of one row against the ids, the point and the postings."""
        place = f"line {line.number}, byte {line.offset}"
        name = self._bundle.names.sparse

        def wrong(problem: str) -> None:
            self._findings.add(name, place, problem)

        if chunk_id is not None and entry.chunk_id != chunk_id:
            wrong("chunk_id differs from the ids file")
        if entry.vectors.keys() != self._keys:
            wrong(f"has vectors of {sorted(entry.vectors)}")
        for key, vector in entry.vectors.items():
            if fault := sparse_fault(vector):
                wrong(f"'{key}': {fault}")
                continue
            self._count(key, vector)
            size = self._vocabulary.get(key)
            if size is not None and len(vector) and int(vector.indices[-1]) >= size:
                index = vector.indices[-1]
                wrong(f"'{key}': index {index} is not in the vocabulary of {size}")
            if key in self._postings and not self._postings[key].agrees(row, vector):
                self._differs_from_postings(key, row, place)
        if point is not None and point[1].point_id is not None:
            self._check_point(place, entry, *point)

    def _count(self, key: str, vector: SparseVector) -> None:
        if key in self._counts:
            self._counts[key].update(
                documents=1, entries=len(vector), empty_documents=len(vector) == 0
            )

    def _differs_from_postings(self, key: str, row: int, place: str) -> None:
        if self._bundle.usable(self._bundle.names.sparse):
            folder = self._bundle.names.postings(key)
            self._findings.add(folder, f"row {row}", "differs from the sparse file")
        else:
            self._findings.add(
                self._bundle.names.sparse, place, f"'{key}' differs from the postings"
            )

    def _check_point(
        self, place: str, entry: SparseRow, line: Line, point: Point
    ) -> None:
        names = self._bundle.names
        name = self._bundle.suspect(names.points, names.sparse)
        if name == names.points:
            place = f"line {line.number}, byte {line.offset}"
        if point.sparse.keys() != entry.vectors.keys():
            self._findings.add(name, place, "has other sparse vectors")
            return
        for key, vector in entry.vectors.items():
            other = point.sparse[key]
            if (
                vector.indices.tobytes() != other.indices.tobytes()
                or vector.values.tobytes() != other.values.tobytes()
            ):
                against = "sparse" if name == names.points else "points"
                self._findings.add(
                    name, place, f"'{key}' differs from the {against} file"
                )

    def finish(self) -> None:
        """Check that no inverted list holds more than the rows did."""
        name = self._bundle.names.sparse
        if self._keys and self._findings.skip("counts of sparse vectors", name):
            return
        usable = self._bundle.usable(name)
        for key, check in self._postings.items():
            if left := check.entries_left:
                folder = self._bundle.names.postings(key)
                held = f"holds {left} entries that the sparse file lacks"
                lacked = f"lacks {left} entries that {folder} holds"
                file, problem = (folder, held) if usable else (name, lacked)
                self._findings.add(file, "all rows", problem)
        if usable:
            for run in self._bundle.manifest.sparse_run or ():
                self._check_counts(run)
        if self._keys:
            self._findings.checks.append(f"sparse vectors of {len(self._keys)} models")

    def _check_counts(self, run: SparseInferenceRun) -> None:
        """Compare the manifest's statistics with what the files hold."""
        key, counted = run.sparse_model, dict(self._counts[run.sparse_model])
        check = self._postings.get(key)
        if check is not None:
            postings = check.postings
            counted["unique_terms"] = len(postings.terms)
            filled = counted.get("documents", 0) - counted.get("empty_documents", 0)
            if postings.population != filled:
                self._findings.add(
                    self._bundle.names.postings(key),
                    "statistics",
                    f"{postings.population} vectors that are not empty, not {filled}",
                )
            stated = run.statistics.get("average_length")
            if stated is not None and postings.average_length != stated:
                self._findings.add(
                    self._bundle.names.postings(key),
                    "statistics",
                    f"average length {postings.average_length}, not the manifest's",
                )
        for name, number in counted.items():
            if run.statistics.get(name, number) != number:
                self._findings.add(
                    MANIFEST,
                    f"sparse_run {key} {name}",
                    f"{run.statistics[name]}, the files hold {number}",
                )
