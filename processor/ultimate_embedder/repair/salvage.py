"""Texts and metadata out of a damaged points file, as far as they can be proved.

Most of a points file is vectors, and these stand elsewhere too. A line whose text has
the hash of the ids file gives its payload, whatever became of its vectors; one that
does not is searched for a single flipped bit, or replaced from the chunk files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from ..export.strict_json import read_lines
from ..intake.chunk_store import ChunkStore
from ..records import Chunk, text_sha256
from .bits import LARGEST_SEARCHED_BYTES, one_bit_off
from .stores import chunk_of, id_records

_PAYLOAD = b',"payload":'
_EMBEDDING = b',"embedding":['
_METADATA = b'],"metadata":'
_VARIANTS = 8


def payload_of(line: bytes, *, simple: bool) -> Chunk | None:
    """Return what a line says beside its vectors, or None where that is no JSON."""
    try:
        found = _simple_payload(line) if simple else _payload(line)
        chunk_id, text, metadata = (found[k] for k in ("chunk_id", "text", "metadata"))
    except (ValueError, KeyError, TypeError):  # a damaged line, told by its row
        return None
    well = isinstance(chunk_id, str) and isinstance(text, str)
    if not well or not isinstance(metadata, dict):
        return None
    return chunk_of(chunk_id, text, metadata)


def _payload(line: bytes) -> Any:
    return orjson.loads(line[line.index(_PAYLOAD) + len(_PAYLOAD) : -1])


def _simple_payload(line: bytes) -> dict[str, Any]:
    numbers = line.index(_EMBEDDING)
    after = line.index(_METADATA, numbers)
    head = orjson.loads(line[:numbers] + b"}")
    metadata = orjson.loads(line[after + len(_METADATA) : -1])
    return {"chunk_id": head["id"], "text": head["text"], "metadata": metadata}


@dataclass(slots=True)
class SalvagedStore:
    """Payloads of a damaged points file, in row order.

    `ids` is the undamaged ids file, if there is one; without it nothing is known of a
    single line and the sum of the whole decides. `chunks` stands in for bad lines.
    """

    points: Path
    rows: int
    simple: bool
    ids: Path | None
    chunks: ChunkStore | None
    _mended: dict[int, Chunk] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.rows

    def prepare(self) -> list[int]:
        """Look at every line; return the rows that nothing gives yet."""
        bad = [row for row, _, chunk, _ in self._lines() if chunk is None]
        if bad and self.chunks is not None:
            self._take_from_chunks(set(bad))
        return [row for row in bad if row not in self._mended]

    def variants(self, left: list[int]) -> Iterator[SalvagedStore]:
        """Yield this store, its one bad line with each bit flipped that may be right.

        `left` is what `prepare` returned. Without bad lines it is itself alone; with
        several there is none.
        """
        if not left:
            yield self
        if len(left) != 1:
            return
        for chunk in islice(self._one_bit_off(left[0]), _VARIANTS):
            yield replace(self, _mended={**self._mended, left[0]: chunk})

    def __iter__(self) -> Iterator[Chunk]:
        for row, _, chunk, _ in self._lines():
            chosen = chunk or self._mended.get(row)
            if chosen is not None:
                yield chosen

    def _lines(
        self,
    ) -> Iterator[tuple[int, bytes, Chunk | None, dict[str, Any] | None]]:
        """Yield for each row: the line, its payload if right, and its ids record."""
        lines = (line.content for line in read_lines(self.points))
        records = id_records(self.ids) if self.ids else iter(())
        for row in range(self.rows):
            line, record = next(lines, b""), next(records, None)
            chunk = payload_of(line, simple=self.simple)
            yield row, line, chunk if _fits(chunk, record) else None, record

    def _take_from_chunks(self, bad: set[int]) -> None:
        assert self.chunks is not None  # noqa: S101 - the caller has looked
        if len(self.chunks) != self.rows:
            return
        records = (record for _, _, _, record in self._lines())
        for row, record in enumerate(records):
            chunk = self.chunks.chunk(row) if row in bad else None
            if chunk is not None and _fits(chunk, record):
                self._mended[row] = chunk

    def _one_bit_off(self, wanted: int) -> Iterator[Chunk]:
        """Yield what fits of a row's line with one bit flipped."""
        lines = (found for found in self._lines() if found[0] == wanted)
        _, line, _, record = next(lines)
        if not self.simple and _PAYLOAD in line:
            line = line[line.index(_PAYLOAD) :]  # a bit of the vectors changes nothing
        if len(line) > LARGEST_SEARCHED_BYTES:
            return
        for candidate in one_bit_off(line, len(line)):
            chunk = payload_of(candidate, simple=self.simple)
            if chunk is not None and _fits(chunk, record):
                yield chunk


def _fits(chunk: Chunk | None, record: dict[str, Any] | None) -> bool:
    if chunk is None or record is None:
        return chunk is not None
    known = (record["chunk_id"], record["text_sha256"])
    return (chunk.chunk_id, text_sha256(chunk.text)) == known
