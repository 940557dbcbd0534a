"""Whole runs where memory fails or a worker is killed: the bundle is the same."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline_parts import config_for, write_collection

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder, PairScorer
from processor.ultimate_embedder.errors import DeviceOutOfMemory
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import RerankRan
from processor.ultimate_embedder.records import Float32Array, UInt32Array
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    Event,
    FallbackUsed,
    MemoryRetried,
    RunFinished,
)
from processor.ultimate_embedder.testing import (
    HashingEncoder,
    RecordingListener,
    WordOverlapScorer,
    hashing_parts,
)
from processor.ultimate_embedder.verify import verify_bundle
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process
from processor.ultimate_embedder.workers.pool import BatchExecutor, WorkerPool

BLEND = "blend(weight=0.1, bound=4)"

Fails = Callable[[int, int], bool]
"""Told a call's number and its positions, says whether memory fails."""


class SmallDevice(HashingEncoder):
    """Fails as told, and keeps which texts went through."""

    def __init__(self, dimension: int, fails: Fails) -> None:
        super().__init__(dimension)
        self.fails = fails
        self.calls = 0
        self.done: list[bytes] = []

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        self.calls += 1
        if self.fails(self.calls, len(ids) * max(map(len, ids))):
            raise DeviceOutOfMemory("Full.")
        self.done.extend(row.tobytes() for row in ids)
        return super().encode(ids)


def on(fails: Fails) -> tuple[Parts, list[SmallDevice]]:
    """Return parts whose encoder fails as told, and the encoders opened."""
    opened: list[SmallDevice] = []

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        opened.append(SmallDevice(job.model.vector_dim, fails))
        yield opened[-1]

    return replace(hashing_parts(), open_executor=in_process(open_encoder)), opened


def sums(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of the bundle but the manifest."""
    bundle = root / "out" / "docs"
    return {
        str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "processing_summary.json"
    }


def embed(
    root: Path, parts: Parts, heard: RecordingListener | None = None, **changes: Any
) -> Manifest:
    config = config_for(root, **changes)
    heard = RecordingListener() if heard is None else heard
    (outcome,) = BatchRunner(config, heard, "run-1", parts).run().collections
    assert outcome.manifest is not None
    return outcome.manifest


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    write_collection(root / "chunked", "docs", pages=4)
    embed(root, hashing_parts())
    return sums(root)


@given(wrong=st.sets(st.integers(1, 30), max_size=12), room=st.integers(60, 4000))
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_memory_that_fails_at_random_changes_no_byte_and_each_text_is_done_once(
    wrong: set[int],
    room: int,
    undisturbed: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("small")
    write_collection(root / "chunked", "docs", pages=4)
    heard = RecordingListener()
    longest = 60  # tokens: more than any text of the collection has
    parts, opened = on(
        lambda call, asked: asked > room or (call in wrong and asked > longest)
    )
    manifest = embed(root, parts, heard)
    assert sums(root) == undisturbed
    (encoder,) = opened
    assert len(encoder.done) == len(set(encoder.done)) == manifest.chunk_count
    (dense,) = manifest.dense_run
    assert dense.oom_retries == len(heard.of(MemoryRetried))
    assert encoder.calls - dense.oom_retries >= len(heard.of(BatchFinished)) - 50
    if dense.oom_retries:
        assert min(dense.batch_sizes) < max(dense.batch_sizes)


def test_a_chunk_too_long_for_the_device_stops_the_run_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    heard = RecordingListener()
    parts, _ = on(lambda _, asked: asked > 20)
    with pytest.raises(DeviceOutOfMemory) as caught:
        embed(tmp_path, parts, heard)
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert said.count("\n") == 0
    assert "Model all-miniLM-l6 ran out of memory on cpu" in said
    assert " tokens alone, " in said
    assert " bytes) used" in said
    assert "chunk docs:subdir" in said
    assert "--max-tokens" in said
    (finished,) = heard.of(RunFinished)
    assert isinstance(finished, RunFinished)
    assert finished.exit_code == 3
    assert not (tmp_path / "out" / "docs").exists()
    embed(tmp_path, hashing_parts())
    assert sums(tmp_path) == undisturbed


class SmallScorer(WordOverlapScorer):
    """Has room for so many pairs."""

    device = "cuda:0"

    def __init__(self, pairs: int, name: str = "word-overlap") -> None:
        self.pairs = pairs
        self.name = name

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        if len(pairs) > self.pairs:
            raise DeviceOutOfMemory("Full.")
        return super().score(pairs)


def scored_by(load: Callable[[RerankingConfig], PairScorer]) -> Parts:
    return replace(hashing_parts(), load_scorer=load)


def test_rerank_in_smaller_batches_gives_the_same_files_and_the_manifest_says_so(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    manifest = embed(tmp_path, scored_by(lambda _: SmallScorer(5)))
    assert sums(tmp_path) == undisturbed
    ran = manifest.rerank_run
    assert isinstance(ran, RerankRan)
    assert ran.fallback_used
    sizes = (16, 8, 4, 5)  # halved from 32; then 6 were tried, after many good calls
    steps = [f"out of memory: batches of {size} pairs" for size in sizes]
    assert ran.fallback_reason == "; ".join(steps)
    assert {run.batch_size for run in ran.runs} == {5}
    assert ran.statistics["oom_retries"] >= len(steps)


def test_the_smaller_reranker_that_was_named_takes_over_and_is_told(
    tmp_path: Path,
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    heard = RecordingListener()
    rerank = config_for(tmp_path).rerank
    assert rerank is not None
    manifest = embed(
        tmp_path,
        scored_by(
            lambda config: SmallScorer(
                0 if config.name == rerank.name else 99, config.name
            )
        ),
        heard,
        rerank=replace(rerank, fallback="residual-minilm-l6"),
    )
    ran = manifest.rerank_run
    assert isinstance(ran, RerankRan)
    assert set(ran.statistics["queries_by_model"]) == {"residual-minilm-l6"}
    step = "out of memory: model residual-minilm-l6"
    assert ran.fallback_reason is not None
    assert ran.fallback_reason.endswith(step)
    assert heard.of(FallbackUsed)[-1].reason == step  # type: ignore[attr-defined]
    assert {len(run.scores) for run in ran.runs} == {rerank.top_k}
    assert ran.statistics["hf_model_id"] == rerank.hf_model_id
    assert ran.statistics["blends"] == {"residual-minilm-l6": BLEND}
    assert verify_bundle(tmp_path / "out" / "docs").findings == ()


def test_a_reranker_without_room_for_its_weights_makes_way_for_the_smaller_one(
    tmp_path: Path,
) -> None:
    write_collection(tmp_path / "chunked", "docs", pages=4)
    rerank = config_for(tmp_path).rerank
    assert rerank is not None

    def load(config: RerankingConfig) -> PairScorer:
        if config.name == rerank.name:
            raise DeviceOutOfMemory("No room for weights.")
        return WordOverlapScorer()

    manifest = embed(
        tmp_path, scored_by(load), rerank=replace(rerank, fallback="residual-minilm-l6")
    )
    ran = manifest.rerank_run
    assert isinstance(ran, RerankRan)
    assert ran.model == "residual-minilm-l6"
    assert ran.fallback_reason == "out of memory: model residual-minilm-l6"
    assert ran.statistics["difference"] == "residual-minilm-l6"
    assert ran.statistics["blend"] == BLEND
    assert verify_bundle(tmp_path / "out" / "docs").findings == ()


class Killer(RecordingListener):
    """Kills a worker that has a batch when the second batch is done."""

    pool: WorkerPool | None = None
    armed = False
    killed = 0

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        dense = [one for one in self.of(BatchFinished) if one.stage == "dense"]  # type: ignore[attr-defined]
        if self.pool is not None and self.armed and len(dense) == 2 and not self.killed:
            busy = [one for one in self.pool._workers if one.ready and one.given]
            self.killed = busy[0].process.pid
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.slow
def test_killing_one_of_two_real_workers_changes_no_byte_of_the_bundle(
    tmp_path: Path,
) -> None:
    for name in ("calm", "killed"):
        write_collection(tmp_path / name / "chunked", "docs", pages=6)
    killer = Killer()

    @contextmanager
    def two_workers(job: EncodeJob, _: int) -> Iterator[BatchExecutor]:
        with WorkerPool([job] * 2) as killer.pool:
            yield killer.pool
        killer.pool = None

    parts = replace(hashing_parts(), open_executor=two_workers)
    small = replace(config_for(tmp_path).gpu, base_batch_size=4)
    for name, heard in (("calm", RecordingListener()), ("killed", killer)):
        killer.armed = heard is killer
        embed(tmp_path / name, parts, heard, gpu=small, probes=False)
    assert killer.killed
    batches = [one for one in killer.of(BatchFinished) if one.stage == "dense"]  # type: ignore[attr-defined]
    assert len(batches) == 9
    assert sums(tmp_path / "killed") == sums(tmp_path / "calm")
    assert "SHA256SUMS" in sums(tmp_path / "calm")
