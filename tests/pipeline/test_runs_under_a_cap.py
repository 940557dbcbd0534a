"""Whole runs on pretended cards: the plan, what it refuses, and what really happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_parts import config_for, write_collection

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.plan_sheet import plan_document, plan_sheets
from processor.ultimate_embedder.config import (
    GPU_CONTEXT_BYTES,
    GPU_MARGIN_BYTES,
    KaggleGPUConfig,
    PipelineConfig,
)
from processor.ultimate_embedder.encoders.metered import MeteredEncoder
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.planning import plan_batches
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import (
    FakeDevice,
    FakeDeviceProbe,
    hashing_parts,
    hashing_parts_on,
)
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process

BESIDE = GPU_CONTEXT_BYTES + GPU_MARGIN_BYTES
WEIGHTS = 92_000_000  # of the embedded model in float32, rounded up
KEY = "all-miniLM-l6"


class InFloat32(ModelManager):
    """The embedded model in the precision that a card is pretended to have."""

    def dtype(self, device: str) -> str:
        return "float32"


def on_card(
    device: FakeDevice, root: Path, cap: int, total_bytes: int = 16 * 2**30
) -> Parts:
    parts = hashing_parts_on(
        ("cuda:0",),
        FakeDeviceProbe(total_bytes),
        root / "locks",
        model_bytes={KEY: 0},
        cap_bytes=cap,
    )
    return replace(
        parts,
        models=InFloat32(offline=True),
        open_executor=in_process(device.open_encoder),
    )


def under(root: Path, cap: int, **gpu: int) -> PipelineConfig:
    return config_for(
        root,
        sparse=(),
        enable_rerank=False,
        gpu=KaggleGPUConfig(memory_cap_bytes=cap, **gpu),
    )


def plan_of(root: Path) -> tuple[list[int], list[int]]:
    folder = root / "out" / ".work" / "docs" / f"dense-{KEY}"
    with np.load(folder / "plan.npz") as stored:
        return stored["rows"].tolist(), stored["bounds"].tolist()


@pytest.mark.parametrize("spare", [2_000_000, 20_000_000])
def test_real_passes_of_a_run_stay_within_the_cap_and_its_budget(
    spare: int, tmp_path: Path
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    cap = BESIDE + WEIGHTS + spare
    device = FakeDevice(cap - BESIDE)
    runner = BatchRunner(
        under(tmp_path, cap), silent, "run-1", on_card(device, tmp_path, cap)
    )
    (memory,) = [
        model.memory for model in runner.plan().collections[0].models if model.memory
    ]
    (outcome,) = runner.run().collections
    assert outcome.manifest is not None
    assert outcome.manifest.chunk_count == 24
    assert memory.fits
    assert memory.planned_peak_bytes <= cap
    (encoder,) = device.encoders
    assert device.peak_bytes + GPU_CONTEXT_BYTES <= memory.planned_peak_bytes
    assert all(taken <= memory.budget_tokens for _, taken in encoder.passes)
    assert sum(rows for rows, _ in encoder.passes) == 24
    (dense,) = outcome.manifest.dense_run
    assert dense.oom_retries == 0
    calibration = dense.statistics["calibration"]
    assert calibration["length"] == memory.longest
    assert 0 < calibration["measured_bytes"] <= calibration["reckoned_bytes"]


class HungryEncoder:
    """A metered encoder that tells, when it is measured, of three times its bytes."""

    def __init__(self, inner: MeteredEncoder) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def measure(self, rows: int, length: int) -> int:
        return 3 * self._inner.measure(rows, length)


def test_a_device_that_needs_more_than_reckoned_gets_smaller_passes(
    tmp_path: Path,
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    cap = BESIDE + WEIGHTS + 20_000_000
    device = FakeDevice(2**40)

    @contextmanager
    def hungry(job: EncodeJob) -> Iterator[Any]:
        with device.open_encoder(job) as encoder:
            yield HungryEncoder(encoder)

    parts = replace(on_card(device, tmp_path, cap), open_executor=in_process(hungry))
    runner = BatchRunner(under(tmp_path, cap), silent, "run-1", parts)
    (memory,) = [model.memory for model in runner.plan().collections[0].models]
    (outcome,) = runner.run().collections
    assert memory is not None
    assert outcome.manifest is not None
    calibration = outcome.manifest.dense_run[0].statistics["calibration"]
    assert calibration["measured_bytes"] > 2 * calibration["reckoned_bytes"]
    largest = max(positions for _, positions in device.encoders[0].passes)
    assert largest <= memory.budget_tokens / 2
    assert sum(rows for rows, _ in device.encoders[0].passes) == 24


def test_vectors_are_those_of_a_cpu(tmp_path: Path) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    cap = BESIDE + WEIGHTS + 3_000_000
    found = []
    for name in ("card", "cpu"):
        config = replace(under(tmp_path, cap), output_dir=tmp_path / name)
        device = FakeDevice(cap - BESIDE)
        parts = on_card(device, tmp_path, cap)
        if name == "cpu":
            models = parts.models
            parts = replace(hashing_parts(), models=models)
            parts = replace(parts, open_executor=in_process(device.open_encoder))
            device.total_bytes = 2**40
        (outcome,) = BatchRunner(config, silent, "run-1", parts).run().collections
        assert outcome.embeddings is not None
        found.append(np.array(outcome.embeddings[KEY]))
    assert (found[0] * found[1]).sum(axis=1).min() >= 0.9999


def test_a_chunk_that_cannot_fit_is_refused_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=2)
    folder = tmp_path / "chunked" / "docs" / "subdir0"
    entry = {"text": "river " * 200, "metadata": {"filename": "long.md"}}
    (folder / "long_chunks.json").write_text(json.dumps([entry]), encoding="utf-8")
    cap = BESIDE + WEIGHTS + 1_000_000
    device = FakeDevice(cap - BESIDE)
    runner = BatchRunner(
        under(tmp_path, cap), silent, "run-1", on_card(device, tmp_path, cap)
    )
    with pytest.raises(DeviceOutOfMemory) as caught:
        runner.run()
    said = str(caught.value)
    assert caught.value.exit_code == 3
    assert KEY in said
    assert "docs:subdir0:long.md:chunk:0" in said
    assert "one text of 208 tokens" in said
    assert f"({cap} bytes)" in said
    assert "--gpu-memory-cap" in (caught.value.cure or "")
    assert not device.encoders
    assert not (tmp_path / "out" / "docs").exists()
    (memory,) = [model.memory for model in runner.plan().collections[0].models]
    assert memory is not None
    assert not memory.fits


def test_the_bytes_that_a_refusal_names_are_enough(tmp_path: Path) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=2)
    cap = BESIDE + WEIGHTS - 1_000_000
    with pytest.raises(DeviceOutOfMemory) as caught:
        BatchRunner(
            under(tmp_path, cap),
            silent,
            "run-1",
            on_card(FakeDevice(cap), tmp_path, cap),
        ).run()
    needed = int(str(caught.value).partition("GiB (")[2].partition(" bytes")[0])
    device = FakeDevice(needed - BESIDE)
    runner = BatchRunner(
        under(tmp_path, needed), silent, "run-1", on_card(device, tmp_path, needed)
    )
    assert runner.run().exit_code == 0


def test_a_plan_follows_from_the_cap_and_not_from_the_card(tmp_path: Path) -> None:
    plans = []
    cap = BESIDE + WEIGHTS + 20_000_000
    for number, total in enumerate((16 * 2**30, cap - 10_000_000)):
        root = tmp_path / str(number)
        write_collection(root / "chunked", "docs", pages=4)
        device = FakeDevice(cap)
        parts = on_card(device, root, cap, total)
        BatchRunner(under(root, cap), silent, "run-1", parts).run()
        plans.append(plan_of(root))
    assert plans[0] == plans[1]


def test_a_batch_has_at_most_as_many_texts_as_the_setting_says(tmp_path: Path) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    cap = 12 * 2**30
    device = FakeDevice(cap)
    config = under(tmp_path, cap, base_batch_size=5)
    BatchRunner(config, silent, "run-1", on_card(device, tmp_path, cap)).run()
    assert max(rows for rows, _ in device.encoders[0].passes) == 5


def test_on_a_cpu_the_cap_changes_no_batch(tmp_path: Path) -> None:
    found = []
    for cap in (2**20, 12 * 2**30):
        root = tmp_path / str(cap)
        write_collection(root / "chunked", "docs", pages=20)
        BatchRunner(under(root, cap), silent, "run-1", hashing_parts()).run()
        found.append(plan_of(root))
        tokens = np.load(
            next((root / "out" / ".work" / "docs").glob("tokens-*/offsets.npy"))
        )
        lengths = np.diff(tokens)
        expected = plan_batches(
            lengths, np.arange(len(lengths)), budget_tokens=8192, max_rows=64
        )
        assert found[-1] == (expected.rows.tolist(), expected.bounds.tolist())
    assert found[0] == found[1]


def test_the_dry_run_shows_what_a_model_takes_and_whether_it_fits(
    tmp_path: Path,
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=2)
    cap = 2 * 2**30
    parts = on_card(FakeDevice(cap), tmp_path, cap)
    plan = BatchRunner(under(tmp_path, cap), silent, "run-1", parts).plan()
    sheet = plan_sheets(plan)[-1]
    (row,) = sheet.rows
    shown = dict(zip(sheet.columns, row, strict=True))
    assert shown["model"] == KEY
    assert shown["cap"] == "2 GiB"
    assert shown["weights"] == "0.08 GiB"
    assert shown["fits"] == "yes"
    assert shown["budget"] == "65,536"
    memory = plan_document(plan)["collections"][0]["models"][0]["memory"]
    assert memory["cap_bytes"] == cap
    assert memory["weight_bytes"] < memory["planned_peak_bytes"] <= cap
    assert memory["rows_at_longest"] == 256
