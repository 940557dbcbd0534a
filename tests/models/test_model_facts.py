"""Width, window, pooling and prompts as a model's own files state them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel

from processor.ultimate_embedder.errors import ModelError, ModelMismatch
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.facts import check_prompts, read_facts
from processor.ultimate_embedder.models.manager import ModelManager

CODERANK = dense_model("nomic-coderank")
QWEN = dense_model("qwen3-embedding-0.6b")
JINA = dense_model("jina-code-embeddings-1.5b")


def stated(folder: Path, **files: Any) -> Path:
    """Write JSON files by name; `config` is always there."""
    for name, content in {"config": {}, **files}.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def prompts(folder: Path, default: str | None = None, **texts: str) -> Path:
    content = {"prompts": texts, "default_prompt_name": default}
    return stated(folder, config_sentence_transformers=content)


@pytest.mark.parametrize(
    ("files", "window"),
    [
        ({"config": {"max_position_embeddings": 512}}, 512),
        ({"config": {"n_positions": 2048}}, 2048),
        (
            {
                "config": {"max_position_embeddings": 512},
                "sentence_bert_config": {"max_seq_length": 256},
            },
            256,
        ),
        (
            {
                "config": {"max_position_embeddings": 512},
                "sentence_bert_config": {"max_seq_length": 9000},
            },
            512,
        ),
        (
            {
                "config": {"max_position_embeddings": 512},
                "tokenizer_config": {"model_max_length": 384},
            },
            384,
        ),
        (
            {
                "config": {"max_position_embeddings": 512},
                "tokenizer_config": {"model_max_length": 10**30},
            },
            512,
        ),
        (
            {
                "config": {
                    "model_type": "xlm-roberta",
                    "max_position_embeddings": 514,
                    "pad_token_id": 1,
                }
            },
            512,
        ),
        (
            {
                "config": {
                    "model_type": "nomic_bert",
                    "n_positions": 8192,
                    "max_trained_positions": 2048,
                }
            },
            2048,
        ),
        ({}, None),
    ],
)
def test_the_window_is_the_smallest_limit_that_is_stated(
    tmp_path: Path, files: dict[str, Any], window: int | None
) -> None:
    assert read_facts(stated(tmp_path, **files)).window == window


@pytest.mark.parametrize(
    ("content", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 32}, "mean"),
    ],
)
def test_pooling_is_read_in_both_forms(
    tmp_path: Path, content: dict[str, Any], pooling: str
) -> None:
    folder = stated(tmp_path, **{"1_Pooling__config": content})
    assert read_facts(folder).pooling == pooling


@pytest.mark.parametrize(
    "content",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode": "weightedmean"},
    ],
)
def test_a_pooling_that_is_not_done_here_is_refused(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match="which is not done here"):
        read_facts(stated(tmp_path, **{"1_Pooling__config": content}))


@pytest.mark.parametrize(
    ("texts", "default"),
    [
        ({"query": "q: ", "document": "d: "}, None),
        ({"query": "q: ", "passage": "p: "}, None),
        ({"query": "q: "}, None),
        ({"any": "a: "}, "any"),
        ({"query": "q: ", "any": "a: "}, "any"),
        ({}, None),
    ],
)
def test_prompts_are_those_that_sentence_transformers_takes(
    tmp_path: Path, texts: dict[str, str], default: str | None
) -> None:
    BertModel(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "q", "d", "p", "a"])
    )
    transformer = Transformer(str(tmp_path / "bert"))
    pooling = Pooling(transformer.get_embedding_dimension())
    model = SentenceTransformer(
        modules=[transformer, pooling], prompts=texts, default_prompt_name=default
    )
    model.save(str(tmp_path / "saved"))
    seen: list[str | None] = []
    model.encode = lambda *_, prompt=None, prompt_name=None, **__: seen.append(  # type: ignore[method-assign]
        prompt or model.prompts.get(prompt_name or model.default_prompt_name or "", "")
    )
    model.encode_query("x")
    model.encode_document("x")
    facts = read_facts(tmp_path / "saved")
    assert [facts.query_prompt, facts.document_prompt] == seen


def test_prompts_that_agree_are_accepted(tmp_path: Path) -> None:
    check_prompts(prompts(tmp_path / "1", query=QWEN.query_prefix, document=""), QWEN)
    check_prompts(prompts(tmp_path / "2", query=CODERANK.query_prefix), CODERANK)
    check_prompts(stated(tmp_path / "3"), CODERANK)
    check_prompts(prompts(tmp_path / "4", query="", document=""), CODERANK)


def test_prompts_for_other_tasks_are_compared_by_their_texts(tmp_path: Path) -> None:
    tasks = {
        "nl2code_query": JINA.query_prefix,
        "nl2code_document": JINA.document_prefix,
        "qa_query": "Find the most relevant answer:\n",
    }
    check_prompts(prompts(tmp_path / "1", **tasks), JINA)
    other = {**tasks, "nl2code_document": "Code:\n"}
    with pytest.raises(ModelMismatch, match="document prompt"):
        check_prompts(prompts(tmp_path / "2", **other), JINA)


@pytest.mark.parametrize(
    ("texts", "role"),
    [({"query": "Query: "}, "query"), ({"document": "Text: "}, "document")],
)
def test_other_prompts_than_the_registrys_are_refused_naming_both(
    tmp_path: Path, texts: dict[str, str], role: str
) -> None:
    texts = {"query": CODERANK.query_prefix} | texts
    with pytest.raises(ModelMismatch) as raised:
        check_prompts(prompts(tmp_path, **texts), CODERANK)
    ours = getattr(CODERANK, f"{role}_prefix")
    assert f"{role} prompt {ours!r}" in raised.value.message
    assert repr(texts[role]) in raised.value.message


def test_the_check_is_made_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prompts(tmp_path, query="Query: ")
    (folder / "model.safetensors").touch()
    config = replace(CODERANK, hf_model_id=str(folder))
    monkeypatch.setattr(
        "processor.ultimate_embedder.models.manager.KAGGLE_OPTIMIZED_MODELS",
        {config.name: config},
    )
    with pytest.raises(ModelMismatch, match="query prompt"):
        ModelManager(offline=True).locate(config)
