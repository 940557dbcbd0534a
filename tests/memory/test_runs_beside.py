"""Whole runs with SPLADE and a reranker on a pretended card: loans, peaks, retries."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from beside_parts import random_texts, save_reranker, save_splade
from memory_parts import TINY

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import (
    GPU_CONTEXT_BYTES,
    GPU_MARGIN_BYTES,
    KaggleGPUConfig,
    PipelineConfig,
    RerankingConfig,
    SparseModelConfig,
)
from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.errors import DeviceBusy, DeviceOutOfMemory
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import RerankRan
from processor.ultimate_embedder.gpu_lease import Leases
from processor.ultimate_embedder.memory_cost import planned_peak_bytes
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.telemetry.events import (
    LeaseChanged,
    MemoryRetried,
    StageFinished,
    Warned,
    silent,
)
from processor.ultimate_embedder.testing import (
    FakeDevice,
    FakeDeviceProbe,
    RecordingListener,
    hashing_parts,
)

CARD = "cuda:0"
BESIDE = GPU_CONTEXT_BYTES + GPU_MARGIN_BYTES
WORDS = [4, 30, 9, 60, 17, 30, 5, 44, 12, 8]
LONGEST = max(WORDS) + 2
TEXTS = random_texts(WORDS)


class CountingProbe(FakeDeviceProbe):
    """A card on which this process holds a context and what the models are charged."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self._device = device
        self._before = 0

    def enforce_cap(self, device: str, cap_bytes: int) -> int:
        self._before = len(self._device.meters)
        return super().enforce_cap(device, cap_bytes)

    def peak_bytes(self, device: str) -> int:
        meters = self._device.meters[self._before :]
        return GPU_CONTEXT_BYTES + max((one.peak_bytes for one in meters), default=0)


@dataclass(frozen=True)
class Models:
    splade: SparseModelConfig
    reranker: RerankingConfig
    smaller: RerankingConfig


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    larger = replace(TINY, hidden=64)
    return Models(
        save_splade(root / "splade", "bert"),
        save_reranker(root / "reranker", "xlm-roberta", larger),
        save_reranker(root / "smaller", "bert"),
    )


def config_of(root: Path, models: Models, cap: int, **changes: Any) -> PipelineConfig:
    folder = root / "chunked" / "docs" / "guide"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a_chunks.json").write_text(json.dumps([{"text": t} for t in TEXTS]))
    queries = root / "queries.jsonl"
    lines = [{"_id": str(n), "text": text[:20]} for n, text in enumerate(TEXTS[:3])]
    queries.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(models.splade,),
        rerank=replace(models.reranker, candidates=8, top_k=4),
        queries=queries,
        probes=False,
        gpu=KaggleGPUConfig(memory_cap_bytes=cap),
        exports=("jsonl",),
        offline=True,
    )
    return replace(config, **changes)


def parts_on(root: Path, device: FakeDevice, cap: int, wait: float = 0.0) -> Parts:
    """Return parts with dense on the CPU, SPLADE and rerank on the card."""
    return replace(
        hashing_parts(),
        device=CARD,
        devices=("cpu",),
        sparse_device=CARD,
        load_scorer=device.load_scorer,
        load_splade=device.load_splade,
        leases=Leases(
            probe=CountingProbe(device),
            cap_bytes=cap,
            lock_dir=root / "locks",
            wait_seconds=wait,
        ),
    )


def run(config: PipelineConfig, parts: Parts) -> tuple[Manifest, RecordingListener]:
    heard = RecordingListener()
    [outcome] = BatchRunner(config, heard, "run-1", parts).run().collections
    assert outcome.manifest is not None, outcome.error
    return outcome.manifest, heard


def cap_for(models: Models, longest: int = LONGEST + 8) -> int:
    """Return a cap with little room beside either model and one text of `longest`."""
    heads = ((models.splade, "masked-lm"), (models.reranker, "classifier"))
    return GPU_MARGIN_BYTES + max(
        planned_peak_bytes(
            read_architecture(Path(model.hf_model_id), head),  # type: ignore[arg-type]
            "float32",
            rows=1,
            length=longest,
        )
        for model, head in heads
    )


def test_sparse_and_rerank_hold_the_card_in_turn_and_tell_loan_and_peak(
    tmp_path: Path, models: Models
) -> None:
    cap = cap_for(models, longest=120)
    device = FakeDevice(cap - BESIDE)
    manifest, heard = run(
        config_of(tmp_path, models, cap), parts_on(tmp_path, device, cap)
    )
    changes = [
        (event.stage, event.action)
        for event in heard
        if isinstance(event, LeaseChanged)
    ]
    assert changes == [
        ("sparse", "acquired"),
        ("sparse", "released"),
        ("rerank", "acquired"),
        ("rerank", "released"),
    ]
    splade, scorer = device.meters
    peaks = [GPU_CONTEXT_BYTES + meter.peak_bytes for meter in (splade, scorer)]
    assert max(peaks) + GPU_MARGIN_BYTES <= cap
    [record] = manifest.sparse_run or ()
    told = record.statistics
    assert (told["device"], told["dtype"], told["oom_retries"]) == (CARD, "float32", 0)
    assert told["peak_bytes"] == peaks[0]
    assert [loan["devices"] for loan in told["lease_events"]] == [[CARD]]
    ran = manifest.rerank_run
    assert isinstance(ran, RerankRan)
    assert ran.peak_bytes == peaks[1]
    assert [loan.model for loan in ran.lease_events] == [models.reranker.name]
    assert all(loan.returned for loan in ran.lease_events)
    shown = [header.gpu_peak_gb for header in ran.runs]
    assert shown[-1] == peaks[1] / 2**30
    assert shown == sorted(shown, key=lambda peak: peak or 0)
    finished = {
        event.stage: event for event in heard if isinstance(event, StageFinished)
    }
    assert finished["sparse"].gpu_peak_bytes == peaks[0]
    assert finished["rerank"].gpu_peak_bytes == peaks[1]
    assert finished["dense"].gpu_peak_bytes is None
    performance = manifest.performance_baseline
    assert performance[f"sparse:{models.splade.name}"].peak_bytes == peaks[0]
    assert performance[f"rerank:{models.reranker.name}"].peak_bytes == peaks[1]
    assert max(rows for rows, _ in splade.passes) < len(TEXTS)


def test_on_the_cpu_sparse_and_rerank_state_no_peak(
    tmp_path: Path, models: Models
) -> None:
    device = FakeDevice(2**40)
    parts = replace(hashing_parts(), load_scorer=lambda c: on_cpu(device, c))
    manifest, heard = run(config_of(tmp_path, models, 2**20), parts)
    assert not any(isinstance(event, LeaseChanged) for event in heard)
    ran = manifest.rerank_run
    assert isinstance(ran, RerankRan)
    assert ran.peak_bytes is None
    assert {header.gpu_peak_gb for header in ran.runs} == {None}
    for event in heard:
        if isinstance(event, StageFinished):
            assert event.gpu_peak_bytes is None


def on_cpu(device: FakeDevice, config: RerankingConfig) -> Any:
    scorer = device.load_scorer(config)
    scorer.device = "cpu"
    return scorer


def failing(call: Callable[[Any], Any], at: Sequence[int]) -> Callable[[Any], Any]:
    """Return a call that runs out of memory at chosen numbers."""
    calls = iter(range(1, 10_000))

    def run(texts: Any) -> Any:
        if next(calls) in at:
            raise DeviceOutOfMemory("taken by another program")
        return call(texts)

    return run


def test_retries_of_each_stage_are_counted_and_change_no_vector(
    tmp_path: Path, models: Models
) -> None:
    cap = 2 * 2**30
    device = FakeDevice(2**40)

    def load_splade(source: Any, use: Any) -> Any:
        loaded = device.load_splade(source, use)
        loaded.forward = failing(loaded.forward, (1, 2))  # type: ignore[method-assign]
        return loaded

    def load_scorer(config: RerankingConfig) -> Any:
        loaded = device.load_scorer(config)
        loaded.score = failing(loaded.score, (1,))  # type: ignore[method-assign]
        return loaded

    calm, _ = run(
        config_of(tmp_path / "calm", models, cap), parts_on(tmp_path, device, cap)
    )
    parts = replace(
        parts_on(tmp_path, device, cap),
        load_splade=load_splade,
        load_scorer=load_scorer,
    )
    manifest, heard = run(config_of(tmp_path / "short", models, cap), parts)
    retried = [event for event in heard if isinstance(event, MemoryRetried)]
    assert [(one.stage, one.device) for one in retried] == [
        *[("sparse", CARD)] * 2,
        ("rerank", CARD),
    ]
    [record] = manifest.sparse_run or ()
    ran = manifest.rerank_run
    assert isinstance(ran, RerankRan)
    assert record.statistics["oom_retries"] == 2
    assert ran.statistics["oom_retries"] == 1
    counted = manifest.telemetry.metrics
    assert counted['rag_oom_retries_total{stage="sparse"}'] == 2
    assert counted['rag_oom_retries_total{stage="rerank"}'] == 1
    found = [sparse_of(tmp_path / name) for name in ("calm", "short")]
    for one, two in zip(*found, strict=True):
        assert one["indices"] == two["indices"]
        assert one["values"] == pytest.approx(two["values"], abs=1e-4)
    assert calm.chunk_count == manifest.chunk_count


def sparse_of(root: Path) -> list[dict[str, Any]]:
    lines = (root / "out" / "docs" / "docs_sparse.jsonl").read_text().splitlines()
    return [json.loads(line)["bert-splade"] for line in lines]


@pytest.mark.parametrize("stage", ["sparse", "rerank"])
def test_a_card_that_is_held_stops_the_stage_or_is_waited_for(
    tmp_path: Path, models: Models, stage: str
) -> None:
    cap = 2 * 2**30
    changes: dict[str, Any] = (
        {"enable_rerank": False} if stage == "sparse" else {"enable_sparse": False}
    )
    config = config_of(tmp_path, models, cap, **changes)
    device = FakeDevice(2**40)
    other = Leases(probe=FakeDeviceProbe(), lock_dir=tmp_path / "locks")
    with other.hold("the-other-model", [CARD], stage="dense", emit=silent):
        with pytest.raises(DeviceBusy, match="for the-other-model") as caught:
            run(config, parts_on(tmp_path, device, cap))
        assert caught.value.exit_code == 3
    assert not device.meters
    heard = RecordingListener()

    def waits(event: Any) -> None:
        heard(event)
        if isinstance(event, Warned) and "the-other-model" in event.message:
            free.set()

    free, held = threading.Event(), threading.Event()

    def holder() -> None:
        with other.hold("the-other-model", [CARD], stage="dense", emit=silent):
            held.set()
            assert free.wait(60)

    thread = threading.Thread(target=holder)
    thread.start()
    assert held.wait(60)
    parts = parts_on(tmp_path, device, cap, wait=60.0)
    outcome = BatchRunner(config, waits, "run-2", parts).run()
    thread.join()
    assert outcome.exit_code == 0
    assert free.is_set(), "the run told what it waits for"
    assert [event.stage for event in heard.of(LeaseChanged)] == [stage] * 2  # type: ignore[attr-defined]


def test_a_chunk_that_cannot_fit_splade_is_refused_before_anything_is_loaded(
    tmp_path: Path, models: Models
) -> None:
    cap = cap_for(replace(models, reranker=models.smaller), longest=48)
    config = config_of(tmp_path, models, cap, enable_rerank=False)
    device = FakeDevice(2**40)
    with pytest.raises(DeviceOutOfMemory) as caught:
        run(config, parts_on(tmp_path, device, cap))
    said = str(caught.value)
    assert caught.value.exit_code == 3
    assert "Model bert-splade with one text of 64 tokens" in said
    assert "chunk docs:guide:a:chunk:3" in said
    assert f"({cap} bytes)" in said and "Nothing was started." in said
    assert "--sparse-device cpu" in said
    assert not device.meters
    assert not (tmp_path / "out" / ".work" / "docs" / "ledger.sqlite").exists()
    short = replace(config, gpu=KaggleGPUConfig(memory_cap_bytes=cap_for(models)))
    run(short, parts_on(tmp_path, device, cap_for(models)))


def test_a_reranker_without_room_is_refused_or_makes_way_for_the_smaller_one(
    tmp_path: Path, models: Models
) -> None:
    shape = read_architecture(Path(models.smaller.hf_model_id), "classifier")
    cap = GPU_MARGIN_BYTES + planned_peak_bytes(
        shape, "float32", rows=2, length=LONGEST + 16
    )
    config = config_of(tmp_path, models, cap, enable_sparse=False)
    device = FakeDevice(2**40)
    with pytest.raises(DeviceOutOfMemory) as caught:
        run(config, parts_on(tmp_path, device, cap))
    assert caught.value.exit_code == 3
    assert "xlm-roberta-reranker with one pair" in str(caught.value)
    assert "--rerank-fallback" in str(caught.value)
    assert not device.meters
    assert config.rerank is not None
    named = replace(config.rerank, fallback=models.smaller.hf_model_id)
    manifest, _ = run(replace(config, rerank=named), parts_on(tmp_path, device, cap))
    ran = manifest.rerank_run
    assert isinstance(ran, RerankRan)
    assert ran.fallback_reason is not None
    assert ran.fallback_reason.startswith("out of memory: model ")
    assert [meter.weight_bytes for meter in device.meters] == [
        device.load_scorer(models.smaller).meter.weight_bytes
    ]


@pytest.mark.parametrize("stage", ["sparse", "rerank"])
def test_at_the_floor_the_run_names_model_chunk_bytes_and_cure_and_resumes(
    tmp_path: Path, models: Models, stage: str
) -> None:
    cap = 2 * 2**30
    changes: dict[str, Any] = (
        {"enable_rerank": False} if stage == "sparse" else {"enable_sparse": False}
    )
    config = config_of(tmp_path, models, cap, **changes)
    probe = FakeDevice(2**40)
    weights = (
        probe.load_scorer(models.reranker).meter.weight_bytes
        if stage == "rerank"
        else 0
    )
    small = FakeDevice(weights + 60_000 if weights else 200_000)
    with pytest.raises(DeviceOutOfMemory) as caught:
        run(config, parts_on(tmp_path, small, cap))
    said = str(caught.value)
    assert caught.value.exit_code == 3
    assert said.count("\n") == 0
    assert "ran out of memory on cuda:0 with one" in said
    assert " bytes) used, the cap is 2.00 GiB" in said
    assert "chunk docs:guide:a:chunk:" in said
    assert ("--gpu-memory-cap" if stage == "sparse" else "--rerank-fallback") in said
    manifest, _ = run(config, parts_on(tmp_path, FakeDevice(2**40), cap))
    assert manifest.chunk_count == len(TEXTS)
