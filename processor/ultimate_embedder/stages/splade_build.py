"""A sparse matrix by a SPLADE model, in blocks of chunks that outlive an interruption.

A block is a finished matrix of its own beside the one in the making. Within a block the
encoder takes texts of like length together; rows come out in their order.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..encoders.splade_source import SpladeSource
from ..records import SparseVector
from ..retrieval.sparse_files import MatrixWriter, build_once, holds, open_matrix
from .sparse_builds import ChunkSource, Progress

if TYPE_CHECKING:
    from ..encoders.splade import SpladeBatch, SpladeEncoder

BLOCK_CHUNKS = 512
_COUNTED = ("tokens", "padded_tokens", "truncated_tokens", "windows", "oom_retries")


class SpladeBuild:
    """Computes what no earlier run left; no weights are loaded where all is there."""

    fallback_reason = None

    def __init__(self, source: SpladeSource, blocks: Path) -> None:
        """Take the model; finished blocks stand in the folder `blocks`."""
        self.settings = {
            "kind": "splade",
            "hf_model_id": source.config.hf_model_id,
            "revision": source.location.revision,
            "vocabulary_size": source.vocabulary_size,
            "max_tokens": source.config.max_tokens,
            "long_texts": source.long_texts,
            "dtype": source.dtype,
            "device": source.device,
        }
        self.fingerprint = source.fingerprint
        self._source = source
        self._blocks = blocks

    def done(self, store: ChunkSource) -> int:
        """Return how many chunks an interrupted run left finished."""
        return sum(
            min(BLOCK_CHUNKS, len(store) - block * BLOCK_CHUNKS)
            for block in range(_number_of_blocks(store))
            if holds(self._folder(block), self._facts(store, block))
        )

    def remove_blocks(self) -> None:
        """Remove what the finished matrix made superfluous."""
        shutil.rmtree(self._blocks, ignore_errors=True)

    def write(
        self, store: ChunkSource, folder: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the matrix; returns counts of tokens, windows and failures of memory.

        Raises:
            ModelError: the model cannot be loaded or gives values that are not finite.
            DeviceOutOfMemory: the model, or one window, does not fit the device.
        """
        totals = dict.fromkeys(_COUNTED, 0)
        with ExitStack() as held, MatrixWriter(folder) as matrix:

            @cache
            def encoder() -> SpladeEncoder:
                from ..encoders.splade import SpladeEncoder

                return held.enter_context(closing(SpladeEncoder.load(self._source)))

            chunks = iter(store)
            for block in range(_number_of_blocks(store)):
                texts = [chunk.text for chunk in islice(chunks, BLOCK_CHUNKS)]
                learnt = build_once(
                    self._folder(block),
                    self._facts(store, block),
                    partial(_write_block, encoder, texts, progress),
                )
                for name in _COUNTED:
                    totals[name] += learnt[name]
                for vector in open_matrix(self._folder(block)):
                    matrix.append(vector)
        return totals

    def _folder(self, block: int) -> Path:
        return self._blocks / f"{block:06d}"

    def _facts(self, store: ChunkSource, block: int) -> dict[str, Any]:
        return {
            "chunks": store.digest,
            "block": f"{block} of {BLOCK_CHUNKS} chunks",
            "fingerprint": self.fingerprint,
        }


def _number_of_blocks(store: ChunkSource) -> int:
    return -(-len(store) // BLOCK_CHUNKS)


def _write_block(
    opened: Callable[[], SpladeEncoder],
    texts: list[str],
    progress: Progress,
    folder: Path,
) -> dict[str, int]:
    """Write the rows of some texts, tell each batch, and return the counts."""
    encoder = opened()
    retries = encoder.oom_retries
    totals = dict.fromkeys(_COUNTED, 0)
    found: dict[int, SparseVector] = {}
    for batch, seconds in _timed(encoder.batches(texts)):
        found.update(zip(batch.places, batch.vectors, strict=True))
        progress.batch(
            len(batch.places),
            batch.tokens,
            seconds,
            padded_tokens=batch.padded_tokens,
            truncated_tokens=batch.truncated_tokens,
            device=encoder.device,
        )
        totals["tokens"] += batch.tokens
        totals["padded_tokens"] += batch.padded_tokens
        totals["truncated_tokens"] += batch.truncated_tokens
        totals["windows"] += batch.windows
    with MatrixWriter(folder) as matrix:
        for place in range(len(texts)):
            matrix.append(found[place])
    return {**totals, "oom_retries": encoder.oom_retries - retries}


def _timed(batches: Iterator[SpladeBatch]) -> Iterator[tuple[SpladeBatch, float]]:
    """Yield each batch with the seconds that it took."""
    started = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()
