"""A collection in Qdrant, reached through qdrant-client: a server or a local folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..errors import DeliveryError, UsageError
from .layout import (
    FLOAT32,
    CollectionLayout,
    DenseVector,
    FoundPoint,
    Point,
    Request,
    SparseVectorKind,
)
from .presets import Tuning
from .qdrant_config import collection_request
from .qdrant_errors import told
from .retry import Retries, Unsteady
from .store import KEYWORD_FIELDS, OWNER_FIELD, TEXT_FIELD

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

PAGE_POINTS: Final = 10_000
_FETCHED_AT_ONCE: Final = 64
_DELETED_AT_ONCE: Final = 1_000
_LOOK_AGAIN_SECONDS: Final = 1.0
_Answer = TypeVar("_Answer")


class QdrantStore:
    """One collection of a Qdrant server or of qdrant-client's local mode.

    `place` is for people; `identity` is the same however the place is reached. `served`
    is false in the local mode, which has no indexes. Requests that fail in a
    way that may pass are made again as `retries` says, except that a server which was
    never reached is not waited for. Each request may be made twice: what it asks for is
    the same after the second time.
    """

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        place: str,
        *,
        identity: str | None = None,
        served: bool = True,
        retries: Retries | None = None,
    ) -> None:
        self._client = client
        self._collection = collection
        self._where = f"Qdrant at {place}"
        self._identity = identity or place
        self._served = served
        self._retries = retries or Retries()
        self._reached = False

    def describe(self) -> str:
        return f"collection '{self._collection}' of {self._where}"

    def identity(self) -> str:
        return self._identity

    def layout(self) -> CollectionLayout | None:
        if not self._ask(lambda: self._client.collection_exists(self._collection)):
            return None
        found = self._ask(lambda: self._client.get_collection(self._collection))
        return _layout(found.config.params)

    def create(self, layout: CollectionLayout, tuning: Tuning) -> None:
        request = collection_request(layout, tuning)

        def create() -> None:
            try:
                self._client.create_collection(self._collection, **request)
            except Exception:  # an earlier try may have made it before its answer
                if not self._client.collection_exists(self._collection):
                    raise

        self._ask(create)

    def index_payload(self) -> None:
        if not self._served:
            return
        from qdrant_client import models

        text = models.TextIndexParams(
            type=models.TextIndexType.TEXT,
            tokenizer=models.TokenizerType.WORD,
            lowercase=True,
        )
        schemas: dict[str, Any] = {
            **dict.fromkeys(KEYWORD_FIELDS, models.PayloadSchemaType.KEYWORD),
            TEXT_FIELD: text,
        }
        info = self._ask(lambda: self._client.get_collection(self._collection))
        for field, schema in schemas.items():
            if field not in info.payload_schema:
                self._index(field, schema)

    def drop(self) -> None:
        self._ask(lambda: self._client.delete_collection(self._collection))

    def upsert(self, points: list[Point]) -> None:
        from qdrant_client import models

        structs = [models.PointStruct(**point) for point in points]

        def upsert() -> None:
            with _without_size_advice():
                result = self._client.upsert(
                    self._collection, points=structs, wait=True
                )
            self._check_done(result)

        self._ask(upsert)

    def delete(self, ids: list[str]) -> None:
        for start in range(0, len(ids), _DELETED_AT_ONCE):
            self._delete(ids[start : start + _DELETED_AT_ONCE])

    def count(self) -> int:
        return self._ask(lambda: self._client.count(self._collection, exact=True)).count

    def ids(self) -> Iterator[list[str]]:
        offset: Any = None
        while True:
            records, offset = self._page(offset)
            yield [str(record.id) for record in records]
            if offset is None:
                return

    def fetch(self, ids: list[str]) -> dict[str, Point]:
        return {
            str(record.id): {
                "id": str(record.id),
                "vector": _plain(record.vector),
                "payload": record.payload,
            }
            for record in self._records(ids, payload=True, vectors=True)
        }

    def payloads(self, ids: list[str]) -> dict[str, Any]:
        records = self._records(ids, payload=True, vectors=False)
        return {str(record.id): record.payload for record in records}

    def owners(self, ids: list[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for record in self._records(ids, payload=[OWNER_FIELD], vectors=False):
            metadata = (record.payload or {}).get("metadata")
            owner = metadata.get("collection") if isinstance(metadata, dict) else None
            found[str(record.id)] = owner if isinstance(owner, str) else None
        return found

    def query(self, requests: Sequence[Request]) -> list[list[FoundPoint]]:
        from qdrant_client import models

        if not self._served:  # it compares full vectors with every point as it is
            requests = [_without_params(one) for one in requests]
        asked = [models.QueryRequest(**one) for one in requests]
        answers = self._ask(
            lambda: self._client.query_batch_points(self._collection, asked)
        )
        return [
            [FoundPoint(str(p.id), p.score, p.payload) for p in answer.points]
            for answer in answers
        ]

    def finish(self) -> None:
        """Nothing to do: each batch was waited for."""

    def wait_until_indexed(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while self._served:
            info = self._ask(lambda: self._client.get_collection(self._collection))
            status = info.status.value
            if status == "green":
                return
            if status == "red":
                raise DeliveryError(
                    f"The {self.describe()} failed to build its indexes: "
                    f"{info.optimizer_status}."
                )
            if time.monotonic() > ends:
                raise DeliveryError(
                    f"The {self.describe()} still builds its indexes after "
                    f"{seconds:,.0f} s.",
                    cure="Run the same command again later.",
                )
            time.sleep(_LOOK_AGAIN_SECONDS)

    def alias_of(self, alias: str) -> str | None:
        named = self._ask(self._client.get_collections).collections
        if alias in {one.name for one in named}:
            raise UsageError(
                f"{self._where} has a collection called '{alias}', so that no alias "
                "can be.",
                cure="Choose another with --alias, or rename or remove the collection.",
            )
        aliases = self._ask(self._client.get_aliases).aliases
        return next((a.collection_name for a in aliases if a.alias_name == alias), None)

    def point_alias(self, alias: str) -> None:
        from qdrant_client import models

        def swap() -> None:
            earlier = {a.alias_name for a in self._client.get_aliases().aliases}
            gone = models.DeleteAliasOperation(
                delete_alias=models.DeleteAlias(alias_name=alias)
            )
            made = models.CreateAliasOperation(
                create_alias=models.CreateAlias(
                    collection_name=self._collection, alias_name=alias
                )
            )
            steps: list[Any] = [gone, made] if alias in earlier else [made]
            self._client.update_collection_aliases(change_aliases_operations=steps)

        self._ask(swap)

    def close(self) -> None:
        self._client.close()

    def _index(self, field: str, schema: Any) -> None:
        self._ask(
            lambda: self._client.create_payload_index(
                self._collection, field, field_schema=schema, wait=True
            )
        )

    def _delete(self, ids: list[str]) -> None:
        from qdrant_client import models

        selector = models.PointIdsList(points=list(ids))

        def delete() -> None:
            result = self._client.delete(self._collection, selector, wait=True)
            self._check_done(result)

        self._ask(delete)

    def _page(self, offset: Any) -> tuple[list[models.Record], Any]:
        return self._ask(
            lambda: self._client.scroll(
                self._collection,
                limit=PAGE_POINTS,
                offset=offset,
                with_payload=False,
                with_vectors=False,
            )
        )

    def _records(
        self, ids: list[str], *, payload: bool | list[str], vectors: bool
    ) -> Iterator[models.Record]:
        for start in range(0, len(ids), _FETCHED_AT_ONCE):
            yield from self._retrieve(
                ids[start : start + _FETCHED_AT_ONCE], payload, vectors
            )

    def _retrieve(
        self, ids: list[str], payload: bool | list[str], vectors: bool
    ) -> list[models.Record]:
        return self._ask(
            lambda: self._client.retrieve(
                self._collection, ids, with_payload=payload, with_vectors=vectors
            )
        )

    def _check_done(self, result: models.UpdateResult) -> None:
        from qdrant_client import models

        if result.status is not models.UpdateStatus.COMPLETED:
            raise Unsteady(f"{self._where} has not yet stored what was sent.")

    def _ask(self, request: Callable[[], _Answer]) -> _Answer:
        def ask() -> _Answer:
            try:
                with told(self._where):
                    answer = request()
            except Unsteady as error:
                if error.nobody and not self._reached:
                    raise DeliveryError(error.message, cure=error.cure) from error
                raise
            self._reached = True
            return answer

        return self._retries.run(ask)


@contextmanager
def _without_size_advice() -> Iterator[None]:
    """Silence the local mode's advice about large collections, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Local mode is not recommended for collections", UserWarning
        )
        yield


def _layout(found: models.CollectionParams) -> CollectionLayout:
    from qdrant_client import models

    dense = found.vectors or {}
    if isinstance(dense, models.VectorParams):
        dense = {"": dense}  # one vector without a name
    return CollectionLayout(
        {
            name: DenseVector(
                vector.size,
                vector.distance.value,
                vector.datatype.value if vector.datatype else FLOAT32,
                rows=vector.multivector_config is not None,
            )
            for name, vector in dense.items()
        },
        {
            name: SparseVectorKind(idf=vector.modifier is models.Modifier.IDF)
            for name, vector in (found.sparse_vectors or {}).items()
        },
    )


def _without_params(request: Request) -> Request:
    """Return a request, and those before it, without what is said to an index."""
    kept = {key: value for key, value in request.items() if key != "params"}
    if "prefetch" in kept:
        kept["prefetch"] = [_without_params(one) for one in kept["prefetch"]]
    return kept


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
