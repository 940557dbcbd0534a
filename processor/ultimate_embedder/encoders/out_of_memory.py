"""A library's out-of-memory becomes `DeviceOutOfMemory`, here and nowhere else.

Most arrive as `torch.OutOfMemoryError`. Those of the CPU's allocator, of the driver and
of cuBLAS are plain RuntimeErrors, told apart by their text alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DeviceOutOfMemory

_SAYS_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",  # no room for its handle
    "cudnn_status_alloc_failed",
    "device_allocation_failed",
    "failed to allocate memory",
)
_ONEDNN = "could not create a primitive"
"""All that oneDNN says where it gets no memory for its code. What it cannot compute it
calls a primitive descriptor."""


@contextmanager
def out_of_memory_named(model: str, device: str) -> Iterator[None]:
    """Raise DeviceOutOfMemory, naming model and device, where memory did not suffice.

    `torch.OutOfMemoryError` is a RuntimeError too.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        raise DeviceOutOfMemory(
            f"Model {model} ran out of memory on {device}.",
            cure="Lower the batch budget or free the device, then run again.",
        ) from error


def is_of_memory(error: Exception) -> bool:
    """Say whether an error is about memory; an index out of range is not."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return said == _ONEDNN or any(words in said for words in _SAYS_MEMORY)
