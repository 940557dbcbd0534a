"""Real-size models stay under the cap on a card; the measuring works anywhere."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import memory_cap
from processor.ultimate_embedder.config import (
    GIB,
    GPU_CONTEXT_BYTES,
    GPU_MARGIN_BYTES,
)


@cache
def measured(model: str) -> dict[str, Any]:
    """Return the figures of one real-size model, measured once."""
    found: list[dict[str, Any]] = memory_cap.run(
        tiny=False, device="cuda:0", models=[model]
    )["models"]
    return found[0]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("model", list(memory_cap.SHAPES))
def test_a_real_size_model_stays_under_the_cap_on_mixed_lengths(model: str) -> None:
    found = measured(model)
    assert found["longest"] == memory_cap.SHAPES[model].window
    assert found["within_cap"], found
    assert found["oom_retries"] == 0


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("model", list(memory_cap.SHAPES))
def test_the_planners_estimate_is_within_a_fifth_of_the_peak(model: str) -> None:
    found = measured(model)
    assert abs(found["estimate_error"]) <= 0.2, found


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("model", list(memory_cap.SHAPES))
def test_a_real_size_model_gives_its_memory_back(model: str) -> None:
    found = measured(model)
    assert found["after_bytes"] <= GIB, found


def test_a_model_of_each_kind_is_measured_on_a_pretended_card_under_a_small_cap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    beside = GPU_CONTEXT_BYTES + GPU_MARGIN_BYTES
    cap = (beside + 6_000_000) / GIB
    arguments = ["--tiny", "--texts", "12", "--cap", str(cap), "--json", str(file)]
    assert memory_cap.main(arguments) == 0
    found = json.loads(file.read_text())["models"]
    assert [one["model"] for one in found] == list(memory_cap.TINY_SHAPES)
    assert {one["kind"] for one in found} == {"dense", "sparse", "rerank"}
    for one in found:
        assert one["texts"] == 12
        assert one["tokens"] >= 2 * one["longest"] == 512
        assert one["padding_ratio"] >= 0
        assert one["oom_retries"] == 0
        assert one["within_cap"]
        assert one["peak_bytes"] <= one["estimated_bytes"] <= one["cap_bytes"]
        peak, estimated = (
            one[name] - GPU_CONTEXT_BYTES for name in ("peak_bytes", "estimated_bytes")
        )
        assert estimated <= 1.5 * peak, one  # buffers of a tiny model weigh much
        assert one["passes"] > 1
    assert capsys.readouterr().out.count("tokens/s") == len(found)


def test_without_a_card_the_real_sizes_are_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert memory_cap.main([]) == 2
    assert "no CUDA device here" in capsys.readouterr().err
