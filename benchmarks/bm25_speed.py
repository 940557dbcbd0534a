"""BM25 vectors a second on one core: ours, fastembed, qdrant-edge and bm25s.

The texts are real chunks. Ours starts with an empty memory of words each time. bm25s
makes no vectors: it counts words into an index of its own and stems none here.
Processor time, turns in alternation.

    python -m benchmarks.bm25_speed [--turns N] [--texts N] [--data FOLDER]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bm25s
import qdrant_edge
from fastembed.sparse.bm25 import Bm25 as FastembedBm25

from benchmarks import corpus, harness
from benchmarks.harness import Aim, Table
from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.encoders.words import STOP_WORDS

BATCH_TEXTS = 256
Encode = Callable[[list[str]], None]


def ours(profile: str) -> Encode:
    def encode(texts: list[str]) -> None:
        encoder = Bm25Encoder(profile)
        for start in range(0, len(texts), BATCH_TEXTS):
            encoder.encode_documents(texts[start : start + BATCH_TEXTS])

    return encode


def fastembed(folder: Path) -> Encode:
    (folder / "english.txt").write_text("\n".join(sorted(STOP_WORDS)))
    model = FastembedBm25("Qdrant/bm25", specific_model_path=str(folder))
    assert model.stopwords == STOP_WORDS

    def encode(texts: list[str]) -> None:
        for _ in model.embed(texts, batch_size=BATCH_TEXTS):
            pass

    return encode


def edge() -> Encode:
    model = qdrant_edge.Bm25(qdrant_edge.Bm25Config())

    def encode(texts: list[str]) -> None:
        for text in texts:
            model.embed_document(text)

    return encode


def counting_index(texts: list[str]) -> None:
    tokens = bm25s.tokenize(texts, show_progress=False)
    bm25s.BM25().index(tokens, show_progress=False)


def measure(texts: list[str], turns: int) -> Table:
    """Return the median seconds of each contender."""
    with tempfile.TemporaryDirectory() as folder:
        encoders: dict[str, Encode] = {
            "ours, qdrant-word": ours("qdrant-word"),
            "ours, fastembed": ours("fastembed"),
            "ours, code": ours("code"),
            "qdrant-edge": edge(),
            "fastembed": fastembed(Path(folder)),
            "bm25s, no stems": counting_index,
        }
        seconds = harness.take_turns(
            {name: (lambda e=e: e(texts)) for name, e in encoders.items()},  # type: ignore[misc]
            turns,
            clock=time.process_time,
        )
    return Table(
        "bm25",
        "BM25 vectors, one core",
        "texts",
        harness.rows_of(seconds, len(texts), "fastembed"),
        reference="fastembed",
        aims=(
            Aim("ours, qdrant-word", "fastembed", at_least=3.0),
            Aim("ours, qdrant-word", "qdrant-edge", at_least=0.9),
        ),
        remark=f"{len(texts):,} chunks of {sum(map(len, texts)) // len(texts):,} "
        "characters on average, processor time, our memory of words empty at first.",
    )


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=5)
    parser.add_argument("--texts", type=int, default=5000)
    asked = parser.parse_args()
    texts = corpus.chunks(asked.data, asked.texts)
    return harness.report([measure(texts, asked.turns)], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
