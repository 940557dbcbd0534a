"""The run header says what will be done, and which layer decided it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from processor.ultimate_embedder.cli.header import header_sheet
from processor.ultimate_embedder.settings import resolve

VERSIONS = {"numpy": "2.4.6", "torch": "2.13.0"}


def header(directory: Path, *, environment: Any = None, **typed: Any) -> dict[str, Any]:
    settings = resolve(
        {key: (value, f"--{key}") for key, value in typed.items()},
        directory=directory,
        environment=environment or {},
        kaggle_root=directory / "none",
    )
    sheet = header_sheet(settings.pipeline, VERSIONS)
    return {row[0]: row[1:] for row in sheet.rows}


def test_the_cap_is_shown_with_its_unit(tmp_path: Path) -> None:
    assert header(tmp_path)["GPU memory cap"] == (
        "12 GiB per GPU",
        "default: built in",
    )


def test_toggles_name_the_layer_that_set_them(tmp_path: Path) -> None:
    rows = header(
        tmp_path,
        environment={"EMBEDDER_ENABLE_SPARSE": "0", "EMBEDDER_RERANK_BATCH_CAP": "9"},
    )
    assert rows["sparse"] == ("off", "environment: EMBEDDER_ENABLE_SPARSE")
    value, decided = rows["rerank"]
    assert value.startswith("on: residual-minilm-l6")
    assert "at most 9 pairs" in value
    assert decided == "default: built in, environment: EMBEDDER_RERANK_BATCH_CAP"


def test_how_rankings_are_joined_is_shown_with_who_decided_it(tmp_path: Path) -> None:
    value, decided = header(tmp_path)["fusion"]
    assert value == "all-miniLM-l6 and BM25 by sum(scale=raw, weights=1:0.016)"
    assert decided == "default: built in"
    asked = header(tmp_path, environment={"EMBEDDER_FUSION": "rrf(k=10)"})["fusion"]
    assert asked[0].endswith("by rrf(k=10)")
    assert asked[1] == "environment: EMBEDDER_FUSION"
    off = header(tmp_path, environment={"EMBEDDER_ENABLE_SPARSE": "0"})["fusion"]
    assert off[0] == "none: BM25 is off"


def test_models_device_libraries_and_output_are_shown(tmp_path: Path) -> None:
    rows = header(tmp_path, device="cuda:0,cuda:1", output_dir="out")
    assert rows["dense"][0] == "all-miniLM-l6 (384-d, 256 tokens)"
    assert rows["device"][0].startswith("cuda:0, cuda:1")
    assert rows["output"] == ("out", "command line: --output_dir")
    assert rows["libraries"][0] == "numpy 2.4.6, torch 2.13.0"
    assert rows["profile"][0] == "embedded"


def test_passes_are_numbered_in_their_order(tmp_path: Path) -> None:
    rows = header(tmp_path, ensemble_models="bge-m3,all-miniLM-l6")
    assert rows["dense"][0] == (
        "pass 1 of 2: bge-m3 (1024-d, 8192 tokens); "
        "pass 2 of 2: all-miniLM-l6 (384-d, 256 tokens)"
    )
    alone = header(tmp_path, ensemble_models="bge-m3")["dense"][0]
    assert alone.endswith("; pass 2 of 2: all-miniLM-l6 (attention only)")
    plain = header(tmp_path, ensemble_models="bge-m3", enable_sparse=False)
    assert plain["dense"][0] == "bge-m3 (1024-d, 8192 tokens)"


def test_many_libraries_take_several_rows(tmp_path: Path) -> None:
    settings = resolve({}, directory=tmp_path, environment={})
    versions = {f"library-{number}": "1.0" for number in range(5)}
    rows = [row[:2] for row in header_sheet(settings.pipeline, versions).rows]
    assert rows[-2:] == [
        ("libraries", "library-0 1.0, library-1 1.0, library-2 1.0"),
        ("", "library-3 1.0, library-4 1.0"),
    ]
