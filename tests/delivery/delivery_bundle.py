"""A small bundle written with the exporter's own writers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from processor.ultimate_embedder.export.jsonl import write_points
from processor.ultimate_embedder.export.layout import BundleNames
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.records import Chunk, Float32Array, SparseMatrix

DENSE = "all-miniLM-l6"
SPARSE = ("qdrant-bm25", "qdrant-minilm-attention", "splade")
WIDTH = 8


@dataclass(frozen=True)
class Content:
    """What a bundle holds, by row."""

    chunks: list[Chunk]
    dense: Float32Array
    sparse: dict[str, SparseMatrix]


def chunk_at(row: int) -> Chunk:
    return Chunk(
        chunk_id=f"docs:guide:page-{row:04}.md:chunk:0",
        collection="docs",
        source_subdir="guide",
        filename=f"page-{row:04}.md",
        index=0,
        text=f"Section {row}: \n\tKäse \U0001f9c0 number {row}",
        metadata={
            "collection": "docs",
            "source_subdir": "guide",
            "source": f"page-{row:04}.md",
            "depth": [1, {"score": 0.1 + row, "none": None, "flag": True}],
        },
    )


def sparse_matrix(rng: np.random.Generator, rows: int) -> SparseMatrix:
    """Zero to five terms a row, so that some rows are empty."""
    lengths = np.arange(rows) % 6
    indices = [np.sort(rng.choice(2**32 - 1, n, replace=False)) for n in lengths]
    values = [(rng.random(n) + 0.1).astype(np.float32) for n in lengths]
    return SparseMatrix(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(indices).astype(np.uint32),
        np.concatenate(values),
    )


def make_content(rows: int, seed: int = 7) -> Content:
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((rows, WIDTH)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    sparse = {key: sparse_matrix(rng, rows) for key in SPARSE}
    return Content([chunk_at(row) for row in range(rows)], dense, sparse)


def write_bundle(folder: Path, content: Content, layout: str = "qdrant") -> Path:
    names = BundleNames("docs")
    folder.mkdir(parents=True)
    write_points(
        folder / names.points,
        content.chunks,
        {DENSE: content.dense},
        content.sparse,
        layout=layout,
    )
    Manifest(collection="docs", chunk_count=len(content.chunks)).write(folder)
    return folder
