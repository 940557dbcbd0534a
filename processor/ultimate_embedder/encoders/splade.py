"""SPLADE vectors: each token of the vocabulary, weighed by a masked language model.

The value of vocabulary token j is the maximum over the text's tokens i of
log(1 + relu(logit[i, j])), Formal et al. 2021, "SPLADE v2" (arXiv:2109.10086). All
positions under the attention mask count, special tokens among them, as in the published
models. The maximum goes over the windows of a long text too, so none of it is lost.

The head over the vocabulary would dwarf everything else: 512 positions of BERT's 30,522
tokens are 60 MiB for each text. It is computed for few positions at a time, and only
for a text's own. On a CPU each window is a forward pass of its own, by one thread, so
the bytes of a vector depend on its text alone. On a GPU the windows of a batch share
passes, as many as were planned to fit.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import ROWS_A_BATCH
from ..errors import DeviceOutOfMemory
from ..hardware import peak_memory_bytes, this_machine
from ..memory_cost import LOGIT_SLICE_BYTES, padded_length
from ..memory_plan import PassProbe
from ..planning import TOKENS_A_BATCH
from ..records import SparseVector, UInt32Array
from .dense_torch import one_thread, release_memory
from .loading import padding_id
from .masked_lm import load_masked_lm
from .out_of_memory import out_of_memory_named
from .passes import DeviceUse, PassCost, Passes, Tell
from .precision import check_finite
from .protocols import Frame, Role
from .splade_source import SpladeSource
from .windows import cut_ids, share_out, window_ids


@dataclass(frozen=True, slots=True)
class SpladeBatch:
    """Vectors of some texts, and what they took.

    `places` say which texts; `tokens` are those computed, special ones and windows' own
    included, `padded_tokens` the positions, `truncated_tokens` what was cut off, and
    `oom_retries` the passes that ran out of memory and were done again.
    """

    places: tuple[int, ...]
    vectors: tuple[SparseVector, ...]
    tokens: int
    padded_tokens: int
    truncated_tokens: int
    windows: int
    oom_retries: int


class SpladeEncoder:
    """Satisfies `SparseEncoder`; documents and queries are encoded alike."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        source: SpladeSource,
        *,
        use: DeviceUse | None = None,
        logit_bytes: int = LOGIT_SLICE_BYTES,
        threads: int = 0,
        as_gpu: bool = False,
    ) -> None:
        """Hold a loaded model without its vocabulary head, and that head.

        `use` says how much of the device there is, `as_gpu` makes a CPU do the passes
        of a GPU. No `threads` means one a core.
        """
        self.name = source.config.name
        self.device = source.device
        self.dtype = source.dtype
        self.vocabulary_size = source.vocabulary_size
        self._cpu = source.device == "cpu" and not as_gpu
        self._place = "cpu" if as_gpu else source.device
        self.use = use or _use_of(self.name, self.device)
        self._passes = Passes(self.use, most_rows=ROWS_A_BATCH)
        self._positions = max(1, logit_bytes // (4 * source.vocabulary_size))
        self._threads = threads or this_machine().cores
        self._model: Any = model
        self._head: Any = head
        self._source = source
        self._padding_id = padding_id(model)

    @classmethod
    def load(cls, source: SpladeSource, use: DeviceUse | None = None) -> SpladeEncoder:
        """Load safetensors weights and check them against the files' statements.

        Raises:
            ModelError: the files cannot be loaded.
            ModelMismatch: weights are missing, or the window or the vocabulary is not
                what is stated.
            DeviceOutOfMemory: the weights do not fit the device.
        """
        return cls(*load_masked_lm(source), source, use=use)

    def calibrate(self) -> None:
        """Measure one window of the longest, and correct what is planned by it."""
        longest = self._padded_length(self._source.config.max_tokens)
        self.use = self.use.calibrated(self, longest)

    def pass_probe(self) -> PassProbe | None:
        """Return what measures a pass over windows; None on a CPU."""
        if self.device == "cpu":
            return None
        from .device_probe import CudaPassProbe

        return CudaPassProbe(self.forward, self.device)

    def close(self) -> None:
        """Let go of the weights, whoever still refers to this encoder."""
        self._model = self._head = None
        gc.collect()
        release_memory(self.device)

    def encode_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Return the vector of each text.

        Raises:
            DeviceOutOfMemory: one window alone does not fit the device; `row` is the
                place of its text.
            ModelError: a value is not finite.
        """
        return self._encode(texts, "document")

    def encode_query(self, text: str) -> SparseVector:
        """Return the vector of a query, encoded as a document is."""
        return self._encode([text], "query")[0]

    def batches(
        self,
        texts: Sequence[str],
        role: Role = "document",
        tell: Tell = lambda _: None,
    ) -> Iterator[SpladeBatch]:
        """Yield vectors in batches of texts of like length, the shortest first.

        `tell` hears of each pass that ran out of memory.
        """
        found = self._source.tokenizer.encode(texts, role)
        lengths = [len(ids) for ids in found.ids]
        order = sorted(range(len(texts)), key=lambda place: lengths[place])
        positions = self._most(lengths) or TOKENS_A_BATCH
        for places in _shared(order, lengths, positions):
            batch = [found.ids[at] for at in places]
            yield self._batch(places, batch, found.frame, tell)

    def forward(self, pieces: Sequence[UInt32Array]) -> list[SparseVector]:
        """Return the vectors of windows, computed in one pass.

        Raises:
            DeviceOutOfMemory: the pass does not fit the device.
        """
        shape = (len(pieces), max(self._padded_length(len(piece)) for piece in pieces))
        ids = np.full(shape, self._padding_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece)] = piece
            mask[row, : len(piece)] = 1
        with out_of_memory_named(self.name, self.device), torch.inference_mode():
            states = self._model(
                input_ids=torch.from_numpy(ids).to(self._place),
                attention_mask=torch.from_numpy(mask).to(self._place),
            ).logits
            return [
                self._vector(states[row, : len(piece)])
                for row, piece in enumerate(pieces)
            ]

    def _encode(self, texts: Sequence[str], role: Role) -> list[SparseVector]:
        found: dict[int, SparseVector] = {}
        for batch in self.batches(texts, role):
            found.update(zip(batch.places, batch.vectors, strict=True))
        return [found[place] for place in range(len(texts))]

    def _batch(
        self,
        places: Sequence[int],
        texts: Sequence[UInt32Array],
        frame: Frame,
        tell: Tell,
    ) -> SpladeBatch:
        window = self._source.config.max_tokens
        whole = sum(len(ids) for ids in texts)
        if self._source.long_texts == "cut":
            texts = [cut_ids(ids, frame, window) for ids in texts]
        truncated = whole - sum(len(ids) for ids in texts)
        pieces = [_pieces(ids, frame, window) for ids in texts]
        flat = [piece for some in pieces for piece in some]
        owners = [at for at, some in zip(places, pieces, strict=True) for _ in some]
        made, cost = self._vectors(flat, owners, tell)
        rest = iter(made)
        return SpladeBatch(
            places=tuple(places),
            vectors=tuple(_highest([next(rest) for _ in some]) for some in pieces),
            tokens=sum(len(piece) for piece in flat),
            padded_tokens=cost.positions,
            truncated_tokens=truncated,
            windows=len(flat),
            oom_retries=cost.oom_retries,
        )

    def _padded_length(self, tokens: int) -> int:
        if self._cpu:
            return tokens
        return padded_length(tokens, self._source.config.max_tokens)

    def _most(self, lengths: Sequence[int]) -> int | None:
        """Return the most positions of a pass over texts of these lengths on a GPU."""
        if self._cpu or not lengths:
            return None
        longest = self._padded_length(min(max(lengths), self._source.config.max_tokens))
        room = self.use.room
        return TOKENS_A_BATCH if room is None else room.positions(longest)

    def _vectors(
        self, pieces: Sequence[UInt32Array], owners: Sequence[int], tell: Tell
    ) -> tuple[list[SparseVector], PassCost]:
        """Return a vector for each piece, and what they took; `owners` are texts."""
        order = sorted(range(len(pieces)), key=lambda place: -len(pieces[place]))
        try:
            if self._cpu:
                found = self._alone(pieces, order)
                cost = PassCost((), sum(map(len, pieces)), 0)
            else:
                found = self._together(pieces, order, tell)
                cost = self._passes.take_cost()
        except DeviceOutOfMemory as error:
            row = None if error.row is None else owners[order[error.row]]
            raise DeviceOutOfMemory(error.message, cure=error.cure, row=row) from error
        return [found[place] for place in range(len(pieces))], cost

    def _together(
        self, pieces: Sequence[UInt32Array], order: Sequence[int], tell: Tell
    ) -> dict[int, SparseVector]:
        """Compute pieces in passes within the room that is planned.

        Raises:
            DeviceOutOfMemory: one alone does not fit; `row` is its place in `order`.
        """
        tokens = [len(pieces[place]) for place in order]
        lengths = [self._padded_length(one) for one in tokens]
        room = self.use.room
        if room is not None and lengths and not room.holds(lengths[0]):
            raise room.refusal(lengths[0], row=0, beforehand=False)
        found: dict[int, SparseVector] = {}

        def call(start: int, stop: int) -> None:
            places = order[start:stop]
            made = self.forward([pieces[place] for place in places])
            found.update(zip(places, made, strict=True))

        self._passes.run(lengths, tokens, call, most=self._most(tokens), tell=tell)
        return found

    def _alone(
        self, pieces: Sequence[UInt32Array], order: Sequence[int]
    ) -> dict[int, SparseVector]:
        """Compute each piece in a pass of its own; threads take them in turn.

        Raises:
            DeviceOutOfMemory: one does not fit; `row` is its place in `order`.
        """

        def vector(row: int) -> SparseVector:
            piece = pieces[order[row]]
            try:
                return self.forward([piece])[0]
            except DeviceOutOfMemory as error:
                raise self.use.ran_out(len(piece), row) from error

        rows = range(len(order))
        with one_thread():
            if min(self._threads, len(rows)) < 2:
                return dict(zip(order, map(vector, rows), strict=True))
            with ThreadPoolExecutor(
                self._threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                return dict(zip(order, pool.map(vector, rows), strict=True))

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


def _use_of(model: str, device: str) -> DeviceUse:
    """Return what is known of a device that nothing was planned for."""
    return DeviceUse(
        model=model,
        device=device,
        release=partial(release_memory, device),
        used_bytes=peak_memory_bytes if device == "cpu" else lambda: None,
    )


def _shared(
    order: Sequence[int], lengths: Sequence[int], most: int
) -> Iterator[list[int]]:
    """Cut places, which are in order of length, into batches of few positions."""
    batch: list[int] = []
    for place in order:
        positions = (len(batch) + 1) * lengths[place]
        if batch and (positions > most or len(batch) == ROWS_A_BATCH):
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
