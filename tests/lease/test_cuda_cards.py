"""Cards that torch cannot compute on are left out, and the reason is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from processor.ultimate_embedder import batch_runner, devices
from processor.ultimate_embedder.config import KaggleGPUConfig, PipelineConfig
from processor.ultimate_embedder.encoders.cuda_cards import Capability, covers
from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.telemetry.events import Warned
from processor.ultimate_embedder.testing import RecordingListener

MODERN = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


class Driver:
    """What a pretended driver and torch say of the cards of a machine."""

    def __init__(self, patch: pytest.MonkeyPatch, sign: Path) -> None:
        self.cards: list[Capability] = []
        self.built = MODERN
        self.starts = True
        patch.setattr(devices, "_NVIDIA", (sign,))
        patch.setattr(devices, "_ANY_MAKER", ())
        patch.setattr(torch.version, "cuda", "13.0")
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


def test_a_stage_takes_the_first_card_that_can_be_used(driver: Driver) -> None:
    driver.cards = [(6, 0), (7, 5)]
    assert devices.resolve_one("cuda", "--sparse-device") == "cuda:1"
    with pytest.raises(UsageError, match="no cuda:0 here; found: cuda:1"):
        devices.resolve_one("cuda:0", "--sparse-device")


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
    monkeypatch.setattr(devices, "_NVIDIA", (tmp_path / "none",))
    assert set(devices.resolve_devices(KaggleGPUConfig())) == {"cpu"}
    assert devices.unusable_cards() == ()
    with pytest.raises(UsageError, match=r"no CUDA device here; found: none\."):
        devices.resolve_devices(KaggleGPUConfig(backend="cuda"))


def test_a_torch_without_cuda_is_told_where_an_nvidia_driver_is(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert devices.unusable_cards() == ("This torch is built without CUDA.",)
    with pytest.raises(UsageError, match=r"found: none\. This torch is built"):
        devices.resolve_devices(KaggleGPUConfig(backend="cuda"))
    monkeypatch.setattr(devices, "_ANY_MAKER", devices._NVIDIA)
    monkeypatch.setattr(devices, "_NVIDIA", ())
    assert devices.unusable_cards() == ()  # the card may be anybody's


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_a_run_on_the_cpu_beside_a_card_says_why_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    monkeypatch.setattr(batch_runner, "unusable_cards", lambda: ("It is too old.",))
    folder = tmp_path / "chunked" / "docs" / "guide"
    folder.mkdir(parents=True)
    (folder / "page_chunks.json").write_text('[{"text": "A page of a few words."}]')
    config = PipelineConfig(
        chunked_dir=tmp_path / "chunked",
        output_dir=tmp_path / "out",
        dense=(dense_model("all-miniLM-l6"),),
        enable_sparse=False,
        enable_rerank=False,
        probes=False,
        exports=("npy",),
        offline=True,
        gpu=KaggleGPUConfig(backend=backend, workers=1),
    )
    heard = RecordingListener()
    outcome = batch_runner.BatchRunner(config, heard, "run-1").run()
    assert outcome.exit_code == 0
    told = [event.message for event in heard.of(Warned)]
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    reason = "The CPU is used: It is too old. Give --device cpu where that is meant."
    assert (reason in told) is (backend == "auto")
    assert (reason in manifest.warnings) is (backend == "auto")
