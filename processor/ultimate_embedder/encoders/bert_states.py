"""Hidden states of BERT, RoBERTa and XLM-RoBERTa on a CPU: one text, one pass.

A text is padded to a length that follows from its own and computed alone, so nothing
else decides its bytes. Products of one text are large enough for one core, and what
they work on stays in its cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..records import Int64Array, UInt32Array
from .bert_layer import LAYER_MODULES, Attention, BertLayer, Norm, first_attention

_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
_PRECISIONS = (torch.float32, torch.bfloat16)
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_UNUSED = "pooler."


class BertStates:
    """A BERT-like encoder without the library around it. Threads may share one."""

    def __init__(self, model: Any) -> None:
        """Take the weights over: `model`, for which `is_bert_like` holds, loses them.

        So the layers are never twice in memory.
        """
        config = model.config
        embeddings = model.embeddings
        words, positions, types = (
            getattr(embeddings, name).weight.detach() for name in _EMBEDDINGS
        )
        self._words: Tensor = words
        self._places: Tensor = positions + types[0]
        norm = embeddings.LayerNorm
        self._norm = Norm(norm.weight.detach(), norm.bias.detach(), norm.eps)
        self._padding_id = config.pad_token_id or 0
        self._counts_padding = config.model_type == "bert"
        self._layers = [
            _taken(model.encoder.layer, number, config)
            for number in range(config.num_hidden_layers)
        ]

    def states(
        self, ids: UInt32Array, positions: int, *, attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the last states of a text [tokens, width], computed at `positions`.

        With `attention` also how the first token attends in the last layer, float32
        [tokens], averaged over heads; it changes no byte of the states.
        """
        tokens, gathering = len(ids), Attention()
        with torch.inference_mode():
            states = self._embedded(ids, positions)
            for layer in self._layers[:-1]:
                states = layer(states, tokens, gathering)
            last = self._layers[-1]
            query, key, value = last.projected(states)
            attended = first_attention(query, key, tokens) if attention else None
            gathered = gathering.gather(query, key, value, tokens)
            return last.finished(states, gathered)[:tokens], attended

    def _embedded(self, ids: UInt32Array, positions: int) -> Tensor:
        padded = np.full(positions, self._padding_id, dtype=np.int64)
        padded[: len(ids)] = ids
        words = self._words[torch.from_numpy(padded)]
        if self._counts_padding:
            return self._norm(words.add_(self._places[:positions]))
        places = places_after_padding(padded, self._padding_id)
        return self._norm(words.add_(self._places[places]))


def places_after_padding(ids: Int64Array, padding_id: int) -> Tensor:
    """Return int64 [positions]: where the tokens stand in all families but BERT.

    Places begin after that of the padding. A token of the padding's id, be it in the
    text or behind it, has the padding's place and is not counted.
    """
    own = ids != padding_id
    return torch.from_numpy(np.cumsum(own) * own + padding_id)


def is_bert_like(model: Any) -> bool:
    """Say whether `BertStates` computes what a loaded transformers model does."""
    config = model.config
    if getattr(config, "model_type", None) not in _FAMILIES:
        return False
    position = getattr(config, "position_embedding_type", None) or "absolute"
    known = ("transformers.models.", f"{__package__}.")
    own_code = not type(model).__module__.startswith(known)
    if own_code or position != "absolute" or config.hidden_act != "gelu":
        return False
    state = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(_UNUSED)
    }
    precisions = {value.dtype for value in state.values() if value.is_floating_point()}
    return (
        not getattr(config, "is_decoder", False)
        and set(state) == _parameters(config.num_hidden_layers)
        and len(precisions) == 1
        and precisions <= set(_PRECISIONS)
    )


def _parameters(layers: int) -> set[str]:
    modules = ["embeddings.LayerNorm"]
    for layer in range(layers):
        modules += [f"encoder.layer.{layer}.{name}" for name in LAYER_MODULES]
    return {
        *(f"embeddings.{name}.weight" for name in _EMBEDDINGS),
        *(f"{name}.{kind}" for name in modules for kind in ("weight", "bias")),
    }


def _taken(layers: nn.ModuleList, number: int, config: Any) -> BertLayer:
    """Return a layer's weights as they are computed with, and drop its module."""
    layer = BertLayer.of(
        {name: one.detach() for name, one in layers[number].state_dict().items()},
        "",
        heads=config.num_attention_heads,
        epsilon=config.layer_norm_eps,
    )
    layers[number] = nn.Identity()
    return layer
