"""Cap, waiting and devices reach the leases of a run from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from processor.ultimate_embedder import devices
from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import (
    DEFAULT_GPU_MEMORY_CAP_BYTES,
    GIB,
    PipelineConfig,
)
from processor.ultimate_embedder.errors import UsageError
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.settings import resolve
from processor.ultimate_embedder.telemetry.events import silent


def settled(directory: Path, **typed: str) -> PipelineConfig:
    given = {key: (value, f"--{key.replace('_', '-')}") for key, value in typed.items()}
    return resolve(
        given, directory=directory, environment={}, kaggle_root=directory / "none"
    ).pipeline


def parts(config: PipelineConfig) -> Parts:
    return BatchRunner(config, silent, "run-1")._parts()


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cuda_devices", lambda: ("cuda:0", "cuda:1"))


@pytest.mark.usefixtures("two_cards")
def test_cap_and_waiting_reach_the_leases(tmp_path: Path) -> None:
    asked = settled(tmp_path, device="cuda", gpu_memory_cap="1.5", gpu_wait="30")
    found = parts(asked)
    assert found.leases is not None
    assert found.leases.cap_bytes == 3 * GIB // 2
    assert found.leases.wait_seconds == 30
    assert found.devices == ("cuda:0", "cuda:1")
    assert found.device == "cuda:0"
    usual = parts(settled(tmp_path, device="auto")).leases
    assert usual is not None
    assert usual.cap_bytes == DEFAULT_GPU_MEMORY_CAP_BYTES
    assert usual.wait_seconds == 0


def test_on_a_cpu_there_are_no_leases(tmp_path: Path) -> None:
    assert parts(settled(tmp_path, device="cpu")).leases is None


@pytest.mark.usefixtures("two_cards")
def test_sparse_alone_on_a_card_leases_it(tmp_path: Path) -> None:
    found = parts(settled(tmp_path, device="cpu", sparse_device="cuda"))
    assert found.sparse_device == "cuda:0"
    assert found.device == "cpu"
    assert found.leases is not None
    with pytest.raises(UsageError, match=r"no cuda:2 here; found: cuda:0, cuda:1"):
        parts(settled(tmp_path, device="cpu", sparse_device="cuda:2"))


@pytest.mark.parametrize("value", ["-1", "soon", "inf", "nan"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(
    tmp_path: Path, value: str
) -> None:
    with pytest.raises(UsageError, match=r"--gpu-wait is .*number of seconds"):
        settled(tmp_path, gpu_wait=value)
