"""The base that training starts from: its parameters, its shape, its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from safetensors.numpy import load_file

from ..config import RerankingConfig
from ..encoders.bert_pairs import BertShape
from ..encoders.difference_model import base_config, base_state
from ..encoders.sources import locate_model
from ..encoders.weight_difference import WEIGHTS, apply_difference, difference_folder
from ..errors import ModelError
from .low_rank import LowRankBert, Start
from .pairs import PairEncoder
from .settings import TrainingConfig


@dataclass(frozen=True, slots=True)
class Base:
    """A BERT encoder in a folder, and where on the way from it training begins."""

    folder: Path
    shape: BertShape
    start: Start

    def model(
        self, config: TrainingConfig, *, dtype: str, device: str = "cpu"
    ) -> LowRankBert:
        """Return the model to be trained."""
        return LowRankBert(
            self.start,
            self.shape,
            rank=config.rank,
            first_layer=config.first_layer,
            seed=config.seed,
            dtype=dtype,
            device=device,
        )

    def encoder(self, config: TrainingConfig) -> PairEncoder:
        """Return what makes the model's input of texts."""
        return PairEncoder(self.folder, config.max_tokens)


def find_base(
    config: RerankingConfig, *, offline: bool = False, anew: bool = False
) -> Base:
    """Return the base of a reranker that is kept as a difference.

    Training begins with that difference, or without any where `anew` is set.

    Raises:
        ModelNotAvailable: base or difference are not on this machine.
        ModelMismatch: they do not belong together.
        ModelError: the base is no BERT encoder.
    """
    location = locate_model(
        config.hf_model_id,
        revision=config.revision,
        package=config.package,
        offline=offline,
        weights_sha256=config.weights_sha256,
    )
    base = open_base(location.path)
    if anew or config.difference is None:
        return base
    folder = difference_folder(config.difference)
    state = apply_difference(base.start.base, config.weights_sha256 or "", folder)
    tensors = load_file(folder / WEIGHTS)
    start = Start(base.start.base, state, tensors)
    return Base(base.folder, base.shape, start)


def open_base(folder: Path) -> Base:
    """Return the base in a folder, with no difference.

    Raises:
        ModelError: it is no BERT encoder.
    """
    shape = BertShape.of(SimpleNamespace(**base_config(folder)))
    if shape is None:
        raise ModelError(
            f"The base in {folder} is no BERT encoder.",
            cure="Start from the embedded model.",
        )
    return Base(folder, shape, Start.at_base(base_state(folder)))
