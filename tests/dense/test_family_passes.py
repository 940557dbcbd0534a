"""Families other than BERT through the dense stage and a worker process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dense_parts import Pass
from family_parts import WORDS, reference, save_family, some_texts
from test_onnx import export

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.windows import pool_windows
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.workers.pool import WorkerPool

pytestmark = pytest.mark.slow  # each starts a worker, which imports torch


def embedded(folder: Path, config: ModelConfig, texts: list[str]) -> Float32Array:
    """Return the vectors that one worker process writes."""
    manager = ModelManager(offline=True)
    passing = Pass(folder, texts, manager, config, manager.tokenizer(config))
    passing.task = replace(passing.task, dtype="float32", outputs=("dense",))
    vectors = passing.block(lambda job, _: WorkerPool([job])).vectors
    assert vectors is not None
    return np.array(vectors)


@pytest.mark.parametrize("backend", ["qwen3", "onnx"])
def test_a_family_through_a_worker_agrees_with_transformers_alone(
    tmp_path: Path, backend: str
) -> None:
    folder = tmp_path / "model"
    config = save_family(folder, "qwen3" if backend == "qwen3" else "bert")
    texts = some_texts(10)
    ids = list(ModelManager().tokenizer(config).encode(texts, "document").ids)
    expected = reference(config, ids)
    if backend == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
        export(folder, folder)
        config = replace(config, backend="onnx")
    found = embedded(tmp_path / "pass", config, texts)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_windows_of_a_decoder_end_with_its_last_token(tmp_path: Path) -> None:
    """What last-token pooling reads stands at the end of every window."""
    config = save_family(tmp_path / "model", "qwen2")
    tokenizer = ModelManager().tokenizer(config)
    text = " ".join(WORDS[i % 90] for i in range(200))
    whole = tokenizer.encode([text], "document").ids[0]
    room = config.max_tokens - 2
    own = [whole[1:-1][start : start + room] for start in range(0, 200, room)]
    windows = [np.concatenate((whole[:1], part, whole[-1:])) for part in own]
    tokens = np.array([len(part) for part in own], dtype=np.int64)
    expected = pool_windows(reference(config, windows), tokens)
    found = embedded(tmp_path / "pass", config, [text])
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
