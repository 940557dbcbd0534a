"""Which devices a run uses, from what was asked for and what is there."""

from __future__ import annotations

from pathlib import Path

from .config import KaggleGPUConfig
from .errors import UsageError
from .hardware import this_machine

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_CUDA = "cuda"
_NO_CHOICE = ("auto", "pytorch")  # the earlier design names a library here


def resolve_devices(gpu: KaggleGPUConfig) -> tuple[str, ...]:
    """Return a device for each worker: `cuda:N` once each, or `cpu` for each worker.

    Raises:
        UsageError: CUDA was asked for and is not there, or the backend is unknown.
    """
    if gpu.backend not in (*_NO_CHOICE, "cpu", _CUDA):
        raise UsageError(
            f"No backend is called '{gpu.backend}'.", cure="Known: auto, cpu, cuda."
        )
    if gpu.backend == "cpu":
        return _cpu(gpu)
    found = _cuda_devices()
    if gpu.backend == _CUDA:
        return _chosen(gpu, found)
    return found or _cpu(gpu)


def resolve_one(device: str, option: str) -> str:
    """Return the device of a stage of one process: `cpu` or `cuda:N`.

    Raises:
        UsageError: a CUDA device was asked for by `option` and is not there.
    """
    if device == "cpu":
        return device
    wanted = f"{_CUDA}:0" if device == _CUDA else device
    found = _cuda_devices()
    if wanted not in found:
        raise UsageError(
            f"There is no {wanted} here; found: {', '.join(found) or 'none'}.",
            cure=f"Choose {option} cpu.",
        )
    return wanted


def _cpu(gpu: KaggleGPUConfig) -> tuple[str, ...]:
    return ("cpu",) * (gpu.workers or this_machine().cores)


def _chosen(gpu: KaggleGPUConfig, found: tuple[str, ...]) -> tuple[str, ...]:
    wanted = gpu.devices or found
    missing = [device for device in wanted if device not in found]
    if missing or not wanted:
        raise UsageError(
            f"There is no {', '.join(missing) or 'CUDA device'} here; found: "
            f"{', '.join(found) or 'none'}.",
            cure="Choose --device cpu or auto.",
        )
    return wanted


def _cuda_devices() -> tuple[str, ...]:
    """Ask torch only where there is a driver: importing it takes seconds."""
    if not _NVIDIA_DRIVER.exists():
        return ()
    from .encoders.dense_torch import cuda_device_count

    return tuple(f"{_CUDA}:{number}" for number in range(cuda_device_count()))
