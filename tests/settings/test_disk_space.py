"""Room on the disk is asked for before the work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner, RunOutcome
from processor.ultimate_embedder.config import ALL_EXPORTS, GIB, PipelineConfig
from processor.ultimate_embedder.disk_space import (
    RESERVE_BYTES,
    estimate_bundle_bytes,
    gib,
    require_free_space,
    require_writable,
)
from processor.ultimate_embedder.errors import OutputError, UsageError
from processor.ultimate_embedder.intake.chunks import find_collections
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.run.room import require_room, require_room_for
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts


def test_what_fits_is_accepted_also_where_no_folder_is_yet(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet", 1)
    assert not (tmp_path / "not").exists()


def test_what_does_not_fit_stops_with_both_figures(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).total + 7 * GIB
    with pytest.raises(OutputError) as caught:
        require_free_space(tmp_path, needed)
    assert caught.value.exit_code == 3
    assert gib(needed) in str(caught.value)
    assert "are free" in str(caught.value)


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/out.*--output-dir"):
        require_writable(tmp_path / "file" / "out")


def estimate(**changes: object) -> int:
    known: dict[str, object] = {
        "chunk_bytes": 10**6,
        "chunks": 1000,
        "dimensions": (384,),
        "sparse_models": 2,
        "exports": ALL_EXPORTS,
    }
    return estimate_bundle_bytes(**known | changes)  # type: ignore[arg-type]


def test_the_estimate_counts_the_vectors_of_each_export() -> None:
    vectors = 1000 * 384 * 4
    assert estimate() - estimate(exports=("npy", "jsonl")) == vectors
    assert estimate(exports=("npy",)) - estimate(exports=()) == vectors
    assert estimate(dimensions=(384, 1024)) > estimate()
    assert estimate(sparse_models=0) < estimate()
    assert estimate(attention=1) - estimate() == 1_500_000  # a figure a token


@pytest.mark.parametrize(
    ("size", "shown"),
    [(12 * GIB, "12 GiB"), (GIB // 2, "0.5 GiB"), (GIB * 5 // 4, "1.25 GiB")],
)
def test_bytes_are_shown_in_gib(size: int, shown: str) -> None:
    assert gib(size) == shown


def config_of(root: Path) -> PipelineConfig:
    return PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"),),
        enable_rerank=False,
        offline=True,
    )


def written(root: Path, name: str, chunks: int, words: str) -> None:
    folder = root / "chunked" / name
    folder.mkdir(parents=True)
    entries = [{"text": f"{words} {number}"} for number in range(chunks)]
    (folder / "a_chunks.json").write_text(json.dumps(entries))


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(
        "processor.ultimate_embedder.disk_space.shutil.disk_usage",
        lambda _: type("Usage", (), {"free": size})(),
    )


def test_collections_that_fit_one_by_one_and_not_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        written(tmp_path, name, 400, "word " * 2000)
    config = config_of(tmp_path)
    folders = find_collections(config.chunked_dir)
    each = folders[0].total_bytes * 20
    free(monkeypatch, RESERVE_BYTES + each)
    require_room(config, folders[:1], tmp_path / "work")
    with pytest.raises(OutputError, match="Not enough disk space"):
        require_room(config, folders, tmp_path / "work")


def test_a_bundle_that_is_up_to_date_needs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "docs", 5, "word")

    def run() -> RunOutcome:
        return BatchRunner(
            config_of(tmp_path), silent, "r", hashing_parts(), leave_up_to_date=True
        ).run()

    run()
    free(monkeypatch, 2**20)
    assert run().collections[0].up_to_date
    written(tmp_path, "more", 5, "word")
    with pytest.raises(OutputError, match="Not enough disk space"):
        run()


def test_many_short_chunks_are_counted_and_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "faq", 6000, "yes")
    config = config_of(tmp_path)
    (folder,) = find_collections(config.chunked_dir)
    free(monkeypatch, RESERVE_BYTES + 40 * folder.total_bytes)
    require_room(config, [folder], tmp_path / "work")
    with pytest.raises(OutputError, match="Not enough disk space"):
        BatchRunner(config, silent, "r", hashing_parts()).run()


def test_what_is_there_already_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    kept = tmp_path / "work" / "dense-model" / "vectors.npy"
    kept.parent.mkdir(parents=True)
    needed = estimate_bundle_bytes(
        chunk_bytes=10**6,
        chunks=1000,
        dimensions=(384,),
        sparse_models=1,
        exports=config.exports,
    )
    free(monkeypatch, RESERVE_BYTES + needed - 2**20)
    with pytest.raises(OutputError, match="Not enough disk space"):
        require_room_for(config, tmp_path / "work", chunk_bytes=10**6, chunks=1000)
    kept.write_bytes(bytes(2**20))
    require_room_for(config, tmp_path / "work", chunk_bytes=10**6, chunks=1000)


@pytest.mark.parametrize(
    ("sparse", "attention", "on"),
    [
        (("qdrant-bm25",), 0, True),
        (("qdrant-bm25",), 0, False),
        (("qdrant-bm25", "qdrant-minilm-attention"), 1, True),
    ],
)
def test_room_is_asked_for_what_the_settings_make_and_a_reserve(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sparse: tuple[str, ...],
    attention: int,
    on: bool,
) -> None:
    config = replace(
        config_of(tmp_path),
        sparse=tuple(sparse_model(name) for name in sparse),
        enable_sparse=on,
    )
    needed = RESERVE_BYTES + estimate_bundle_bytes(
        chunk_bytes=10**6,
        chunks=1000,
        dimensions=(384,),
        sparse_models=len(sparse) if on else 0,
        exports=config.exports,
        attention=attention,
    )
    free(monkeypatch, needed)
    require_room_for(config, tmp_path / "work", chunk_bytes=10**6, chunks=1000)
    free(monkeypatch, needed - 1)
    with pytest.raises(OutputError, match="Not enough disk space"):
        require_room_for(config, tmp_path / "work", chunk_bytes=10**6, chunks=1000)


def least_room(config: PipelineConfig, work: Path, patch: pytest.MonkeyPatch) -> int:
    """Return the fewest free bytes with which all collections are taken up."""
    folders = find_collections(config.chunked_dir)
    low, high = 0, RESERVE_BYTES + 2**30
    while low < high:
        middle = (low + high) // 2
        free(patch, middle)
        try:
            require_room(config, folders, work)
        except OutputError:
            low = middle + 1
        else:
            high = middle
    return low


def test_what_one_collection_left_makes_no_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, work = config_of(tmp_path), tmp_path / "work"
    written(tmp_path, "b", 400, "word " * 2000)
    only_b = least_room(config, work, monkeypatch)
    assert only_b > RESERVE_BYTES
    written(tmp_path, "a", 400, "word " * 2000)
    assert least_room(config, work, monkeypatch) > only_b
    (work / "a").mkdir(parents=True)
    with (work / "a" / "vectors.npy").open("wb") as stream:
        stream.truncate(2**32)  # more than it comes to
    assert least_room(config, work, monkeypatch) == only_b
