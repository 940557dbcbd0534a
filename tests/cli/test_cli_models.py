"""`models list` and `models show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.models import export_model, list_models, show_model
from processor.ultimate_embedder.models.catalogue import (
    KAGGLE_OPTIMIZED_MODELS,
    RERANKING_MODELS,
    SPARSE_MODELS,
    rerank_model,
)
from processor.ultimate_embedder.retrieval.blend import BlendConfig


def test_every_known_model_is_listed_with_its_licence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_function(list_models, []) == 0
    out = capsys.readouterr().out
    for registry in (KAGGLE_OPTIMIZED_MODELS, SPARSE_MODELS, RERANKING_MODELS):
        for model in registry.values():
            (line,) = [
                line for line in out.splitlines() if line.split()[:1] == [model.name]
            ]
            assert model.licence in line
            assert model.hf_model_id in line


def test_a_kind_can_be_picked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_function(list_models, ["--kind", "sparse", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["key"] for model in listed] == list(SPARSE_MODELS)


def test_show_tells_all_of_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_function(show_model, ["jina-code-embeddings-1.5b"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "CC-BY-NC-4.0" in out
    assert "1536" in out
    assert "\\n" in out  # its prompt ends in a line break, which must be seen


def test_show_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_function(show_model, ["bge-m3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["key"], shown["kind"], shown["vector_dim"]) == (
        "bge-m3",
        "dense",
        1024,
    )


def test_what_has_a_form_to_be_pasted_is_shown_in_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_function(show_model, ["residual-minilm-l6", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert BlendConfig.parse(shown["blend"]) == rerank_model(shown["key"]).blend


def test_a_model_that_is_published_as_a_whole_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    assert run_function(export_model, ["bge-reranker-v2-m3", str(target)]) == 2
    assert "published as a whole" in capsys.readouterr().err
    assert not target.exists()


def test_an_unknown_key_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_function(show_model, ["bge-m4"]) == 2
    err = capsys.readouterr().err
    assert "'bge-m4'" in err
    assert "Did you mean 'bge-m3'?" in err
