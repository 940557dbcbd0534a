"""Sparse matrices without a model of their own: BM25, attention, chunk metadata.

Each writes `indptr`, `indices` and `values` into a folder with memory for one block of
chunks, and returns what it learnt of the collection.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..encoders.attention_sparse import ALPHA, AttentionSparseEncoder, TokenAttention
from ..encoders.bm25 import B, K, TermCounter, TermCounts, bm25_values
from ..encoders.metadata_terms import MetadataTerms
from ..encoders.words import RULES_REVISION
from ..errors import ModelError
from ..libraries import installed_versions
from ..records import Chunk, SparseVector
from ..retrieval.sparse_files import ArrayWriter, MatrixWriter
from ..telemetry.events import (
    BatchFinished,
    Emit,
    FallbackUsed,
    MemoryRetried,
    StageFinished,
    StageStarted,
)

_LIBRARIES = ("py-rust-stemmers", "mmh3")
_BATCH_CHUNKS = 256
_BATCH_CHARACTERS = 1 << 20
_BLOCK_ROWS = 4096


class ChunkSource(Protocol):
    """The chunks of a collection in row order."""

    @property
    def collection(self) -> str:
        """The collection's name."""

    @property
    def digest(self) -> str:
        """Equal for equal chunks, metadata included."""

    def __len__(self) -> int:
        """How many chunks there are."""

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks in row order."""


class Progress:
    """Tells the events of one model over one collection."""

    def __init__(self, emit: Emit, store: ChunkSource, model: str) -> None:
        self._emit = emit
        self._collection = store.collection
        self._total = len(store)
        self._model = model
        self._tokens = 0
        self._device = "cpu"
        self._gpu_peak_bytes: int | None = None

    def begin(self, *, done_before: int, fallback_reason: str | None) -> None:
        """The stage starts; an earlier run left the vectors of `done_before` chunks."""
        self._emit(
            StageStarted(
                stage="sparse",
                collection=self._collection,
                model=self._model,
                total=self._total,
                done_before=done_before,
            )
        )
        if fallback_reason is not None:
            self._emit(
                FallbackUsed(
                    stage="sparse",
                    collection=self._collection,
                    reason=fallback_reason,
                )
            )

    def batch(
        self,
        items: int,
        tokens: int,
        seconds: float,
        *,
        padded_tokens: int = 0,
        truncated_tokens: int = 0,
        device: str = "cpu",
        gpu_peak_bytes: int | None = None,
    ) -> None:
        """Chunks went through."""
        self._tokens += tokens
        if gpu_peak_bytes is not None:
            self._gpu_peak_bytes = max(gpu_peak_bytes, self._gpu_peak_bytes or 0)
        self._device = device
        self._emit(
            BatchFinished(
                stage="sparse",
                collection=self._collection,
                model=self._model,
                items=items,
                tokens=tokens,
                seconds=seconds,
                padded_tokens=padded_tokens,
                truncated_tokens=truncated_tokens,
                device=device,
            )
        )

    def memory_retried(self, device: str, budget_tokens: int) -> None:
        """A pass did not fit; from now on it has at most so many positions."""
        self._emit(
            MemoryRetried(
                stage="sparse",
                model=self._model,
                device=device,
                budget_tokens=budget_tokens,
            )
        )

    def end(
        self, seconds: float, fallback_reason: str | None, *, reused: int, empty: int
    ) -> None:
        """The stage ended well; an earlier run did `reused` of its chunks.

        `empty` chunks have no entry in their vector.
        """
        self._emit(
            StageFinished(
                stage="sparse",
                collection=self._collection,
                model=self._model,
                items=self._total,
                tokens=self._tokens,
                seconds=seconds,
                device=self._device,
                gpu_peak_bytes=self._gpu_peak_bytes,
                fallback_reason=fallback_reason,
                reused=reused,
                empty=empty,
            )
        )


class Build(Protocol):
    """One way to make a matrix."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the vectors beside the chunks; goes into the record."""

    @property
    def fingerprint(self) -> str | None:
        """What else decides them; None: a matrix made earlier is not taken up."""

    @property
    def fallback_reason(self) -> str | None:
        """Why this second choice is used, None for a first choice."""

    def write(
        self, store: ChunkSource, folder: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the matrix of the chunks and return what was learnt."""


class Bm25Build:
    """Counts first, into files; values when the average length is known."""

    fallback_reason = None

    def __init__(self, profile: str) -> None:
        self.fingerprint = _words_fingerprint()
        self.settings = {"kind": "bm25", "profile": profile, "k": K, "b": B}
        self._counter = TermCounter(profile)

    def write(
        self, store: ChunkSource, folder: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the matrix; returns the token count and the average length."""
        counts_file, lengths_file = folder / "counts.npy", folder / "lengths.npy"
        tokens = 0
        with (
            MatrixWriter(folder, values=False) as matrix,
            ArrayWriter(counts_file, np.uint32) as counts,
            ArrayWriter(lengths_file, np.uint32) as lengths,
        ):
            for found, seconds in self._counted(store):
                matrix.append_rows(found.indptr, found.ids)
                counts.append(found.counts)
                lengths.append(found.lengths)
                in_batch = int(found.lengths.sum(dtype=np.int64))
                tokens += in_batch
                progress.batch(len(found.lengths), in_batch, seconds)
        average = tokens / len(store) if len(store) else 0.0
        _write_bm25_values(folder, average)
        counts_file.unlink()
        lengths_file.unlink()
        return {"tokens": tokens, "average_length": average}

    def _counted(self, store: ChunkSource) -> Iterator[tuple[TermCounts, float]]:
        for texts in _batches(chunk.text for chunk in store):
            started = time.perf_counter()
            found = self._counter.count(texts)
            yield found, time.perf_counter() - started


class AttentionBuild:
    """BM42 from the attention the dense pass left."""

    fallback_reason = None

    def __init__(
        self,
        encoder: AttentionSparseEncoder,
        attention: TokenAttention,
        fingerprint: str | None,
    ) -> None:
        self.settings = {"kind": "attention", "alpha": ALPHA}
        self.fingerprint = (
            None if fingerprint is None else f"{_words_fingerprint()} {fingerprint}"
        )
        self._encoder = encoder
        self._attention = attention

    def write(
        self, store: ChunkSource, folder: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the matrix; returns how many tokens were weighed."""
        total = 0
        with MatrixWriter(folder) as matrix:
            for first in range(0, len(store), _BATCH_CHUNKS):
                started = time.perf_counter()
                rows = range(first, min(first + _BATCH_CHUNKS, len(store)))
                texts = [self._attention.row(row) for row in rows]
                matrix.extend(self._encoder.encode_rows(texts))
                tokens = sum(len(ids) for ids, _ in texts)
                total += tokens
                progress.batch(len(rows), tokens, time.perf_counter() - started)
        return {"tokens": total}


class MetadataBuild:
    """The terms in the chunks' metadata, when live vectors are impossible."""

    def __init__(self, kind: str, profile: str, model: str, reason: str) -> None:
        self.fingerprint = _words_fingerprint()
        self.settings = {"kind": kind, "profile": profile, "source": "metadata"}
        self.fallback_reason = reason
        self._model = model
        self._terms = MetadataTerms(profile)

    def write(
        self, store: ChunkSource, folder: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the matrix; returns how many metadata entries were not usable.

        Raises:
            ModelError: no chunk has a usable term.
        """
        entries = 0
        with MatrixWriter(folder) as matrix:
            for vectors, seconds in self._read(store):
                for vector in vectors:
                    matrix.append(vector)
                    entries += len(vector)
                progress.batch(len(vectors), 0, seconds)
        if entries == 0:
            raise ModelError(
                f"No sparse vectors for {self._model}: {self.fallback_reason}, and no "
                "chunk carries sparse_features.term_weights in its metadata.",
                cure="Leave the model out of --sparse-models, or make it available.",
            )
        return {"ignored_terms": self._terms.ignored}

    def _read(self, store: ChunkSource) -> Iterator[tuple[list[SparseVector], float]]:
        batch: list[SparseVector] = []
        started = time.perf_counter()
        for chunk in store:
            batch.append(self._terms.vector(chunk.metadata))
            if len(batch) == _BATCH_CHUNKS:
                yield batch, time.perf_counter() - started
                batch, started = [], time.perf_counter()
        if batch:
            yield batch, time.perf_counter() - started


def _words_fingerprint() -> str:
    """Return what stems and their ids follow from: rules, stemmer and hash."""
    versions = installed_versions(_LIBRARIES).items()
    return " ".join((f"rules {RULES_REVISION}", *(f"{n} {v}" for n, v in versions)))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut a stream into lists that are small in number and in characters."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == _BATCH_CHUNKS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _write_bm25_values(folder: Path, average_length: float) -> None:
    """Turn the counts of a folder into `values.npy`, a block of rows at a time."""
    indptr, counts, lengths = (
        np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("indptr", "counts", "lengths")
    )
    with ArrayWriter(folder / "values.npy", np.float32) as values:
        for first in range(0, len(lengths), _BLOCK_ROWS):
            bounds = indptr[first : first + _BLOCK_ROWS + 1]
            per_entry = np.repeat(lengths[first : first + _BLOCK_ROWS], np.diff(bounds))
            values.append(
                bm25_values(
                    counts[bounds[0] : bounds[-1]],
                    per_entry,
                    average_length=average_length,
                )
            )
