"""How many bytes of tensors are alive while torch computes, counted and not reckoned.

Every operation's results are charged when they are made and given back when the last
reference goes. Operations that torch puts together from others are counted by their
parts. What a kernel takes for itself inside one operation is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config import ModelConfig
from ..errors import DeviceOutOfMemory
from ..records import Float32Array, UInt32Array
from .dense_torch import TorchDenseEncoder
from .loading import load_encoder


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts within a `with` block; what was there before is not charged.

    `now` is what is alive, `peak` the most so far. A charge that takes `now` over
    `limit_bytes` is refused.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._limit_bytes = limit_bytes
        self._charged: weakref.WeakKeyDictionary[Any, int]
        self._charged = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and charge what it made.

        Raises:
            DeviceOutOfMemory: more would be alive than the limit.
        """
        kwargs = kwargs or {}
        known = self._storages((args, kwargs))
        parts = _in_parts(self, func, args, kwargs)
        made = func(*args, **kwargs) if parts is NotImplemented else parts
        for address, storage in self._storages(made).items():
            if address not in known:
                self._charge(storage)
        return made

    def _storages(self, values: Any) -> dict[int, Any]:
        tensors = [v for v in tree_leaves(values) if isinstance(v, torch.Tensor)]
        storages = [tensor.untyped_storage() for tensor in tensors]
        return {storage._cdata: storage for storage in storages}

    def _charge(self, storage: Any) -> None:
        if storage in self._charged:
            return
        size = int(storage.nbytes())
        if self._limit_bytes is not None and self.now + size > self._limit_bytes:
            raise DeviceOutOfMemory(
                f"{size} bytes were asked for where {self.now} of {self._limit_bytes} "
                "are in use."
            )
        self._charged[storage] = size
        weakref.finalize(storage, self._give_back, size).atexit = False
        self.now += size
        self.peak = max(self.peak, self.now)

    def _give_back(self, size: int) -> None:
        self.now -= size


def _in_parts(
    mode: LiveBytes, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run an operation by its parts, which are seen one by one; or NotImplemented.

    Under inference mode torch hands over whole what it is about to take apart.
    """
    with mode:
        return func.decompose(*args, **kwargs)


class MeteredEncoder:
    """An `AttentionEncoder` that computes on the CPU what a GPU would, and counts.

    Weights and passes are charged to a device of `total_bytes`. `peak_bytes` is the
    most so far; `passes` lists rows and positions of each pass that went well.
    """

    device = "cuda:0"

    def __init__(
        self, path: Path, config: ModelConfig, *, dtype: str, total_bytes: int
    ) -> None:
        """Load a model.

        Raises:
            DeviceOutOfMemory: its weights are more than the device holds.
        """
        model = load_encoder(path, config, device="cpu", dtype=dtype)
        storages = [
            tensor.untyped_storage()
            for tensor in (*model.parameters(), *model.buffers())
        ]
        self.weight_bytes = sum(
            {storage.data_ptr(): storage.nbytes() for storage in storages}.values()
        )
        if self.weight_bytes > total_bytes:
            raise DeviceOutOfMemory(
                f"{config.name} has {self.weight_bytes} bytes of weights; the device "
                f"holds {total_bytes}."
            )
        self.dtype = dtype
        self.dimension = config.vector_dim
        self.peak_bytes = self.weight_bytes
        self.passes: list[tuple[int, int]] = []
        self._room = total_bytes - self.weight_bytes
        self._encoder = TorchDenseEncoder(
            model, config, device="cpu", dtype=dtype, as_gpu=True
        )

    def padded_length(self, tokens: int) -> int:
        """Return how many positions a GPU computes for a text of `tokens`."""
        return self._encoder.padded_length(tokens)

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm.

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        with self._metered(ids):
            return self._encoder.encode(ids)

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Return the vectors of `encode`, and each text's attention [length].

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        with self._metered(ids):
            return self._encoder.encode_with_attention(ids)

    def measure(self, rows: int, length: int) -> int:
        """Return the most bytes that a pass over [rows, length] takes beside weights.

        It makes this encoder a `PassProbe`; the pass is not among `passes`.

        Raises:
            DeviceOutOfMemory: the pass takes more than is left.
        """
        ids = np.zeros(max(1, length - 1), dtype=np.uint32)
        meter = LiveBytes(self._room)
        with meter:
            self._encoder.encode([ids] * rows)
        self.peak_bytes = max(self.peak_bytes, self.weight_bytes + meter.peak)
        return meter.peak

    @contextmanager
    def _metered(self, ids: Sequence[UInt32Array]) -> Iterator[None]:
        meter = LiveBytes(self._room)
        try:
            with meter:
                yield
        finally:
            self.peak_bytes = max(self.peak_bytes, self.weight_bytes + meter.peak)
        longest = max(self.padded_length(len(row)) for row in ids)
        self.passes.append((len(ids), len(ids) * longest))
