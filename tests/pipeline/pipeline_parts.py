"""Small collections of real shape, and the settings of a run over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from processor.ultimate_embedder.batch_runner import RunOutcome
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.testing import RecordingListener

TOPICS = ("sharding", "payload index", "vector quantization", "snapshot", "filtering")
Run = Callable[..., tuple[RunOutcome, RecordingListener]]


def marker(page: int, part: int) -> str:
    """Return a word that stands in one chunk only."""
    return f"qu{chr(97 + page)}{chr(97 + part)}zz"


def write_collection(root: Path, name: str, pages: int = 12) -> None:
    """Write chunk files of Markdown sections, each heading asked nowhere else."""
    for page in range(pages):
        topic = TOPICS[page % len(TOPICS)]
        entries = [
            {
                "text": f"## How {topic} treats {marker(page, part)} nodes\n\n"
                f"Section {part} of page {page} explains {topic} to operators "
                f"of {marker(page, part)} machines with {'more ' * part}words.",
                "metadata": {"filename": f"page{page}.md", "page": page},
            }
            for part in range(6)
        ]
        folder = root / name / f"subdir{page % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"page{page}_chunks.json"
        path.write_text(json.dumps(entries), encoding="utf-8")


def config_for(root: Path, **changes: Any) -> PipelineConfig:
    config = PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"), sparse_model("qdrant-minilm-attention")),
        rerank=replace(rerank_model("ms-marco-minilm-l6"), candidates=20, top_k=5),
        offline=True,
    )
    return replace(config, **changes)
