"""The command: what it says, its one JSON document, its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adaptation_parts import build_bundle, write_collection

from processor.ultimate_embedder.adaptation import from_bundle
from processor.ultimate_embedder.adaptation.choices import AdaptChoices
from processor.ultimate_embedder.adaptation.fusion_advice import FusionAdvice
from processor.ultimate_embedder.adaptation.judging import Comparison
from processor.ultimate_embedder.adaptation.report import AdaptReport
from processor.ultimate_embedder.cli.app import app
from processor.ultimate_embedder.cli.entry import run
from processor.ultimate_embedder.retrieval.significance import Estimate

BEFORE, AFTER = (Estimate(value=v, low=v - 0.1, high=v + 0.1) for v in (0.5, 0.6))


def report(*, gain: float, p: float, folder: str | None) -> AdaptReport:
    """Return a report as `adapt` makes it; a better fusion is known as well."""
    comparison = Comparison(
        stage="adapted", against="fused", gain=gain, p=p, significant=p < 0.05
    )
    other = Comparison(
        stage="other", against="fused", gain=0.02, p=0.01, significant=True
    )
    return AdaptReport(
        collection="docs",
        probes=100,
        trained=60,
        chosen=10,
        judged=30,
        missed=2,
        candidates=30,
        reranker=None,
        started_from="its base",
        blend="blend(weight=1, bound=4)",
        stages={"fused": BEFORE, "adapted": AFTER},
        comparison=comparison,
        fusion=FusionAdvice(
            current="rrf(k=60, weights=1:1)",
            other="rrf(k=60, weights=1:0.5)",
            stages={"fused": BEFORE, "other": AFTER},
            comparison=other,
        ),
        training={"steps": 3},
        folder=folder,
    )


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the command's work be done at once; return what it was asked."""
    asked: dict[str, Any] = {"report": report(gain=0.1, p=0.01, folder="docs-new")}

    def at_once(
        bundle: Path, output: Path, choices: AdaptChoices, **_: object
    ) -> AdaptReport:
        asked.update(bundle=bundle, output=output, choices=choices)
        found: AdaptReport = asked["report"]
        return found

    monkeypatch.setattr(from_bundle, "adapt", at_once)
    return asked


def test_a_reranker_that_is_kept_is_told_with_its_figures_and_its_use(
    answered: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["adapt", "docs", "--output", "docs-new", "--steps", "7"]) == 0
    text = capsys.readouterr().out
    for words in (
        "docs: 30 probes not trained on",
        "reranker: kept: +0.100 nDCG@10 against fused, p = 0.010",
        "--rerank-model docs-new",
        "--fusion 'rrf(k=60, weights=1:0.5)'",
    ):
        assert words in text
    assert answered["choices"].steps == 7
    assert answered["choices"].offline


def test_one_that_is_not_kept_is_no_failure(
    answered: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    answered["report"] = report(gain=0.01, p=0.4, folder=None)
    assert run(app, ["adapt", "docs", "--output", "docs-new"]) == 0
    text = capsys.readouterr().out
    assert "reranker: not kept: no gain beyond chance (+0.010 nDCG@10" in text
    assert "--rerank-model" not in text


def test_json_is_one_document(
    answered: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["adapt", "docs", "--output", "docs-new", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stages"]["adapted"]["value"] == 0.6
    assert document["folder"] == "docs-new"


def test_a_stop_says_that_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> AdaptReport:
        raise KeyboardInterrupt

    monkeypatch.setattr(from_bundle, "adapt", stopped)
    assert run(app, ["adapt", "docs", "--output", "docs-new"]) == 3
    said = capsys.readouterr().err
    assert "nothing of it is kept" in said
    assert "what is finished is kept" not in said


def test_steps_and_minutes_exclude_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--output", "x", "--steps", "1", "--minutes", "1"]
    assert run(app, ["adapt", "docs", *options]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["adapt", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_the_embedded_model_is_adapted_and_then_reranks_a_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_collection(tmp_path / "chunked", topics=64, plain=1)
    bundle = build_bundle(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "2", "--keep-anyway"]
    assert run(app, ["adapt", str(bundle), *options]) == 0
    assert "--rerank-model docs-reranker" in capsys.readouterr().out
    search = ["search", str(bundle), "How zuaakra behaves here", "--json"]
    chosen = ["--rerank-model", "docs-reranker", "--fusion", "rrf(k=10)"]
    assert run(app, [*search, *chosen]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["missing"] == {}
    assert document["rankings"]["reranked"]
