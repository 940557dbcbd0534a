"""Whose memory counts as ours: by NVML where it sees this process, else by torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from processor.ultimate_embedder.config import GIB
from processor.ultimate_embedder.encoders import device_probe
from processor.ultimate_embedder.encoders.device_probe import CudaProbe
from processor.ultimate_embedder.errors import DeviceOutOfMemory, MemoryCapExceeded
from processor.ultimate_embedder.gpu_lease import MARGIN_BYTES, MIB

CARD = "cuda:0"
STRANGER = 2**22 + 1  # above any process id
UUID = "12345678-9abc-def0-1234-56789abcdef0"


class NvmlError(Exception):
    """What NVML raises."""


@dataclass
class Card:
    """What a pretended card and its driver say. `processes` maps ids to bytes."""

    processes: dict[int, int | None] = field(default_factory=dict)
    reserved: int = 0
    peak: int = 0
    free: int = 15 * GIB
    total: int = 16 * GIB
    fraction: float | None = None
    asked_for: list[str] = field(default_factory=list)


class Nvml(ModuleType):
    """The functions of pynvml that are used, over a `Card`."""

    NVMLError = NvmlError

    def __init__(self, card: Card) -> None:
        super().__init__("pynvml")
        self._card = card

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        """Do nothing: there is no driver."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802
        self._card.asked_for.append(uuid)
        return self._card

    def nvmlDeviceGetComputeRunningProcesses(  # noqa: N802
        self, card: Card
    ) -> list[Any]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=used)
            for pid, used in card.processes.items()
        ]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """A card that torch and NVML report alike."""
    card = Card()
    answers: dict[str, Callable[..., Any]] = {
        "get_device_properties": lambda _: SimpleNamespace(
            uuid=UUID, total_memory=card.total, name="pretended card"
        ),
        "is_initialized": lambda: True,
        "memory_reserved": lambda _: card.reserved,
        "max_memory_reserved": lambda _: card.peak,
        "mem_get_info": lambda _: (card.free, card.total),
        "reset_peak_memory_stats": lambda _: setattr(card, "peak", card.reserved),
        "set_per_process_memory_fraction": lambda part, _: setattr(
            card, "fraction", part
        ),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(device_probe, "_warm_up", lambda _: None)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(card))
    device_probe._nvml.cache_clear()
    yield card
    device_probe._nvml.cache_clear()


def test_a_card_is_named_by_its_uuid(card: Card) -> None:
    assert CudaProbe().identity(CARD) == f"GPU-{UUID}"
    CudaProbe().used_bytes(CARD)
    assert set(card.asked_for) == {f"GPU-{UUID}"}


def test_this_process_and_what_it_started_count_and_strangers_do_not(
    card: Card,
) -> None:
    script = (
        "import subprocess, sys; "
        "inner = subprocess.Popen([sys.executable, '-c', 'input()'], "
        "stdin=subprocess.PIPE); print(inner.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        card.processes = {
            os.getpid(): 1,
            child.pid: 20,
            grandchild: 300,
            os.getppid(): 4000,
            STRANGER: 50000,
        }
        used = CudaProbe().used_bytes(CARD)
        child.communicate("")
    assert used == 321


def test_the_context_is_what_nvml_sees_beside_the_allocator(card: Card) -> None:
    card.processes = {os.getpid(): 700 * MIB}
    card.reserved, card.peak = 200 * MIB, 900 * MIB
    assert device_probe.context_bytes(CARD) == 500 * MIB
    assert CudaProbe().peak_bytes(CARD) == 1400 * MIB


@pytest.mark.parametrize("processes", [{}, {STRANGER: GIB}, {os.getpid(): None}])
def test_where_nvml_does_not_see_this_process_the_device_is_read(
    card: Card, processes: dict[int, int | None]
) -> None:
    card.processes = processes
    card.reserved, card.peak = 200 * MIB, 900 * MIB
    card.free = card.total - 600 * MIB
    assert device_probe.context_bytes(CARD) == 400 * MIB
    assert CudaProbe().used_bytes(CARD) == 600 * MIB
    card.free = card.total - 9 * GIB  # most of it is another user's
    assert device_probe.context_bytes(CARD) == GIB


def test_the_allocator_may_take_the_cap_less_context_and_margin(card: Card) -> None:
    card.processes = {os.getpid(): 500 * MIB}
    card.peak = 3 * GIB
    limit = CudaProbe().enforce_cap(CARD, 12 * GIB)
    assert limit == 12 * GIB - 500 * MIB - MARGIN_BYTES
    assert card.fraction == pytest.approx(limit / card.total)
    assert CudaProbe().peak_bytes(CARD) == 500 * MIB, "peaks start anew"
    CudaProbe().enforce_cap(CARD, 100 * GIB)
    assert card.fraction == 1.0
    with pytest.raises(MemoryCapExceeded, match="leaves no room"):
        CudaProbe().enforce_cap(CARD, 500 * MIB)


def test_a_context_that_has_grown_leaves_the_allocator_less(card: Card) -> None:
    card.processes = {os.getpid(): 400 * MIB}
    device_probe.enforce_cap(CARD, 12 * GIB)
    card.processes, card.reserved, card.peak = {os.getpid(): 5 * GIB}, 4 * GIB, 4 * GIB
    limit = device_probe.limit_allocator(CARD, 12 * GIB)
    assert limit == 12 * GIB - GIB - MARGIN_BYTES
    assert card.fraction == pytest.approx(limit / card.total)
    assert card.peak == 4 * GIB, "the peak is not forgotten"


def test_under_a_cap_attention_makes_no_plan_for_each_shape(card: Card) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        device_probe.enforce_cap(CARD, 12 * GIB)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublas"),
    ],
)
def test_a_card_without_room_for_a_context_is_told_so(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(
        DeviceOutOfMemory, match="cuda:0 has no room for a CUDA context"
    ):
        device_probe.enforce_cap(CARD, 12 * GIB)


def test_another_failure_of_a_card_stays_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "ones", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        device_probe.enforce_cap(CARD, 12 * GIB)


def test_reading_makes_no_context_where_there_is_none(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert CudaProbe().used_bytes(CARD) == 0
    CudaProbe().free(CARD)


def test_without_nvml_torch_alone_is_asked(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    device_probe._nvml.cache_clear()
    card.reserved, card.free = 100 * MIB, card.total - 300 * MIB
    assert CudaProbe().used_bytes(CARD) == 300 * MIB
