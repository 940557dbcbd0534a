"""A chunk longer than the window through a whole run: in windows, or cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from pipeline_parts import Run, config_for

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.encoders.attention_sparse import AttentionSparseEncoder
from processor.ultimate_embedder.encoders.texts import TextEncoder
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import DenseRun
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.telemetry.events import Warned
from processor.ultimate_embedder.testing import (
    HashingModels,
    RecordingListener,
    hashing_parts,
)

TEXT = "word " * 998 + "unique purple"
TOKENS = 1002  # with [CLS] and [SEP]
KEY, BM42 = "all-miniLM-l6", "qdrant-minilm-attention"


@pytest.fixture
def long_chunks(run: Run, tmp_path: Path) -> Run:
    """A run over the usual collection and a chunk of 1,000 words, given twice."""
    path = tmp_path / "chunked" / "docs" / "long_chunks.json"
    path.write_text(json.dumps([{"text": TEXT}, {"text": TEXT}]))
    return run


def made_by(run: Run, **changes: Any) -> tuple[Manifest, DenseRun, RecordingListener]:
    outcome, heard = run(**changes)
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.dense_run is not None
    return manifest, manifest.dense_run[0], heard


def row_of_long(bundle: Path) -> int:
    lines = (bundle / "docs_ids.jsonl").read_bytes().splitlines()
    ids = [orjson.loads(line)["chunk_id"] for line in lines]
    return ids.index("docs:_root:long:chunk:0")


def bm42(bundle: Path) -> set[int]:
    """Return the word ids in the attention sparse vector of the long chunk."""
    lines = (bundle / "docs_sparse.jsonl").read_bytes().splitlines()
    return set(orjson.loads(lines[row_of_long(bundle)])[BM42]["indices"])


def asked(words: str) -> set[int]:
    tokenizer = HashingModels(offline=True).tokenizer(dense_model(KEY))
    return set(AttentionSparseEncoder(tokenizer.backend).encode_query(words).indices)


def test_no_token_is_truncated_by_default(long_chunks: Run, tmp_path: Path) -> None:
    manifest, dense, heard = made_by(long_chunks)
    assert manifest.conservation is not None
    assert manifest.conservation.truncated_chunks == 0
    assert manifest.conservation.truncated_tokens == 0
    assert (dense.long_texts, dense.windows, dense.chunks_in_windows) == (
        "windows",
        4,
        2,
    )
    assert dense.window_pooling == "mean by tokens, the first window twice"
    assert dense.statistics["truncated"] == []
    assert not [one for one in heard.of(Warned) if "window" in one.message]
    assert asked("unique purple word") <= bm42(tmp_path / "out" / "docs")


def test_the_vector_in_the_bundle_is_that_of_its_text(
    long_chunks: Run, tmp_path: Path
) -> None:
    made_by(long_chunks)
    bundle, model = tmp_path / "out" / "docs", dense_model(KEY)
    row = row_of_long(bundle)
    stored = np.load(bundle / f"docs_{KEY}_embeddings.npy")
    models = HashingModels(offline=True)
    with models.resident(model) as encoder:
        texts = TextEncoder(
            encoder, models.tokenizer(model), model.max_tokens, "windows"
        )
        expected = texts.vectors([TEXT], "document")[0]
    assert stored[row].tobytes() == stored[row + 1].tobytes() == expected.tobytes()


def test_a_cut_chunk_is_counted_and_warned_of(long_chunks: Run, tmp_path: Path) -> None:
    manifest, dense, heard = made_by(long_chunks, long_texts="cut")
    assert manifest.conservation is not None
    assert manifest.conservation.truncated_chunks == 2
    assert manifest.conservation.truncated_tokens == 2 * (TOKENS - 256)
    assert (dense.long_texts, dense.windows, dense.chunks_in_windows) == ("cut", 0, 0)
    assert dense.window_pooling is None
    assert dense.statistics["truncated"] == [
        {"chunk_id": f"docs:_root:long:chunk:{index}", "tokens_lost": TOKENS - 256}
        for index in range(2)
    ]
    (warned,) = [one for one in heard.of(Warned) if "window" in one.message]
    assert "longer than the window" in warned.message
    assert "--long-texts windows" in warned.message
    assert not asked("unique purple") & bm42(tmp_path / "out" / "docs")


def test_switching_touches_the_long_chunks_alone(
    long_chunks: Run, tmp_path: Path
) -> None:
    file = tmp_path / "out" / "docs" / f"docs_{KEY}_embeddings.npy"
    made_by(long_chunks)
    row = row_of_long(file.parent)
    windows = np.load(file)
    made_by(long_chunks, long_texts="cut")
    cut = np.load(file)
    differing = np.flatnonzero((windows != cut).any(axis=1)).tolist()
    assert differing == [row, row + 1]
    made_by(long_chunks)
    assert np.load(file).tobytes() == windows.tobytes()


def test_a_plan_counts_windows_and_their_tokens(
    long_chunks: Run, tmp_path: Path
) -> None:
    def planned(**changes: Any) -> tuple[int, int, int]:
        runner = BatchRunner(
            config_for(tmp_path, **changes), RecordingListener(), "r", hashing_parts()
        )
        (model,) = runner.plan().collections[0].models
        return model.windows, model.window_tokens, model.truncated_chunks

    assert planned() == (4, 1000 + 4 * 2, 0)
    assert planned(long_texts="cut") == (0, 0, 2)
