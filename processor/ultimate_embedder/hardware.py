"""What the machine is: processor, instruction sets, memory, disk kind. No torch."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_REPORTED_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """Facts for choosing a precision, and for the manifest."""

    processor: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int | None

    @property
    def cpu_dtype(self) -> str:
        """The fastest precision that the processor computes natively."""
        native = _BFLOAT16_FLAGS.intersection(self.instruction_sets)
        return "bfloat16" if native else "float32"


@cache
def this_machine() -> Hardware:
    """Return the facts of the machine this runs on; what is not known is left out."""
    fields = _fields(_CPUINFO)
    flags = set(fields.get("flags", "").split())
    return Hardware(
        processor=fields.get("model name") or platform.processor() or "unknown",
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1),
        instruction_sets=tuple(flag for flag in _REPORTED_FLAGS if flag in flags),
        memory_bytes=_memory_bytes(),
    )


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held resident.

    Linux hands `ru_maxrss` down from the process that started this one, so the kernel's
    own mark is read where there is one.
    """
    mark = _fields(_STATUS).get("VmHWM", "")
    if mark:
        return int(mark.removesuffix("kB")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fields(path: Path) -> dict[str, str]:
    """Return the `key: value` lines of a system file up to its first blank line."""
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
