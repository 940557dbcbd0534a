"""The command with the embedded models: corpora, a bundle, tables, JSON and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from evaluation_parts import (
    QUERIES,
    RELEVANT,
    tiny_cross_encoder,
    write_beir,
    write_lines,
    write_qrels,
)

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.evaluate import evaluate
from processor.ultimate_embedder.evaluation.evaluate import JudgedCorpora

WIDTH = 80


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judge the dozen with every stage, and keep everything."""
    root = tmp_path_factory.mktemp("command")
    write_beir(root / "data" / "zoo")
    reranker = tiny_cross_encoder(root / "tiny")
    code = run_function(
        evaluate,
        [
            *("--data", str(root / "data"), "--work-dir", str(root / "work"), "--json"),
            *("--rerank-model", str(reranker), "--rerank-depth", "4"),
            *("--rerank-queries", "3", "--no-probes", "--workers", "1"),
            *("--runs", str(root / "runs"), "--markdown", str(root / "table.md")),
        ],
    )
    assert code == 0
    return root


def judged(
    capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0
) -> dict[str, Any]:
    capfd.readouterr()
    assert run_function(evaluate, [*arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def bundle_arguments(place: Path) -> list[str]:
    data = place / "data" / "zoo"
    return [
        str(place / "work" / "whole" / "bundles" / "zoo"),
        "--queries",
        str(data / "queries.jsonl"),
        "--qrels",
        str(data / "qrels" / "test.tsv"),
    ]


def test_run_files_give_the_field_s_library_the_same_figures(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = judged(capfd, *bundle_arguments(place), "--disable-rerank")
    stages = document["sets"][0]["all_stages"]["stages"]
    assert len(stages) == 4
    for stage in stages:
        path = place / "runs" / f"zoo.{stage['stage'].replace(':', '-')}.trec"
        run = list(ir_measures.read_trec_run(str(path)))
        assert {line.query_id for line in run} == set(RELEVANT)
        ndcg = ir_measures.parse_measure("nDCG@10")
        theirs = ir_measures.calc_aggregate([ndcg], RELEVANT, run)[ndcg]
        assert stage["measures"]["nDCG@10"]["value"] == pytest.approx(theirs)


def test_the_embedded_models_find_what_is_asked(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = judged(capfd, *bundle_arguments(place), "--rerank-queries", "0")
    for stage in document["sets"][0]["all_stages"]["stages"]:
        if stage["stage"] in ("dense:all-miniLM-l6", "fused"):
            assert stage["measures"]["MRR@10"]["value"] == 1.0


def test_reranked_queries_stand_beside_all_stages_over_the_same_ones(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reranker = str(place / "tiny")
    document = judged(
        capfd,
        *bundle_arguments(place),
        *("--rerank-model", reranker, "--rerank-queries", "3", "--rerank-depth", "4"),
    )
    (report,) = document["sets"]
    stages = report["reranked"]["stages"]
    assert [one["stage"] for one in stages][-2:] == ["fused", "reranked"]
    assert {one["queries"] for one in stages} == {3}
    lines = (place / "runs" / "zoo.reranked.trec").read_text("utf-8").splitlines()
    names = {line.split()[0] for line in lines}
    assert len(names) == 3
    assert {
        (one["stage"], one["against"]) for one in report["reranked"]["comparisons"]
    } >= {("reranked", "fused")}


def test_people_get_a_table_that_fits_a_terminal_without_control_characters(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    arguments = [*bundle_arguments(place), "--rerank-model", str(place / "tiny")]
    assert run_function(evaluate, [*arguments, "--rerank-queries", "3"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    table = out[: out.index("  Judged ids")].splitlines()
    assert max(map(len, table)) <= WIDTH
    named = [line.split()[0] for line in table[2:]]
    assert named[-3:] == ["fused", "fused,", "reranked"]
    assert "zoo: 12 documents, 12 chunks, 5 queries" in out
    assert "reranked against fused: " in out
    assert "Judged ids are taken as sources." in out


def test_markdown_has_a_row_for_each_stage_with_its_interval(place: Path) -> None:
    lines = (place / "table.md").read_text("utf-8").splitlines()
    rows = [line.split("|") for line in lines if line.startswith("|")][2:]
    assert [row[2].strip() for row in rows] == [
        "all-miniLM-l6",
        "qdrant-bm25",
        "qdrant-minilm-attention",
        "fused",
        "fused, same queries",
        "reranked",
    ]
    assert all(row[4].count("[") == 1 for row in rows)
    assert {len(row) for row in rows} == {10}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Either --data or a bundle is needed"),
        (["bundle", "--data", "d"], "Give --data or a bundle, not both"),
        (["bundle", "--queries", "q"], "judged by --queries FILE and --qrels FILE"),
        (["--data", "d", "--qrels", "q"], "--qrels belongs to a bundle"),
        (["b", "--queries", "q", "--qrels", "r", "--split", "dev"], "--split belongs"),
        (
            ["b", "--queries", "q", "--qrels", "r", "--profile", "embedded"],
            "--profile says how a bundle is made",
        ),
        (["--data", "no_such_folder"], "There is no folder no_such_folder"),
        (
            ["b", "--queries", "nope", "--qrels", "r"],
            "There is no file nope (--queries)",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_exit_code_2(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_function(evaluate, arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_damaged_line_is_named_and_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_beir(tmp_path / "zoo")
    write_qrels(data / "qrels" / "test.tsv", {"q1": {"animal/camel": 1}})
    with (data / "corpus.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("not JSON\n")
    assert run_function(evaluate, ["--data", str(data), "--disable-rerank"]) == 1
    err = capfd.readouterr().err
    assert "corpus.jsonl, line 13: no JSON that can be read. A line:" in err


def test_queries_of_another_set_are_refused(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    others = [{"_id": f"other {key}", "text": text} for key, text in QUERIES.items()]
    queries = write_lines(tmp_path / "q.jsonl", others)
    bundle, _, _, *qrels = bundle_arguments(place)
    assert run_function(evaluate, [bundle, "--queries", str(queries), *qrels]) == 1
    assert "has a relevant document among the judgements" in capfd.readouterr().err


def test_a_stop_says_that_only_a_work_folder_could_be_resumed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(JudgedCorpora, "evaluate", stopped)
    data = write_beir(tmp_path / "zoo")
    assert run_function(evaluate, ["--data", str(data)]) == 3
    assert "With --work-dir DIR the same command" in capfd.readouterr().err
    work = ["--work-dir", str(tmp_path / "work")]
    assert run_function(evaluate, ["--data", str(data), *work]) == 3
    assert "what is finished is kept" in capfd.readouterr().err
