"""A query longer than the window is treated as the bundle's documents were."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from processor.ultimate_embedder.encoders.texts import TextEncoder
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import DenseRun
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.search.loading import ManifestEncoders

MINILM = dense_model("all-miniLM-l6")
LONG = "when is the invoice of the northern zoo paid " * 40  # 360 tokens


def manifest(**said: object) -> Manifest:
    run = {
        "model": MINILM.name,
        "hf_model_id": MINILM.hf_model_id,
        "dimension": MINILM.vector_dim,
        "dtype": "float32",
        "max_tokens": MINILM.max_tokens,
        "chunks": 1,
        "tokens": 3,
        "seconds": 0.0,
        "device": "cpu",
    }
    return Manifest(collection="c", chunk_count=1, dense_run=(DenseRun(**run | said),))


@pytest.mark.parametrize(
    ("said", "end_counts"),
    [
        ({"long_texts": "windows"}, True),
        ({"long_texts": "cut"}, False),
        ({}, False),  # a bundle from before there were windows
    ],
    ids=["windows", "cut", "unsaid"],
)
def test_the_end_of_a_long_query_counts_where_documents_have_windows(
    said: dict[str, str], end_counts: bool
) -> None:
    with closing(ManifestEncoders(manifest(**said), offline=True)) as encoders:
        one, other = encoders.dense(LONG + "walrus"), encoders.dense(LONG + "parrot")
    assert bool((one != other).any()) is end_counts
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)


def test_a_long_query_has_the_bytes_of_the_run_that_made_the_bundle() -> None:
    with closing(ManifestEncoders(manifest(long_texts="windows"), offline=True)) as own:
        found = own.dense(LONG)
    manager = ModelManager(offline=True)
    with manager.resident(MINILM) as encoder:
        texts = TextEncoder(encoder, manager.tokenizer(MINILM), 256, "windows")
        expected = texts.vectors([LONG, "short"], "query")[0]
    assert found.tobytes() == expected.tobytes()
