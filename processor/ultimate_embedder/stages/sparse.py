"""The sparse stage: chunks -> one sparse matrix a model, on disk.

BM25 counts the texts and then weighs the counts; attention vectors come from what the
dense pass left; SPLADE is a model of its own. Only where attention is impossible do the
terms in the chunks' metadata step in, and the record and an event say so. They are
words, so they never stand in for SPLADE, whose terms are tokens of its vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ..config import SparseModelConfig
from ..encoders.attention_sparse import AttentionSparseEncoder, TokenAttention
from ..encoders.protocols import SparseEncoder
from ..encoders.sparse_queries import query_encoder
from ..encoders.splade_queries import SpladeQueries
from ..encoders.splade_source import SpladeSource
from ..encoders.words import word_profile
from ..errors import ModelNotAvailable
from ..records import SparseInferenceRun, SparseMatrix
from ..retrieval.postings import term_frequencies
from ..retrieval.sparse_files import build_once, holds, open_matrix, why_not
from ..telemetry.events import Emit, WorkRedone
from .sparse_builds import (
    AttentionBuild,
    Bm25Build,
    Build,
    ChunkSource,
    MetadataBuild,
    Progress,
)
from .splade_build import OpenSplade, SpladeBuild, open_splade


@dataclass(frozen=True, slots=True)
class SparseResult:
    """What one sparse model made of a collection.

    `matrix` has a row a chunk and is memory-mapped; `encoder` makes the queries that
    fit it.
    """

    matrix: SparseMatrix
    run: SparseInferenceRun
    encoder: SparseEncoder


class SparseVectorGenerator:
    """Makes the vectors of one sparse model.

    A finished matrix stays in `work_dir`, in a folder named after the model, and is
    taken up again when chunks and settings are the same.
    """

    def __init__(
        self,
        config: SparseModelConfig,
        *,
        bm25_profile: str,
        work_dir: Path,
        emit: Emit,
        run_id: str,
    ) -> None:
        """Check what can be checked before work starts.

        Raises:
            UsageError: no tokenizer profile is called `bm25_profile`.
        """
        self.config = config
        self._profile = word_profile(bm25_profile).name
        self._work_dir = work_dir
        self._emit = emit
        self._run_id = run_id

    def generate(
        self,
        store: ChunkSource,
        attention: TokenAttention | None,
        vocabulary: Tokenizer | None,
        *,
        attention_unavailable: str | None = None,
        attention_fingerprint: str | None = None,
        splade: SpladeSource | None = None,
        opens: OpenSplade = open_splade,
    ) -> SparseResult:
        """Return the matrix of a collection, its record and the query encoder.

        `attention_unavailable` says why there is no attention. Attention vectors of an
        earlier run are taken up only when `attention_fingerprint`, which stands for the
        weights, their precision and the window, is given and the same. A model of kind
        `splade` is computed from `splade`, which `opens` loads if there is work for it;
        what an interrupted run made of it is kept.

        Raises:
            ModelNotAvailable: there is no `splade` for a model of that kind.
            ModelError: there is neither attention nor a term in any chunk's metadata,
                or the model cannot be used.
            DeviceOutOfMemory: the model, or one window, does not fit the device.
        """
        if self.config.kind == "splade":
            return self._generate_splade(store, splade, opens)
        started = time.perf_counter()
        if self.config.kind == "bm25":
            build: Build = Bm25Build(self._profile)
        elif attention is not None and vocabulary is not None:
            encoder = AttentionSparseEncoder(vocabulary, name=self.config.name)
            build = AttentionBuild(encoder, attention, attention_fingerprint)
        else:
            reason = attention_unavailable or "no token attention was computed"
            build = MetadataBuild(
                self.config.kind, self._profile, self.config.name, reason
            )
        matrix, learnt = self._build(store, build, started)
        run = self._record(store, matrix, build, learnt, started)
        return SparseResult(matrix, run, query_encoder(run, vocabulary))

    def _generate_splade(
        self, store: ChunkSource, source: SpladeSource | None, opens: OpenSplade
    ) -> SparseResult:
        if source is None:
            raise ModelNotAvailable(
                f"The sparse model {self.config.name} has no weights to compute with.",
                cure="Leave it out of --sparse-models, or name a local folder.",
            )
        started = time.perf_counter()
        blocks = self._work_dir / f"{self.config.name}.blocks"
        build = SpladeBuild(source, blocks, opens)
        matrix, learnt = self._build(store, build, started, build.done(store))
        build.remove_blocks()
        run = self._record(store, matrix, build, learnt, started)
        return SparseResult(matrix, run, SpladeQueries(source))

    def _build(
        self, store: ChunkSource, build: Build, started: float, done_before: int = 0
    ) -> tuple[SparseMatrix, Mapping[str, Any]]:
        """Return the matrix and what was learnt; parts of it may be `done_before`."""
        directory = self._work_dir / self.config.name
        facts = {
            "chunks": store.digest,
            "model": self.config.name,
            "fingerprint": build.fingerprint,
            **build.settings,
        }
        found = build.fingerprint is not None and holds(directory, facts)
        if not found and build.fingerprint is not None:
            self._tell_why_not(store, directory, facts)
        progress = Progress(self._emit, store, self.config.name)
        reused = len(store) if found else done_before
        progress.begin(done_before=reused, fallback_reason=build.fallback_reason)
        learnt = build_once(
            directory,
            facts,
            lambda folder: build.write(store, folder, progress),
            reuse=found,
        )
        seconds = time.perf_counter() - started
        matrix = open_matrix(directory)
        empty = len(matrix) - _filled(matrix)
        progress.end(seconds, build.fallback_reason, reused=reused, empty=empty)
        return matrix, {**learnt, "reused_documents": reused}

    def _tell_why_not(
        self, store: ChunkSource, directory: Path, facts: Mapping[str, Any]
    ) -> None:
        if why := why_not(directory, facts):
            reason, damaged = why
            self._emit(
                WorkRedone(
                    stage="sparse",
                    collection=store.collection,
                    model=self.config.name,
                    reason=reason,
                    damaged=damaged,
                )
            )

    def _record(
        self,
        store: ChunkSource,
        matrix: SparseMatrix,
        build: Build,
        learnt: Mapping[str, Any],
        started: float,
    ) -> SparseInferenceRun:
        filled = _filled(matrix)
        return SparseInferenceRun(
            run_id=self._run_id,
            latency_ms=(time.perf_counter() - started) * 1000.0,
            sparse_model=self.config.name,
            document_sparse_vectors=f"{store.collection}_sparse.jsonl",
            fallback_used=build.fallback_reason is not None,
            fallback_reason=build.fallback_reason,
            coverage=filled / len(matrix) if len(matrix) else 0.0,
            statistics={
                **build.settings,
                **learnt,
                "documents": len(matrix),
                "empty_documents": len(matrix) - filled,
                "entries": len(matrix.indices),
                "unique_terms": len(term_frequencies(matrix)[0]),
            },
        )


def _filled(matrix: SparseMatrix) -> int:
    """Return how many rows have an entry."""
    return int(np.count_nonzero(np.diff(matrix.indptr)))
