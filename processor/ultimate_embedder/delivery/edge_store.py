"""A collection in qdrant-edge: the engine of Qdrant inside this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from ..errors import DeliveryError, MissingExtra
from .edge_requests import edge_request
from .layout import (
    CollectionLayout,
    DenseVector,
    FoundPoint,
    Point,
    Request,
    SparseVectorKind,
)

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard

_CONFIG_NAME: Final = "edge_config.json"


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn the engine's failures into DeliveryError, on one line."""
    try:
        yield
    except OSError as error:
        raise DeliveryError(f"{where} cannot be written: {error.strerror}.") from error
    except Exception as error:  # the engine raises nothing more precise
        line = " ".join(str(error).split())[:300]
        cure = "Another process has it open." if "WAL" in line else None
        raise DeliveryError(f"{where}: {line}.", cure=cure) from error


class EdgeStore:
    """The collection in `folder/<collection>`, opened when it is first needed."""

    def __init__(self, folder: Path, collection: str) -> None:
        try:
            import qdrant_edge
        except ImportError as error:
            raise MissingExtra("Uploading to the embedded Qdrant", "edge") from error
        self._edge = qdrant_edge
        self._path = folder / collection
        self._where = f"Qdrant Edge at {self._path}"
        self._shard: EdgeShard | None = None

    def describe(self) -> str:
        return self._where

    def layout(self) -> CollectionLayout | None:
        config = self._path / _CONFIG_NAME
        if not self._path.exists() or not any(self._path.iterdir()):
            return None
        if not config.is_file():
            raise DeliveryError(
                f"{self._path} is not empty and holds no Qdrant Edge collection.",
                cure="Give another folder.",
            )
        with _told(self._where):
            stored: dict[str, Any] = orjson.loads(config.read_bytes())
        return CollectionLayout(
            {
                name: DenseVector(vector["size"], vector["distance"])
                for name, vector in (stored.get("vectors") or {}).items()
            },
            {
                name: SparseVectorKind(idf=vector.get("modifier") == "idf")
                for name, vector in (stored.get("sparse_vectors") or {}).items()
            },
        )

    def create(self, layout: CollectionLayout) -> None:
        edge = self._edge
        config = edge.EdgeConfig(
            vectors={
                name: edge.EdgeVectorParams(
                    size=vector.size, distance=getattr(edge.Distance, vector.distance)
                )
                for name, vector in layout.dense.items()
            },
            sparse_vectors={
                name: edge.EdgeSparseVectorParams(
                    modifier=edge.Modifier.Idf if kind.idf else None
                )
                for name, kind in layout.sparse.items()
            },
        )
        with _told(self._where):
            self._path.mkdir(parents=True, exist_ok=True)
            self._shard = edge.EdgeShard.create(str(self._path), config)

    def drop(self) -> None:
        """Remove the collection's folder; `layout` has made sure that it is one."""
        self.close()
        with _told(self._where):
            if self.layout() is not None:
                shutil.rmtree(self._path)

    def upsert(self, points: list[Point]) -> None:
        edge = self._edge
        with _told(self._where):
            self._opened().update(
                edge.UpdateOperation.upsert_points(
                    [
                        edge.Point(
                            point["id"],
                            {
                                name: vector
                                if isinstance(vector, list)
                                else edge.SparseVector(**vector)
                                for name, vector in point["vector"].items()
                            },
                            point["payload"],
                        )
                        for point in points
                    ]
                )
            )

    def count(self) -> int:
        with _told(self._where):
            return int(self._opened().count(self._edge.CountRequest(exact=True)))

    def fetch(self, ids: list[str]) -> dict[str, Point]:
        wanted: list[int | UUID | str] = list(ids)
        with _told(self._where):
            records = self._opened().retrieve(wanted, True, True)
        return {
            str(record.id): {
                "id": str(record.id),
                "vector": _plain(record.vector),
                "payload": record.payload,
            }
            for record in records
        }

    def query(self, requests: Sequence[Request]) -> list[list[FoundPoint]]:
        asked = [edge_request(one) for one in requests]
        with _told(self._where):
            answers = [self._opened().query(one) for one in asked]
        return [
            [FoundPoint(str(p.id), p.score, p.payload) for p in answer]
            for answer in answers
        ]

    def finish(self) -> None:
        """Build the indexes that are due, then flush."""
        with _told(self._where):
            self._opened().optimize()
            self._opened().flush()

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _opened(self) -> EdgeShard:
        if self._shard is None:
            self._shard = self._edge.EdgeShard.load(str(self._path))
        return self._shard


def _plain(vectors: Any) -> dict[str, Any]:
    """Return vectors as a row of the JSONL has them."""
    if not isinstance(vectors, Mapping):
        return {} if vectors is None else {"": vectors}
    return {
        name: vector
        if isinstance(vector, list)
        else {"indices": vector.indices, "values": vector.values}
        for name, vector in vectors.items()
    }
