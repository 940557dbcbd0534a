"""A collection in Qdrant, reached through qdrant-client: a server or a local folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import DeliveryError, MissingExtra
from .layout import (
    CollectionLayout,
    DenseVector,
    FoundPoint,
    Point,
    Request,
    SparseVectorKind,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_TIMEOUT_SECONDS: Final = 60


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn the client's failures into DeliveryError, on one line."""
    from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        refused = error.status_code in {401, 403}
        raise DeliveryError(
            f"{where} answered: {_line(error)}.",
            cure="Set QDRANT_API_KEY to a key that may write." if refused else None,
        ) from error
    except ApiException as error:
        raise DeliveryError(
            f"{where} cannot be reached: {_line(error)}.",
            cure="Check the address and that Qdrant is running.",
        ) from error
    except OSError as error:  # the local mode's folder
        raise DeliveryError(
            f"{where} cannot be opened or written: {error.strerror or _line(error)}.",
            cure="Choose another folder, or mend its permissions.",
        ) from error
    except (ValueError, RuntimeError) as error:  # what the local mode raises
        raise DeliveryError(f"{where}: {_line(error).rstrip('.')}.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _without_size_advice() -> Iterator[None]:
    """Silence the local mode's advice about large collections, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Local mode is not recommended for collections", UserWarning
        )
        yield


def _client_class() -> type[QdrantClient]:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MissingExtra("Uploading to Qdrant", "qdrant") from error
    return QdrantClient


class QdrantStore:
    """One collection of a Qdrant server or of qdrant-client's local mode."""

    def __init__(self, client: QdrantClient, collection: str, place: str) -> None:
        self._client = client
        self._collection = collection
        self._where = f"Qdrant at {place}"

    @classmethod
    def at_url(
        cls, url: str, collection: str, api_key: str | None = None
    ) -> QdrantStore:
        """Return the collection on the server at `url`; nothing is sent yet."""
        client = _client_class()
        with _told(f"Qdrant at {url}"):
            return cls(
                client(
                    url=url,
                    api_key=api_key,
                    timeout=_TIMEOUT_SECONDS,
                    check_compatibility=False,  # a request whose failure only warns
                ),
                collection,
                url,
            )

    @classmethod
    def in_folder(cls, folder: Path, collection: str) -> QdrantStore:
        """Return the collection in a local folder, which is made when missing."""
        client = _client_class()
        with _told(f"Qdrant at {folder}"), _without_size_advice():
            return cls(client(path=str(folder)), collection, str(folder))

    def describe(self) -> str:
        return f"collection '{self._collection}' of {self._where}"

    def layout(self) -> CollectionLayout | None:
        from qdrant_client import models

        with _told(self._where):
            if not self._client.collection_exists(self._collection):
                return None
            found = self._client.get_collection(self._collection).config.params
        dense = found.vectors or {}
        if isinstance(dense, models.VectorParams):
            dense = {"": dense}  # one vector without a name
        return CollectionLayout(
            {name: DenseVector(v.size, v.distance.value) for name, v in dense.items()},
            {
                name: SparseVectorKind(idf=vector.modifier is models.Modifier.IDF)
                for name, vector in (found.sparse_vectors or {}).items()
            },
        )

    def create(self, layout: CollectionLayout) -> None:
        from qdrant_client import models

        with _told(self._where):
            self._client.create_collection(
                self._collection,
                vectors_config={
                    name: models.VectorParams(
                        size=vector.size, distance=models.Distance(vector.distance)
                    )
                    for name, vector in layout.dense.items()
                },
                sparse_vectors_config={
                    name: models.SparseVectorParams(
                        modifier=models.Modifier.IDF if kind.idf else None
                    )
                    for name, kind in layout.sparse.items()
                },
            )

    def drop(self) -> None:
        with _told(self._where):
            self._client.delete_collection(self._collection)

    def upsert(self, points: list[Point]) -> None:
        from qdrant_client import models

        with _told(self._where), _without_size_advice():
            self._client.upsert(
                self._collection,
                points=[models.PointStruct(**point) for point in points],
                wait=True,
            )

    def count(self) -> int:
        with _told(self._where):
            return self._client.count(self._collection, exact=True).count

    def fetch(self, ids: list[str]) -> dict[str, Point]:
        with _told(self._where):
            records = self._client.retrieve(
                self._collection, ids, with_payload=True, with_vectors=True
            )
        return {
            str(record.id): {
                "id": str(record.id),
                "vector": _plain(record.vector),
                "payload": record.payload,
            }
            for record in records
        }

    def query(self, requests: Sequence[Request]) -> list[list[FoundPoint]]:
        from qdrant_client import models

        with _told(self._where):
            answers = self._client.query_batch_points(
                self._collection, [models.QueryRequest(**one) for one in requests]
            )
        return [
            [FoundPoint(str(p.id), p.score, p.payload) for p in answer.points]
            for answer in answers
        ]

    def finish(self) -> None:
        """Nothing to do: each batch was waited for."""

    def close(self) -> None:
        self._client.close()


def _plain(vectors: Any) -> dict[str, Any]:
    """Return vectors as a row of the JSONL has them."""
    if not isinstance(vectors, Mapping):
        return {} if vectors is None else {"": vectors}
    return {
        name: vector
        if isinstance(vector, list)
        else {"indices": list(vector.indices), "values": list(vector.values)}
        for name, vector in vectors.items()
    }
