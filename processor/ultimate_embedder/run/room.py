"""Room on the disk, asked for before hours of work: for a whole run, then for each
collection when its chunks are counted.

What earlier runs left of a collection is there already and not asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import PipelineConfig
from ..disk_space import RESERVE_BYTES, estimate_bundle_bytes, require_free_space
from ..intake.chunks import CollectionFolder

_BYTES_A_CHUNK = 1000  # what a chunk takes in its file, before chunks are counted


def require_room(
    config: PipelineConfig, folders: Sequence[CollectionFolder], work_root: Path
) -> None:
    """Return when all collections without a bundle fit together.

    One that has a bundle may be up to date: it is asked for when that is known.

    Raises:
        OutputError: they do not, with both figures.
    """
    new = [one for one in folders if not (config.output_dir / one.name).exists()]
    missing = sum(
        _missing_bytes(
            config,
            work_root / folder.name,
            chunk_bytes=folder.total_bytes,
            chunks=folder.total_bytes // _BYTES_A_CHUNK,
        )
        for folder in new
    )
    if new:
        require_free_space(config.output_dir, missing + RESERVE_BYTES)


def require_room_for(
    config: PipelineConfig, work_dir: Path, *, chunk_bytes: int, chunks: int
) -> None:
    """Return when one collection fits, of which the chunks are counted.

    Raises:
        OutputError: it does not, with both figures.
    """
    missing = _missing_bytes(config, work_dir, chunk_bytes=chunk_bytes, chunks=chunks)
    require_free_space(config.output_dir, missing + RESERVE_BYTES)


def _missing_bytes(
    config: PipelineConfig, work_dir: Path, *, chunk_bytes: int, chunks: int
) -> int:
    needed = estimate_bundle_bytes(
        chunk_bytes=chunk_bytes,
        chunks=chunks,
        dimensions=[model.vector_dim for model in config.dense],
        sparse_models=len(config.active_sparse),
        exports=config.exports,
        attention=sum(model.kind == "attention" for model in config.active_sparse),
    )
    there = sum(path.lstat().st_size for path in work_dir.rglob("*") if path.is_file())
    return max(0, needed - there)
