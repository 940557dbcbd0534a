"""A reader sees the old bundle or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from bundle_parts import (
    PRIMARY,
    digests,
    export_bundle,
    make_manifest,
    make_store,
    unit_vectors,
)

from processor.ultimate_embedder.errors import BundleError, OutputError, UsageError
from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.output_errors import output_error
from processor.ultimate_embedder.export.publish import (
    exchange_folders,
    folder_lock,
    make_staging,
    previous_path,
    publish_folder,
    recover,
)
from processor.ultimate_embedder.export.runtime import ExportRuntime
from processor.ultimate_embedder.telemetry.events import Event, StageFinished

BASE = {f"docs_{name}" for name in ("ids.jsonl", "qdrant.jsonl")} | {MANIFEST, SUMS}


def cannot_exchange(first: Path, second: Path) -> bool:
    return False


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names(bundle: Path) -> set[str]:
    return {path.name for path in bundle.iterdir()}


def test_two_exports_of_the_same_content_have_the_same_bytes(tmp_path: Path) -> None:
    one = digests(export_bundle(tmp_path / "a"))
    assert one == digests(export_bundle(tmp_path / "b"))
    assert one == digests(export_bundle(tmp_path / "a", exchange=cannot_exchange))
    assert len(one) == 19


@pytest.mark.parametrize("exchange", [exchange_folders, cannot_exchange])
def test_a_new_bundle_takes_the_place_of_the_whole_old_one(
    tmp_path: Path, exchange: Callable[[Path, Path], bool]
) -> None:
    export_bundle(tmp_path, exchange=exchange)
    bundle = export_bundle(
        tmp_path, with_sparse=False, queries=0, seed=9, exchange=exchange
    )
    assert entries(tmp_path) == ["docs"]
    assert not any("sparse" in name or "rerank" in name for name in names(bundle))
    manifest = Manifest.read(bundle)
    assert manifest.sparse_run is None
    assert manifest.rerank_run is None


def test_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange_folders(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange folders")
    assert (entries(tmp_path / "a"), entries(tmp_path / "b")) == (["b"], ["a"])
    with pytest.raises(FileNotFoundError):
        exchange_folders(tmp_path / "a", tmp_path / "missing")


def test_what_the_system_cannot_exchange_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a" / "inner").mkdir(parents=True)
    assert not exchange_folders(tmp_path / "a", tmp_path / "a" / "inner")
    assert entries(tmp_path / "a") == ["inner"]


@pytest.mark.parametrize(
    ("exports", "files"),
    [
        ((), set()),
        (("npy",), {f"docs_{PRIMARY}_embeddings.npy", "docs_bge-m3_embeddings.npy"}),
        (("faiss",), {f"docs_{PRIMARY}_index.faiss", "docs_bge-m3_index.faiss"}),
        (("jsonl",), {"docs_qdrant.jsonl"}),
    ],
)
def test_only_the_exports_asked_for_are_written(
    tmp_path: Path, exports: tuple[str, ...], files: set[str]
) -> None:
    bundle = export_bundle(tmp_path, exports=exports, with_sparse=False, queries=0)
    assert names(bundle) == files | BASE - {"docs_qdrant.jsonl"}


def test_dense_files_do_not_depend_on_other_stages(tmp_path: Path) -> None:
    full = digests(export_bundle(tmp_path / "full"))
    bare = digests(export_bundle(tmp_path / "bare", with_sparse=False, queries=0))
    same = [name for name in bare if "qdrant.jsonl" not in name and name != SUMS]
    assert len(same) == 5
    assert all(bare[name] == full[name] for name in same)


def test_the_files_appear_in_the_contracts_order(tmp_path: Path) -> None:
    seen: list[str] = []

    class Watch(ExportRuntime):
        def _add(self, name: str, size: int, digest: str, rows: int | None) -> None:
            seen.append(name)
            assert not (self.staging / MANIFEST).exists()
            super()._add(name, size, digest, rows)

    store, dense = make_store(3), {PRIMARY: unit_vectors(3, 4)}
    with Watch(tmp_path, "docs") as export:
        export.write_ids(store)
        export.write_dense(PRIMARY, dense[PRIMARY])
        export.write_points(store, dense, {})
        export.publish(make_manifest(store, dense, {}, 0))
    assert seen[-1] == SUMS


def test_nothing_is_visible_before_publish(tmp_path: Path) -> None:
    with ExportRuntime(tmp_path, "docs") as export:
        export.write_ids(make_store(3))
        assert not (tmp_path / "docs").exists()
        assert export.staging.name.startswith(".staging-docs-")
    assert entries(tmp_path) == []


def test_a_failed_export_leaves_the_old_bundle_and_nothing_else(tmp_path: Path) -> None:
    before = digests(export_bundle(tmp_path))
    vectors = unit_vectors(5, 4)
    vectors[2] = float("nan")
    with (
        pytest.raises(BundleError, match="row 2"),
        ExportRuntime(tmp_path, "docs") as export,
    ):
        export.write_ids(make_store(5))
        export.write_dense(PRIMARY, vectors)
    assert digests(tmp_path / "docs") == before
    assert entries(tmp_path) == ["docs"]


def test_rows_that_do_not_fit_the_chunks_are_refused(tmp_path: Path) -> None:
    with ExportRuntime(tmp_path, "docs") as export:
        export.write_ids(make_store(5))
        with pytest.raises(BundleError, match=r"4 vectors .* for 5 chunks"):
            export.write_dense(PRIMARY, unit_vectors(4, 4))


def test_a_refused_swap_puts_the_old_bundle_back(tmp_path: Path) -> None:
    before = digests(export_bundle(tmp_path))

    def lose_staging(staging: Path, target: Path) -> bool:
        staging.rename(staging.with_name("gone"))
        return False

    with pytest.raises(OutputError, match="failed"):
        export_bundle(tmp_path, seed=5, exchange=lose_staging)
    assert digests(tmp_path / "docs") == before
    assert not previous_path(tmp_path / "docs").exists()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stop_between_the_renames_leaves_a_bundle_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, when: str
) -> None:
    old = digests(export_bundle(tmp_path))
    new = digests(export_bundle(tmp_path / "elsewhere", seed=5))
    shutil.rmtree(tmp_path / "elsewhere")
    real, seen = Path.rename, 0

    def stopped(path: Path, target: Path) -> Path:
        nonlocal seen
        seen += 1
        if seen == number and when == "before":
            raise KeyboardInterrupt
        moved = real(path, target)
        if seen == number:
            raise KeyboardInterrupt
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopped)
        with pytest.raises(KeyboardInterrupt):
            export_bundle(tmp_path, seed=5, exchange=cannot_exchange)
    replaced = (number, when) == (2, "after")
    assert digests(tmp_path / "docs") == (new if replaced else old)
    recover(tmp_path / "docs")
    assert entries(tmp_path) == ["docs"]


def test_an_exchange_that_raises_leaves_the_old_bundle(tmp_path: Path) -> None:
    before = digests(export_bundle(tmp_path))

    def refuse(staging: Path, target: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(target))

    with pytest.raises(OutputError, match="Not allowed to write") as caught:
        export_bundle(tmp_path, seed=5, exchange=refuse)
    assert "--output-dir" in str(caught.value)
    assert digests(tmp_path / "docs") == before
    assert entries(tmp_path) == ["docs"]


def test_a_swap_interrupted_between_two_renames_is_undone(tmp_path: Path) -> None:
    target = export_bundle(tmp_path)
    before = digests(target)
    target.rename(previous_path(target))
    recover(target)
    assert digests(target) == before
    assert entries(tmp_path) == ["docs"]


def test_a_swap_interrupted_after_both_renames_is_finished(tmp_path: Path) -> None:
    target = export_bundle(tmp_path)
    target.rename(previous_path(target))
    new = digests(export_bundle(tmp_path / "elsewhere", seed=4))
    (tmp_path / "elsewhere" / "docs").rename(target)
    (tmp_path / "elsewhere").rmdir()
    recover(target)
    assert digests(target) == new
    assert entries(tmp_path) == ["docs"]


def test_a_stale_staging_folder_is_removed_and_a_live_one_kept(tmp_path: Path) -> None:
    stale = tmp_path / f".staging-docs-{'0' * 16}"
    other = tmp_path / f".staging-docs-api-{'0' * 16}"
    stale.mkdir()
    other.mkdir()
    with ExportRuntime(tmp_path, "docs") as live:
        export_bundle(tmp_path)
        assert live.staging.is_dir()
        assert not stale.exists()
        assert other.exists()
    assert entries(tmp_path) == [other.name, "docs"]


def test_a_stale_staging_folder_is_found_whatever_the_collection_is_called(
    tmp_path: Path,
) -> None:
    stale = tmp_path / f".staging-c++ (old-{'0' * 16}"
    stale.mkdir()
    recover(tmp_path / "c++ (old")
    assert entries(tmp_path) == []


def test_an_old_bundle_that_cannot_be_removed_does_not_fail_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    for name in ("staging", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        publish_folder(tmp_path / "staging", tmp_path / "docs", exchange_folders)
    assert entries(tmp_path / "docs") == ["staging"]


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a_chunks.json").write_text("[]")
    with pytest.raises(UsageError, match="is not a bundle; nothing is replaced"):
        export_bundle(tmp_path)
    assert entries(tmp_path) == ["docs"]
    assert entries(tmp_path / "docs") == ["a_chunks.json"]


def test_a_link_in_the_bundles_place_is_not_replaced(tmp_path: Path) -> None:
    elsewhere = export_bundle(tmp_path / "elsewhere")
    (tmp_path / "docs").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="nothing is replaced"):
        export_bundle(tmp_path)


def test_an_empty_folder_in_the_bundles_place_is_used(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    assert Manifest.read(export_bundle(tmp_path)).chunk_count == 23


def test_a_full_disk_is_told_with_its_cure_and_cleared_away(tmp_path: Path) -> None:
    """`/dev/full` answers every write as a full disk does."""
    store, vectors = make_store(5), unit_vectors(5, 4)
    steps: dict[str, Callable[[ExportRuntime], object]] = {
        "docs_ids.jsonl": lambda export: export.write_ids(store),
        f"docs_{PRIMARY}_embeddings.npy": lambda e: e.write_dense(PRIMARY, vectors),
        f"docs_{PRIMARY}_index.faiss": lambda e: e.write_dense(PRIMARY, vectors),
        "docs_rerank.jsonl": lambda e: e.write_rerank([{"query_id": "q"}]),
        SUMS: lambda e: e.publish(make_manifest(store, {}, {}, 0)),
        MANIFEST: lambda e: e.publish(make_manifest(store, {}, {}, 0)),
    }
    for name, step in steps.items():
        with ExportRuntime(tmp_path, "docs") as export:
            if name != "docs_ids.jsonl":
                export.write_ids(store)
            (export.staging / name).symlink_to("/dev/full")
            with pytest.raises(OutputError, match="No space left") as caught:
                step(export)
            assert "Free space" in str(caught.value)
            assert entries(tmp_path) == []


def test_an_output_folder_that_cannot_be_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        export_bundle(tmp_path / "file")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a\0b", "\ud800"])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be part of a file name"):
        ExportRuntime(tmp_path, name)


def test_the_export_is_told_once_with_its_own_seconds(tmp_path: Path) -> None:
    heard: list[Event] = []
    export_bundle(tmp_path, emit=heard.append)
    (finished,) = [event for event in heard if isinstance(event, StageFinished)]
    assert (finished.stage, finished.collection, finished.items) == (
        "export",
        "docs",
        23,
    )
    assert finished.seconds > 0


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EDQUOT, "Free space"),
        (errno.EACCES, "choose another --output-dir"),
        (errno.EROFS, "choose another --output-dir"),
        (errno.ENAMETOOLONG, "run the same command again"),
    ],
)
def test_what_the_system_refuses_is_told_with_path_and_cure(
    code: int, told: str
) -> None:
    error = output_error(OSError(code, os.strerror(code)), Path("out/docs"))
    assert error.exit_code == 3
    assert "out/docs" in error.message
    assert told in str(error)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Paths of what was had on the disk."""
    paths: set[Path] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        paths.add(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


@pytest.mark.parametrize("exchange", [exchange_folders, cannot_exchange])
def test_the_new_bundle_is_on_the_disk_before_it_is_seen_and_the_old_one_goes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    synced: set[Path],
    exchange: Callable[[Path, Path], bool],
) -> None:
    export_bundle(tmp_path)
    gone: list[Path] = []
    remove = shutil.rmtree

    def watched_exchange(staging: Path, target: Path) -> bool:
        assert not {staging, *staging.rglob("*")} - synced
        synced.clear()
        return exchange(staging, target)

    def watched_rmtree(folder: Path, **options: bool) -> None:
        assert tmp_path in synced
        gone.append(folder)
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", watched_rmtree)
    export_bundle(tmp_path, seed=5, exchange=watched_exchange)
    assert len(gone) == 1


def test_the_place_of_a_first_bundle_is_on_the_disk(
    tmp_path: Path, synced: set[Path]
) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    publish_folder(staging, tmp_path / "docs", exchange_folders)
    assert synced == {tmp_path}


@pytest.mark.parametrize(
    "step",
    [
        lambda target: publish_folder(
            target.with_name("staging"), target, exchange_folders
        ),
        recover,
        lambda target: os.close(make_staging(target)[1]),
    ],
    ids=["publish", "recover", "make staging"],
)
def test_two_processes_do_not_work_in_one_folder_at_once(
    tmp_path: Path, step: Callable[[Path], object]
) -> None:
    target = tmp_path / "docs"
    (tmp_path / "staging").mkdir()
    (tmp_path / f".staging-docs-{'0' * 16}").mkdir()
    before = entries(tmp_path)
    with ThreadPoolExecutor() as pool:
        with folder_lock(tmp_path):
            other = pool.submit(step, target)
            assert not wait([other], timeout=0.3).done
            assert entries(tmp_path) == before
        other.result()
    assert entries(tmp_path) != before


KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bundle_parts import digests, export_bundle
from processor.ultimate_embedder.export.publish import exchange_folders, recover

output, mode = Path(sys.argv[1]), sys.argv[3]
options = {"exports": ("npy",), "rows": 3, "with_sparse": False, "queries": 0}
options["exchange"] = exchange_folders if mode == "exchange" else lambda *_: False
WATCHED = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"}

def killed_at(step):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in WATCHED:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

old = digests(export_bundle(output, seed=1, **options))
new = digests(export_bundle(output.with_name("new"), seed=2, **options))
step = kills = 0
states = set()
while True:
    export_bundle(output, seed=1, **options)
    step += 1
    child = os.fork()
    if child == 0:
        killed_at(step)
        export_bundle(output, seed=2, **options)
        os._exit(0)
    finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    if not (output / "docs").exists():
        assert mode == "renames", step
        states.add("between")
    recover(output / "docs")
    found = digests(output / "docs")
    assert found in (old, new), step
    assert os.listdir(output) == ["docs"], step
    states.add("new" if found == new else "old")
    if finished:
        break
    kills += 1
print(kills, *sorted(states))
"""


@pytest.mark.parametrize(
    ("mode", "states"), [("exchange", "new old"), ("renames", "between new old")]
)
def test_an_export_killed_at_any_step_leaves_a_whole_bundle(
    tmp_path: Path, mode: str, states: str
) -> None:
    """The process is killed at the n-th file operation, for every n."""
    here = str(Path(__file__).parent)
    result = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "out"), here, mode],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
    kills, _, found = result.stdout.strip().partition(" ")
    assert int(kills) > 20
    assert found == states
