"""A folder with what training left: difference, card, README."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from ..encoders.weight_difference import CARD, MAX_BYTES, WEIGHTS, DifferenceCard
from ..errors import ModelError, UsageError

README = "README.md"


def check_target(folder: Path, *, cure: str) -> None:
    """Return if a difference may be written into a folder; `cure` says what else to do.

    Raises:
        UsageError: something is there that would be lost.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty.", cure=cure)


def write_folder(
    folder: Path,
    tensors: Mapping[str, npt.NDArray[Any]],
    card: DifferenceCard,
    readme: str | None = None,
) -> None:
    """Write a difference that `--rerank-model` takes, the card last.

    Raises:
        ModelError: a value is not finite, or it is too large; nothing is written then.
    """
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_BYTES:
        raise ModelError(
            f"The difference has {size} bytes; {MAX_BYTES} are allowed.",
            cure="Choose a smaller rank, or train fewer layers.",
        )
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelError(
                f"{name} holds values that are not finite.",
                cure="Train again with a smaller learning rate.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / WEIGHTS)
    if readme is not None:
        (folder / README).write_text(readme, encoding="utf-8")
    document = json.dumps(card.model_dump(mode="json"), indent=2)
    (folder / CARD).write_text(document + "\n", encoding="utf-8")
