"""The parts joined, for use from Python. It computes nothing itself.

embedder = UltimateKaggleEmbedderV4(model_name="all-miniLM-l6")
embedder.load_chunks_from_processing("Chunked")
embedder.generate_embeddings_kaggle_optimized()
embedder.export_for_local_qdrant()
embedder.embeddings_by_model, embedder.sparse_vectors
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import overload

from .batch_runner import BatchRunner, RunOutcome
from .config import KaggleGPUConfig, ModelConfig, PipelineConfig, RerankingConfig
from .errors import EmbedderError, UsageError
from .export.manifest import Manifest
from .export.publish import make_staging, recover
from .intake.chunks import CollectionFolder, find_collections
from .models.catalogue import rerank_model
from .models.choice import choose_dense, choose_sparse
from .records import Float32Array, SparseMatrix, SparseVector
from .run.parts import CollectionOutcome
from .telemetry.events import Emit, silent

DEFAULT_SPARSE = ("qdrant-bm25", "qdrant-minilm-attention")
DEFAULT_RERANK = "residual-minilm-l6"


class SparseRows(Sequence[Mapping[str, SparseVector]]):
    """Sparse vectors by row: a mapping from model key to vector for each."""

    def __init__(self, matrices: Mapping[str, SparseMatrix]) -> None:
        self._matrices = matrices

    def __len__(self) -> int:
        return max((len(matrix) for matrix in self._matrices.values()), default=0)

    @overload
    def __getitem__(self, row: int) -> Mapping[str, SparseVector]: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Mapping[str, SparseVector]]: ...

    def __getitem__(
        self, row: int | slice
    ) -> Mapping[str, SparseVector] | Sequence[Mapping[str, SparseVector]]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return {key: matrix[row] for key, matrix in self._matrices.items()}

    def __iter__(self) -> Iterator[Mapping[str, SparseVector]]:
        return (self[row] for row in range(len(self)))


class UltimateKaggleEmbedderV4:
    """Chunk files in, a bundle for each collection out."""

    def __init__(  # noqa: PLR0913 - the keyword arguments of the earlier design
        self,
        model_name: str = "all-miniLM-l6",
        *,
        companion_dense_models: Sequence[str] = (),
        enable_sparse: bool = True,
        sparse_models: Sequence[str] = DEFAULT_SPARSE,
        enable_rerank: bool = False,
        reranking_config: RerankingConfig | None = None,
        gpu_config: KaggleGPUConfig | None = None,
        output_dir: str | Path = "Embeddings",
        offline: bool = False,
        emit: Emit = silent,
    ) -> None:
        """Choose models by key, folder or hub id; `model_name` is primary.

        Raises:
            UnknownModel: a name that stands for no model.
            ModelError: the files of a hub id or folder cannot be had, or describe none.
            UsageError: a model is named twice.
        """
        self._config = PipelineConfig(
            chunked_dir=Path("Chunked"),
            output_dir=Path(output_dir),
            dense=tuple(
                choose_dense(key, offline=offline)
                for key in (model_name, *companion_dense_models)
            ),
            sparse=tuple(choose_sparse(key, offline=offline) for key in sparse_models),
            rerank=reranking_config or rerank_model(DEFAULT_RERANK),
            enable_sparse=enable_sparse,
            enable_rerank=enable_rerank,
            gpu=gpu_config or KaggleGPUConfig(),
            offline=offline,
        )
        self._emit = emit
        self._folders: list[CollectionFolder] = []
        self._outcome: RunOutcome | None = None

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """The dense roster, primary first."""
        return self._config.dense

    def load_chunks_from_processing(
        self, chunks_dir: str | Path = "Chunked", collections: Sequence[str] = ()
    ) -> dict[str, int]:
        """Find collections; return how many chunk files each has.

        Raises:
            UsageError: the folder does not exist or lacks a collection named.
        """
        found = find_collections(Path(chunks_dir))
        unknown = sorted(set(collections) - {folder.name for folder in found})
        if unknown or not found:
            raise UsageError(
                f"{chunks_dir} holds no collection {', '.join(unknown)}".rstrip() + ".",
                cure=f"Found: {', '.join(f.name for f in found) or 'none'}.",
            )
        self._config = replace(
            self._config, chunked_dir=Path(chunks_dir), collections=tuple(collections)
        )
        self._folders = [f for f in found if not collections or f.name in collections]
        return {folder.name: len(folder.files) for folder in self._folders}

    def generate_embeddings_kaggle_optimized(self) -> dict[str, Manifest]:
        """Make a bundle of each collection loaded; return their manifests by name.

        Raises:
            EmbedderError: a collection failed; the others are complete.
        """
        if not self._folders:
            raise UsageError(
                "No chunks are loaded.", cure="Call load_chunks_from_processing first."
            )
        runner = BatchRunner(self._config, self._emit, uuid.uuid4().hex[:12])
        self._outcome = runner.run()
        failed = [one for one in self._outcome.collections if one.error is not None]
        if failed:
            names = ", ".join(one.name for one in failed)
            raise EmbedderError(f"Failed: {names}.") from failed[0].error
        return {
            one.name: one.manifest
            for one in self._outcome.collections
            if one.manifest is not None
        }

    def export_for_local_qdrant(self, target: str | Path | None = None) -> list[Path]:
        """Return the bundle folders, copied to `target` when one is given.

        Raises:
            UsageError: nothing was embedded, or `target` has a folder of that name.
            OSError: a copy cannot be written; none is left.
        """
        bundles = [one.bundle for one in self._finished() if one.bundle is not None]
        if target is None:
            return bundles
        copies = [Path(target) / bundle.name for bundle in bundles]
        for copy in copies:
            recover(copy)
        taken = [str(copy) for copy in copies if copy.exists()]
        if taken:
            raise UsageError(
                f"Nothing is copied over what is there: {', '.join(taken)}.",
                cure="Choose another target, or move it away.",
            )
        Path(target).mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            hidden = [
                stack.enter_context(_hidden_copy(bundle, copy))
                for bundle, copy in zip(bundles, copies, strict=True)
            ]
            for folder, copy in zip(hidden, copies, strict=True):
                folder.rename(copy)
        return copies

    @property
    def embeddings_by_model(self) -> Mapping[str, Float32Array]:
        """Vectors by model key, float32 [chunks, dimension], read-only.

        With several collections use `embeddings_of`.
        """
        return self.embeddings_of(self._only().name)

    @property
    def sparse_vectors(self) -> SparseRows:
        """Sparse vectors by row, {model key: vector} for each."""
        return self.sparse_of(self._only().name)

    def embeddings_of(self, collection: str) -> Mapping[str, Float32Array]:
        """Return one collection's vectors by model key, rows in bundle order."""
        return MappingProxyType(self._named(collection).embeddings or {})

    def sparse_of(self, collection: str) -> SparseRows:
        """Return one collection's sparse vectors by row."""
        found = self._named(collection).sparse or {}
        return SparseRows({key: result.matrix for key, result in found.items()})

    def _finished(self) -> tuple[CollectionOutcome, ...]:
        if self._outcome is None:
            raise UsageError(
                "Nothing has been embedded yet.",
                cure="Call generate_embeddings_kaggle_optimized first.",
            )
        return self._outcome.collections

    def _only(self) -> CollectionOutcome:
        finished = self._finished()
        if len(finished) != 1:
            raise UsageError(
                f"{len(finished)} collections were embedded.",
                cure="Name one: embeddings_of(name), sparse_of(name).",
            )
        return finished[0]

    def _named(self, collection: str) -> CollectionOutcome:
        found = {one.name: one for one in self._finished()}
        if collection not in found:
            raise UsageError(
                f"No collection '{collection}' was embedded.",
                cure=f"Embedded: {', '.join(found)}.",
            )
        return found[collection]


@contextmanager
def _hidden_copy(bundle: Path, copy: Path) -> Iterator[Path]:
    """Hold a whole copy of a bundle beside `copy`; not renamed meanwhile, it goes."""
    staging, lock = make_staging(copy)
    try:
        shutil.copytree(bundle, staging, dirs_exist_ok=True)
        yield staging
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)  # recover() tries again
