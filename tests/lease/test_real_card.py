"""A lease on a real card under a small cap. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from processor.ultimate_embedder.config import GIB
from processor.ultimate_embedder.encoders.device_probe import CudaProbe
from processor.ultimate_embedder.errors import DeviceBusy
from processor.ultimate_embedder.gpu_lease import MIB, Leases
from processor.ultimate_embedder.telemetry.events import silent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CARD = "cuda:0"
CAP = 2 * GIB


def take(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, device=CARD)


def test_a_real_card_is_held_to_a_small_cap_and_given_back(tmp_path: Path) -> None:
    ours = Leases(probe=CudaProbe(), cap_bytes=CAP, lock_dir=tmp_path)
    with ours.hold("m", [CARD], stage="rerank", emit=silent, in_process=True) as lease:
        with (
            pytest.raises(DeviceBusy),
            ours.hold("other", [CARD], stage="dense", emit=silent),
        ):
            pytest.fail("the card was lent twice")
        held = take(CAP // 2)
        with pytest.raises(torch.OutOfMemoryError):
            take(CAP // 2)  # with the context this is more than the cap
        lease.sample(CARD)
        del held
    event = lease.event
    assert event is not None
    assert CAP // 2 < event.peak_bytes[CARD] <= CAP
    assert event.returned
    assert event.after_bytes[CARD] < CAP // 2


def test_the_context_of_a_real_card_is_measured() -> None:
    probe = CudaProbe()
    limit = probe.enforce_cap(CARD, CAP)
    assert 32 * MIB < CAP - limit < CAP
    assert probe.used_bytes(CARD) < probe.total_bytes(CARD)
    assert probe.describe(CARD)
    assert probe.identity(CARD).startswith(("GPU-", "MIG-"))
