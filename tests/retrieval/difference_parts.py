"""A weight difference of random numbers on the embedded base."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from processor.ultimate_embedder.encoders.difference_model import base_state
from processor.ultimate_embedder.encoders.sources import locate_model
from processor.ultimate_embedder.encoders.weight_difference import (
    DifferenceCard,
    write_difference,
)
from processor.ultimate_embedder.models.catalogue import rerank_model
from processor.ultimate_embedder.records import Float32Array

RESIDUAL = rerank_model("residual-minilm-l6")
CARD = DifferenceCard(
    base_model=RESIDUAL.hf_model_id,
    base_package=RESIDUAL.package,
    base_sha256=RESIDUAL.weights_sha256 or "",
    rank=4,
    max_tokens=48,
    blend="blend(weight=2, bound=1.5)",
)
CHANGED = (
    "bert.encoder.layer.2.attention.self.query.weight",
    "bert.encoder.layer.4.intermediate.dense.weight",
    "bert.encoder.layer.5.output.dense.weight",
)


@cache
def base() -> dict[str, Float32Array]:
    """Return the embedded base with its classifier of zeros."""
    found = locate_model(RESIDUAL.hf_model_id, package=RESIDUAL.package, offline=True)
    return base_state(found.path)


def trained() -> dict[str, Float32Array]:
    """Return the base with some matrices moved by rank 4, and a classifier."""
    rng = np.random.default_rng(3)
    found = dict(base())
    for name in CHANGED:
        rows, columns = found[name].shape
        step = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, columns)) * 0.01
        found[name] = (found[name] + step).astype(np.float32)
    for name in ("classifier.weight", "bert.encoder.layer.3.output.LayerNorm.bias"):
        step = rng.normal(size=found[name].shape) * 0.5
        found[name] = (found[name] + step).astype(np.float32)
    return found


def make_difference(folder: Path) -> Path:
    """Write the difference of `trained` to `base` and return its folder."""
    write_difference(folder, base(), trained(), CARD)
    return folder
