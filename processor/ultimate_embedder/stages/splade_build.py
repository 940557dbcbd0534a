"""A sparse matrix by a SPLADE model, in blocks of chunks that outlive an interruption.

A block is a finished matrix of its own beside the one in the making. Within a block the
encoder takes texts of like length together; rows come out in their order.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import asdict
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..encoders.splade_source import SpladeSource
from ..errors import DeviceOutOfMemory
from ..records import Chunk, SparseVector
from ..retrieval.sparse_files import MatrixWriter, build_once, holds, open_matrix
from .sparse_builds import ChunkSource, Progress

if TYPE_CHECKING:
    from ..encoders.splade import SpladeBatch, SpladeEncoder

BLOCK_CHUNKS = 512
_COUNTED = ("tokens", "padded_tokens", "truncated_tokens", "windows", "oom_retries")

OpenSplade = Callable[[SpladeSource], AbstractContextManager["SpladeEncoder"]]
"""Loads a model for the length of a block; called when there is work for it."""


def open_splade(source: SpladeSource) -> AbstractContextManager[SpladeEncoder]:
    """Load a model with nothing planned for its device.

    Raises:
        ModelError: it cannot be loaded.
        DeviceOutOfMemory: its weights do not fit the device.
    """
    from ..encoders.splade import SpladeEncoder

    return closing(SpladeEncoder.load(source))


class SpladeBuild:
    """Computes what no earlier run left; no weights are loaded where all is there."""

    fallback_reason = None

    def __init__(
        self, source: SpladeSource, blocks: Path, opens: OpenSplade = open_splade
    ) -> None:
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
        self._opens = opens

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

        What a calibration measured stands with them.

        Raises:
            ModelError: the model cannot be loaded or gives values that are not finite.
            DeviceOutOfMemory: the model, or one window, does not fit the device.
        """
        totals: dict[str, Any] = dict.fromkeys(_COUNTED, 0)
        with ExitStack() as held, MatrixWriter(folder) as matrix:

            @cache
            def encoder() -> SpladeEncoder:
                opened = held.enter_context(self._opens(self._source))
                if opened.use.calibration is not None:
                    totals["calibration"] = asdict(opened.use.calibration)
                return opened

            chunks = iter(store)
            for block in range(_number_of_blocks(store)):
                learnt = build_once(
                    self._folder(block),
                    self._facts(store, block),
                    partial(
                        _write_block,
                        encoder,
                        list(islice(chunks, BLOCK_CHUNKS)),
                        progress,
                    ),
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
    chunks: Sequence[Chunk],
    progress: Progress,
    folder: Path,
) -> dict[str, int]:
    """Write the rows of some chunks, tell each batch, and return the counts."""
    encoder = opened()
    retried = partial(progress.memory_retried, encoder.device)
    totals = dict.fromkeys(_COUNTED, 0)
    found: dict[int, SparseVector] = {}
    batches = encoder.batches([chunk.text for chunk in chunks], tell=retried)
    for batch, seconds in _timed(_naming(batches, chunks)):
        found.update(zip(batch.places, batch.vectors, strict=True))
        progress.batch(
            len(batch.places),
            batch.tokens,
            seconds,
            padded_tokens=batch.padded_tokens,
            truncated_tokens=batch.truncated_tokens,
            device=encoder.device,
            gpu_peak_bytes=encoder.use.gpu_peak_bytes,
        )
        for name in _COUNTED:
            totals[name] += getattr(batch, name)
    with MatrixWriter(folder) as matrix:
        for place in range(len(chunks)):
            matrix.append(found[place])
    return totals


def _naming(
    batches: Iterator[SpladeBatch], chunks: Sequence[Chunk]
) -> Iterator[SpladeBatch]:
    """Yield batches; a text that does not fit is named by its chunk.

    Raises:
        DeviceOutOfMemory: one window alone does not fit the device.
    """
    try:
        yield from batches
    except DeviceOutOfMemory as error:
        if error.row is None:
            raise
        raise DeviceOutOfMemory(
            f"{error.message} It belongs to chunk {chunks[error.row].chunk_id}.",
            cure=error.cure,
            row=error.row,
        ) from error


def _timed(batches: Iterator[SpladeBatch]) -> Iterator[tuple[SpladeBatch, float]]:
    """Yield each batch with the seconds that it took."""
    started = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()
