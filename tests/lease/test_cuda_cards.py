"""Cards that torch cannot compute on are left out, and the reason is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from processor.ultimate_embedder import devices
from processor.ultimate_embedder.config import KaggleGPUConfig
from processor.ultimate_embedder.encoders.cuda_cards import Capability, covers
from processor.ultimate_embedder.errors import UsageError

MODERN = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


class Driver:
    """What a pretended driver and torch say of the cards of a machine."""

    def __init__(self, patch: pytest.MonkeyPatch, sign: Path) -> None:
        self.cards: list[Capability] = []
        self.built = MODERN
        self.starts = True
        patch.setattr(devices, "_DRIVER_SIGNS", (sign,))
        for name, answer in {
            "is_available": lambda: self.starts and bool(self.cards),
            "device_count": lambda: len(self.cards),
            "get_device_capability": lambda number: self.cards[number],
            "get_device_name": lambda number: f"card {number}",
            "get_arch_list": lambda: self.built,
        }.items():
            patch.setattr(torch.cuda, name, answer)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Driver:
    sign = tmp_path / "driver"
    sign.touch()
    return Driver(monkeypatch, sign)


@pytest.mark.parametrize(
    ("built", "card", "runs"),
    [
        (MODERN, (7, 5), True),  # a T4
        (MODERN, (9, 0), True),
        (MODERN, (8, 9), True),  # machine code of the same major version
        (MODERN, (6, 0), False),  # a P100
        (MODERN, (10, 0), False),
        (["sm_80", "compute_80"], (10, 0), True),  # PTX is compiled when it is met
        (["sm_80", "compute_80"], (7, 5), False),
        (["sm_86"], (8, 0), False),
        (["sm_90a", "sm_100", "sm_120"], (12, 0), True),
        ([], (6, 0), True),  # nothing is known of the build
    ],
)
def test_a_build_runs_on_cards_that_its_kernels_fit(
    built: list[str], card: Capability, *, runs: bool
) -> None:
    assert covers(built, card) is runs


def test_cards_without_kernels_are_left_out(driver: Driver) -> None:
    driver.cards = [(6, 0), (7, 5), (6, 1)]
    assert devices.resolve_devices(KaggleGPUConfig()) == ("cuda:1",)
    first, second = devices.unusable_cards()
    assert first.startswith("cuda:0 (card 0, compute capability 6.0) has no kernels")
    assert second.startswith("cuda:2 (card 2")
    with pytest.raises(UsageError, match=r"no cuda:0 here; found: cuda:1\. cuda:0"):
        devices.resolve_devices(KaggleGPUConfig(backend="cuda", devices=("cuda:0",)))


def test_a_driver_that_is_too_old_leaves_the_cpu_and_is_told(driver: Driver) -> None:
    driver.cards, driver.starts = [(7, 5), (7, 5)], False
    assert set(devices.resolve_devices(KaggleGPUConfig())) == {"cpu"}
    (reason,) = devices.unusable_cards()
    assert reason.startswith("The driver shows 2 GPU(s), but CUDA ")
    with pytest.raises(UsageError, match="cannot start: the driver may be too old"):
        devices.resolve_one("cuda", "--sparse-device")


def test_without_a_driver_torch_is_not_asked(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver.cards = [(7, 5)]
    monkeypatch.setattr(devices, "_DRIVER_SIGNS", (tmp_path / "none",))
    assert set(devices.resolve_devices(KaggleGPUConfig())) == {"cpu"}
    assert devices.unusable_cards() == ()
    with pytest.raises(UsageError, match=r"no CUDA device here; found: none\."):
        devices.resolve_devices(KaggleGPUConfig(backend="cuda"))
