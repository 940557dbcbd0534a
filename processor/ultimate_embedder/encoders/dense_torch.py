"""Dense vectors with torch and transformers: the one file where they meet.

On a CPU each forward pass has one fixed shape for a padded length: `_CPU_ROWS` rows,
spare ones filled with a copy. The padded length follows from a text's own length, and
texts that fill it exactly are kept apart, since they need no mask. So the kernels that
run for a text, and with them the bytes of its vector, do not depend on its neighbours.
Few rows also keep the working set in a core's cache.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from ..config import ModelConfig, Pooling
from ..errors import DeviceOutOfMemory, ModelError, ModelMismatch
from ..records import Float32Array, UInt32Array

# Progress is told by events; a bar of a library's own would break lines up.
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

_UNUSED_WEIGHTS = "pooler."  # a head that no vector goes through
_CPU_ROWS = 4
_CPU_LENGTH_MULTIPLE = 16
_GPU_LENGTH_MULTIPLE = 8
_BFLOAT16_CAPABILITY = 8


def cuda_device_count() -> int:
    """Return how many CUDA devices torch can use."""
    return torch.cuda.device_count()


def limit_device_memory(device: str, cap_bytes: int) -> None:
    """Make torch's allocator on a card refuse to go over `cap_bytes`.

    To be called before weights move. It limits this process's allocator, not the CUDA
    context beside it.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / total), device)


def cuda_dtype(device: str) -> str:
    """Return the 16-bit precision that a card computes natively.

    float16 before compute capability 8.0 (a T4 has no bfloat16), bfloat16 from there.
    """
    major, _ = torch.cuda.get_device_capability(device)
    return "bfloat16" if major >= _BFLOAT16_CAPABILITY else "float16"


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
        self, model: Any, config: ModelConfig, *, device: str, dtype: str
    ) -> None:
        self.config = config
        self.dimension = config.vector_dim
        self.device = device
        self.dtype = dtype
        self._model = model
        self._cpu = device == "cpu"
        self._captured: list[torch.Tensor] = []

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
        """
        try:
            model, report = AutoModel.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            said = str(error).splitlines() or [type(error).__name__]
            raise ModelError(
                f"Model {config.name} cannot be loaded: {said[0][:200]}",
                cure=f"Fetch or save its files again; they are in {path}.",
            ) from error
        _check_weights(report["missing_keys"], config)
        _check(model.config, path, config)
        with _out_of_memory_named(config, device):
            model = model.eval().to(device)
        return cls(model, config, device=device, dtype=dtype)

    def padded_length(self, tokens: int) -> int:
        """Return the positions computed for a text of `tokens`, at most the window."""
        multiple = _CPU_LENGTH_MULTIPLE if self._cpu else _GPU_LENGTH_MULTIPLE
        padded = math.ceil(tokens / multiple) * multiple
        return max(tokens, min(padded, self.config.max_tokens))

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm.

        Raises:
            DeviceOutOfMemory: the batch does not fit the device.
        """
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
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        attention: dict[int, Float32Array] = {}
        with self._capturing():
            for group in self._groups(ids):
                batch = [ids[i] for i in group]
                vectors[group], rows = self._forward(batch)
                attention.update(zip(group, rows, strict=True))
        return vectors, [attention[i] for i in range(len(ids))]

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
        with _out_of_memory_named(self.config, self.device), torch.inference_mode():
            hidden = self._model(input_ids=inputs, attention_mask=mask)[0]
            pooled = _pool(hidden, mask, self.config.pooling)
            vectors = torch.nn.functional.normalize(pooled, dim=-1)
            attention = [
                self._cls_attention(states, mask)[i, : len(row)].cpu().numpy()
                for states in self._captured
                for i, row in enumerate(ids)
            ]
        return vectors[: len(ids)].cpu().numpy(), attention

    def _padded(self, ids: Sequence[UInt32Array]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input ids and mask, int64 [rows, length], padded on the right."""
        length = max(self.padded_length(len(row)) for row in ids)
        if length > self.config.max_tokens:
            raise ValueError(
                f"a row of {length} tokens for a window of {self.config.max_tokens}: "
                "it has to be cut into windows before"
            )
        rows = _CPU_ROWS if self._cpu else len(ids)
        inputs = np.zeros((rows, length), dtype=np.int64)
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


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return float32 [rows, width] from hidden states [rows, length, width]."""
    states = hidden.float()
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        last = mask.sum(dim=1) - 1
        return states[torch.arange(len(states), device=states.device), last]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _check_weights(missing: Iterable[str], config: ModelConfig) -> None:
    """Refuse what transformers only warns of: weights left at random numbers."""
    lacking = sorted(name for name in missing if not name.startswith(_UNUSED_WEIGHTS))
    if lacking:
        raise ModelMismatch(
            f"Model {config.name} lacks {len(lacking)} weights in its files, the first "
            f"is {lacking[0]}.",
            cure="Fetch or save its files again.",
        )


def _check(loaded: Any, path: Path, config: ModelConfig) -> None:
    if loaded.hidden_size != config.vector_dim:
        raise ModelMismatch(
            f"Model {config.name} gives {loaded.hidden_size}-d vectors; the registry "
            f"says {config.vector_dim}."
        )
    positions = getattr(loaded, "max_position_embeddings", None)
    if positions is not None and config.max_tokens > positions:
        raise ModelMismatch(
            f"Model {config.name} has {positions} positions; the registry's window "
            f"is {config.max_tokens}."
        )
    stated = _stated_pooling(path)
    if stated and stated != config.pooling:
        raise ModelMismatch(
            f"Model {config.name} was trained with {stated} pooling; the registry "
            f"says {config.pooling}."
        )


def _stated_pooling(path: Path) -> Pooling | None:
    """Read what a sentence-transformers folder says of its pooling, if it does."""
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return None
    settings = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, Pooling] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "last",
    }
    chosen = [pooling for key, pooling in names.items() if settings.get(key)]
    return chosen[0] if len(chosen) == 1 else None


@contextmanager
def _out_of_memory_named(config: ModelConfig, device: str) -> Iterator[None]:
    """Rename torch's out-of-memory, here and nowhere else."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory(
            f"Model {config.name} ran out of memory on {device}.",
            cure="Lower the batch budget or free the device, then run again.",
        ) from error
