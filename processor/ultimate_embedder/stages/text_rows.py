"""Rows that no batch fills: those of long texts, and those whose text came earlier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..encoders.windows import pool_windows
from ..intake.pieces import Pieces
from ..records import Int64Array
from ..workers.batch_encoder import check_unit_vectors, write_vectors
from ..workers.jobs import EncodeJob

_ROWS_A_COPY = 4096


def pool_long_rows(job: EncodeJob, pieces: Pieces) -> None:
    """Fill the rows of long texts from the vectors of their windows.

    Windows stay in a file of their own, so this can be done again after a stop.

    Raises:
        ModelError: windows cancel one another out, or are not of unit length.
    """
    if job.windows is None:
        return
    windows = np.load(job.windows, mmap_mode="r")
    rows = pieces.long_rows
    tokens = pieces.stops - pieces.starts
    bounds = np.searchsorted(pieces.window_rows, np.append(rows, pieces.rows))
    for start in range(0, len(rows), _ROWS_A_COPY):
        some = range(start, min(start + _ROWS_A_COPY, len(rows)))
        spans = [slice(bounds[i], bounds[i + 1]) for i in some]
        pooled = np.stack([pool_windows(windows[one], tokens[one]) for one in spans])
        check_unit_vectors(pooled, job.model.name)
        write_vectors(job.vectors, rows[some], pooled)


def copy_to_equal_rows(path: Path, first: Int64Array) -> None:
    """Fill rows whose text stands earlier from the row that was computed."""
    copies: npt.NDArray[np.int64] = np.flatnonzero(first != np.arange(len(first)))
    if not len(copies):
        return
    vectors = np.load(path, mmap_mode="r")
    for start in range(0, len(copies), _ROWS_A_COPY):
        rows = copies[start : start + _ROWS_A_COPY]
        write_vectors(path, rows, vectors[first[rows]])
