"""Why a file cannot be had back, and what would help."""

from __future__ import annotations

from pathlib import Path

from .bench import Bench

_ONLY_HERE = (
    "texts and metadata stand in the points file alone, so a damaged payload can be "
    "made again only from the chunk files"
)


def reason_lost(
    bench: Bench, name: str, chunked_dir: Path | None, chunk_problem: str
) -> str:
    """Return one line for a person about a listed file that is not right."""
    tried = bench.tried.get(name, "")
    if name == bench.names.rerank:
        return (
            "what it holds stands nowhere else; run the embedder again with the same "
            "queries"
        )
    if name not in {bench.names.points, bench.names.ids}:
        return tried or "no undamaged file holds what it is made from"
    parts = [tried] if tried else []
    parts.append(_ONLY_HERE)
    if chunk_problem:
        parts.append(chunk_problem)
    elif chunked_dir is None:
        parts.append("name their folder with --chunked-dir")
    else:
        parts.append(
            f"those of '{bench.manifest.collection}' in {chunked_dir} are missing or "
            "not the ones it was made from"
        )
    return "; ".join(parts)
