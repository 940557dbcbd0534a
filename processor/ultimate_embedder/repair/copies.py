"""Vectors that were damaged in two files at once, but not in the same rows.

The vector file and an exact index hold the same bytes after short headers. Rows in
which the two are equal are taken as they are; for each of the few others one of the two
is right, and the sum of the whole tells which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from ..export.faiss_index import EXACT
from ..export.vectors import header
from .bench import Bench

_MOST_ROWS = 8
Bytes = npt.NDArray[np.uint8]


def vectors_of_two_copies(bench: Bench, key: str) -> None:
    """Offer a model's vector file, joined of its damaged self and its damaged index."""
    npy, index = bench.names.dense(key), bench.names.index(key)
    export = bench.manifest.export
    exact = export is not None and export.faiss_factory == EXACT
    if not (bench.needs(npy) and bench.needs(index) and exact):
        return
    width = next(r.dimension for r in bench.manifest.dense_run or () if r.model == key)
    rows = bench.manifest.chunk_count
    begin = header(rows, width)
    copies = [_tail(bench, name, rows, width) for name in (npy, index)]
    if bench.listed[npy].bytes != len(begin) + rows * width * 4:
        return
    if copies[0] is None or copies[1] is None:
        return
    wanted = bench.listed[npy].sha256
    for joined in _joined(copies[0], copies[1]):
        digest = hashlib.sha256(begin)
        digest.update(joined.data)
        if digest.hexdigest() == wanted:
            path = bench.new_path()
            with path.open("wb") as stream:
                stream.write(begin)
                stream.write(joined.data)
            bench.offer(npy, path, f"itself and {index}, row by row")
            return


def _tail(bench: Bench, name: str, rows: int, width: int) -> Bytes | None:
    """Return the bytes of the vectors, uint8 [rows, width * 4]; None: another size."""
    path = bench.damaged(name)
    size = rows * width * 4
    if path is None or not 0 < size < path.stat().st_size == bench.listed[name].bytes:
        return None
    with path.open("rb") as stream:
        stream.seek(-size, 2)
        return np.frombuffer(stream.read(), dtype=np.uint8).reshape(rows, width * 4)


def _joined(one: Bytes, other: Bytes) -> Iterator[Bytes]:
    """Yield every choice between the copies in the rows where they differ."""
    differing = np.flatnonzero((one != other).any(axis=1))
    if len(differing) > _MOST_ROWS:
        return
    for choice in product((False, True), repeat=len(differing)):
        joined = one.copy()
        taken = differing[np.array(choice, dtype=bool)]
        joined[taken] = other[taken]
        yield joined
