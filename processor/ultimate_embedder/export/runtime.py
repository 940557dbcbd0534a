"""Writes a bundle beside its place and publishes it when it is whole.

    with ExportRuntime(output_dir, collection, emit=emit) as export:
        export.write_ids(store)
        export.write_dense("all-miniLM-l6", vectors)
        export.write_sparse(matrices, average_lengths)
        export.write_points(store, dense, matrices)
        export.write_rerank(records)
        export.publish(manifest)

Left without `publish`, whatever the reason, the old bundle stands and nothing else.
A published bundle takes the place of the whole folder of the old one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..config import ALL_EXPORTS, Export, JsonlLayout
from ..errors import BundleError
from ..records import Chunk, Float32Array, SparseMatrix
from ..retrieval.postings import write_postings
from ..telemetry.events import (
    BatchFinished,
    Emit,
    StageFinished,
    StageStarted,
    silent,
)
from . import jsonl
from .baseline import compare_baseline
from .checksums import HashedFile, file_sha256, format_sums
from .faiss_index import EXACT, require_faiss, write_index
from .layout import MANIFEST, SUMS, BundleNames
from .manifest import Manifest
from .manifest_sections import Artifact, BaselineComparison, ExportSettings
from .output_errors import output_error
from .publish import (
    Exchange,
    exchange_folders,
    fsync_folder,
    make_staging,
    publish_folder,
    recover,
    require_replaceable,
)
from .vectors import write_vectors

_CHUNKS_A_REPORT = 2048


class _Told:
    """A store whose reader's progress is told: points are most of an export's work."""

    def __init__(self, store: jsonl.ChunkSource, collection: str, emit: Emit) -> None:
        self._store = store
        self._collection = collection
        self._emit = emit

    def __len__(self) -> int:
        return len(self._store)

    def __iter__(self) -> Iterator[Chunk]:
        since, started = 0, time.perf_counter()
        for number, chunk in enumerate(self._store, start=1):
            yield chunk
            if number % _CHUNKS_A_REPORT == 0 or number == len(self):
                self._emit(
                    BatchFinished(
                        stage="export",
                        collection=self._collection,
                        items=number - since,
                        seconds=time.perf_counter() - started,
                    )
                )
                since, started = number, time.perf_counter()


class ExportRuntime:
    """One bundle in the making. `staging` may be read meanwhile.

    `exports` chooses among vectors (npy), points (jsonl) and indexes (faiss); the other
    files follow from the stages that ran. Every method raises OutputError when the disk
    is full or the folder not writable, after which the staging folder is gone.
    """

    def __init__(
        self,
        output_dir: Path,
        collection: str,
        *,
        exports: tuple[Export, ...] = ALL_EXPORTS,
        jsonl_layout: JsonlLayout = "qdrant",
        faiss_factory: str = EXACT,
        baseline: Path | None = None,
        emit: Emit = silent,
        exchange: Exchange = exchange_folders,
    ) -> None:
        """Remember what to do; nothing is touched before `open`.

        `baseline` is an earlier bundle, or a folder that holds one of this name, whose
        dense sums are compared instead of those of the bundle replaced.

        Raises:
            UsageError: the collection's name cannot be a folder, or faiss is missing.
        """
        self.names = BundleNames(collection)
        self.target = output_dir / collection
        self._settings = ExportSettings(
            exports=exports, jsonl_layout=jsonl_layout, faiss_factory=faiss_factory
        )
        self._layout = jsonl_layout
        self._baseline = baseline
        self._emit = emit
        self._exchange = exchange
        self._staging: Path | None = None
        self._lock = -1
        self._store: jsonl.ChunkSource | None = None
        self._artifacts: list[Artifact] = []
        self._dense_sums: dict[str, str] = {}
        self._seconds = 0.0
        if "faiss" in exports:
            require_faiss()

    def __enter__(self) -> ExportRuntime:
        if self._staging is None:
            self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def staging(self) -> Path:
        """The folder being filled."""
        if self._staging is None:
            raise RuntimeError("no bundle is being written: open() comes first")
        return self._staging

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The files written so far, with their sums."""
        return tuple(self._artifacts)

    @property
    def dense_sums(self) -> dict[str, str]:
        """The sum of each model's vector file, whether or not it is exported."""
        return dict(self._dense_sums)

    def open(self) -> Path:
        """Mend what an earlier run left, make the staging folder and return it.

        Raises:
            UsageError: something that is no bundle stands in the bundle's place.
            OutputError: the folder is not writable.
        """
        self.discard()
        with self._writing(self.target.parent):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            recover(self.target)
            require_replaceable(self.target)
            self._staging, self._lock = make_staging(self.target)
        self._artifacts.clear()
        self._dense_sums.clear()
        self._seconds = 0.0
        return self.staging

    def write_ids(self, store: jsonl.ChunkSource) -> None:
        """Write row, ids and text hash of each chunk; other files follow this order."""
        self._store = store
        self._emit(
            StageStarted(stage="export", collection=self.target.name, total=len(store))
        )
        self._write_lines(self.names.ids, jsonl.write_ids, store)

    def write_dense(self, key: str, vectors: Float32Array) -> None:
        """Write a model's vectors, float32 [chunks, dim], and its index.

        Raises:
            BundleError: a value is not finite.
        """
        self._check_rows(f"vectors of '{key}'", len(vectors))
        name, exports = self.names.dense(key), self._settings.exports
        path = self.staging / name
        with self._writing(path):
            file = write_vectors(path, key, vectors)
            self._dense_sums[key] = file.sha256
            if "npy" not in exports:
                path.unlink()
        if "npy" in exports:
            self._add(name, file.bytes_written, file.sha256, len(vectors))
        if "faiss" in exports:
            self._write_index(key, vectors)

    def write_sparse(
        self,
        matrices: Mapping[str, SparseMatrix],
        average_lengths: Mapping[str, float | None],
    ) -> None:
        """Write sparse vectors and, for each model, its inverted lists; none, nothing.

        Raises:
            BundleError: a vector breaks the rules of `SparseVector`.
        """
        if not matrices:
            return
        for key, matrix in matrices.items():
            self._check_rows(f"sparse vectors of '{key}'", len(matrix))
        self._write_lines(
            self.names.sparse, jsonl.write_sparse, self._known_store(), matrices
        )
        for key, matrix in matrices.items():
            folder = self.staging / self.names.postings(key)
            with self._writing(folder):
                write_postings(matrix, folder, average_length=average_lengths.get(key))
                self._add_folder(folder)

    def write_points(
        self,
        store: jsonl.ChunkSource,
        dense: Mapping[str, Float32Array],
        sparse: Mapping[str, SparseMatrix],
    ) -> None:
        """Write one point a line in the chosen layout; `dense` has the primary first.

        Raises:
            BundleError: a vector is damaged.
            InputError: metadata of a chunk cannot be JSON.
        """
        if "jsonl" not in self._settings.exports:
            return
        for key, rows in (*dense.items(), *sparse.items()):
            self._check_rows(f"vectors of '{key}'", len(rows))
        path = self.staging / self.names.points
        with self._writing(path):
            told = _Told(store, self.target.name, self._emit)
            lines = jsonl.write_points(path, told, dense, sparse, layout=self._layout)
        self._add(path.name, lines.bytes_written, lines.sha256, lines.rows)

    def write_rerank(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write one line for each query.

        Raises:
            InputError: a query holds what cannot be JSON.
        """
        self._write_lines(self.names.rerank, jsonl.write_rerank, records)

    def publish(self, manifest: Manifest) -> Path:
        """Write sums and manifest, and put the bundle in its place; return the place.

        `artifacts`, `baseline`, `export` and the own sum of the manifest are filled in.

        Raises:
            BundleError: the manifest holds what cannot be JSON.
        """
        staging = self.staging
        filled = manifest.model_copy(
            update={
                "baseline": self._compare(manifest),
                "export": self._settings,
                "artifacts": self._write_sums(),
            }
        )
        with self._writing(staging / MANIFEST):
            filled.write(staging)
            for folder in (*(p for p in staging.iterdir() if p.is_dir()), staging):
                fsync_folder(folder)
        with self._writing(self.target):
            publish_folder(staging, self.target, self._exchange)
        self._forget()
        self._emit(
            StageFinished(
                stage="export",
                collection=self.target.name,
                items=manifest.chunk_count,
                seconds=self._seconds,
            )
        )
        return self.target

    def discard(self) -> None:
        """Remove what was written and not published; without it, do nothing."""
        staging = self._staging
        self._forget()
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)  # recover() tries again

    def _forget(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock, self._staging = -1, None

    def _known_store(self) -> jsonl.ChunkSource:
        if self._store is None:
            raise RuntimeError("write_ids() comes first")
        return self._store

    def _check_rows(self, what: str, rows: int) -> None:
        expected = len(self._known_store())
        if rows != expected:
            raise BundleError(f"There are {rows} {what} for {expected} chunks.")

    def _write_index(self, key: str, vectors: Float32Array) -> None:
        path = self.staging / self.names.index(key)
        with self._writing(path):
            factory = self._settings.faiss_factory
            file = write_index(path, np.asarray(vectors), factory=factory)
        self._add(path.name, file.bytes_written, file.sha256, len(vectors))

    def _write_lines(self, name: str, write: Any, *content: Any) -> None:
        path = self.staging / name
        with self._writing(path):
            lines: jsonl.Lines = write(path, *content)
        self._add(name, lines.bytes_written, lines.sha256, lines.rows)

    def _add_folder(self, folder: Path) -> None:
        """Sum the files that another part wrote, and have them on the disk."""
        for path in sorted(folder.iterdir()):
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
            name = path.relative_to(self.staging).as_posix()
            self._add(name, path.stat().st_size, file_sha256(path), None)

    def _write_sums(self) -> tuple[Artifact, ...]:
        path = self.staging / SUMS
        with self._writing(path), HashedFile(path) as file:
            file.write(format_sums((a.path, a.sha256) for a in self._artifacts))
        self._add(SUMS, file.bytes_written, file.sha256, None)
        return self.artifacts

    def _add(self, name: str, size: int, digest: str, rows: int | None) -> None:
        self._artifacts.append(
            Artifact(path=name, bytes=size, sha256=digest, rows=rows)
        )

    def _compare(self, manifest: Manifest) -> BaselineComparison:
        """Compare dense sums with the baseline, else with the bundle replaced."""
        ids = next((a.sha256 for a in self._artifacts if a.path == self.names.ids), "")
        old, why_none = self._earlier()
        return compare_baseline(
            old,
            manifest,
            self._dense_sums,
            ids,
            against="baseline" if self._baseline else "replaced",
            why_none=why_none,
        )

    def _earlier(self) -> tuple[Manifest | None, str]:
        folder = self.target
        if self._baseline is not None:
            inner = self._baseline / self.target.name
            folder = inner if (inner / MANIFEST).exists() else self._baseline
        if not (folder / MANIFEST).exists():
            return None, "there is no earlier bundle"
        try:
            return Manifest.read(folder), ""
        except BundleError as error:
            return None, f"the earlier bundle cannot be read: {error.message}"

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Time a piece of work; turn what the system refuses into OutputError."""
        start = time.perf_counter()
        try:
            yield
        except OSError as error:
            self.discard()
            raise output_error(error, path) from error
        finally:
            self._seconds += time.perf_counter() - start
