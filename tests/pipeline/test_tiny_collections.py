"""Collections at the edge: one chunk, equal chunks, chunks without a single word."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pipeline_parts import Run

SECTION = (
    "# How sharding spreads load\n\nIt cuts a collection into pieces and lets every "
    "node of the cluster serve some of them."
)
WORDLESS = "\u200b\u200d"  # the tokenizer keeps nothing of it
STOP_WORDS = "the of and"


@pytest.mark.parametrize(
    ("texts", "probes", "filled"),
    [
        (["hello world"], None, 1),
        ([SECTION], 1, 1),
        ([SECTION] * 40, None, 40),
        ([WORDLESS], None, 0),
        ([WORDLESS, STOP_WORDS, SECTION], 1, 1),
    ],
    ids=["one chunk", "one probe", "all equal", "no word", "one with words"],
)
def test_a_tiny_collection_gives_a_whole_bundle(
    run: Run, tmp_path: Path, texts: list[str], probes: int | None, filled: int
) -> None:
    folder = tmp_path / "chunked" / "tiny"
    folder.mkdir()
    entries = [{"text": text} for text in texts]
    (folder / "a_chunks.json").write_text(json.dumps(entries))
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "1", "text": "?!"}\n{"_id": "2", "text": "sharding"}')
    outcome, _ = run(collections=("tiny",), queries=queries)
    (found,) = outcome.collections
    assert found.error is None
    assert found.bundle is not None
    assert found.manifest is not None
    subprocess.run(
        ["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=found.bundle, check=True
    )
    vectors = np.load(found.bundle / "tiny_all-miniLM-l6_embeddings.npy")
    assert len(vectors) == len(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert found.manifest.sparse_run is not None
    for sparse in found.manifest.sparse_run:
        assert sparse.coverage == pytest.approx(filled / len(texts))
    assert found.manifest.fusion_run is not None
    from_probes = found.manifest.fusion_run.query_source == "probes"
    assert (found.manifest.fusion_run.queries if from_probes else None) == probes
    reranked = (found.bundle / "tiny_rerank.jsonl").read_text().splitlines()
    assert [json.loads(line)["query_id"] for line in reranked] == ["1", "2"]
