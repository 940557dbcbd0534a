"""A bundle that a run made, every stage in it, without model weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import KaggleGPUConfig, PipelineConfig
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts

THINGS = ("shard", "replica", "vector", "index", "filter", "payload", "segment")


def write_chunks(root: Path, collection: str = "docs", pages: int = 6) -> Path:
    """Write chunk files of two source folders and return the root of collections."""
    for page in range(pages):
        folder = root / collection / ("api", "guide")[page % 2]
        folder.mkdir(parents=True, exist_ok=True)
        entries = [
            {
                "text": f"## How {THINGS[page]} {part} works\n\nThe {THINGS[part]} "
                f"“{page}” is told of {page} {part}. " * (1 + part),
                "metadata": {"filename": f"p{page}.md", "level": part, "tag": ["ü"]},
            }
            for part in range(4)
        ]
        path = folder / f"p{page}_chunks.json"
        path.write_text(json.dumps(entries), encoding="utf-8")
    return root


def run_bundle(root: Path, collection: str = "docs", **changes: Any) -> Path:
    """Embed `root`/chunked with every stage and return the bundle's folder."""
    chunked = write_chunks(root / "chunked", collection)
    config = PipelineConfig(
        chunked_dir=chunked,
        output_dir=root / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"), sparse_model("qdrant-minilm-attention")),
        rerank=replace(rerank_model("ms-marco-minilm-l6"), candidates=10, top_k=5),
        gpu=KaggleGPUConfig(backend="cpu", base_batch_size=4),
        offline=True,
    )
    config = replace(config, **changes)
    assert BatchRunner(config, silent, "run", hashing_parts()).run().exit_code == 0
    return config.output_dir / collection


def files_in(bundle: Path) -> list[str]:
    """Return the paths of all files of a bundle, sorted."""
    return sorted(
        path.relative_to(bundle).as_posix()
        for path in bundle.rglob("*")
        if path.is_file()
    )


def contents(bundle: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a bundle by path."""
    return {name: (bundle / name).read_bytes() for name in files_in(bundle)}
