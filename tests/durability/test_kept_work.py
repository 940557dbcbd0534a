"""What runs keep for later runs is counted, told and removed on request."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.clean import clean
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.run.kept_work import kept_parts
from processor.ultimate_embedder.run.output_lock import only_run_in
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts

PRIMARY = dense_model("all-miniLM-l6")
COMPANION = replace(PRIMARY, name="companion", vector_dim=96)
BM25, ATTENTION = sparse_model("qdrant-bm25"), sparse_model("qdrant-minilm-attention")
STOPPED, USAGE = 3, 2


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Give a bundle without companion and attention, made after one with both."""
    for name in ("docs", "more"):
        folder = tmp_path / "chunked" / name
        folder.mkdir(parents=True)
        (folder / "a_chunks.json").write_text(json.dumps([{"text": "a text"}] * 3))
    both = PipelineConfig(
        chunked_dir=tmp_path / "chunked",
        output_dir=tmp_path / "out",
        dense=(PRIMARY, COMPANION),
        sparse=(BM25, ATTENTION),
        enable_rerank=False,
        offline=True,
    )
    for config in (both, replace(both, dense=(PRIMARY,), sparse=(BM25,))):
        run(config)
    return tmp_path / "out"


def run(config: PipelineConfig) -> None:
    assert BatchRunner(config, silent, "run", hashing_parts()).run().exit_code == 0


def kept(output: Path, *, used: bool) -> set[str]:
    work = output / ".work"
    return {
        part.path.relative_to(work).as_posix()
        for part in kept_parts(output)
        if part.used is used
    }


def files(output: Path) -> dict[str, bytes]:
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }


def test_what_no_bundle_uses_goes_and_the_rest_stays(output: Path) -> None:
    unused = {
        f"{name}/{part}"
        for name in ("docs", "more")
        for part in ("dense-companion", "sparse/qdrant-minilm-attention")
    }
    before, stays = files(output), kept(output, used=True)
    assert kept(output, used=False) == unused
    assert {path.partition("/")[2].split("-")[0] for path in stays} == {
        *("chunks", "dense", "tokens", "sparse/qdrant"),
    }
    assert run_function(clean, [str(output)]) == 0
    assert kept(output, used=False) == set()
    assert kept(output, used=True) == stays
    assert files(output) == before


def test_the_same_bytes_come_again_after_all_was_removed(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(output)
    assert run_function(clean, [str(output), "--all", "--collections", "docs"]) == 0
    assert "removed: .work/docs/dense-all-miniLM-l6" in capsys.readouterr().out
    assert not (output / ".work" / "docs").exists()
    assert kept(output, used=True)
    assert files(output) == before
    run(
        PipelineConfig(
            chunked_dir=output.parent / "chunked",
            output_dir=output,
            dense=(PRIMARY,),
            sparse=(BM25,),
            enable_rerank=False,
            offline=True,
        )
    )
    after = files(output)
    for name, content in before.items():
        if not name.endswith(("processing_summary.json", "SHA256SUMS")):
            assert after[name] == content, name


def test_without_a_bundle_everything_counts_as_used(output: Path) -> None:
    (output / "docs" / "processing_summary.json").unlink()
    assert not any(path.startswith("docs/") for path in kept(output, used=False))


def test_a_dry_run_removes_nothing(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(output, used=True), kept(output, used=False)
    assert run_function(clean, [str(output), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["removed"] is False
    assert {Path(part["path"]).name for part in told["parts"] if not part["used"]} == {
        "dense-companion",
        "qdrant-minilm-attention",
    }
    assert all(part["bytes"] > 0 for part in told["parts"])
    assert (kept(output, used=True), kept(output, used=False)) == before


def test_nothing_is_removed_while_a_run_works_there(output: Path) -> None:
    before = kept(output, used=False)
    with only_run_in(output / ".work"):
        assert run_function(clean, [str(output), "--all"]) == STOPPED
    assert kept(output, used=False) == before


def test_room_is_made_where_not_a_byte_can_be_written(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert run_function(clean, [str(output)]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not kept(output, used=False)
    assert "emoved" in capsys.readouterr().out


def test_an_unknown_name_is_told_with_those_found(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(clean, [str(output), "--collections", "dcos"]) == USAGE
    assert "Found: docs, more" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_no_run_wrote_into_is_bad_usage(
    output: Path, inside: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = output / "docs" if inside else output.parent / "docs_in"
    folder.mkdir(exist_ok=True)
    assert run_function(clean, [str(folder)]) == USAGE
    assert capsys.readouterr().err == (
        f"error: {folder} has no folder .work: it is not the --output-dir of a run. "
        "Name that.\n"
    )


def test_bundles_whose_kept_work_was_removed_by_hand_need_no_cleaning(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(output / ".work")
    assert run_function(clean, [str(output)]) == 0
    assert capsys.readouterr().out == "freed: 0.0 MiB\n"


def test_small_parts_are_told_in_kib(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(clean, [str(output), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert " KiB\n" in out
    assert "0.0 MiB" not in out
