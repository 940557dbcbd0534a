"""Real-size models stay under the cap on a card; the measuring works anywhere."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import memory_cap


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
    assert found["longest"] == memory_cap.LONGEST
    assert found["within_cap"], found
    assert found["oom_retries"] == 0


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("model", list(memory_cap.SHAPES))
def test_the_planners_estimate_is_within_a_fifth_of_the_peak(model: str) -> None:
    found = measured(model)
    if found["estimate_error"] is None:
        pytest.skip("this version plans without a memory model")
    assert abs(found["estimate_error"]) <= 0.2, found


def test_the_measuring_runs_on_a_cpu_with_small_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    assert memory_cap.main(["--tiny", "--texts", "12", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["models"]
    assert [one["model"] for one in found] == list(memory_cap.TINY_SHAPES)
    for one in found:
        assert one["texts"] == 12
        assert one["tokens"] >= 2 * one["longest"] == 512
        assert one["padding_ratio"] >= 0
        assert one["peak_bytes"] > 0
        assert one["oom_retries"] == 0
    assert capsys.readouterr().out.count("tokens/s") == len(found)


def test_without_a_card_the_real_sizes_are_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert memory_cap.main([]) == 2
    assert "no CUDA device here" in capsys.readouterr().err
