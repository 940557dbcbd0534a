"""The layers of our own give what transformers gives, and what a layer needs to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from processor.ultimate_embedder.encoders import bert_layer
from processor.ultimate_embedder.encoders.bert_layer import Attention, product
from processor.ultimate_embedder.encoders.bert_states import BertStates, is_bert_like
from processor.ultimate_embedder.records import UInt32Array

SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 700,
}


def bert(scale: float = 1.0) -> BertModel:
    """Return a small model; `scale` makes its attention sharper."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SHAPE, attn_implementation="eager")).eval()
    for layer in model.encoder.layer:
        layer.attention.self.query.weight.data *= scale
    return model


def some_ids(length: int) -> UInt32Array:
    return np.random.default_rng(length).integers(5, 100, length).astype(np.uint32)


def alone(model: Any, ids: UInt32Array) -> tuple[np.ndarray, np.ndarray]:
    """Return states and the first token's attention, as transformers has them."""
    with torch.inference_mode():
        rows = torch.from_numpy(ids.astype(np.int64))[None]
        found = model(input_ids=rows, output_attentions=True)
    return found[0][0].numpy(), found.attentions[-1][0].mean(dim=0)[0].numpy()


def assert_same_as_transformers(model: Any, ids: UInt32Array, positions: int) -> None:
    states, attention = alone(model, ids)
    found, attended = BertStates(model).states(ids, positions, attention=True)
    assert attended is not None
    np.testing.assert_allclose(found.numpy(), states, atol=2e-5)
    np.testing.assert_allclose(attended.numpy(), attention, atol=2e-5)


@pytest.mark.parametrize(("tokens", "positions"), [(2, 16), (16, 16), (37, 48)])
def test_states_and_attention_are_those_of_transformers(
    tokens: int, positions: int
) -> None:
    assert_same_as_transformers(bert(), some_ids(tokens), positions)


def test_texts_too_long_for_all_scores_at_once_agree_too() -> None:
    assert_same_as_transformers(bert(), some_ids(610), 624)


def test_the_activation_is_the_exact_one_where_its_values_are_large() -> None:
    wide = bert()
    for layer in wide.encoder.layer:
        layer.intermediate.dense.weight.data *= 20
        layer.output.dense.weight.data *= 20
    assert_same_as_transformers(wide, some_ids(20), 32)


def test_scores_beyond_the_range_of_powers_of_two_are_computed_shifted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shifted = []
    by_kernel = bert_layer._by_kernel
    monkeypatch.setattr(
        bert_layer, "_by_kernel", lambda *a: shifted.append(a) or by_kernel(*a)
    )
    sharp = bert(scale=30_000.0)
    ids = some_ids(20)
    states, _ = alone(sharp, ids)
    found, _ = BertStates(sharp).states(ids, 32)
    assert shifted
    # Weights of nearly one token each: the order of sums shows more.
    np.testing.assert_allclose(found.numpy(), states, atol=1e-3)


@pytest.mark.parametrize("shift", [-300.0, -140.0, 0.0, 100.0, 300.0])
def test_what_attention_gathers_does_not_change_by_a_shift_of_all_scores(
    shift: float,
) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 16, 8).unbind(0)
    query[..., 0], key[..., 0] = 1.0, 0.0
    scores = (query @ key.transpose(1, 2)).double() * np.log(2)
    expected = scores.softmax(dim=-1) @ value.double()
    key[..., 0] = shift
    found = Attention().gather(query, key, value, 16).transpose(0, 1)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)


def test_a_padding_token_within_a_text_has_the_place_that_transformers_gives() -> None:
    torch.manual_seed(0)
    config = RobertaConfig(
        **SHAPE, pad_token_id=1, type_vocab_size=1, attn_implementation="eager"
    )
    model = RobertaModel(config).eval()
    ids = some_ids(20)
    ids[7] = 1
    assert_same_as_transformers(model, ids, 32)


def test_asking_for_attention_and_other_texts_before_change_no_byte() -> None:
    states = BertStates(bert().bfloat16())
    ids = some_ids(40)
    first, _ = states.states(ids, 48)
    states.states(some_ids(200), 208)
    again, _ = states.states(ids, 48, attention=True)
    assert torch.equal(first, again)


@pytest.mark.parametrize("rows", [1, 16, 250])
def test_weights_laid_out_once_give_the_bytes_of_linear(rows: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64).bfloat16(), torch.randn(96).bfloat16()
    states = torch.randn(rows, 64).bfloat16()
    expected = torch.nn.functional.linear(states, weight, bias)
    difference = (product(weight, bias)(states) - expected).abs().max()
    assert difference <= 2**-8 * expected.abs().max()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "relu"},
        {"is_decoder": True},
        {"is_decoder": True, "add_cross_attention": True},
        {"position_embedding_type": "relative_key"},
    ],
)
def test_what_is_computed_otherwise_is_left_to_transformers(
    change: dict[str, Any],
) -> None:
    assert is_bert_like(bert())
    assert not is_bert_like(BertModel(BertConfig(**SHAPE, **change)))


def test_weights_of_other_precisions_are_left_to_transformers() -> None:
    assert is_bert_like(bert().bfloat16())
    assert not is_bert_like(bert().half())
    mixed = bert()
    mixed.embeddings.word_embeddings.bfloat16()
    assert not is_bert_like(mixed)
