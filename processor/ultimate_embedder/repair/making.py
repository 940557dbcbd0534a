"""Each kind of file made again from the others. What has not its sum is not taken.

A maker takes the bench and one listed name that is not right, tries its sources, and
offers what it made; it may be called again when more files are right.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..export.checksums import HashedFile, format_sums
from ..export.faiss_index import EXACT, write_index
from ..export.jsonl import ChunkSource, write_ids, write_points, write_sparse
from ..export.layout import SUMS
from ..export.vectors import write_vectors
from ..intake.chunk_store import ChunkStore
from ..records import Float32Array, SparseInferenceRun, SparseMatrix
from ..retrieval.postings import write_postings
from .bench import Bench
from .bits import LARGEST_SEARCHED_BYTES, flip_back
from .copies import vectors_of_two_copies
from .salvage import SalvagedStore
from .stores import IdStore, PointStore
from .vectors import dense_vectors, sparse_rows

CHUNK_FILES = "the chunk files"


def make_sums(bench: Bench) -> None:
    """Make the list of sums from the manifest."""
    if bench.needs(SUMS):
        path = bench.new_path()
        others = (i for i in bench.listed.values() if i.path != SUMS)
        with HashedFile(path) as file:
            file.write(format_sums((item.path, item.sha256) for item in others))
        bench.offer(SUMS, path, "the manifest")


def make_ids(bench: Bench, chunks: ChunkStore | None) -> None:
    """Make the ids from the points' texts, or from the chunk files."""
    name = bench.names.ids
    for store, source in _texts(bench, chunks):
        if not bench.needs(name):
            return
        with bench.attempt(name):
            path = bench.new_path()
            write_ids(path, store)
            bench.offer(name, path, source)


def make_dense(bench: Bench) -> None:
    """Make each model's vectors from the points or an exact index."""
    for key in bench.dense_keys:
        name = bench.names.dense(key)
        if not bench.needs(name):
            continue
        with bench.attempt(name):
            found = dense_vectors(bench, key, without=name)
            if found is not None:
                path = bench.new_path()
                write_vectors(path, key, found[0])
                bench.offer(name, path, found[1])
        vectors_of_two_copies(bench, key)


def make_indexes(bench: Bench) -> None:
    """Make each model's index from its vectors."""
    export = bench.manifest.export
    for key in bench.dense_keys:
        name = bench.names.index(key)
        if not bench.needs(name):
            continue
        with bench.attempt(name):
            found = dense_vectors(bench, key, without=name)
            if found is not None:
                path = bench.new_path()
                factory = export.faiss_factory if export else EXACT
                write_index(path, found[0], factory=factory)
                bench.offer(name, path, found[1])


def make_sparse(bench: Bench, chunks: ChunkStore | None) -> None:
    """Make the sparse file from points or inverted lists, and chunk ids."""
    name = bench.names.sparse
    if not bench.needs(name):
        return
    with bench.attempt(name):
        found = _all_sparse(bench, without=name)
        ids = _ids(bench, chunks)
        if found is not None and ids is not None:
            path = bench.new_path()
            write_sparse(path, ids[0], found[0])
            bench.offer(name, path, _listed([*found[1], ids[1]]))


def make_postings(bench: Bench) -> None:
    """Make each model's inverted lists from the sparse file or the points."""
    for run in bench.manifest.sparse_run or ():
        folder = bench.names.postings(run.sparse_model)
        wanted = [n for n in bench.missing if n.startswith(f"{folder}/")]
        if not wanted:
            continue
        with bench.attempt(wanted[0]):
            only_facts = wanted == [f"{folder}/statistics.npy"]
            without = wanted[0] if only_facts else folder
            found = sparse_rows(bench, run.sparse_model, without=without)
            if found is None:
                continue
            made = bench.new_path()
            write_postings(found[0], made, average_length=_average(bench, folder, run))
            for name in wanted:
                path = made / name.removeprefix(f"{folder}/")
                if path.is_file():
                    bench.offer(name, path, found[1])


def make_points(bench: Bench, chunks: ChunkStore | None) -> None:
    """Make the points from their own readable payloads or the chunk files."""
    name = bench.names.points
    if not bench.needs(name):
        return
    with bench.attempt(name):
        dense, sparse = _all_dense(bench, without=name), {}
        found = None if bench.simple else _all_sparse(bench, without=name)
        if found is not None:
            sparse = found[0]
        if dense is None or (found is None and not bench.simple):
            bench.tried[name] = "vectors that stand in it are right in no other file"
            return
        for store, source in _payloads(bench, chunks):
            path = bench.new_path()
            write_points(path, store, dense[0], sparse, layout=bench.layout)
            others = found[1] if found else []
            if bench.offer(name, path, _listed([source, *dense[1], *others])):
                return


def flip_bits_back(bench: Bench) -> None:
    """Search small files for a single flipped bit."""
    for name in bench.missing:
        damaged, item = bench.damaged(name), bench.listed[name]
        small = item.bytes <= LARGEST_SEARCHED_BYTES
        if name in bench.searched or damaged is None or not small:
            continue
        if damaged.stat().st_size != item.bytes:
            continue
        bench.searched.add(name)
        mended = flip_back(damaged.read_bytes(), item.sha256)
        if mended is not None:
            path = bench.new_path()
            path.write_bytes(mended)
            bench.offer(name, path, "itself, one bit flipped back")


def _texts(
    bench: Bench, chunks: ChunkStore | None
) -> Iterator[tuple[ChunkSource, str]]:
    rows, points = bench.manifest.chunk_count, bench.names.points
    if points in bench.good:
        yield PointStore(bench.good[points], rows), points
    if chunks is not None:
        yield chunks, CHUNK_FILES
    damaged = bench.damaged(points)
    if damaged is not None and points not in bench.good:
        store = SalvagedStore(damaged, rows, bench.simple, None, None)
        if not store.prepare():
            yield store, f"what is readable of {points}"


def _ids(bench: Bench, chunks: ChunkStore | None) -> tuple[ChunkSource, str] | None:
    rows, ids = bench.manifest.chunk_count, bench.names.ids
    if ids in bench.good:
        return IdStore(bench.good[ids], rows), ids
    return next(_texts(bench, chunks), None)


def _payloads(
    bench: Bench, chunks: ChunkStore | None
) -> Iterator[tuple[ChunkSource, str]]:
    """Yield stores of texts and metadata; note what stands nowhere else."""
    rows, name = bench.manifest.chunk_count, bench.names.points
    damaged = bench.damaged(name)
    if damaged is not None:
        ids = bench.good.get(bench.names.ids)
        store = SalvagedStore(damaged, rows, bench.simple, ids, chunks)
        left = store.prepare()
        if left:
            shown = ", ".join(str(row) for row in left[:5])
            more = f" and {len(left) - 5} more" if len(left) > 5 else ""
            bench.tried[name] = f"no payload can be read in row {shown}{more}"
        source = "its own payloads"
        if chunks is not None:
            source += ", " + CHUNK_FILES
        for variant in store.variants(left):
            yield variant, source
        if len(left) == 1:
            bench.searched.add(name)  # the one bad line was
    if chunks is not None and len(chunks) == rows:
        yield chunks, CHUNK_FILES


def _all_dense(
    bench: Bench, *, without: str
) -> tuple[dict[str, Float32Array], list[str]] | None:
    vectors, sources = {}, []
    for key in bench.dense_keys[:1] if bench.simple else bench.dense_keys:
        found = dense_vectors(bench, key, without=without)
        if found is None:
            return None
        vectors[key] = found[0]
        sources.append(found[1])
    return vectors, sources


def _all_sparse(
    bench: Bench, *, without: str
) -> tuple[dict[str, SparseMatrix], list[str]] | None:
    matrices, sources = {}, []
    for key in bench.sparse_keys:
        found = sparse_rows(bench, key, without=without)
        if found is None:
            return None
        matrices[key] = found[0]
        sources.append(found[1])
    return matrices, list(dict.fromkeys(sources))


def _average(bench: Bench, folder: str, run: SparseInferenceRun) -> float | None:
    """Return the average length from the statistics file, or from the manifest."""
    path = bench.good.get(f"{folder}/statistics.npy")
    if path is not None:
        stored = float(np.load(path)[2])
        return None if np.isnan(stored) else stored
    stated = run.statistics.get("average_length")
    return float(stated) if isinstance(stated, int | float) else None


def _listed(sources: list[str]) -> str:
    return ", ".join(dict.fromkeys(sources))
