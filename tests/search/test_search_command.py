"""The command: a line for each chunk for people, one JSON document for programs."""

from __future__ import annotations

import json

import pytest
from search_parts import NOT_RUN, RAN, TEXTS, FakeEncoders, MakeBundle

from processor.ultimate_embedder.cli import search as search_module
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.search import search
from processor.ultimate_embedder.search import Hit, loading
from processor.ultimate_embedder.search.results import StageScore

QUERY = "how to filter by payload"


@pytest.fixture(autouse=True)
def hashed_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command encode queries as the bundle's fake model did."""
    monkeypatch.setattr(loading, "ManifestEncoders", lambda *_, **__: FakeEncoders())


def test_each_chunk_stands_once_with_its_place_in_all_four_rankings(
    make_bundle: MakeBundle, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = [str(make_bundle(rerank=RAN)), QUERY, "--top-k", "4"]
    assert run_function(search, [*arguments, "--json"]) == 0
    rankings = json.loads(capfdbinary.readouterr().out)["rankings"]
    assert run_function(search, arguments) == 0
    out = capfdbinary.readouterr().out.decode()
    title, header, *lines = out.split("\n\n")[0].splitlines()
    assert title.startswith("docs, ")
    assert header.split() == ["reranked", "fused", "sparse", "dense", "chunk"]
    shown = {line.split()[-1]: line.split()[:-1] for line in lines}
    assert len(shown) == len(lines)
    found = {hit["chunk_id"]: hit for hits in rankings.values() for hit in hits}
    assert {f"docs:{chunk}" for chunk in shown} == set(found)
    best = [hit["chunk_id"] for hit in rankings["reranked"]]
    assert [f"docs:{chunk}" for chunk in shown][:4] == best
    for chunk, cells in shown.items():
        expected: list[str] = []
        for stage in header.split()[:-1]:
            place = found[f"docs:{chunk}"]["stages"].get(stage)
            told = ["-"] if place is None else [place["rank"], f"{place['score']:.4f}"]
            expected += map(str, told)
        assert cells == expected
    assert any("-" in cells for cells in shown.values())
    assert "filter by payload" in out
    assert "\x1b" not in out


def test_lines_follow_the_last_ranking_that_has_any() -> None:
    def hit(chunk: str, **ranks: int) -> Hit:
        stages = {stage: StageScore(rank, 1 / rank) for stage, rank in ranks.items()}
        return Hit(0, chunk, next(iter(ranks.values())), 1.0, None, {}, stages)

    first, second = hit("a", dense=2, sparse=1), hit("b", dense=1, sparse=2)
    only = hit("c", dense=3)
    found = {"dense": [second, first, only], "sparse": [first, second], "fused": []}
    assert [one.chunk_id for one in search_module._each(found)] == ["a", "b", "c"]


def test_a_ranking_that_cannot_be_had_is_left_out_with_the_reason(
    make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_bundle(rerank=NOT_RUN)
    assert run_function(search, [str(path), QUERY]) == 0
    captured = capsys.readouterr().out
    assert "did not rerank: The weights are not here. Fetch them." in captured
    assert run_function(search, [str(path), QUERY, "--stage", "reranked"]) == 2
    captured_error = capsys.readouterr()
    assert captured_error.out == ""
    assert len(captured_error.err.splitlines()) == 1
    assert "Fetch them." in captured_error.err


@pytest.mark.parametrize("stage", ["dense", "sparse", "fused", "reranked", "all"])
def test_json_is_one_document_and_nothing_else(
    make_bundle: MakeBundle, capfdbinary: pytest.CaptureFixture[bytes], stage: str
) -> None:
    path = make_bundle(rerank=RAN)
    arguments = [str(path), QUERY, "--stage", stage, "--json", "--top-k", "3"]
    assert run_function(search, [*arguments, "--filter", "source_subdir=guides"]) == 0
    captured = capfdbinary.readouterr()
    document = json.loads(captured.out)
    assert captured.err == b""
    stages = ["dense", "sparse", "fused", "reranked"] if stage == "all" else [stage]
    assert list(document["rankings"]) == stages
    assert document["filters"] == {"source_subdir": "guides"}
    for hits in document["rankings"].values():
        assert [hit["rank"] for hit in hits] == [1, 2, 3]
        for hit in hits:
            assert hit["chunk_id"].startswith("docs:guides:")
            assert hit["text"] == TEXTS[hit["row"]][1]
            assert isinstance(hit["score"], float)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--filter", "source_subdir"], 2, "no filter"),
        (["--filter", "source_subdir=nowhere"], 2, "api, guides"),
        (["--stage", "magic"], 2, "magic"),
        (["--top-k", "0"], 2, "--top-k"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    make_bundle: MakeBundle,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    assert run_function(search, [str(make_bundle()), QUERY, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert says in captured.err


def test_a_folder_that_is_no_bundle_is_one_line_and_exit_code_2(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(search, [str(tmp_path), QUERY]) == 2
    captured = capsys.readouterr()
    assert "holds no bundle" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_nothing_found_is_said(
    make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(make_bundle()), "xylophone", "--stage", "sparse"]
    assert run_function(search, arguments) == 0
    assert capsys.readouterr().out == "Nothing was found.\n"
