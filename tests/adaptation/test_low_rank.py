"""What moves in training, and that its outcome is what search computes with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from adaptation_parts import SMALL, card, embedded, marked_groups, trainer
from safetensors.numpy import load_file, save_file

from processor.ultimate_embedder.adaptation.base import find_base
from processor.ultimate_embedder.adaptation.folder import write_folder
from processor.ultimate_embedder.adaptation.groups import Group
from processor.ultimate_embedder.adaptation.judging import (
    blended_ranks,
    fused_ranks,
)
from processor.ultimate_embedder.adaptation.low_rank import LowRankBert
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.cross_encoder import TorchCrossEncoder
from processor.ultimate_embedder.encoders.weight_difference import WEIGHTS
from processor.ultimate_embedder.errors import ModelError
from processor.ultimate_embedder.models.choice import choose_rerank
from processor.ultimate_embedder.retrieval.blend import BlendConfig

GROUPS = marked_groups(3, seed=5)
PAIRS = [pair for group in GROUPS for pair in group.pairs]
Tensors = dict[str, npt.NDArray[Any]]


def moved(model: LowRankBert, size: float = 0.2) -> LowRankBert:
    """Give everything that training moves other values, as training would."""
    torch.manual_seed(11)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * size)
    return model


def model_of(config: RerankingConfig, **options: Any) -> LowRankBert:
    """Return the model of a reranker before training, in float32."""
    settings = replace(SMALL, **options)
    return find_base(config, offline=True).model(settings, dtype="float32")


def logits(model: LowRankBert, config: RerankingConfig) -> npt.NDArray[np.float32]:
    encoder = find_base(config, offline=True).encoder(SMALL)
    with torch.no_grad():
        found: npt.NDArray[np.float32] = model.logits(encoder.batches(PAIRS)).numpy()
    return found


def searched_with(folder: Path, tensors: Tensors, config: RerankingConfig) -> Any:
    """Return the logits that search computes with the difference written."""
    write_folder(folder, tensors, card(config))
    scorer = TorchCrossEncoder.load(
        choose_rerank(str(folder)), offline=True, dtype="float32"
    )
    return scorer.score(PAIRS)


def test_gradients_reach_the_factors_the_pooler_and_the_classifier_alone(
    tiny: RerankingConfig,
) -> None:
    base = find_base(tiny, offline=True)
    model = moved(model_of(tiny, first_layer=1))
    model.logits(base.encoder(SMALL).batches(PAIRS)).square().sum().backward()
    assert all(tensor.grad is not None for tensor in model.parameters())
    parts = {name.removesuffix(".lora_A") for name in model.trained}
    parts = {name.removesuffix(".lora_B") for name in parts}
    assert parts == {
        *(
            f"bert.encoder.layer.1.{name}.weight"
            for name in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            )
        ),
        *("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        *("classifier.weight", "classifier.bias"),
    }
    frozen = list(vars(model)["_frozen"].values())
    assert len(frozen) == len(base.start.state) - 4
    assert not any(tensor.requires_grad for tensor in frozen)


def test_before_training_every_logit_is_0_and_a_blend_keeps_the_fused_order(
    tiny: RerankingConfig,
) -> None:
    found = trainer(tiny).logits(GROUPS)
    assert all(not scores.any() for scores in found)
    blend = BlendConfig(weight=2, bound=4)
    assert blended_ranks(GROUPS, found, blend) == fused_ranks(GROUPS)
    assert model_of(tiny).difference() == {}


@pytest.mark.parametrize("first_layer", [0, 1])
def test_what_is_written_gives_search_the_logits_of_training(
    tiny: RerankingConfig, tmp_path: Path, first_layer: int
) -> None:
    model = moved(model_of(tiny, first_layer=first_layer))
    aim = logits(model, tiny)
    found = searched_with(tmp_path / "new", model.difference(), tiny)
    assert float(aim.std()) > 0.1
    assert np.abs(found - aim).max() < 0.01 * np.abs(aim).max()


def test_a_batch_does_not_change_the_logits_of_its_pairs(
    tiny: RerankingConfig,
) -> None:
    model = moved(model_of(tiny))
    encoder = find_base(tiny, offline=True).encoder(SMALL)
    long = ("apple", "river " * 30)
    with torch.no_grad():
        alone = float(model.logits(encoder.batches(PAIRS[:1])))
        beside = float(model.logits(encoder.batches([long, PAIRS[0], long]))[1])
    assert alone == pytest.approx(beside, abs=1e-5)


def test_training_goes_on_from_a_difference_that_was_written(
    tiny: RerankingConfig, tmp_path: Path
) -> None:
    model = moved(model_of(tiny))
    tensors = model.difference()
    aim = searched_with(tmp_path / "first", tensors, tiny)
    first = replace(tiny, difference=str(tmp_path / "first"))
    again = model_of(first)
    assert np.abs(logits(again, first) - aim).max() < 1e-4 * np.abs(aim).max()
    for name, tensor in again.difference().items():
        assert np.array_equal(tensor, tensors[name]), name


def test_what_a_difference_holds_beyond_what_is_trained_is_kept(
    tiny: RerankingConfig, tmp_path: Path
) -> None:
    """Factors of a lower layer, a whole matrix where factors are trained, a bias."""
    tensors = moved(model_of(tiny)).difference()
    whole = "bert.encoder.layer.1.output.dense.weight"
    base = find_base(tiny, offline=True).start.base
    tensors[whole] = (base[whole] * 1.5).astype(np.float16)
    del tensors[whole + ".lora_A"], tensors[whole + ".lora_B"]
    bias = "bert.encoder.layer.0.output.LayerNorm.bias"
    tensors[bias] = base[bias] + np.float32(0.1)
    aim = searched_with(tmp_path / "first", tensors, tiny)
    first = replace(tiny, difference=str(tmp_path / "first"))
    again = model_of(first, first_layer=1)
    assert np.abs(logits(again, first) - aim).max() < 1e-3 * np.abs(aim).max()
    found = searched_with(tmp_path / "second", moved(again).difference(), tiny)
    assert np.abs(found - logits(again, first)).max() < 0.01 * np.abs(found).max()


def test_a_difference_of_higher_rank_keeps_it_and_a_lower_one_is_filled_up(
    tiny: RerankingConfig, tmp_path: Path
) -> None:
    tensors = moved(model_of(tiny, rank=4)).difference()
    aim = searched_with(tmp_path / "first", tensors, tiny)
    first = replace(tiny, difference=str(tmp_path / "first"))
    for rank, held in ((2, 4), (6, 6)):
        again = model_of(first, rank=rank)
        assert np.abs(logits(again, first) - aim).max() < 1e-4 * np.abs(aim).max()
        down = again.difference()["bert.encoder.layer.0.output.dense.weight.lora_A"]
        assert len(down) == held


def test_a_layer_that_is_not_there_is_refused(tiny: RerankingConfig) -> None:
    with pytest.raises(ModelError, match="no layer 2"):
        model_of(tiny, first_layer=2)


def test_values_that_are_not_finite_are_not_written(
    tiny: RerankingConfig, tmp_path: Path
) -> None:
    tensors = {"classifier.bias": np.array([np.inf], dtype=np.float32)}
    with pytest.raises(ModelError, match="finite"):
        write_folder(tmp_path / "new", tensors, card(tiny))
    assert not (tmp_path / "new").exists()


def test_the_embedded_model_computes_in_training_what_search_computes(
    tmp_path: Path,
) -> None:
    known = replace(embedded(), max_tokens=48)
    base = find_base(known, anew=True)
    settings = replace(SMALL, rank=4, first_layer=2)
    model = moved(base.model(settings, dtype="float32"), size=0.05)
    group = Group("how", "", ("a", "b b"), (1.0, -1.0), (1, 2))
    pairs = [*PAIRS[:3], *group.pairs]
    with torch.no_grad():
        aim = model.logits(base.encoder(SMALL).batches(pairs)).numpy()
    write_folder(tmp_path / "new", model.difference(), card(known))
    config = choose_rerank(str(tmp_path / "new"))
    scorer = TorchCrossEncoder.load(config, offline=True, dtype="float32")
    assert np.abs(scorer.score(pairs) - aim).max() < 0.01 * np.abs(aim).max()
    stored = load_file(tmp_path / "new" / WEIGHTS)
    assert {str(tensor.dtype) for name, tensor in stored.items() if "lora" in name} == {
        "float16"
    }
    save_file(stored, tmp_path / "again.safetensors")
    again = (tmp_path / "again.safetensors").read_bytes()
    assert (tmp_path / "new" / WEIGHTS).read_bytes() == again
