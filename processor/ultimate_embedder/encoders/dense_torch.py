"""Dense vectors of any transformers encoder or decoder, with torch.

On a CPU BERT-like models are computed by `BertStates`, a text a pass. For others each
forward pass has one fixed shape for a padded length: `_CPU_ROWS` rows, spare ones
filled with a copy. The padded length follows from a text's own length, and
texts that fill it exactly are kept apart, since they need no mask. So the kernels that
run for a text, and with them the bytes of its vector, do not depend on its neighbours.
Few rows also keep the working set in a core's cache.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..config import ModelConfig
from ..errors import ModelError, ModelMismatch
from ..records import Float32Array, UInt32Array
from .bert_states import BertStates, is_bert_like
from .loading import load_encoder, load_plain, padding_id
from .out_of_memory import out_of_memory_named
from .pooling import pool, pool_one
from .precision import check_finite

_CPU_ROWS = 4
_CPU_LENGTH_MULTIPLE = 16
_GPU_LENGTH_MULTIPLE = 8

T = TypeVar("T")


def release_memory(device: str) -> None:
    """Give back what torch's allocator keeps of a card for later."""
    if device != "cpu":
        torch.cuda.empty_cache()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: with more, sums are split by load and bytes differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchDenseEncoder:
    """A transformers encoder with pooling and L2 normalisation.

    Satisfies `protocols.AttentionEncoder` for BERT-like models, `DenseEncoder` for
    all.
    """

    def __init__(
        self,
        model: Any,
        config: ModelConfig,
        *,
        device: str,
        dtype: str,
        as_gpu: bool = False,
    ) -> None:
        """Hold a loaded model; `as_gpu` makes a CPU do the passes of a GPU.

        On a CPU the layers of a BERT-like model are taken out of it.
        """
        self.config = config
        self.dimension = config.vector_dim
        self.device = device
        self.dtype = dtype
        self._model = model
        self._padding_id = padding_id(model)
        self._cpu = device == "cpu" and not as_gpu
        self._bert = BertStates(model) if self._cpu and is_bert_like(model) else None
        self._captured: list[torch.Tensor] = []
        self.threads = 1
        """How many cores take texts of a call in turn, where each is a pass."""

    @classmethod
    def load(
        cls,
        path: Path,
        config: ModelConfig,
        *,
        device: str,
        dtype: str,
    ) -> TorchDenseEncoder:
        """Load safetensors weights from `path` and check them against `config`.

        Raises:
            ModelError: the files cannot be loaded.
            ModelMismatch: weights are missing, or width, window or pooling are not what
                `config` states.
            DeviceOutOfMemory: the weights do not fit the device.
        """
        model = load_plain(path, config, dtype=dtype) if device == "cpu" else None
        if model is None:
            model = load_encoder(path, config, device=device, dtype=dtype)
        return cls(model, config, device=device, dtype=dtype)

    def close(self) -> None:
        """Let go of the weights, whoever still refers to this encoder."""
        self._model = None
        self._bert = None
        self._captured.clear()

    def padded_length(self, tokens: int) -> int:
        """Return the positions computed for a text of `tokens`, at most the window."""
        multiple = _CPU_LENGTH_MULTIPLE if self._cpu else _GPU_LENGTH_MULTIPLE
        padded = math.ceil(tokens / multiple) * multiple
        return max(tokens, min(padded, self.config.max_tokens))

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm.

        Raises:
            DeviceOutOfMemory: the batch does not fit the device.
            ModelMismatch: the model gives vectors of another width than stated.
            ModelError: a value is not finite.
        """
        if self._bert is not None:
            return self._each_alone(self._bert, ids, attention=False)[0]
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        for group in self._groups(ids):
            vectors[group] = self._forward([ids[i] for i in group])[0]
        return vectors

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Return the bytes of `encode`, and each text's [CLS] attention [length].

        The attention is that of the last layer, averaged over heads, computed beside
        the pass from that layer's own queries and keys.
        """
        if self._bert is not None:
            return self._each_alone(self._bert, ids, attention=True)
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        attention: dict[int, Float32Array] = {}
        with self._capturing():
            for group in self._groups(ids):
                batch = [ids[i] for i in group]
                vectors[group], rows = self._forward(batch)
                attention.update(zip(group, rows, strict=True))
        return vectors, [attention[i] for i in range(len(ids))]

    def _each_alone(
        self, bert: BertStates, ids: Sequence[UInt32Array], *, attention: bool
    ) -> tuple[Float32Array, list[Float32Array]]:
        def one(row: UInt32Array) -> tuple[torch.Tensor, torch.Tensor | None]:
            with torch.inference_mode():
                positions = self._positions([row])
                states, weights = bert.states(row, positions, attention=attention)
                self._check_width(states.shape[-1])
                pooled = pool_one(states, self.config.pooling)
                return torch.nn.functional.normalize(pooled, dim=0), weights

        with out_of_memory_named(self.config.name, self.device):
            found = self._by_threads(one, ids)
            vectors = torch.empty((len(ids), self.dimension), dtype=torch.float32)
            for i, (vector, _) in enumerate(found):
                vectors[i] = vector
            check_finite(vectors, self.config.name, self.dtype)
        attended = [weights.numpy() for _, weights in found if weights is not None]
        return vectors.numpy(), attended

    def _by_threads(
        self, one: Callable[[UInt32Array], T], ids: Sequence[UInt32Array]
    ) -> list[T]:
        """Return `one` of each row; torch lets go of Python's lock meanwhile."""
        threads = min(self.threads, len(ids))
        if threads < 2:
            with one_thread():  # how many there are is each thread's own
                return [one(row) for row in ids]
        with ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(one, ids))

    def _groups(self, ids: Sequence[UInt32Array]) -> Iterator[list[int]]:
        if not self._cpu:
            yield list(range(len(ids)))
            return
        alike: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for i, row in enumerate(ids):
            padded = self.padded_length(len(row))
            alike[padded, len(row) == padded].append(i)
        for members in alike.values():
            for start in range(0, len(members), _CPU_ROWS):
                yield members[start : start + _CPU_ROWS]

    def _forward(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        inputs, mask = self._padded(ids)
        self._captured.clear()
        with out_of_memory_named(self.config.name, self.device), torch.inference_mode():
            hidden = self._model(input_ids=inputs, attention_mask=mask)[0]
            self._check_width(hidden.shape[-1])
            pooled = pool(hidden, mask, self.config.pooling)
            vectors = torch.nn.functional.normalize(pooled, dim=-1)
            check_finite(vectors, self.config.name, self.dtype)
            attention = [
                weights[i, : len(row)]
                for states in self._captured
                for weights in [self._cls_attention(states, mask).cpu().numpy()]
                for i, row in enumerate(ids)
            ]
        return vectors[: len(ids)].cpu().numpy(), attention

    def _check_width(self, width: int) -> None:
        if width != self.dimension:
            raise ModelMismatch(
                f"Model {self.config.name} gives {width}-d vectors; the registry says "
                f"{self.dimension}."
            )

    def _positions(self, ids: Sequence[UInt32Array]) -> int:
        """Return the positions of a pass over these rows."""
        length = max(self.padded_length(len(row)) for row in ids)
        if length > self.config.max_tokens:
            raise ValueError(
                f"a row of {length} tokens for a window of {self.config.max_tokens}: "
                "it has to be cut into windows before"
            )
        return length

    def _padded(self, ids: Sequence[UInt32Array]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input ids and mask, int64 [rows, length], padded on the right."""
        length = self._positions(ids)
        rows = _CPU_ROWS if self._cpu else len(ids)
        inputs = np.full((rows, length), self._padding_id, dtype=np.int64)
        mask = np.zeros((rows, length), dtype=np.int64)
        for i in range(rows):
            row = ids[min(i, len(ids) - 1)]
            inputs[i, : len(row)] = row
            mask[i, : len(row)] = 1
        return (
            torch.from_numpy(inputs).to(self.device),
            torch.from_numpy(mask).to(self.device),
        )

    @contextmanager
    def _capturing(self) -> Iterator[None]:
        """Keep what enters the last layer's attention while a pass runs."""

        def keep(_: Any, arguments: tuple[Any, ...]) -> None:
            self._captured.append(arguments[0])

        handle = self._last_attention().register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()
            self._captured.clear()

    def _last_attention(self) -> Any:
        try:
            return self._model.encoder.layer[-1].attention.self
        except AttributeError:
            raise ModelError(
                f"Model {self.config.name} is not BERT-like: it gives no attention "
                "sparse vectors.",
                cure="Leave that sparse model out, or disable sparse.",
            ) from None

    def _cls_attention(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return float32 [rows, length] from the states entering the last layer."""
        layer = self._last_attention()
        rows, length, _ = states.shape
        heads = (rows, -1, layer.num_attention_heads, layer.attention_head_size)
        query = layer.query(states[:, :1]).view(heads).transpose(1, 2).float()
        key = layer.key(states).view(heads).transpose(1, 2).float()
        scores = query @ key.transpose(-1, -2) * layer.attention_head_size**-0.5
        scores = scores.masked_fill(mask.view(rows, 1, 1, length) == 0, -math.inf)
        attention: torch.Tensor = scores.softmax(-1).mean(dim=1)[:, 0]
        return attention
