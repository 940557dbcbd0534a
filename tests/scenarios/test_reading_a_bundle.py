"""The page on reading a bundle, followed to the letter, and what it promises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.models.catalogue import (
    KAGGLE_OPTIMIZED_MODELS,
    SPARSE_MODELS,
)
from processor.ultimate_embedder.records import point_id, text_sha256
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "read-a-bundle.md"
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
DENSE, SPARSE = "all-miniLM-l6", "qdrant-bm25"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle `my_docs` of the page."""
    root = tmp_path_factory.mktemp("reading")
    for subdir in ("b", "a", "B"):
        place = root / "Chunked" / "my_docs" / subdir
        place.mkdir(parents=True)
        chunks = [{"text": f"{subdir} says {n} things about rows."} for n in range(12)]
        (place / "page_chunks.json").write_text(json.dumps(chunks), encoding="utf-8")
    config = PipelineConfig(
        chunked_dir=root / "Chunked",
        output_dir=root / "out",
        dense=(KAGGLE_OPTIMIZED_MODELS[DENSE],),
        sparse=(SPARSE_MODELS[SPARSE],),
        enable_rerank=False,
        probes=False,
        offline=True,
    )
    outcome = BatchRunner(config, silent, "run-1", hashing_parts()).run()
    assert outcome.exit_code == 0
    return config.output_dir / "my_docs"


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_snippets_of_the_page_run_as_they_stand(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    snippets = SNIPPET.findall(PAGE.read_text(encoding="utf-8"))
    assert len(snippets) == 3
    names: dict[str, Any] = {
        "query": np.load("my_docs_all-miniLM-l6_embeddings.npy")[5]
    }
    for snippet in snippets:
        exec(snippet, names)  # noqa: S102 - our own page, that is the test
    exact = names["vectors"][names["best"]] @ names["query"]  # rows may tie
    np.testing.assert_allclose(names["scores"][0], exact, rtol=0, atol=1e-6)
    assert len(names["points"]) == len(names["vectors"]) == 36


def test_row_i_is_the_same_chunk_in_every_file(bundle: Path) -> None:
    ids = json_lines(bundle / "my_docs_ids.jsonl")
    points = json_lines(bundle / "my_docs_qdrant.jsonl")
    sparse = json_lines(bundle / "my_docs_sparse.jsonl")
    vectors = np.load(bundle / "my_docs_all-miniLM-l6_embeddings.npy")
    chunk_ids = [
        f"my_docs:{subdir}:page:chunk:{n}" for subdir in "Bab" for n in range(12)
    ]
    assert [entry["chunk_id"] for entry in ids] == chunk_ids
    assert [entry["row"] for entry in ids] == list(range(36))
    assert [entry["chunk_id"] for entry in sparse] == chunk_ids
    for row, (entry, point) in enumerate(zip(ids, points, strict=True)):
        assert point["id"] == entry["point_id"] == point_id(entry["chunk_id"])
        assert point["payload"]["chunk_id"] == entry["chunk_id"]
        assert entry["text_sha256"] == text_sha256(point["payload"]["text"])
        stored = np.array(point["vector"][DENSE], dtype=np.float32)
        np.testing.assert_array_equal(stored, vectors[row])
        assert point["vector"][SPARSE] == sparse[row][SPARSE]


def test_the_manifest_has_the_keys_that_the_page_names(bundle: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Manifest")[2]
    named = {
        key
        for cells in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", cells)
    }
    manifest = json.loads((bundle / "processing_summary.json").read_text("utf-8"))
    assert named == set(manifest)
