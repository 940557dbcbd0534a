"""A reranker that is kept as a difference: put together, and given out as a whole.

The base is a BERT encoder without a head. Its classifier starts at zero, so that with
no difference at all every pair has the logit 0 and a blend leaves the list as it is.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..config import RerankingConfig
from ..errors import UsageError
from ..records import Float32Array
from .content_sums import file_sha256
from .sources import locate_model
from .weight_difference import apply_difference, difference_folder

_WEIGHTS = "model.safetensors"
_PREFIX = "bert."
_BUFFERS = ("embeddings.position_ids",)
_COPIED = ("special_tokens_map.json", "vocab.txt")
_IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True, slots=True)
class DifferenceModel:
    """All parameters of a BertForSequenceClassification with one label.

    `base` is the folder with the base's configuration and tokenizer.
    """

    state: dict[str, Float32Array]
    base: Path


def base_state(folder: Path) -> dict[str, Float32Array]:
    """Return a base's parameters with a classifier of zeros on top, in float32."""
    found: dict[str, Float32Array] = {
        _PREFIX + name: np.asarray(tensor, dtype=np.float32)
        for name, tensor in load_file(folder / _WEIGHTS).items()
        if name not in _BUFFERS
    }
    width = len(found["bert.pooler.dense.bias"])
    found["classifier.weight"] = np.zeros((1, width), dtype=np.float32)
    found["classifier.bias"] = np.zeros(1, dtype=np.float32)
    return found


def load_difference(
    config: RerankingConfig, *, offline: bool = False
) -> DifferenceModel:
    """Find the base and apply the difference that `config` names.

    Raises:
        ModelNotAvailable: the base or the difference is not here.
        ModelMismatch: they do not belong together.
        ModelError: the difference is damaged.
    """
    if config.difference is None:
        raise UsageError(f"Reranker {config.name} is no weight difference.")
    location = locate_model(
        config.hf_model_id,
        revision=config.revision,
        package=config.package,
        offline=offline,
        weights_sha256=config.weights_sha256,
    )
    sha256 = file_sha256(location.path / _WEIGHTS)
    folder = difference_folder(config.difference)
    base = base_state(location.path)
    return DifferenceModel(apply_difference(base, sha256, folder), location.path)


def base_config(folder: Path) -> dict[str, Any]:
    """Return the base's configuration as that of a classifier with one label."""
    stated: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    stated.pop("_name_or_path", None)
    return stated | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }


def export_cross_encoder(
    config: RerankingConfig, folder: Path, *, offline: bool = False
) -> None:
    """Write a folder that sentence-transformers' `CrossEncoder` opens: float32.

    Its scores are the logits: the folder asks for no activation on top of them.

    Raises:
        UsageError: `config` is no weight difference, or the folder holds something.
        ModelError: the model cannot be put together.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not empty.", cure="Name a folder that does not exist yet."
        )
    model = load_difference(config, offline=offline)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state, folder / _WEIGHTS, metadata={"format": "pt"})
    activation = {"sentence_transformers": {"activation_fn": _IDENTITY}}
    _write(folder / "config.json", base_config(model.base) | activation)
    tokenizer = json.loads((model.base / "tokenizer.json").read_bytes())
    _write(folder / "tokenizer.json", tokenizer | {"truncation": None, "padding": None})
    settings = json.loads((model.base / "tokenizer_config.json").read_bytes())
    settings.pop("name_or_path", None)
    window = {"model_max_length": config.max_tokens}
    _write(folder / "tokenizer_config.json", settings | window)
    for name in _COPIED:
        shutil.copyfile(model.base / name, folder / name)
    card = difference_folder(config.difference or "") / "README.md"
    if card.is_file():
        shutil.copyfile(card, folder / card.name)


def _write(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
