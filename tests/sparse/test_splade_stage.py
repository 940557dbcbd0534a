"""A SPLADE matrix: told batch by batch, taken up where a run was interrupted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from masked_lm_parts import (
    VOCABULARY,
    encoder_of,
    save_masked_lm,
    some_texts,
    source_of,
)

from processor.ultimate_embedder.encoders.sparse_queries import query_encoder
from processor.ultimate_embedder.encoders.splade import SpladeEncoder
from processor.ultimate_embedder.encoders.splade_source import SpladeSource
from processor.ultimate_embedder.errors import ModelMismatch, ModelNotAvailable
from processor.ultimate_embedder.records import Chunk
from processor.ultimate_embedder.stages import splade_build
from processor.ultimate_embedder.stages.sparse import (
    SparseResult,
    SparseVectorGenerator,
)
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    Event,
    FallbackUsed,
    StageFinished,
    StageStarted,
)

TEXTS = [*some_texts(20), "abcdefghijklmnop " * 9]


class Chunks:
    """A collection in a list."""

    collection = "demo"

    def __init__(self, texts: list[str]) -> None:
        self._chunks = [
            Chunk(f"demo:_root:f:chunk:{i}", "demo", "_root", "f", i, text, {})
            for i, text in enumerate(texts)
        ]
        self.digest = hashlib.sha256(repr(texts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._chunks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked_lm(tmp_path_factory.mktemp("models") / "tiny-splade")


@pytest.fixture
def source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SpladeSource:
    monkeypatch.setattr(splade_build, "BLOCK_CHUNKS", 8)
    return source_of(folder)


def generate(work: Path, source: SpladeSource, heard: list[Event]) -> SparseResult:
    generator = SparseVectorGenerator(
        source.config,
        bm25_profile="qdrant-word",
        work_dir=work,
        emit=heard.append,
        run_id="run-1",
    )
    return generator.generate(Chunks(TEXTS), None, None, splade=source)


def rows(result: SparseResult) -> list[tuple[bytes, bytes]]:
    return [(v.indices.tobytes(), v.values.tobytes()) for v in result.matrix]


def test_rows_are_the_encoders_vectors_in_chunk_order_and_the_record_tells_all(
    tmp_path: Path, source: SpladeSource, folder: Path
) -> None:
    heard: list[Event] = []
    result = generate(tmp_path, source, heard)
    expected = encoder_of(folder).encode_documents(TEXTS)
    assert rows(result) == [(v.indices.tobytes(), v.values.tobytes()) for v in expected]
    statistics = result.run.statistics
    assert statistics["kind"] == "splade"
    assert statistics["vocabulary_size"] == VOCABULARY
    assert statistics["revision"] == source.location.revision
    assert (statistics["dtype"], statistics["device"]) == ("float32", "cpu")
    assert statistics["windows"] > len(TEXTS) == statistics["documents"]
    assert (result.run.coverage, result.run.fallback_used) == (1.0, False)
    batches = [event for event in heard if isinstance(event, BatchFinished)]
    assert sum(batch.items for batch in batches) == len(TEXTS)
    assert sum(batch.tokens for batch in batches) == statistics["tokens"]
    assert len(batches) >= 3 and all(batch.seconds > 0 for batch in batches)
    assert not any(isinstance(event, FallbackUsed) for event in heard)


def test_an_interrupted_build_goes_on_at_its_last_block_to_the_same_bytes(
    tmp_path: Path, source: SpladeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(generate(tmp_path / "whole", source, []))
    encoded: list[str] = []
    batches = SpladeEncoder.batches

    def interrupted(self: SpladeEncoder, texts: Any, **options: Any) -> Any:
        if texts[0] == TEXTS[16]:
            raise KeyboardInterrupt
        return batches(self, texts, **options)

    def watched(self: SpladeEncoder, texts: Any, **options: Any) -> Any:
        encoded.extend(texts)
        return batches(self, texts, **options)

    monkeypatch.setattr(SpladeEncoder, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "broken", source, [])
    monkeypatch.setattr(SpladeEncoder, "batches", watched)
    heard: list[Event] = []
    result = generate(tmp_path / "broken", source, heard)
    assert rows(result) == whole
    assert encoded == TEXTS[16:]
    [started] = [event for event in heard if isinstance(event, StageStarted)]
    [finished] = [event for event in heard if isinstance(event, StageFinished)]
    assert started.done_before == finished.reused == 16
    assert result.run.statistics["reused_documents"] == 16
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == [
        "tiny-splade"
    ]


def test_a_finished_matrix_is_taken_up_without_loading_weights(
    tmp_path: Path, source: SpladeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(generate(tmp_path, source, []))

    def refuse(_: SpladeSource) -> SpladeEncoder:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(SpladeEncoder, "load", refuse)
    again = generate(tmp_path, source, [])
    assert rows(again) == first
    assert again.run.statistics["reused_documents"] == len(TEXTS)


def test_other_weights_or_another_precision_are_computed_anew(
    tmp_path: Path, source: SpladeSource, folder: Path
) -> None:
    generate(tmp_path, source, [])
    rough = generate(tmp_path, source_of(folder, dtype="bfloat16"), [])
    assert rough.run.statistics["reused_documents"] == 0


def test_queries_need_the_model_and_its_vocabulary(
    tmp_path: Path, source: SpladeSource, folder: Path
) -> None:
    result = generate(tmp_path, source, [])
    [expected] = encoder_of(folder).encode_documents(["some words"])
    asked = query_encoder(result.run, source).encode_query("some words")
    assert set(asked.indices) & set(expected.indices)
    with pytest.raises(ModelNotAvailable, match="need its model"):
        query_encoder(result.run)
    with pytest.raises(ModelMismatch, match=r"vocabulary of 160.*one of 161"):
        query_encoder(result.run, source_of(folder, vocabulary_size=161))
