"""A damaged bundle put right where its own files, or the chunk files, allow it.

A file whose recorded sum holds is the truth and stays as it is. Another one is made
again, and taken only with the sum that the manifest records. What comes out appears in
one step, as a run's bundle does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError, InputError, NewerBundle, UsageError
from ..export.layout import MANIFEST
from ..export.manifest import Manifest, own_sum_holds, read_manifest_bytes
from ..export.output_errors import output_error
from ..export.publish import (
    Exchange,
    exchange_folders,
    make_staging,
    publish_folder,
    recover,
    require_replaceable,
)
from .bench import Bench, describe_damage, open_bench
from .bits import flip_manifest_back
from .making import (
    flip_bits_back,
    make_dense,
    make_ids,
    make_indexes,
    make_points,
    make_postings,
    make_sparse,
    make_sums,
)
from .placing import fill, find_strays, fsync_tree
from .reasons import reason_lost
from .report import Lost, Rebuilt, RepairReport
from .stores import open_chunks

_SCRATCH = ".scratch"
_OPTION = "--output"
_ELSEWHERE = f"Choose another {_OPTION}, or move it away."
_ELSEWHERE_TO_WRITE = f"name another folder with {_OPTION}"


@dataclass(frozen=True, slots=True)
class _Known:
    """A manifest that is right, its bytes, and whether a bit had to be flipped."""

    manifest: Manifest
    content: bytes
    mended: bool


def repair_bundle(
    bundle: Path,
    *,
    output: Path | None = None,
    chunked_dir: Path | None = None,
    exchange: Exchange = exchange_folders,
) -> RepairReport:
    """Repair the bundle in a folder, in its place or as a new folder `output`.

    `chunked_dir` holds the collection's chunk files, as for embedding. Nothing is
    written where nothing can be mended, and files that stay damaged are carried along
    as they are.

    Raises:
        UsageError: something that is no bundle of this collection stands at `output`,
            or one that is whole where the result is not; or `chunked_dir` is no folder.
        NotABundle: the folder holds no bundle.
        BundleError: it holds no manifest, or one that states no sums or is newer.
        OutputError: the disk is full or the folder not writable; nothing has changed.
    """
    bundle = bundle.resolve()
    if output is not None:
        require_replaceable(output, _OPTION)
    target = bundle if output is None else output.resolve()
    try:
        recover(target)
        known = _read_manifest(bundle)
        if known is None:
            return RepairReport(str(bundle), None, 0, lost=(_lost_manifest(),))
        if target != bundle:
            require_replaceable(target, _OPTION)
            _require_same_collection(target, known.manifest.collection)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging, lock = make_staging(target)
    except OSError as error:
        raise output_error(error, target, _ELSEWHERE_TO_WRITE) from error
    try:
        return _Repair(bundle, target, staging, known, exchange).run(chunked_dir)
    except OSError as error:
        raise output_error(error, target, _ELSEWHERE_TO_WRITE) from error
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)  # recover() tries again


def _read_manifest(bundle: Path) -> _Known | None:
    """Return the manifest, one bit flipped back if need be; None: it is lost."""
    content = read_manifest_bytes(bundle)
    mended = False
    if not own_sum_holds(content):
        if _states_no_sums(content):
            raise BundleError(
                "The manifest states no sums: nothing tells what the files were.",
                cure="Restore a copy of the bundle or build it anew.",
            )
        found = flip_manifest_back(content)
        if found is None:
            _refuse_newer(content)
            return None
        content, mended = found, True
    return _Known(Manifest.parse(content), content, mended)


def _require_same_collection(target: Path, collection: str) -> None:
    """Return when what stands at `target` is nothing, or a bundle of the collection.

    Raises:
        UsageError: it is another's, or tells no collection.
    """
    if not (target / MANIFEST).exists():
        return
    try:
        found = f"'{Manifest.read(target).collection}'"
    except BundleError:
        found = "a collection that cannot be told"
    if found != f"'{collection}'":
        raise UsageError(
            f"{target} is a bundle of {found}, not of '{collection}'; nothing is "
            "replaced.",
            cure=_ELSEWHERE,
        )


def _refuse_newer(content: bytes) -> None:
    """Return unless a manifest says that a later version wrote it.

    Raises:
        NewerBundle: it does; another version may know what to make of it.
    """
    try:
        Manifest.parse(content)
    except NewerBundle:
        raise
    except BundleError:
        return


def _states_no_sums(content: bytes) -> bool:
    try:
        manifest = Manifest.parse(content)
    except BundleError:
        return False
    return not manifest.artifacts and not manifest.manifest_sha256


def _lost_manifest() -> Lost:
    return Lost(
        MANIFEST,
        "its own sum does not hold, and what it says stands nowhere else; without it "
        "no other file can be judged: restore a copy, or run the embedder again",
    )


class _Repair:
    """One repair under way: `staging` becomes the bundle."""

    def __init__(
        self,
        bundle: Path,
        target: Path,
        staging: Path,
        known: _Known,
        exchange: Exchange,
    ) -> None:
        self._bundle, self._target, self._staging = bundle, target, staging
        self._known, self._exchange = known, exchange
        self._in_place = bundle == target

    def run(self, chunked_dir: Path | None) -> RepairReport:
        """Make what can be made and publish it."""
        scratch = self._staging / _SCRATCH
        scratch.mkdir()
        bench = open_bench(self._bundle, self._known.manifest, scratch)
        intact = len(bench.good) + (not self._known.mended)
        chunk_problem = self._make_all(bench, chunked_dir) if bench.missing else ""
        strays = find_strays(bench) if self._in_place else ()
        rebuilt, lost = self._rebuilt(bench), _lost(bench, chunked_dir, chunk_problem)
        published = None
        if rebuilt or (not self._in_place and not lost):
            if lost and not self._in_place:
                self._spare_whole(lost)
            published = str(self._publish(bench, strays, scratch))
        return RepairReport(str(self._bundle), published, intact, rebuilt, lost, strays)

    def _make_all(self, bench: Bench, chunked_dir: Path | None) -> str:
        """Go through the makers until none finds more; return what ails the chunks."""
        chunks, problem = None, ""
        wanted = {bench.names.ids, bench.names.points, bench.names.sparse}
        if wanted & set(bench.missing):
            try:
                name = bench.manifest.collection
                chunks = open_chunks(chunked_dir, name, bench.scratch)
            except InputError as error:
                problem = error.message
        steps: list[Callable[[], None]] = [
            lambda: make_sums(bench),
            lambda: make_dense(bench),
            lambda: make_ids(bench, chunks),
            lambda: make_sparse(bench, chunks),
            lambda: make_postings(bench),
            lambda: make_points(bench, chunks),
            lambda: make_indexes(bench),
        ]
        before = -1
        while bench.missing and len(bench.good) > before:
            before = len(bench.good)
            for step in steps:
                step()
            if len(bench.good) == before:
                flip_bits_back(bench)
        return problem

    def _rebuilt(self, bench: Bench) -> tuple[Rebuilt, ...]:
        made = [
            Rebuilt(
                name, source, describe_damage(bench.damaged(name), bench.good[name])
            )
            for name, source in bench.rebuilt.items()
        ]
        if self._known.mended:
            source = "itself, one bit flipped back"
            made.append(Rebuilt(MANIFEST, source, "its own sum did not hold"))
        return tuple(made)

    def _spare_whole(self, lost: tuple[Lost, ...]) -> None:
        """Refuse to replace a whole bundle by one that is not."""
        if not (self._target / MANIFEST).exists():
            return
        manifest = Manifest.read(self._target)
        there = open_bench(self._target, manifest, self._staging)
        if not there.missing:
            raise UsageError(
                f"{self._target} is whole, and {', '.join(one.file for one in lost)} "
                "would be lost; nothing is replaced.",
                cure=_ELSEWHERE,
            )

    def _publish(self, bench: Bench, strays: tuple[str, ...], scratch: Path) -> Path:
        fill(self._staging, bench, strays, share=self._in_place)
        (self._staging / MANIFEST).write_bytes(self._known.content)
        shutil.rmtree(scratch)
        fsync_tree(self._staging)
        seen = (self._bundle / MANIFEST).read_bytes()

        def unchanged(first: Path, second: Path) -> bool:
            """Swap, unless another bundle has appeared in the meantime."""
            if self._in_place and (second / MANIFEST).read_bytes() != seen:
                raise BundleError(
                    f"{second} was replaced while it was repaired; nothing is written.",
                    cure="Run the same command again.",
                )
            return self._exchange(first, second)

        publish_folder(self._staging, self._target, unchanged)
        return self._target


def _lost(bench: Bench, chunked_dir: Path | None, problem: str) -> tuple[Lost, ...]:
    return tuple(
        Lost(name, reason_lost(bench, name, chunked_dir, problem))
        for name in bench.missing
    )
