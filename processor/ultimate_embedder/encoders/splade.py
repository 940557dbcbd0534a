"""SPLADE vectors: each token of the vocabulary, weighed by a masked language model.

The value of vocabulary token j is the maximum over the text's tokens i of
log(1 + relu(logit[i, j])), Formal et al. 2021, "SPLADE v2" (arXiv:2109.10086). All
positions under the attention mask count, special tokens among them, as in the published
models. The maximum goes over the windows of a long text too, so none of it is lost.

The head over the vocabulary would dwarf everything else: 512 positions of BERT's 30,522
tokens are 60 MiB for each text. It is computed for few positions at a time, and only
for a text's own. On a CPU each window is a forward pass of its own, by one thread, so
the bytes of a vector depend on its text alone.
"""

from __future__ import annotations

import gc
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import DeviceOutOfMemory
from ..hardware import this_machine
from ..records import SparseVector, UInt32Array
from .budget import Budget
from .dense_torch import one_thread, release_memory
from .loading import padding_id
from .masked_lm import load_masked_lm
from .out_of_memory import out_of_memory_named
from .precision import check_finite
from .protocols import Frame, Role
from .splade_source import SpladeSource
from .windows import cut_ids, share_out, window_ids

LOGIT_BYTES = 16 * 2**20
"""The most that the logits of one slice of positions take, as float32."""

_BATCH_POSITIONS = 8192
_BATCH_TEXTS = 64
_GPU_LENGTH_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class SpladeBatch:
    """Vectors of some texts, and what they took.

    `places` say which texts; `tokens` are those computed, special ones and windows' own
    included, `padded_tokens` the positions, `truncated_tokens` what was cut off.
    """

    places: tuple[int, ...]
    vectors: tuple[SparseVector, ...]
    tokens: int
    padded_tokens: int
    truncated_tokens: int
    windows: int


class SpladeEncoder:
    """Satisfies `SparseEncoder`; documents and queries are encoded alike."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        source: SpladeSource,
        *,
        rows_at_once: int | None = None,
        logit_bytes: int = LOGIT_BYTES,
        threads: int = 0,
    ) -> None:
        """Hold a loaded model without its vocabulary head, and that head.

        `rows_at_once` bounds a forward pass; by default one window on a CPU, as many as
        the positions allow on a GPU. No `threads` means one a core.
        """
        self.name = source.config.name
        self.device = source.device
        self.dtype = source.dtype
        self.vocabulary_size = source.vocabulary_size
        self.oom_retries = 0
        cpu = source.device == "cpu"
        self._rows = rows_at_once or (1 if cpu else _BATCH_TEXTS)
        self._budget = Budget(_BATCH_POSITIONS)
        self._positions = max(1, logit_bytes // (4 * source.vocabulary_size))
        self._threads = threads or this_machine().cores
        self._model: Any = model
        self._head: Any = head
        self._source = source
        self._padding_id = padding_id(model)

    @classmethod
    def load(cls, source: SpladeSource) -> SpladeEncoder:
        """Load safetensors weights and check them against the files' statements.

        Raises:
            ModelError: the files cannot be loaded.
            ModelMismatch: weights are missing, or the window or the vocabulary is not
                what is stated.
            DeviceOutOfMemory: the weights do not fit the device.
        """
        return cls(*load_masked_lm(source), source)

    def close(self) -> None:
        """Let go of the weights, whoever still refers to this encoder."""
        self._model = self._head = None
        gc.collect()
        release_memory(self.device)

    def encode_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Return the vector of each text.

        Raises:
            DeviceOutOfMemory: one window alone does not fit the device.
            ModelError: a value is not finite.
        """
        return self._encode(texts, "document")

    def encode_query(self, text: str) -> SparseVector:
        """Return the vector of a query, encoded as a document is."""
        return self._encode([text], "query")[0]

    def batches(
        self, texts: Sequence[str], role: Role = "document"
    ) -> Iterator[SpladeBatch]:
        """Yield vectors in batches of texts of like length, the shortest first."""
        found = self._source.tokenizer.encode(texts, role)
        lengths = [len(ids) for ids in found.ids]
        order = sorted(range(len(texts)), key=lambda place: lengths[place])
        for places in _shared(order, lengths):
            yield self._batch(places, [found.ids[at] for at in places], found.frame)

    def _encode(self, texts: Sequence[str], role: Role) -> list[SparseVector]:
        found: dict[int, SparseVector] = {}
        for batch in self.batches(texts, role):
            found.update(zip(batch.places, batch.vectors, strict=True))
        return [found[place] for place in range(len(texts))]

    def _batch(
        self, places: Sequence[int], texts: Sequence[UInt32Array], frame: Frame
    ) -> SpladeBatch:
        window = self._source.config.max_tokens
        whole = sum(len(ids) for ids in texts)
        if self._source.long_texts == "cut":
            texts = [cut_ids(ids, frame, window) for ids in texts]
        truncated = whole - sum(len(ids) for ids in texts)
        pieces = [_pieces(ids, frame, window) for ids in texts]
        flat = [piece for some in pieces for piece in some]
        rest = iter(self._vectors(flat))
        vectors = tuple(_highest([next(rest) for _ in some]) for some in pieces)
        return SpladeBatch(
            places=tuple(places),
            vectors=vectors,
            tokens=sum(len(piece) for piece in flat),
            padded_tokens=self._padded_tokens(flat),
            truncated_tokens=truncated,
            windows=len(flat),
        )

    def _passes(self, pieces: Sequence[UInt32Array]) -> Iterator[list[int]]:
        """Yield the places of each forward pass's pieces, the longest first."""
        order = sorted(range(len(pieces)), key=lambda place: -len(pieces[place]))
        while order:
            fit = (self._budget.now or 1) // len(pieces[order[0]])
            rows = max(1, min(self._rows, fit))
            yield order[:rows]
            order = order[rows:]

    def _padded_tokens(self, pieces: Sequence[UInt32Array]) -> int:
        return sum(
            len(places) * self._padded_length([pieces[at] for at in places])
            for places in self._passes(pieces)
        )

    def _padded_length(self, pieces: Sequence[UInt32Array]) -> int:
        longest = max(len(piece) for piece in pieces)
        if self.device == "cpu":
            return longest
        padded = math.ceil(longest / _GPU_LENGTH_MULTIPLE) * _GPU_LENGTH_MULTIPLE
        return max(longest, min(padded, self._source.config.max_tokens))

    def _vectors(self, pieces: Sequence[UInt32Array]) -> list[SparseVector]:
        """Return a vector for each piece; on a CPU passes share out to threads."""
        passes = list(self._passes(pieces))
        batches = [[pieces[at] for at in places] for places in passes]
        cpu = self.device == "cpu"
        with one_thread() if cpu else nullcontext():
            if cpu and min(self._threads, len(batches)) > 1:
                with ThreadPoolExecutor(
                    self._threads, initializer=torch.set_num_threads, initargs=(1,)
                ) as pool:
                    made = list(pool.map(self._fitting, batches))
            else:
                made = [self._fitting(batch) for batch in batches]
        found = {
            place: vector
            for places, vectors in zip(passes, made, strict=True)
            for place, vector in zip(places, vectors, strict=True)
        }
        return [found[place] for place in range(len(pieces))]

    def _fitting(self, pieces: list[UInt32Array]) -> list[SparseVector]:
        """Return the vectors of a pass, done in halves where memory fails."""
        size = len(pieces) * self._padded_length(pieces)
        try:
            vectors = self._forward(pieces)
        except DeviceOutOfMemory:
            if len(pieces) == 1:
                raise
        else:
            self._budget.succeeded(size)
            return vectors
        # Not where the failure is handled: it holds on to what did not fit.
        self.oom_retries += 1
        self._budget.failed(size)
        release_memory(self.device)
        middle = len(pieces) // 2
        return self._fitting(pieces[:middle]) + self._fitting(pieces[middle:])

    def _forward(self, pieces: Sequence[UInt32Array]) -> list[SparseVector]:
        shape = (len(pieces), self._padded_length(pieces))
        ids = np.full(shape, self._padding_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)] = piece
            mask[row, : len(piece)] = 1
        with out_of_memory_named(self.name, self.device), torch.inference_mode():
            states = self._model(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
            ).logits
            return [
                self._vector(states[row, : len(piece)])
                for row, piece in enumerate(pieces)
            ]

    def _vector(self, states: torch.Tensor) -> SparseVector:
        """Return the vector of a window from its states [length, hidden].

        The maximum is taken before relu and logarithm: both rise, so it is the same.
        """
        first, *others = torch.split(states, self._positions)
        best = self._head(first).amax(dim=0).float()
        for part in others:
            best = torch.maximum(best, self._head(part).amax(dim=0).float())
        check_finite(best, self.name, self.dtype)
        values = torch.log1p(torch.relu(best))
        indices = values.nonzero()[:, 0]
        return SparseVector(
            indices.cpu().numpy().astype(np.uint32), values[indices].cpu().numpy()
        )


def _shared(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut places, which are in order of length, into batches of few positions."""
    batch: list[int] = []
    for place in order:
        positions = (len(batch) + 1) * lengths[place]
        if batch and (positions > _BATCH_POSITIONS or len(batch) == _BATCH_TEXTS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _pieces(ids: UInt32Array, frame: Frame, max_tokens: int) -> list[UInt32Array]:
    """Return a text's ids in windows: the whole where it fits, nothing of nothing."""
    if not len(ids):
        return []
    _, starts, stops = share_out(np.array([len(ids)]), frame, max_tokens)
    bounds = zip(starts.tolist(), stops.tolist(), strict=True)
    return [window_ids(ids, start, stop, frame) for start, stop in bounds] or [ids]


def _highest(vectors: Sequence[SparseVector]) -> SparseVector:
    """Return for each index the highest of its values."""
    if len(vectors) == 1:
        return vectors[0]
    found: dict[int, np.float32] = defaultdict(np.float32)
    for vector in vectors:
        for index, value in zip(vector.indices.tolist(), vector.values, strict=True):
            found[index] = max(found[index], value)
    return SparseVector(
        np.array(sorted(found), dtype=np.uint32),
        np.array([found[index] for index in sorted(found)], dtype=np.float32),
    )
