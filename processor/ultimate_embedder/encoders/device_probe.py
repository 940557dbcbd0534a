"""What a card holds, read by torch and, where it is installed, by NVML.

NVML (extra `gpu`) counts by process and so sees all that a process holds. Without it,
or where it cannot see this process (a container that hides process ids), a process's
bytes are what its allocator has reserved plus the context, measured as what the device
lacks beside that.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DeviceOutOfMemory
from ..gpu_lease import MIB, allocator_limit
from ..records import UInt32Array
from .out_of_memory import is_of_memory

_MOST_CONTEXT_BYTES = 1024 * MIB
"""More than a context takes: what goes beyond it is another process's memory."""
_PROC = Path("/proc")


def enforce_cap(device: str, cap_bytes: int) -> int:
    """Hold this process to `cap_bytes` on a card; return what its allocator may take.

    To be called before weights move. Makes the CUDA context, measures it, limits the
    allocator to the rest less a margin, and starts the peak counters anew.

    Raises:
        DeviceOutOfMemory: the card has no room for the context.
        MemoryCapExceeded: the cap leaves no room beside the context.
    """
    # Its plans are made for each shape anew, and nearly every pass has its own.
    torch.backends.cuda.enable_cudnn_sdp(False)
    _warm_up(device)
    limit = limit_allocator(device, cap_bytes)
    torch.cuda.reset_peak_memory_stats(device)
    return limit


def limit_allocator(device: str, cap_bytes: int) -> int:
    """Limit the allocator to what the context leaves of a cap; return the limit.

    A context grows with the kernels that are loaded: after a first pass it is measured
    again.

    Raises:
        MemoryCapExceeded: the cap leaves no room beside the context.
    """
    limit = allocator_limit(cap_bytes, context_bytes(device))
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    return limit


def context_bytes(device: str) -> int:
    """Return what this process holds on a card beside its allocator's memory."""
    reserved = torch.cuda.memory_reserved(device)
    seen = _by_process(device).get(os.getpid())
    if seen is not None:
        return max(0, seen - reserved)
    free, total = torch.cuda.mem_get_info(device)
    return min(max(0, total - free - reserved), _MOST_CONTEXT_BYTES)


def device_peak_bytes(device: str) -> int:
    """Return the most this process held on a card since `enforce_cap`."""
    return torch.cuda.max_memory_reserved(device) + context_bytes(device)


class CudaProbe:
    """A `DeviceProbe` of CUDA cards."""

    def identity(self, device: str) -> str:
        """Return the card's UUID."""
        return _uuid(device)

    def describe(self, device: str) -> str:
        """Return the card's name."""
        return str(torch.cuda.get_device_properties(device).name)

    def total_bytes(self, device: str) -> int:
        """Return the size of its memory."""
        return int(torch.cuda.get_device_properties(device).total_memory)

    def used_bytes(self, device: str) -> int:
        """Return what this process and those it started hold.

        Without NVML that is this process alone, and none where it has no context: what
        workers hold they tell themselves.
        """
        by_process = _by_process(device)
        ours = by_process.keys() & _family(os.getpid()) if by_process else set()
        if ours:
            return sum(by_process[pid] for pid in ours)
        if not _has_context(device):
            return 0
        return torch.cuda.memory_reserved(device) + context_bytes(device)

    def enforce_cap(self, device: str, cap_bytes: int) -> int:
        """Limit this process's allocator; return the limit."""
        return enforce_cap(device, cap_bytes)

    def peak_bytes(self, device: str) -> int:
        """Return the most this process held since `enforce_cap`."""
        return device_peak_bytes(device)

    def free(self, device: str) -> None:
        """Drop what nobody refers to, and the allocator's cache."""
        gc.collect()
        if _has_context(device):
            torch.cuda.empty_cache()


class CudaPassProbe:
    """A `PassProbe` of a model on a card, by the allocator's own count.

    `run` computes texts, given as ids, in one pass.
    """

    def __init__(
        self, run: Callable[[Sequence[UInt32Array]], object], device: str
    ) -> None:
        self._run = run
        self._device = device

    def measure(self, rows: int, length: int) -> int:
        """Return the most bytes of tensors that a pass over [rows, length] took.

        To be called before other passes: the peak that it reads is the process's.

        Raises:
            DeviceOutOfMemory: the pass does not fit.
        """
        before = torch.cuda.memory_allocated(self._device)
        # One token less than the length: without padding there would be no mask.
        ids = np.zeros(max(1, length - 1), dtype=np.uint32)
        self._run([ids] * rows)
        return max(0, torch.cuda.max_memory_allocated(self._device) - before)


def _warm_up(device: str) -> None:
    """Make the context, with the library for products of matrices in it.

    Raises:
        DeviceOutOfMemory: the card has no room for it.
    """
    try:
        square = torch.ones((16, 16), device=device, dtype=torch.float16)
        (square @ square).sum().item()
    except RuntimeError as error:
        if not is_of_memory(error):
            raise
        raise DeviceOutOfMemory(
            f"{device} has no room for a CUDA context: other processes hold its "
            "memory.",
            cure="End them, or choose another device; the same command resumes.",
        ) from error


def _has_context(device: str) -> bool:
    """Say whether this process has used a card: reading must not make a context."""
    ready: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return ready and torch.cuda.memory_reserved(device) > 0


@cache
def _nvml() -> Any | None:
    """Return NVML, ready for use; None where it is not installed or has no driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _uuid(device: str) -> str:
    name = str(torch.cuda.get_device_properties(device).uuid)
    return name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}"


def _by_process(device: str) -> dict[int, int]:
    """Return bytes by process id on a card, as NVML sees it; empty where it cannot."""
    nvml = _nvml()
    if nvml is None:
        return {}
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(_uuid(device))
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return {}
    # usedGpuMemory is None where the driver does not tell, as under WSL.
    return {
        int(process.pid): int(process.usedGpuMemory)
        for process in running
        if process.usedGpuMemory is not None
    }


def _family(root: int) -> set[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += children.get(pid, [])
    return found


def _parent(entry: Path) -> int | None:
    try:
        # The name, in brackets, may hold anything: fields count from the last bracket.
        fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None  # it has ended meanwhile
    return int(fields[1])
