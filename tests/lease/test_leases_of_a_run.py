"""Whole runs on pretended cards: who holds them when, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lease_parts import another_process_holds

from processor.ultimate_embedder import devices
from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.embed_run import run_embedding
from processor.ultimate_embedder.cli.errors_out import complain
from processor.ultimate_embedder.config import (
    GIB,
    KaggleGPUConfig,
    PipelineConfig,
    RerankingConfig,
)
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder, PairScorer
from processor.ultimate_embedder.errors import (
    DeviceBusy,
    DeviceOutOfMemory,
    MemoryCapExceeded,
    ModelError,
)
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.settings import ReportingConfig, Settings
from processor.ultimate_embedder.telemetry import names
from processor.ultimate_embedder.telemetry.events import (
    LeaseChanged,
    StageStarted,
)
from processor.ultimate_embedder.telemetry.prometheus import PrometheusListener
from processor.ultimate_embedder.testing import (
    FakeDeviceProbe,
    HashingEncoder,
    RecordingListener,
    WordOverlapScorer,
    hashing_parts,
    hashing_parts_on,
)
from processor.ultimate_embedder.workers import opening
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process
from processor.ultimate_embedder.workers.pool import BatchExecutor

BOTH = ("cuda:0", "cuda:1")
FIRST = dense_model("all-miniLM-l6")
ROSTER = (FIRST, replace(FIRST, name="second"), replace(FIRST, name="third"))
RERANKER = rerank_model("ms-marco-minilm-l6")
SIZES = {"all-miniLM-l6": GIB, "second": 5 * GIB, "third": 2 * GIB, RERANKER.name: GIB}


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    folder = tmp_path / "chunked" / "docs" / "guide"
    folder.mkdir(parents=True)
    for page in range(4):
        chunks = [
            {"text": f"## What is part {part} of page {page}?\n\nIt is number {part}."}
            for part in range(5)
        ]
        (folder / f"page{page}_chunks.json").write_text(json.dumps(chunks))
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "q", "text": "What is part 2 of page 3?"}\n')
    return PipelineConfig(
        queries=queries,
        probes=False,
        chunked_dir=tmp_path / "chunked",
        output_dir=tmp_path / "out",
        dense=ROSTER,
        sparse=(sparse_model("qdrant-bm25"),),
        rerank=replace(RERANKER, candidates=5, top_k=3),
        offline=True,
    )


def parts_on(
    devices: tuple[str, ...],
    config: PipelineConfig,
    *,
    sizes: Mapping[str, int] = SIZES,
    cap_bytes: int = 12 * GIB,
) -> Parts:
    return hashing_parts_on(
        devices,
        FakeDeviceProbe(),
        config.output_dir.parent / "locks",
        model_bytes=sizes,
        cap_bytes=cap_bytes,
    )


def run(
    config: PipelineConfig, parts: Parts, *listeners: Any
) -> tuple[Manifest, RecordingListener]:
    heard = RecordingListener()

    def emit(event: Any) -> None:
        for listener in (heard, *listeners):
            listener(event)

    outcome = BatchRunner(config, emit, "run-1", parts).run()
    manifest = outcome.collections[0].manifest
    assert manifest is not None, outcome.collections[0].error
    return manifest, heard


def test_models_hold_all_cards_in_roster_order_and_never_two_at_once(
    config: PipelineConfig,
) -> None:
    _, heard = run(config, parts_on(BOTH, config))
    changes = [event for event in heard if isinstance(event, LeaseChanged)]
    holders: dict[str, str] = {}
    order = []
    for event in changes:
        if event.action == "acquired":
            assert set(holders.values()) <= {event.model}, "two models at once"
            holders[event.device] = event.model
            order.append((event.stage, event.model, event.device))
        else:
            assert holders.pop(event.device) == event.model
    assert not holders
    assert order == [
        *(("dense", model.name, "cuda:0") for model in ROSTER),
        ("rerank", RERANKER.name, "cuda:0"),
    ]


@pytest.mark.parametrize(("asked", "sizes"), [(None, {120}), (50, {50, 20})])
def test_many_short_texts_are_one_batch_on_a_card_unless_fewer_are_asked_for(
    config: PipelineConfig, asked: int | None, sizes: set[int]
) -> None:
    page = config.chunked_dir / "docs" / "guide" / "long_chunks.json"
    page.write_text(json.dumps([{"text": f"Part {n} of many."} for n in range(100)]))
    gpu = replace(config.gpu, base_batch_size=asked)
    short = replace(config, dense=(FIRST,), gpu=gpu)
    manifest, _ = run(short, parts_on(BOTH[:1], config))
    assert manifest.dense_run is not None
    assert set(manifest.dense_run[0].batch_sizes) == sizes


def test_a_bundle_is_up_to_date_while_batches_of_a_card_stay_the_same(
    config: PipelineConfig,
) -> None:
    def again(asked: int | None) -> bool:
        gpu = replace(config.gpu, base_batch_size=asked)
        outcome = BatchRunner(
            replace(config, gpu=gpu),
            RecordingListener(),
            "run",
            parts_on(BOTH[:1], config),
            leave_up_to_date=True,
        ).run()
        return outcome.collections[0].up_to_date

    assert not again(None)
    assert again(None)
    assert again(256)
    assert not again(64)


def test_a_graph_runs_on_the_cpu_and_no_card_is_lent_to_it(
    config: PipelineConfig,
) -> None:
    roster = (FIRST, replace(ROSTER[1], backend="onnx"))
    parts = parts_on(BOTH, config)
    jobs: list[EncodeJob] = []

    @contextmanager
    def noted(job: EncodeJob, batches: int) -> Iterator[BatchExecutor]:
        jobs.append(job)
        with parts.open_executor(job, batches) as executor:
            yield executor

    _, heard = run(replace(config, dense=roster), replace(parts, open_executor=noted))
    assert {job.model.name: job.device for job in jobs} == {
        FIRST.name: "cuda:0",
        "second": "cpu",
    }
    assert {job.budget_tokens for job in jobs if job.model.name == "second"} == {None}
    lent = {event.model for event in heard if isinstance(event, LeaseChanged)}
    assert lent == {FIRST.name, RERANKER.name}


def test_workers_of_a_graph_are_on_the_cpu_where_others_are_on_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_cuda_devices", lambda: BOTH)
    started: list[tuple[str, ...]] = []

    def pool(jobs: list[EncodeJob]) -> None:
        started.append(tuple(job.device for job in jobs))

    monkeypatch.setattr(opening, "WorkerPool", pool)
    opens = opening.worker_processes(KaggleGPUConfig(backend="cuda", workers=3))
    job = EncodeJob(
        model=FIRST,
        location=Path(),
        tokens=Path(),
        plan=Path(),
        pieces=Path(),
        vectors=Path(),
        device="cuda:0",
    )
    opens(job, 9)
    opens(replace(job, device="cpu"), 9)
    assert started == [BOTH, ("cpu",) * 3]


def test_a_pass_of_several_batches_holds_every_card(config: PipelineConfig) -> None:
    several = replace(config, gpu=replace(config.gpu, base_batch_size=4))
    manifest, _ = run(several, parts_on(BOTH, config))
    assert manifest.dense_run is not None
    for dense in manifest.dense_run:
        assert [event.devices for event in dense.lease_events] == [BOTH]
    rerank = manifest.rerank_run
    assert rerank is not None
    assert rerank.status == "ran"
    assert [event.devices for event in rerank.lease_events] == [("cuda:0",)]


def test_the_manifest_states_turn_loan_and_peak_of_each_pass(
    config: PipelineConfig,
) -> None:
    manifest, heard = run(config, parts_on(("cuda:0",), config))
    assert manifest.dense_run is not None
    assert [(dense.model, dense.turn) for dense in manifest.dense_run] == [
        (model.name, turn) for turn, model in enumerate(ROSTER, start=1)
    ]
    for dense in manifest.dense_run:
        (event,) = dense.lease_events
        assert event.model == dense.model
        assert event.cap_bytes == 12 * GIB
        assert event.before_bytes == event.after_bytes == {"cuda:0": 0}
        assert event.peak_bytes == {"cuda:0": SIZES[dense.model]}
        assert dense.peak_bytes == SIZES[dense.model]
        assert dense.device == "cuda:0"
        assert event.returned
    rerank = manifest.rerank_run
    assert rerank is not None
    assert rerank.status == "ran"
    assert rerank.peak_bytes == GIB
    assert manifest.environment.gpus == (
        {"device": "cuda:0", "name": "pretended card"},
    )
    assert [event.turn for event in heard if isinstance(event, StageStarted)][:5] == [
        None,
        *((turn, 3) for turn in (1, 2, 3)),
        None,
    ]


def test_metrics_and_manifest_have_cap_and_peak_by_stage(
    config: PipelineConfig, tmp_path: Path
) -> None:
    metrics = PrometheusListener(tmp_path / "rag.prom")
    manifest, _ = run(config, parts_on(("cuda:0",), config), metrics)
    metrics.close()
    written = (tmp_path / "rag.prom").read_text()
    expected = {
        f'{names.GPU_CAP_BYTES}{{device="cuda:0"}}': 12 * GIB,
        f'{names.GPU_PEAK_BYTES}{{stage="dense",device="cuda:0"}}': 5 * GIB,
        f'{names.GPU_PEAK_BYTES}{{stage="rerank",device="cuda:0"}}': GIB,
    }
    told = manifest.telemetry.metrics
    assert {key: told[key] for key in expected} == expected
    found = dict(line.rsplit(" ", 1) for line in written.splitlines() if line[0] != "#")
    assert {key: float(found[_sorted_labels(key)]) for key in expected} == expected


def _sorted_labels(key: str) -> str:
    name, _, labels = key.removesuffix("}").partition("{")
    return f"{name}{{{','.join(sorted(labels.split(',')))}}}"


def test_on_the_cpu_nothing_is_lent(config: PipelineConfig) -> None:
    manifest, heard = run(config, hashing_parts())
    assert not heard.of(LeaseChanged)
    assert manifest.dense_run is not None
    assert {dense.lease_events for dense in manifest.dense_run} == {()}
    assert manifest.environment.gpus == ()
    assert not any(key.startswith("rag_gpu") for key in manifest.telemetry.metrics)


def test_a_pass_that_is_done_already_takes_no_card(config: PipelineConfig) -> None:
    cap = 4 * GIB
    parts = parts_on(("cuda:0",), config, cap_bytes=cap)
    with pytest.raises(MemoryCapExceeded):
        run(config, parts)  # the second model is too large
    _, heard = run(config, parts_on(("cuda:0",), config))
    lent = [e.model for e in heard if isinstance(e, LeaseChanged)]
    assert "all-miniLM-l6" not in lent
    assert "second" not in lent, "its batches were on disk before the check"
    assert "third" in lent


def test_a_peak_over_the_cap_stops_the_run_with_exit_code_3_and_it_resumes(
    config: PipelineConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = parts_on(("cuda:0",), config, cap_bytes=4 * GIB)
    settings = Settings(pipeline=config, reporting=ReportingConfig())
    with pytest.raises(MemoryCapExceeded) as excess:
        run_embedding(
            settings,
            style="plain",
            dry_run=False,
            resume="the same command",
            make_runner=lambda *given: BatchRunner(*given, parts),
        )
    assert complain(excess.value, resume="the same command") == 3
    told = capsys.readouterr()
    assert "second took 5,368,709,120 bytes (5.00 GiB) on cuda:0" in told.err
    assert "--gpu-memory-cap" in told.err
    assert "ended with exit code 3" in told.err
    assert "pass 2 of 3: second (384-d" in told.out
    assert "dense second released cuda:0: 0.00 GiB before, peak 5.00 GiB" in told.err
    manifest, _ = run(config, parts_on(("cuda:0",), config))
    assert manifest.chunk_count == 20


def test_a_run_on_a_card_that_is_held_stops_and_names_the_holder(
    config: PipelineConfig,
) -> None:
    parts = parts_on(("cuda:0",), config)
    assert parts.leases is not None
    with (
        another_process_holds(parts.leases.lock_dir, "cuda:0") as other,
        pytest.raises(DeviceBusy, match=f"process {other.pid} for the-other-model"),
    ):
        run(config, parts)


def failing(config: PipelineConfig, name: str) -> Parts:
    """Return parts whose workers cannot load one of the models."""
    parts = parts_on(("cuda:0",), config)

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        if job.model.name == name:
            raise ModelError(f"Model {name} cannot be loaded: torn file.")
        yield HashingEncoder(job.model.vector_dim, "cuda:0")

    return replace(parts, open_executor=in_process(open_encoder))


def test_a_companion_that_fails_in_its_worker_is_an_error_unless_it_may_be_skipped(
    config: PipelineConfig,
) -> None:
    parts = failing(config, "second")
    outcome = BatchRunner(config, RecordingListener(), "run-1", parts).run()
    assert outcome.exit_code == 1
    assert "torn file" in str(outcome.collections[0].error)
    assert outcome.collections[0].manifest is None
    manifest, heard = run(replace(config, skip_failed_models=True), parts)
    assert manifest.dense_run is not None
    assert [dense.model for dense in manifest.dense_run] == ["all-miniLM-l6", "third"]
    assert any("second was skipped" in warning for warning in manifest.warnings)
    lent = [e.model for e in heard if isinstance(e, LeaseChanged)]
    assert lent.count("second") == 2, "the failed one gave its card back"


def test_a_primary_model_that_fails_in_its_worker_is_never_skipped(
    config: PipelineConfig,
) -> None:
    allowed = replace(config, skip_failed_models=True)
    parts = failing(config, "all-miniLM-l6")
    outcome = BatchRunner(allowed, RecordingListener(), "run-1", parts).run()
    assert outcome.exit_code == 1
    assert "torn file" in str(outcome.collections[0].error)


def test_a_worker_is_held_to_what_the_cap_leaves_beside_what_we_hold(
    config: PipelineConfig,
) -> None:
    parts = parts_on(("cuda:0",), config, sizes=dict.fromkeys(SIZES, 0))
    caps = []

    def open_executor(job: EncodeJob, batches: int) -> Any:
        caps.append(job.memory_cap_bytes)
        return parts.open_executor(job, batches)

    assert parts.leases is not None
    probe = parts.leases.probe
    assert isinstance(probe, FakeDeviceProbe)
    with probe.charged("cuda:0", GIB):
        run(config, replace(parts, open_executor=open_executor))
    assert caps == [11 * GIB] * 3


def test_a_reranker_that_steps_in_for_another_takes_the_card_after_it(
    config: PipelineConfig,
) -> None:
    parts = parts_on(("cuda:0",), config)
    smaller = rerank_model("residual-minilm-l6")

    class NoRoom(WordOverlapScorer):
        def score(self, pairs: Any) -> Any:
            raise DeviceOutOfMemory("no room", cure="none")

    def load_scorer(model: RerankingConfig) -> PairScorer:
        if model.name == smaller.name:
            return WordOverlapScorer("cuda:0")
        return NoRoom("cuda:0")

    rerank = replace(RERANKER, candidates=5, top_k=3, fallback=smaller.name)
    manifest, _ = run(
        replace(config, rerank=rerank), replace(parts, load_scorer=load_scorer)
    )
    assert manifest.rerank_run is not None
    assert manifest.rerank_run.status == "ran"
    loans = manifest.rerank_run.lease_events
    assert [event.model for event in loans] == [RERANKER.name, smaller.name]
    assert loans[0].released_at <= loans[1].acquired_at


def test_a_pass_for_attention_alone_stands_with_its_sparse_model(
    config: PipelineConfig,
) -> None:
    attention = sparse_model("qdrant-minilm-attention")
    without_it = replace(config, dense=ROSTER[1:2], sparse=(attention,))
    manifest, _ = run(without_it, parts_on(("cuda:0",), config))
    assert manifest.dense_run is not None
    assert [dense.model for dense in manifest.dense_run] == ["second"]
    assert manifest.sparse_run is not None
    told = manifest.sparse_run[0].statistics
    assert [event["model"] for event in told["lease_events"]] == ["all-miniLM-l6"]
    assert told["peak_bytes"] == GIB
