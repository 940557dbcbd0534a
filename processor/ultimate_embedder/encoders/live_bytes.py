"""How many bytes of tensors are alive while torch computes, counted and not reckoned.

Every operation's results are charged when they are made and given back when the last
reference goes. Operations that torch puts together from others are counted by their
parts. What a kernel takes for itself inside one operation is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import DeviceOutOfMemory
from ..records import UInt32Array

RunPass = Callable[[Sequence[UInt32Array]], object]
"""Computes texts, given as ids, in one pass."""


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


class Meter:
    """What a model takes of a pretended device: its weights, and passes as they run.

    `peak_bytes` is the most so far; `passes` lists rows and positions of each pass that
    went well.
    """

    def __init__(self, name: str, total_bytes: int, *parts: nn.Module) -> None:
        """Charge the weights of a model's parts.

        Raises:
            DeviceOutOfMemory: they are more than the device holds.
        """
        storages = [
            tensor.untyped_storage()
            for part in parts
            for tensor in (*part.parameters(), *part.buffers())
        ]
        self.weight_bytes = sum(
            {storage.data_ptr(): storage.nbytes() for storage in storages}.values()
        )
        if self.weight_bytes > total_bytes:
            raise DeviceOutOfMemory(
                f"{name} has {self.weight_bytes} bytes of weights; the device holds "
                f"{total_bytes}."
            )
        self.peak_bytes = self.weight_bytes
        self.passes: list[tuple[int, int]] = []
        self._room = total_bytes - self.weight_bytes

    @contextmanager
    def one_pass(self, rows: int, positions: int) -> Iterator[None]:
        """Charge what lives in the block, and list the pass if it went well."""
        with self.charging():
            yield
        self.passes.append((rows, positions))

    @contextmanager
    def charging(self) -> Iterator[LiveBytes]:
        """Charge what lives in the block.

        Raises:
            DeviceOutOfMemory: it is more than is left beside the weights.
        """
        meter = LiveBytes(self._room)
        try:
            with meter:
                yield meter
        finally:
            self.peak_bytes = max(self.peak_bytes, self.weight_bytes + meter.peak)

    def measured(self, run: RunPass, rows: int, length: int) -> int:
        """Return the most bytes of a pass over [rows, length] that is not listed.

        One token less than the length: without padding there would be no mask.
        """
        ids = np.zeros(max(1, length - 1), dtype=np.uint32)
        with self.charging() as meter:
            run([ids] * rows)
        return meter.peak
