"""Real-size models of random weights under a memory cap, on texts of mixed lengths.

For each model: the most bytes held on the card against the cap, tokens a second, the
share of padding, passes that had to be split, and what the planner reckons beside what
was measured. Weights are random: speed and memory do not depend on them. The models are
built on the device from their published shapes; nothing is fetched.

    python -m benchmarks.memory_cap --json out.json
    python -m benchmarks.memory_cap --tiny          # small models on the CPU, seconds
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, Qwen2Config, Qwen3Config, XLMRobertaConfig

from processor.ultimate_embedder import memory_cost
from processor.ultimate_embedder.config import (
    DEFAULT_GPU_MEMORY_CAP_BYTES,
    GIB,
    ModelConfig,
    Pooling,
)
from processor.ultimate_embedder.encoders.adaptive import AdaptiveEncoder
from processor.ultimate_embedder.encoders.dense_torch import (
    TorchDenseEncoder,
    one_thread,
)
from processor.ultimate_embedder.encoders.device_probe import (
    CudaProbe,
    device_peak_bytes,
    enforce_cap,
)
from processor.ultimate_embedder.encoders.precision import (
    GUARDED_ATTENTION,
    GUARDED_DTYPE,
    cuda_dtype,
    guard_float16,
    register_guarded_attention,
)
from processor.ultimate_embedder.hardware import peak_memory_bytes, this_machine
from processor.ultimate_embedder.planning import ROWS_A_BATCH, plan_batches
from processor.ultimate_embedder.records import UInt32Array

LONGEST = 8192
SHORTEST = 16
BUDGET_TOKENS = 16384


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's published shape, and how it pools."""

    make: Callable[[], Any]
    pooling: Pooling


SHAPES = {
    "bge-m3": Shape(
        lambda: XLMRobertaConfig(
            vocab_size=250002,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            max_position_embeddings=8194,
            type_vocab_size=1,
            pad_token_id=1,
        ),
        "cls",
    ),
    "jina-code-embeddings-1.5b": Shape(
        lambda: Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            use_cache=False,
        ),
        "last",
    ),
    "qwen3-embedding-0.6b": Shape(
        lambda: Qwen3Config(
            vocab_size=151669,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=32768,
            use_cache=False,
        ),
        "last",
    ),
}

_SMALL: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 258,
}
TINY_SHAPES = {
    "tiny-xlm-roberta": Shape(
        lambda: XLMRobertaConfig(**_SMALL, pad_token_id=1), "cls"
    ),
    "tiny-qwen3": Shape(
        lambda: Qwen3Config(
            **_SMALL, num_key_value_heads=2, head_dim=8, use_cache=False
        ),
        "last",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one model took; bytes are bytes, on the CPU those of the process."""

    model: str
    device: str
    dtype: str
    parameters: int
    texts: int
    tokens: int
    longest: int
    cap_bytes: int | None
    peak_bytes: int
    after_bytes: int | None
    within_cap: bool | None
    estimated_bytes: int | None
    estimate_error: float | None
    padding_ratio: float
    oom_retries: int
    seconds: float
    tokens_per_second: float


def mixed_lengths(number: int, longest: int, seed: int = 0) -> list[int]:
    """Return lengths spread evenly by their logarithm; some are the longest."""
    draw = random.Random(seed)
    low, high = math.log(SHORTEST), math.log(longest)
    drawn = [round(math.exp(draw.uniform(low, high))) for _ in range(number - 2)]
    return [longest, longest, *drawn]


def build(name: str, shape: Shape, *, device: str, dtype: str) -> TorchDenseEncoder:
    """Return an encoder of random weights, made where it runs."""
    config = shape.make()
    guarded = dtype == GUARDED_DTYPE
    if guarded:
        register_guarded_attention()
    options = {"attn_implementation": GUARDED_ATTENTION} if guarded else {}
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=getattr(torch, dtype), **options)
    if guarded:
        guard_float16(model, name)
    stated = ModelConfig(
        name=name,
        hf_model_id=name,
        vector_dim=config.hidden_size,
        max_tokens=min(LONGEST, config.max_position_embeddings - 2),
        pooling=shape.pooling,
    )
    return TorchDenseEncoder(model.eval(), stated, device=device, dtype=dtype)


def measure(
    name: str,
    shape: Shape,
    lengths: Sequence[int],
    *,
    device: str,
    cap_bytes: int,
    budget_tokens: int,
) -> Measured:
    """Embed texts of random ids and return what it took.

    Raises:
        DeviceOutOfMemory: a text alone does not fit under the cap.
    """
    on_card = device != "cpu"
    if on_card:
        enforce_cap(device, cap_bytes)
    dtype = cuda_dtype(device) if on_card else this_machine().cpu_dtype
    probe = CudaProbe()
    encoder = build(name, shape, device=device, dtype=dtype)
    model = encoder._model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    adaptive = AdaptiveEncoder(
        encoder,
        name,
        budget_tokens=budget_tokens if on_card else None,
        release=(lambda: probe.free(device)) if on_card else (lambda: None),
        used_bytes=(
            (lambda: device_peak_bytes(device)) if on_card else peak_memory_bytes
        ),
        cap_bytes=cap_bytes if on_card else None,
    )
    with nullcontext() if on_card else one_thread():
        seconds, positions, retries = _embed(
            adaptive, lengths, model.config.vocab_size, budget_tokens
        )
    peak = device_peak_bytes(device) if on_card else peak_memory_bytes()
    estimated = _estimate(model.config, parameters, dtype, lengths, budget_tokens)
    encoder.close()
    del model, adaptive
    gc.collect()
    if on_card:
        probe.free(device)
    tokens = sum(lengths)
    return Measured(
        model=name,
        device=torch.cuda.get_device_name(device) if on_card else "cpu",
        dtype=dtype,
        parameters=parameters,
        texts=len(lengths),
        tokens=tokens,
        longest=max(lengths),
        cap_bytes=cap_bytes if on_card else None,
        peak_bytes=peak,
        after_bytes=probe.used_bytes(device) if on_card else None,
        within_cap=peak <= cap_bytes if on_card else None,
        estimated_bytes=estimated,
        estimate_error=estimated / peak - 1 if on_card and estimated else None,
        padding_ratio=positions / tokens - 1,
        oom_retries=retries,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
    )


def _embed(
    encoder: AdaptiveEncoder, lengths: Sequence[int], vocabulary: int, budget: int
) -> tuple[float, int, int]:
    """Return seconds, positions computed and passes split, over all planned batches."""
    draw = np.random.default_rng(0)
    ids: list[UInt32Array] = [
        draw.integers(5, vocabulary, length, dtype=np.uint32) for length in lengths
    ]
    positions = retries = 0
    started = time.perf_counter()
    for batch in _batches(lengths, budget):
        vectors = encoder.encode([ids[row] for row in batch])
        assert np.isfinite(vectors).all()
        cost = encoder.take_cost()
        positions += cost.positions
        retries += cost.oom_retries
    return time.perf_counter() - started, positions, retries


def _estimate(
    config: Any, parameters: int, dtype: str, lengths: Sequence[int], budget: int
) -> int:
    """Return what the planner reckons for the costliest pass, context included."""
    heads = config.num_attention_heads
    architecture = memory_cost.Architecture(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        gated=config.hidden_act == "silu",
        head="none",
        parameters=parameters,
    )
    return max(
        memory_cost.planned_peak_bytes(
            architecture,
            dtype,
            rows=len(batch),
            length=max(lengths[row] for row in batch),
        )
        for batch in _batches(lengths, budget)
    )


def _batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return the rows of each planned batch."""
    plan = plan_batches(
        np.array(lengths, dtype=np.int64),
        np.arange(len(lengths), dtype=np.int64),
        budget_tokens=budget,
        max_rows=ROWS_A_BATCH,
    )
    return [plan.batch(number).tolist() for number in range(len(plan))]


def run(
    *,
    tiny: bool,
    device: str,
    cap_bytes: int = DEFAULT_GPU_MEMORY_CAP_BYTES,
    texts: int = 256,
    budget_tokens: int = BUDGET_TOKENS,
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the figures of each model, with the date and the versions."""
    shapes = TINY_SHAPES if tiny else SHAPES
    lengths = mixed_lengths(texts, 256 if tiny else LONGEST)
    measured = [
        measure(
            name,
            shapes[name],
            lengths,
            device=device,
            cap_bytes=cap_bytes,
            budget_tokens=budget_tokens,
        )
        for name in models or shapes
    ]
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "budget_tokens": budget_tokens,
        "models": [asdict(one) for one in measured],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each model, write JSON; 1 if a peak is over the cap."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU")
    parser.add_argument(
        "--device", default=None, help="default cuda:0, cpu with --tiny"
    )
    parser.add_argument("--cap", type=float, default=12.0, help="GiB a card (12)")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--budget-tokens", type=int, default=BUDGET_TOKENS)
    parser.add_argument("--models", nargs="*", default=[], help="default: all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args(arguments)
    device = chosen.device or ("cpu" if chosen.tiny else "cuda:0")
    if device != "cpu" and not torch.cuda.is_available():
        print("There is no CUDA device here; --tiny runs without.", file=sys.stderr)
        return 2
    found = run(
        tiny=chosen.tiny,
        device=device,
        cap_bytes=int(chosen.cap * GIB),
        texts=chosen.texts,
        budget_tokens=chosen.budget_tokens,
        models=chosen.models,
    )
    for one in found["models"]:
        print(
            f"{one['model']}: peak {one['peak_bytes'] / GIB:.2f} GiB, "
            f"{one['tokens_per_second']:.0f} tokens/s, "
            f"padding {one['padding_ratio']:.1%}, {one['oom_retries']} retries"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if any(one["within_cap"] is False for one in found["models"]) else 0


if __name__ == "__main__":
    sys.exit(main())
