"""Runs to be broken: a small collection, every stage, no model weights."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from light_command import LOG, arguments_for, encoded, start, telling_parts

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import KaggleGPUConfig, PipelineConfig
from processor.ultimate_embedder.errors import EmbedderError
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts

MANIFEST = "processing_summary.json"
COLLECTION = "docs"
WORDS = (
    *("shard", "replica", "vector", "index", "filter", "payload"),
    *("segment", "snapshot", "optimizer"),
)

# A child must not find locks of threads that it does not have.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def write_pages(root: Path, pages: dict[str, list[str]]) -> None:
    """Write a chunk file for each page; pages that are not named are removed."""
    folder = root / COLLECTION / "guide"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name.removesuffix("_chunks.json") not in pages:
            path.unlink()
    for name, texts in pages.items():
        entries = [
            {"text": text, "metadata": {"filename": f"{name}.md"}} for text in texts
        ]
        path = folder / f"{name}_chunks.json"
        path.write_text(json.dumps(entries), encoding="utf-8")


def some_pages(count: int = 10) -> dict[str, list[str]]:
    """Return pages of five sections, one of them longer than the model's window."""
    pages = {}
    for page in range(count):
        pages[f"page{page}"] = [
            f"## How {WORDS[page % 9]} and {WORDS[part]} q{page}x{part} work\n\n"
            + f"The {WORDS[(page + part) % 9]} is told of {page} {part}. "
            * (60 if (page, part) == (2, 1) else 1 + part)
            for part in range(5)
        ]
    return pages


def config_of(root: Path, output: str = "out", **changes: Any) -> PipelineConfig:
    """Return the settings of a run over `root`/chunked with every stage."""
    config = PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / output,
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"), sparse_model("qdrant-minilm-attention")),
        rerank=replace(rerank_model("ms-marco-minilm-l6"), candidates=10, top_k=5),
        gpu=KaggleGPUConfig(backend="cpu", base_batch_size=4),
        offline=True,
    )
    return replace(config, **changes)


def run_once(config: PipelineConfig, log: Path | None = None) -> int:
    """Run and return the exit code that the command would have.

    `log` comes to hold what goes through the encoder.
    """
    parts = telling_parts(log) if log else hashing_parts()
    try:
        return BatchRunner(config, silent, "run", parts).run().exit_code
    except EmbedderError as error:
        return error.exit_code


def sums(output: Path) -> dict[str, str]:
    """Return the digest of every file of the bundle but the manifest, by name."""
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted((output / COLLECTION).rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, "SHA256SUMS")
    }


def leftovers(output: Path) -> list[str]:
    """Return what lies beside the bundles, their reports and the work folder."""
    expected = (COLLECTION, f"{COLLECTION}_report.html", ".work")
    return sorted(path.name for path in output.iterdir() if path.name not in expected)


def write_queries(root: Path, count: int = 6) -> None:
    """Write `root`/queries.jsonl, about the pages."""
    lines = [
        json.dumps({"_id": f"q{number}", "text": f"{WORDS[number]} {WORDS[-number]}"})
        for number in range(count)
    ]
    (root / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Reference:
    """A run of the command that nothing disturbed, over `root`/chunked."""

    root: Path
    arguments: list[str]
    files: dict[str, str]
    log: Path

    @property
    def largest_batch(self) -> int:
        """Texts of the largest batch: one worker has no more in flight."""
        return max(len(call) for call in encoded(self.log))


def reference(root: Path, pages: int = 4, *more: str) -> Reference:
    """Write a collection and queries, run the command over them, and keep the sums."""
    write_pages(root / "chunked", some_pages(pages))
    write_queries(root)
    log = root / "reference.log"
    arguments = arguments_for(root, "reference", *more)
    child = start(arguments, root / "reference.said", environment={LOG: str(log)})
    assert child.wait() == 0, child.lines
    files = sums(root / "reference")
    return Reference(root, arguments_for(root, "out", *more), files, log)
