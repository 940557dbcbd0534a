"""Which devices a run uses, from what was asked for and what is there."""

from __future__ import annotations

from pathlib import Path

from .config import KaggleGPUConfig
from .errors import UsageError
from .hardware import this_machine

_NVIDIA = (
    Path("/proc/driver/nvidia/version"),
    Path("/dev/nvidiactl"),  # in sandboxes that show no driver in /proc
)
_ANY_MAKER = (Path("/dev/dxg"),)  # WSL 2
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
    found = _cuda_devices()
    wanted = next(iter(found), f"{_CUDA}:0") if device == _CUDA else device
    if wanted not in found:
        raise _not_here(wanted, found, cure=f"Choose {option} cpu.")
    return wanted


def _cpu(gpu: KaggleGPUConfig) -> tuple[str, ...]:
    return ("cpu",) * (gpu.workers or this_machine().cores)


def _chosen(gpu: KaggleGPUConfig, found: tuple[str, ...]) -> tuple[str, ...]:
    wanted = gpu.devices or found
    missing = [device for device in wanted if device not in found]
    if missing or not wanted:
        named = ", ".join(missing) or "CUDA device"
        raise _not_here(named, found, cure="Choose --device cpu or auto.")
    return wanted


def _not_here(what: str, found: tuple[str, ...], *, cure: str) -> UsageError:
    unusable = "".join(f" {line}" for line in unusable_cards())
    return UsageError(
        f"There is no {what} here; found: {', '.join(found) or 'none'}.{unusable}",
        cure=cure,
    )


def unusable_cards() -> tuple[str, ...]:
    """Return a sentence for each card that the driver shows and torch cannot use."""
    if not _has_driver():
        return ()
    from .encoders.cuda_cards import is_built_for_cuda, unusable

    if not is_built_for_cuda():
        nvidia = any(sign.exists() for sign in _NVIDIA)
        return ("This torch is built without CUDA.",) if nvidia else ()
    return unusable()


def _cuda_devices() -> tuple[str, ...]:
    """Ask torch only where there is a driver: importing it takes seconds."""
    if not _has_driver():
        return ()
    from .encoders.cuda_cards import usable

    return tuple(f"{_CUDA}:{number}" for number in usable())


def _has_driver() -> bool:
    return any(sign.exists() for sign in (*_NVIDIA, *_ANY_MAKER))
