"""A collection in qdrant-edge: the engine of Qdrant inside this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from ..errors import DeliveryError, MissingExtra, UsageError
from .edge_config import edge_config, layout_of
from .edge_requests import edge_request
from .layout import CollectionLayout, FoundPoint, Point, Request
from .presets import Tuning
from .store import KEYWORD_FIELDS, OWNER_FIELD, TEXT_FIELD

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard

_CONFIG_NAME: Final = "edge_config.json"
_PAGE_POINTS: Final = 10_000


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn the engine's failures into DeliveryError, on one line."""
    try:
        yield
    except OSError as error:
        raise DeliveryError(
            f"{where} cannot be written: {error.strerror or error}.",
            cure="Choose another folder, or mend its permissions.",
        ) from error
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

    def identity(self) -> str:
        return str(self._path.resolve())

    def layout(self) -> CollectionLayout | None:
        config = self._path / _CONFIG_NAME
        with _told(self._where):
            empty = not self._path.exists() or not any(self._path.iterdir())
        if empty:
            return None
        if not config.is_file():
            raise DeliveryError(
                f"{self._path} is not empty and holds no Qdrant Edge collection.",
                cure="Give another folder.",
            )
        with _told(self._where):
            stored: dict[str, Any] = orjson.loads(config.read_bytes())
        return layout_of(stored)

    def create(self, layout: CollectionLayout, tuning: Tuning) -> None:
        """Make the collection under another name first: what has its own is whole."""
        with _told(self._where):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            begun = self._beside("new")
            shutil.rmtree(begun, ignore_errors=True)
            config = edge_config(layout, tuning)
            self._edge.EdgeShard.create(str(begun), config).close()
            begun.replace(self._path)

    def index_payload(self) -> None:
        edge = self._edge
        words = edge.TextIndexParams(tokenizer=edge.TokenizerType.Word, lowercase=True)
        keyword = edge.PayloadSchemaType.Keyword
        schemas = {**dict.fromkeys(KEYWORD_FIELDS, keyword), TEXT_FIELD: words}
        make = edge.UpdateOperation.create_field_index
        with _told(self._where):
            known = self._opened().info().payload_schema
            for field, schema in schemas.items():
                if field not in known:
                    self._opened().update(make(field, schema))

    def drop(self) -> None:
        """Remove the collection's folder; `layout` has made sure that it is one."""
        self.close()
        with _told(self._where):
            if self.layout() is not None:
                gone = self._beside("old")
                shutil.rmtree(gone, ignore_errors=True)
                self._path.replace(gone)
                shutil.rmtree(gone)

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

    def delete(self, ids: list[str]) -> None:
        wanted: list[int | UUID | str] = list(ids)
        with _told(self._where):
            self._opened().update(self._edge.UpdateOperation.delete_points(wanted))

    def count(self) -> int:
        with _told(self._where):
            return int(self._opened().count(self._edge.CountRequest(exact=True)))

    def ids(self) -> Iterator[list[str]]:
        offset = None
        while True:
            asked = self._edge.ScrollRequest(
                offset=offset, limit=_PAGE_POINTS, with_payload=False, with_vector=False
            )
            with _told(self._where):
                records, offset = self._opened().scroll(asked)
            yield [str(record.id) for record in records]
            if offset is None:
                return

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

    def payloads(self, ids: list[str]) -> dict[str, Any]:
        wanted: list[int | UUID | str] = list(ids)
        with _told(self._where):
            records = self._opened().retrieve(wanted, True, False)
        return {str(record.id): record.payload for record in records}

    def owners(self, ids: list[str]) -> dict[str, str | None]:
        wanted: list[int | UUID | str] = list(ids)
        with _told(self._where):
            records = self._opened().retrieve(wanted, [OWNER_FIELD], False)
        found: dict[str, str | None] = {}
        for record in records:
            metadata = (record.payload or {}).get("metadata")
            owner = metadata.get("collection") if isinstance(metadata, dict) else None
            found[str(record.id)] = owner if isinstance(owner, str) else None
        return found

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

    def wait_until_indexed(self, seconds: float) -> None:
        """Nothing to do: `finish` builds the indexes."""

    def alias_of(self, alias: str) -> str | None:
        raise UsageError(
            f"Qdrant Edge has no aliases, so '{alias}' cannot be one.",
            cure="Leave --alias out.",
        )

    def point_alias(self, alias: str) -> None:
        self.alias_of(alias)

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _beside(self, suffix: str) -> Path:
        """Return the hidden folder of a collection that is being made or removed."""
        return self._path.with_name(f".{self._path.name}.{suffix}")

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
