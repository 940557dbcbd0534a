"""Points of a bundle written and read: ours against Python's json, the same content.

Ours writes through to the disk, hashes what it writes and checks every vector.

    python -m benchmarks.points_speed [--turns N] [--texts N] [--data FOLDER]
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import corpus, harness
from benchmarks.harness import Aim, Table
from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.export.jsonl import read_points, write_points
from processor.ultimate_embedder.records import (
    Chunk,
    Float32Array,
    SparseMatrix,
    SparseVector,
    point_id,
)

DIMENSION = 384


def content(texts: list[str]) -> tuple[list[Chunk], Float32Array, SparseMatrix]:
    """Return chunks with dense and sparse vectors; speed depends on no value."""
    made = [
        Chunk(
            chunk_id=f"bench:_root:file:chunk:{row}",
            collection="bench",
            source_subdir="_root",
            filename="file",
            index=row,
            text=text,
            metadata={"collection": "bench", "source_subdir": "_root", "index": row},
        )
        for row, text in enumerate(texts)
    ]
    dense = np.random.default_rng(0).standard_normal((len(texts), DIMENSION), "f4")
    sparse = Bm25Encoder().encode_documents(texts)
    bounds = np.cumsum([0, *map(len, sparse)], dtype=np.int64)
    matrix = SparseMatrix(
        bounds,
        np.concatenate([vector.indices for vector in sparse]),
        np.concatenate([vector.values for vector in sparse]),
    )
    return made, dense, matrix


def write_with_json(
    path: Path, chunks: list[Chunk], dense: Float32Array, sparse: SparseMatrix
) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row, chunk in enumerate(chunks):
            file.write(json.dumps(_point(chunk, dense[row], sparse[row])) + "\n")


def _point(chunk: Chunk, dense: Float32Array, sparse: SparseVector) -> dict[str, Any]:
    return {
        "id": point_id(chunk.chunk_id),
        "vector": {
            "all-miniLM-l6": dense.tolist(),
            "qdrant-bm25": {
                "indices": sparse.indices.tolist(),
                "values": sparse.values.tolist(),
            },
        },
        "payload": {
            "chunk_id": chunk.chunk_id,
            "text": chunk.text,
            "metadata": chunk.metadata,
        },
    }


def read_with_json(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        for line in file:
            point = json.loads(line)
            np.array(point["vector"]["all-miniLM-l6"], dtype=np.float32)


def measure(texts: list[str], turns: int) -> list[Table]:
    """Return the tables of writing and of reading."""
    chunks, dense, sparse = content(texts)
    vectors, matrices = {"all-miniLM-l6": dense}, {"qdrant-bm25": sparse}
    with tempfile.TemporaryDirectory() as scratch:
        mine, theirs = Path(scratch) / "mine.jsonl", Path(scratch) / "theirs.jsonl"
        writing = harness.take_turns(
            {
                "ours": lambda: write_points(mine, chunks, vectors, matrices),
                "json": lambda: write_with_json(theirs, chunks, dense, sparse),
            },
            turns,
        )
        reading = harness.take_turns(
            {
                "ours": lambda: sum(1 for _ in read_points(mine)),
                "json": lambda: read_with_json(theirs),
            },
            turns,
        )
    remark = f"{len(texts):,} points with {DIMENSION} numbers and their BM25 terms."
    return [
        Table(
            f"points-{name}",
            f"Points {name}",
            "points",
            harness.rows_of(seconds, len(texts), "json"),
            reference="json",
            aims=(Aim("ours", "json", at_least=1.0),),
            remark=remark,
        )
        for name, seconds in (("written", writing), ("read", reading))
    ]


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=3)
    parser.add_argument("--texts", type=int, default=2000)
    asked = parser.parse_args()
    return harness.report(
        measure(corpus.chunks(asked.data, asked.texts), asked.turns), asked.json
    )


if __name__ == "__main__":
    raise SystemExit(main())
