"""What a dense pass is asked for, and what it made of a collection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig
from ..encoders.sources import ModelLocation
from ..intake.token_table import TokenTable
from ..memory_plan import Calibration
from ..records import Float32Array, Int64Array, UInt32Array
from ..workers.jobs import Output


@dataclass(frozen=True, slots=True)
class TokenAttention:
    """[CLS] attention for each token of each row, memory-mapped."""

    tokens: TokenTable
    weights: Float32Array
    first_rows: Int64Array

    def row(self, row: int) -> tuple[UInt32Array, Float32Array]:
        """Return a row's token ids and their attention, both [length]."""
        first = int(self.first_rows[row])
        start, stop = self.tokens.offsets[first], self.tokens.offsets[first + 1]
        return self.tokens.row(first), self.weights[start:stop]


@dataclass(frozen=True, slots=True)
class DenseBlock:
    """What one model made of a collection, with what it cost.

    `vectors` is float32 [rows, dimension], memory-mapped, None when only attention
    was asked for. `reused_batches` were on disk from an earlier run; `computed_chunks`
    and `computed_tokens` count what this run computed: each distinct text once. Texts
    of an earlier run over other texts are taken over one by one.
    `windows` are those of the `chunks_in_windows`, which are longer than the model's.
    `peak_rss_bytes` is the largest worker's memory, `peak_bytes` the device's.
    `batch_sizes` are rows of the batches, and of the passes that a batch was split
    into; `oom_retries` counts how often this run split one for lack of memory.
    `calibration` is the pass that took most against what was reckoned.
    """

    model: ModelConfig
    location: ModelLocation
    vectors: Float32Array | None
    attention: TokenAttention | None
    attention_fingerprint: str
    dtype: str
    devices: tuple[str, ...]
    chunks: int
    texts: int  # distinct ones
    tokens: int
    padding_ratio: float
    truncated_chunks: int
    truncated_tokens: int
    windows: int
    chunks_in_windows: int
    batch_sizes: tuple[int, ...]
    batches: int
    reused_batches: int
    compute_seconds: float
    wall_seconds: float
    computed_chunks: int
    computed_tokens: int
    peak_rss_bytes: int
    peak_bytes: int | None = None
    oom_retries: int = 0
    calibration: Calibration | None = None

    @property
    def reused_chunks(self) -> int:
        """How many chunks an earlier run did: all, if nothing was left to compute."""
        if not self.computed_chunks:
            return self.chunks
        return self.texts - self.computed_chunks

    @property
    def stored(self) -> bool:
        """Whether vectors were asked for, not attention alone."""
        return self.vectors is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTask:
    """One pass to make: which model, over which tokens, with which outputs.

    `text_hashes` holds the SHA-256 of each row's text, uint8 [rows, 32];
    `tokenizer_fingerprint` covers whether long texts are cut. `budget_tokens` is the
    most positions of one forward pass on a GPU. `chunk_id` names a row in messages.
    """

    collection: str
    model: ModelConfig
    location: ModelLocation
    tokens_dir: Path
    text_hashes: npt.NDArray[np.uint8]
    tokenizer_fingerprint: str
    dtype: str
    device: str
    outputs: tuple[Output, ...]
    budget_tokens: int | None = None
    chunk_id: Callable[[int], str] = str
