"""BM25 vectors a second on one core: ours against fastembed and qdrant-edge.

Texts are sources of installed packages in pieces of 1,500 characters. The contenders
take turns, ours with an empty memo each time; the medians over the turns are compared.

    python benchmarks/bm25_speed.py [--turns N] [--texts N] [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import qdrant_edge
from fastembed.sparse.bm25 import Bm25 as FastembedBm25

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.encoders.words import STOP_WORDS

PIECE_CHARACTERS = 1500
BATCH_TEXTS = 256
PACKAGES = ("transformers", "qdrant_client", "sentence_transformers")


def pieces() -> list[str]:
    """Return the texts, in an order that depends on the installation alone."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found += [
                text[start : start + PIECE_CHARACTERS]
                for start in range(0, len(text), PIECE_CHARACTERS)
            ]
    return found


def ours(profile: str) -> Callable[[list[str]], None]:
    def encode(texts: list[str]) -> None:
        encoder = Bm25Encoder(profile)
        for start in range(0, len(texts), BATCH_TEXTS):
            encoder.encode_documents(texts[start : start + BATCH_TEXTS])

    return encode


def fastembed(folder: Path) -> Callable[[list[str]], None]:
    (folder / "english.txt").write_text("\n".join(sorted(STOP_WORDS)))
    model = FastembedBm25("Qdrant/bm25", specific_model_path=str(folder))
    assert model.stopwords == STOP_WORDS

    def encode(texts: list[str]) -> None:
        for _ in model.embed(texts, batch_size=BATCH_TEXTS):
            pass

    return encode


def edge() -> Callable[[list[str]], None]:
    model = qdrant_edge.Bm25(qdrant_edge.Bm25Config())

    def encode(texts: list[str]) -> None:
        for text in texts:
            model.embed_document(text)

    return encode


def measure(texts: list[str], turns: int) -> dict[str, float]:
    """Return the median vectors a second of each contender."""
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            "ours, qdrant-word": ours("qdrant-word"),
            "ours, code": ours("code"),
            "qdrant-edge": edge(),
            "ours, fastembed": ours("fastembed"),
            "fastembed": fastembed(Path(folder)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(turns):
            for name, encode in contenders.items():
                started = time.process_time()
                encode(texts)
                seconds[name].append(time.process_time() - started)
    return {name: len(texts) / statistics.median(s) for name, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    texts = list(islice(pieces(), arguments.texts))
    rates = measure(texts, arguments.turns)
    ratios = {name: rate / rates["fastembed"] for name, rate in rates.items()}
    if arguments.json:
        print(json.dumps({"texts": len(texts), "per_second": rates, "ratio": ratios}))
        return
    print(f"{len(texts)} texts, {arguments.turns} turns, processor time")
    for name, rate in rates.items():
        print(f"{name:20} {rate:10,.0f} /s {ratios[name]:6.2f} x fastembed")


if __name__ == "__main__":
    main()
