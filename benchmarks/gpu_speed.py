"""Dense vectors on a GPU: ours against sentence-transformers, in one run.

Random weights in published shapes; texts of one length, then of all lengths up to it,
as a corpus has them. Ours goes through a worker process, in the batches of a run, with
files and syncs, in the precision it chooses for the card. The peers take float16 and
bfloat16, with FlashAttention 2 where it is installed. Each starts from texts.
Utilisation is what the model's products need, over the rate at which this device
multiplies large matrices, measured here.

    python -m benchmarks.gpu_speed [--turns N] [--texts N] [--tokens N] [--json FILE]
    python -m benchmarks.gpu_speed --tiny        # small models, on a CPU: does it run?
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
    Pooling,
    Transformer,
)
from transformers import AutoConfig, PreTrainedTokenizerFast

from benchmarks import dense_peers, harness
from benchmarks.dense_peers import Encode
from benchmarks.harness import Aim, Table
from benchmarks.memory_models import SHAPES, TINY_SHAPES, WORDS, Shape, save
from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.models.manager import ModelManager

MODELS = ("bge-m3", "jina-code-embeddings-1.5b")
TINY = ("tiny-xlm-roberta", "tiny-qwen3")
OURS, REFERENCE = "ours", "sentence-transformers, float16"
AIMS = (Aim(OURS, REFERENCE, at_least=1.5),)
_SPECIAL = 2  # tokens of a text that are no words
_NAMED_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>"}
_SECONDS = 1.0  # of a measurement of products
_POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


def lengths_of(number: int, tokens: int, *, mixed: bool) -> list[int]:
    """Return the tokens of each text: all the same, or evenly from a sixteenth on."""
    least = max(_SPECIAL + 1, tokens // 16) if mixed else tokens
    draw = random.Random(1)
    return [draw.randint(least, tokens) for _ in range(number)]


def texts_of(lengths: list[int]) -> list[str]:
    """Return different texts of so many tokens each, special ones counted."""
    draw = random.Random(0)
    words = [f"w{one}" for one in range(WORDS)]
    return [" ".join(draw.choices(words, k=one - _SPECIAL)) for one in lengths]


def saved(folder: Path, name: str, shape: Shape) -> ModelConfig:
    """Save a model that both sides load, and return its entry of a registry."""
    save(folder, shape)
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **_NAMED_TOKENS,
        model_max_length=shape.window,
    ).save_pretrained(folder)
    return ModelConfig(
        name=name,
        hf_model_id=str(folder),
        vector_dim=shape.make().hidden_size,
        max_tokens=shape.window,
        pooling=shape.pooling,
    )


def peer(config: ModelConfig, texts: list[str], device: str, **loading: Any) -> Encode:
    """Return `encode` of sentence-transformers with its own batches."""
    modules = [
        Transformer(
            config.hf_model_id,
            max_seq_length=config.max_tokens,
            model_kwargs={**loading, "local_files_only": True},
        ),
        Pooling(config.vector_dim, _POOLINGS[config.pooling]),  # type: ignore[arg-type]
        Normalize(),
    ]
    model = SentenceTransformer(modules=modules, device=device)
    return partial(model.encode, texts, show_progress_bar=False)


def peers(config: ModelConfig, texts: list[str], device: str) -> dict[str, Encode]:
    """Return the forms that the device and what is installed allow."""
    if device == "cpu":
        return {REFERENCE: peer(config, texts, device, dtype=torch.float16)}
    found = {}
    for words, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        name = f"sentence-transformers, {words}"
        found[name] = peer(config, texts, device, dtype=dtype)
        if find_spec("flash_attn"):
            found[f"{name}, FlashAttention 2"] = peer(
                config,
                texts,
                device,
                dtype=dtype,
                attn_implementation="flash_attention_2",
            )
    return found


def operations(folder: Path, lengths: list[int]) -> float:
    """Return the floating point operations of texts: 2 a weight and token, tables left
    out, and the two products of attention (Kaplan et al. 2020).
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    heads: int = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = 4 * config.num_hidden_layers * heads * size
    weights = 2 * _multiplied(folder)
    return float(sum(tokens * (weights + attention * tokens) for tokens in lengths))


def _multiplied(folder: Path) -> int:
    """Return how many weights of a model take part in products."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = (name for name in file.keys() if "embed" not in name)  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def multiplied_a_second(device: str, dtype: torch.dtype) -> float:
    """Return the floating point operations that large products do a second."""
    size = 8192 if device != "cpu" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in "lr")

    def finished() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    torch.mm(left, right)
    finished()
    rounds, begun = 0, time.perf_counter()
    while (took := time.perf_counter() - begun) < _SECONDS:
        torch.mm(left, right)
        finished()
        rounds += 1
    return rounds * 2 * size**3 / took


def run(
    name: str, shape: Shape, device: str, *, turns: int, lengths: list[int]
) -> Table:
    """Return medians of embedding texts of so many tokens."""
    words = texts_of(lengths)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        config = saved(folder, name, shape)
        precision = ModelManager(offline=True).dtype(device)
        contenders = peers(config, words, device)
        with dense_peers.ours(
            words, config, Path(scratch) / "ours", workers=1, device=device
        ) as opened:
            contenders = {OURS: opened.dense, **contenders}
            seconds = harness.take_turns(contenders, turns)
            vectors = {key: np.array(one()) for key, one in contenders.items()}
        rate = multiplied_a_second(device, getattr(torch, precision))
        needed = operations(folder, lengths)
    rows = harness.rows_of(seconds, sum(lengths), REFERENCE)
    used = {row.name: needed / row.median_seconds / rate for row in rows}
    mixed = min(lengths) < max(lengths)
    span = f"{min(lengths)} to {max(lengths)}" if mixed else f"{lengths[0]}"
    return Table(
        f"gpu-{name}{'-mixed' if mixed else ''}",
        f"Dense vectors of {name}'s shape on {_device_name(device)}, {span} tokens",
        "tokens",
        rows,
        reference=REFERENCE,
        aims=AIMS,
        remark=f"{len(lengths)} texts of {span} tokens, random weights, ours in "
        f"{precision}."
        f" Utilisation, of {rate / 1e12:.1f} TFLOP/s that large products reach: "
        f"{_shares(used)}. Lowest cosine of ours to {REFERENCE}: "
        f"{_lowest(vectors):.4f}.",
    )


def _shares(used: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in used.items())


def _lowest(vectors: Mapping[str, Any]) -> float:
    mine, theirs = (vectors[key].astype(np.float32) for key in (OURS, REFERENCE))
    return float((mine * theirs).sum(axis=1).min())


def _device_name(device: str) -> str:
    return "a CPU" if device == "cpu" else torch.cuda.get_device_name(device)


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=3, reads_texts=False)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--tiny", action="store_true", help="small models on a CPU")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        print("There is no CUDA device here; --tiny runs without.", file=sys.stderr)
        return 2
    shapes = TINY_SHAPES if asked.tiny else SHAPES
    tables = []
    device = "cpu" if asked.tiny else asked.device
    for name in TINY if asked.tiny else MODELS:
        tokens = min(asked.tokens, shapes[name].window)
        for mixed in (False, True):
            lengths = lengths_of(asked.texts, tokens, mixed=mixed)
            tables.append(
                run(name, shapes[name], device, turns=asked.turns, lengths=lengths)
            )
    if asked.tiny:
        tables = [replace(one, aims=()) for one in tables]  # a CPU proves none
    return harness.report(tables, asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
