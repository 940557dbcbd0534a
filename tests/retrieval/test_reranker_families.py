"""Rerankers of each family score a pair as transformers alone does, beside any other.

The reference is one pair, no padding, in float32.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    ModernBertConfig,
    Qwen2Config,
    Qwen3Config,
    XLMRobertaConfig,
)

from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.classifier_loading import (
    load_classifier,
    read_pair_tokenizer,
)
from processor.ultimate_embedder.encoders.cross_encoder import TorchCrossEncoder
from processor.ultimate_embedder.errors import (
    DeviceOutOfMemory,
    ModelError,
    ModelMismatch,
    ModelNotAvailable,
)
from processor.ultimate_embedder.models.catalogue import rerank_model

WINDOW = 40
WORDS = [f"word{i}" for i in range(90)]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 1,
    "num_labels": 1,
    "initializer_range": 0.4,
}
DECODER: dict[str, Any] = {
    **SHAPE,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
ENDS: dict[str, Any] = {
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
}

FAMILIES: dict[str, Any] = {
    "bert": lambda: BertConfig(**SHAPE, max_position_embeddings=WINDOW),
    "xlm-roberta": lambda: XLMRobertaConfig(
        **SHAPE, max_position_embeddings=WINDOW + 2, type_vocab_size=1
    ),
    "modernbert-cls": lambda: ModernBertConfig(
        **SHAPE, **ENDS, max_position_embeddings=WINDOW, local_attention=16
    ),
    "modernbert-mean": lambda: ModernBertConfig(
        **SHAPE,
        **ENDS,
        max_position_embeddings=WINDOW,
        local_attention=16,
        classifier_pooling="mean",
    ),
    "qwen2": lambda: Qwen2Config(**DECODER),
    "qwen3": lambda: Qwen3Config(**DECODER, head_dim=8),
    "qwen3-without-padding": lambda: Qwen3Config(
        **{**DECODER, "pad_token_id": None}, head_dim=8
    ),
}


def save_tokenizer(folder: Path, family: str) -> None:
    """Write a tokenizer of whole words; a decoder's puts nothing around a pair."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    if not family.startswith("qwen"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> $B:1 </s>:1",
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    # What a tokenizer saved by default states, whatever the model takes.
    names = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_input_names": names})
    )


def save_reranker(folder: Path, family: str) -> RerankingConfig:
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_config(FAMILIES[family]())
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(folder, family)
    return RerankingConfig(name=family, hf_model_id=str(folder), max_tokens=WINDOW)


def some_pairs(number: int) -> list[tuple[str, str]]:
    draw = random.Random(4)
    return [
        (
            " ".join(draw.choices(WORDS, k=draw.randint(1, 8))),
            " ".join(draw.choices(WORDS, k=draw.randint(1, 50))),
        )
        for _ in range(number)
    ]


def reference(config: RerankingConfig, pairs: list[tuple[str, str]]) -> list[float]:
    path = Path(config.hf_model_id)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=torch.float32
    ).eval()
    tokenizer = read_pair_tokenizer(path, config)
    scores = []
    for pair in pairs:
        found = tokenizer.encode(*pair)
        inputs = {"input_ids": torch.tensor([found.ids])}
        if model.config.model_type == "bert":
            inputs["token_type_ids"] = torch.tensor([found.type_ids])
        with torch.inference_mode():
            scores.append(float(model(**inputs).logits[0, 0]))
    return scores


def opened(config: RerankingConfig, *, together: bool) -> TorchCrossEncoder:
    """Return the reranker in float32, as on a GPU if pairs are taken together."""
    path = Path(config.hf_model_id)
    if not together:
        return TorchCrossEncoder.load(config, offline=True, dtype="float32")
    model = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=torch.float32
    ).eval()
    return TorchCrossEncoder(
        model,
        read_pair_tokenizer(path, config),
        config,
        device="cpu",
        segments=config.name == "bert",
        together=True,
    )


@pytest.mark.parametrize("together", [False, True], ids=["one-by-one", "one-batch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_each_pair_alone_whatever_the_batch(
    tmp_path: Path, family: str, together: bool
) -> None:
    config = save_reranker(tmp_path / family, family)
    pairs = some_pairs(16)
    expected = reference(config, pairs)
    scorer = opened(config, together=together)
    lengths = scorer.pair_lengths(pairs)
    assert np.ptp(expected) > 0.1 and max(lengths) == WINDOW > min(lengths)
    for size in (1, 5, 16):
        found = [
            score
            for start in range(0, len(pairs), size)
            for score in scorer.score(pairs[start : start + size])
        ]
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_text_that_holds_the_padding_token_is_scored_as_alone(
    tmp_path: Path, family: str
) -> None:
    config = save_reranker(tmp_path, family)
    pairs = [(query, f"<pad> {text} <pad> {query}") for query, text in some_pairs(8)]
    found = opened(config, together=False).score(pairs)
    assert found == pytest.approx(reference(config, pairs), abs=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_score_that_is_no_number_is_an_error_on_a_cpu(
    tmp_path: Path, threads: int
) -> None:
    config = save_reranker(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.weight"][:] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    scorer = TorchCrossEncoder.load(config, offline=True, threads=threads)
    with pytest.raises(ModelError, match="not finite"):
        scorer.score(some_pairs(3))


@pytest.mark.parametrize(
    ("family", "batched"),
    [("modernbert-cls", True), ("qwen2", True), ("qwen3-without-padding", False)],
)
def test_positions_are_those_that_are_computed(
    tmp_path: Path, family: str, batched: bool
) -> None:
    scorer = opened(save_reranker(tmp_path, family), together=True)
    assert scorer.padded_tokens([7, 3, 5]) == (24 if batched else 15)
    assert scorer.padded_tokens([]) == 0


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("xlm-roberta", "bfloat16"),
        ("modernbert-cls", "bfloat16"),
        ("modernbert-cls", "float16"),
        ("qwen3", "bfloat16"),
        ("qwen3", "float16"),
    ],
)
def test_in_16_bits_scores_stay_near(tmp_path: Path, family: str, dtype: str) -> None:
    config = save_reranker(tmp_path / family, family)
    pairs = some_pairs(16)
    expected = reference(config, pairs)
    scorer = TorchCrossEncoder.load(config, offline=True, dtype=dtype)
    assert scorer.dtype == dtype
    assert np.corrcoef(scorer.score(pairs), expected)[0, 1] > 0.98


def test_a_model_without_a_classifier_in_its_files_is_refused(tmp_path: Path) -> None:
    config = save_reranker(tmp_path / "qwen3", "qwen3")
    (tmp_path / "qwen3" / "model.safetensors").unlink()
    AutoModel.from_config(FAMILIES["qwen3"]()).save_pretrained(tmp_path / "qwen3")
    with pytest.raises(ModelMismatch, match=r"the first is score\.weight") as raised:
        TorchCrossEncoder.load(config, offline=True)
    assert raised.value.cure


def test_positions_after_the_padding_are_no_room_for_tokens(tmp_path: Path) -> None:
    config = save_reranker(tmp_path, "xlm-roberta")
    with pytest.raises(ModelMismatch, match=f"has {WINDOW} positions"):
        load_classifier(
            replace(config, max_tokens=WINDOW + 1),
            device="cpu",
            dtype="float32",
            offline=True,
        )


def test_a_listwise_reranker_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ModelNotAvailable, match="whole lists") as raised:
        TorchCrossEncoder.load(rerank_model("jina-reranker-v3"))
    assert "bge-reranker-v2-m3" in (raised.value.cure or "")


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    config = save_reranker(tmp_path, "qwen3")
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')\n")
    stated = json.loads((tmp_path / "config.json").read_text())
    classes = {
        "AutoConfig": "own.Config",
        "AutoModelForSequenceClassification": "own.Model",
    }
    stated |= {"model_type": "of-its-own", "auto_map": classes}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(ModelError, match="code of its own, which is not run") as raised:
        TorchCrossEncoder.load(config, offline=True)
    assert "--trust-remote-code" in (raised.value.cure or "")


def test_memory_that_fails_is_told_with_model_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = opened(save_reranker(tmp_path, "qwen2"), together=True)

    def fail(**_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(scorer, "_model", fail)
    monkeypatch.setattr(scorer, "_inputs", lambda _: {})
    with pytest.raises(DeviceOutOfMemory, match="qwen2 ran out of memory on cpu"):
        scorer.score(some_pairs(2))


def test_a_score_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    scorer = opened(save_reranker(tmp_path, "qwen2"), together=True)
    with torch.no_grad():
        scorer._model.score.weight.fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite"):
        scorer.score(some_pairs(3))
