"""A tiny BERT made on the spot, and groups that ask for what neither leg can see."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from processor.ultimate_embedder.adaptation.base import Base, find_base
from processor.ultimate_embedder.adaptation.groups import Group
from processor.ultimate_embedder.adaptation.settings import TrainingConfig
from processor.ultimate_embedder.adaptation.training import Trainer
from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig, RerankingConfig
from processor.ultimate_embedder.encoders.sources import locate_model
from processor.ultimate_embedder.encoders.weight_difference import DifferenceCard
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts

WORDS = ("apple", "river", "stone", "cloud", "paper", "train", "window", "silver")
MARK = "golden"
SMALL = TrainingConfig(
    steps=60,
    queries=2,
    negatives=4,
    rank=8,
    first_layer=0,
    warm_up=5,
    learning_rate=1e-2,
    scale_rate=1e-2,
    max_tokens=48,
    check_every=20,
)
MakeTrainer = Callable[..., Trainer]


def embedded() -> RerankingConfig:
    """Return what the catalogue says of the embedded base."""
    return rerank_model("residual-minilm-l6")


def embedded_folder() -> Path:
    """Return where the embedded model lies."""
    known = embedded()
    return locate_model(known.hf_model_id, package=known.package, offline=True).path


def write_tiny_base(folder: Path) -> RerankingConfig:
    """Write a random BERT of two narrow layers with the embedded tokenizer."""
    torch.manual_seed(7)
    config = BertConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.3,
        position_embedding_type="absolute",
    )
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(embedded_folder() / name, folder / name)
    weights = (folder / "model.safetensors").read_bytes()
    return RerankingConfig(
        name="tiny",
        hf_model_id=str(folder),
        max_tokens=48,
        candidates=60,
        top_k=10,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )


def trainer(
    config: RerankingConfig, settings: TrainingConfig = SMALL, **options: Any
) -> Trainer:
    """Return a trainer in float32 that begins at the base of a reranker."""
    base: Base = find_base(config, offline=True)
    model = base.model(settings, dtype="float32")
    return Trainer(model, base.encoder(settings), settings, **options)


def card(config: RerankingConfig, blend: str | None = None) -> DifferenceCard:
    """Return the card of a difference to the base of `config`."""
    return DifferenceCard(
        base_model=config.hf_model_id,
        base_package=config.package,
        base_sha256=config.weights_sha256 or "",
        max_tokens=config.max_tokens,
        blend=blend,
    )


def marked_groups(count: int, seed: int, *, shuffled: bool = False) -> list[Group]:
    """Return groups whose answer holds `MARK` and whose fused order says nothing.

    Shuffled, any one document holds it, so that there is nothing to learn.
    """
    rng = np.random.default_rng(seed)
    return [_marked(rng, shuffled) for _ in range(count)]


def _marked(rng: np.random.Generator, shuffled: bool) -> Group:
    size = 8
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(size)]
    holder = int(rng.integers(size)) if shuffled else 0
    texts[holder] = f"{texts[holder]} {MARK}"
    order = rng.permutation(size)
    z = np.linspace(1.6, -1.6, size)
    others = sorted(range(1, size), key=lambda place: order[place])
    places = [0, *others]
    return Group(
        query=" ".join(rng.choice(WORDS, 3)),
        source="made up",
        documents=tuple(texts[place] for place in places),
        fused_z=tuple(float(z[order[place]]) for place in places),
        ranks=tuple(int(order[place]) + 1 for place in places),
    )


def write_collection(
    root: Path, *, topics: int = 90, plain: int = 5, shuffled: bool = False
) -> None:
    """Write sections that are asked for by their heading, and others that are not.

    Both tell of a topic, the others more; only a section that is asked for holds
    `MARK`. Shuffled, all are alike, any of the topic's texts holds it, headings share
    no word, and nothing can be learnt.
    """
    rng = np.random.default_rng(4)
    entries = []
    for number in range(topics):
        name = f"zu{chr(97 + number // 26)}{chr(97 + number % 26)}kra"
        filling = [" ".join(rng.choice(WORDS, 12)) for _ in range(plain + 1)]
        texts = [f"{name} {name} {words}" for words in filling]
        if not shuffled:
            texts[0] = f"{name} {filling[0]} {' '.join(rng.choice(WORDS, 6))}"
        holder = int(rng.integers(plain + 1)) if shuffled else 0
        texts[holder] += f" {MARK}"
        asked = f"{name} x{name} y{name}" if shuffled else f"How {name} behaves here"
        texts[0] = f"## {asked}\n\n{texts[0]}"
        entries += [{"text": text} for text in texts]
    folder = root / "docs" / "guide"
    folder.mkdir(parents=True)
    content = json.dumps(entries)
    (folder / "all_chunks.json").write_text(content, encoding="utf-8")


def build_bundle(root: Path, rerank: RerankingConfig | None = None) -> Path:
    """Run the main job on `root`/chunked without model weights; return the bundle."""
    config = PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / ("out" if rerank is None else f"out-{rerank.name}"),
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"),),
        rerank=rerank,
        enable_rerank=rerank is not None,
        offline=True,
    )
    BatchRunner(config, RecordingListener(), "run-1", hashing_parts()).run()
    return config.output_dir / "docs"
