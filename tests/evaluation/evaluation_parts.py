"""A dozen documents with judged queries, and models that need no weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.encoders.attention_sparse import AttentionSparseEncoder
from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.evaluation.beir import find_beir_folders
from processor.ultimate_embedder.evaluation.evaluate import JudgedCorpora
from processor.ultimate_embedder.evaluation.judged_bundle import EvaluationChoices
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.records import Float32Array, SparseVector
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import (
    HashingModels,
    WordOverlapScorer,
    hashing_parts,
)

MINILM = dense_model("all-miniLM-l6")
ANIMALS = {
    "walrus": "sleeps on the ice of the northern sea and eats clams",
    "parrot": "repeats the words that it hears in a crowded market",
    "camel": "carries salt through the desert for a month without water",
    "beaver": "builds dams of wood and mud across small rivers",
    "spider": "weaves a web between two branches and waits for flies",
    "salmon": "swims up the river in which it was born to spawn",
}
MACHINES = {
    "lathe": "turns a piece of metal against a fixed cutting tool",
    "pump": "moves water from a deep well to a tank on the roof",
    "crane": "lifts heavy beams to the upper floors of a building site",
    "loom": "crosses threads under tension so that cloth is made",
    "kiln": "burns clay at a great heat until it becomes hard brick",
    "mill": "grinds grain between two stones into fine flour",
}
QUERIES = {
    "q1": "which animal builds dams of wood",
    "q2": "who carries salt through the desert",
    "q3": "how is grain made into flour",
    "q4": "what lifts beams to the upper floors",
    "q5": "fish that swims up the river to spawn",
    "nobody judged this": "colour of the night sky",
}
RELEVANT = {
    "q1": {"animal/beaver": 2, "animal/spider": 0},
    "q2": {"animal/camel": 1},
    "q3": {"machine/mill": 1, "machine/kiln": 1},
    "q4": {"machine/crane": 1},
    "q5": {"animal/salmon": 1, "animal/walrus": 1},
}


def write_beir(folder: Path, *, split: str = "test", repeat: int = 1) -> Path:
    """Write the dozen; `repeat` makes the texts so many times as long."""
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {
            "_id": f"{kind}/{name}",
            "title": f"The {name} at work",
            "text": text(name, verb),
        }
        for kind, group in (("animal", ANIMALS), ("machine", MACHINES))
        for name, verb in group.items()
        for text in [lambda n, v: "\n\n".join([f"A {n} {v}."] * repeat)]
    ]
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(
        folder / "queries.jsonl",
        [{"_id": key, "text": text} for key, text in QUERIES.items()],
    )
    write_qrels(folder / "qrels" / f"{split}.tsv", RELEVANT)
    return folder


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), "utf-8")
    return path


def write_qrels(path: Path, judgements: dict[str, dict[str, int]]) -> Path:
    lines = [
        f"{query}\t{name}\t{gain}\n"
        for query, judged in judgements.items()
        for name, gain in judged.items()
    ]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), "utf-8")
    return path


class HashingQueries:
    """Encodes queries as `hashing_parts` encodes documents."""

    def __init__(self) -> None:
        self._models = HashingModels(offline=True)
        self._tokenizer = self._models.tokenizer(MINILM)
        self._bm25 = Bm25Encoder()
        self._attention = AttentionSparseEncoder(
            self._tokenizer.backend, name="qdrant-minilm-attention"
        )

    def dense(self, text: str, key: str | None = None) -> Float32Array:
        with self._models.resident(MINILM) as encoder:
            ids = self._tokenizer.encode([text], "query").ids
            vector: Float32Array = encoder.encode(ids)[0]
            return vector

    def sparse(self, text: str, key: str | None = None) -> SparseVector:
        if key == self._attention.name:
            return self._attention.encode_query(text)
        return self._bm25.encode_query(text)

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        return WordOverlapScorer().score([(text, document) for document in documents])

    def close(self) -> None:
        """Hold nothing."""


def config_for(**changes: Any) -> PipelineConfig:
    config = PipelineConfig(
        chunked_dir=Path(),
        output_dir=Path(),
        dense=(MINILM,),
        sparse=(sparse_model("qdrant-bm25"), sparse_model("qdrant-minilm-attention")),
        rerank=rerank_model("ms-marco-minilm-l6"),
        exports=("npy", "jsonl"),
        offline=True,
    )
    return replace(config, **changes)


def corpora(data: Path, work_dir: Path, **changes: Any) -> JudgedCorpora:
    """Return what judges the collections in `data` without weights."""
    return replace(
        JudgedCorpora(
            folders=find_beir_folders(data),
            treatments=("whole",),
            config=config_for(),
            choices=EvaluationChoices(),
            work_dir=work_dir,
            emit=silent,
            parts=hashing_parts(),
            encoders=HashingQueries(),
        ),
        **changes,
    )


def tiny_cross_encoder(folder: Path) -> Path:
    """Write a CrossEncoder of one narrow layer with random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = HashingModels(offline=True).locate(MINILM).path
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    torch.manual_seed(0)
    shape = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    BertForSequenceClassification(shape).save_pretrained(folder)
    return folder
