"""Rows of a bundle as documents: what the judgements speak of.

A document's place in a ranking is that of its best chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..records import Int64Array, RankedList
from ..search import Bundle
from .judgements import Judgements

Unit = Literal["chunk_id", "source", "filename"]
"""What judged ids name: chunks, or the documents that they were cut from."""

UNITS: tuple[Unit, ...] = ("chunk_id", "source", "filename")
ROOT_SUBDIR = "_root"


@dataclass(frozen=True, slots=True)
class DocumentRanking:
    """Document ids, best first, each once, with the scores of their best chunks."""

    names: tuple[str, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def followed_by(self, other: DocumentRanking, limit: int) -> DocumentRanking:
        """Return this ranking with what only `other` holds behind it.

        Scores behind it are lower by one each: they tell the order alone.
        """
        own = set(self.names)
        rest = [name for name in other.names if name not in own]
        last = self.scores[-1] if self.scores else 0.0
        scores = (last - 1.0 - place for place in range(len(rest)))
        return DocumentRanking(
            (*self.names, *rest)[:limit], (*self.scores, *scores)[:limit]
        )


@dataclass(frozen=True, slots=True)
class RowDocuments:
    """Which document each row belongs to.

    Shapes: `of_row` int64 [rows], places in `names`.
    """

    unit: Unit
    names: tuple[str, ...]
    of_row: Int64Array

    @classmethod
    def from_names(cls, unit: Unit, names_by_row: Sequence[str]) -> RowDocuments:
        """Return the map from each row's document id."""
        places = {name: n for n, name in enumerate(dict.fromkeys(names_by_row))}
        of_row = np.array([places[name] for name in names_by_row], dtype=np.int64)
        return cls(unit, tuple(places), of_row)

    def __len__(self) -> int:
        return len(self.names)

    def count(self, ranking: RankedList) -> int:
        """Return how many documents a ranking of rows holds."""
        return len(np.unique(self.of_row[ranking.rows]))

    def ranked(self, ranking: RankedList, limit: int) -> DocumentRanking:
        """Return the first `limit` documents of a ranking of rows."""
        documents = self.of_row[ranking.rows]
        _, first = np.unique(documents, return_index=True)
        first = np.sort(first)[:limit]
        return DocumentRanking(
            tuple(self.names[place] for place in documents[first].tolist()),
            tuple(ranking.scores[first].tolist()),
        )


def documents_of(bundle: Bundle, judgements: Judgements) -> RowDocuments:
    """Return the rows' documents in the unit that most of the judged ids are of."""
    judged = {name for one in judgements.values() for name in one}
    rows = list(_places(bundle))
    found = {unit: [place[unit] for place in rows] for unit in UNITS}
    known = {unit: len(judged.intersection(names)) for unit, names in found.items()}
    unit = max(UNITS, key=lambda one: known[one])
    return RowDocuments.from_names(unit, found[unit])


def _places(bundle: Bundle) -> Iterator[Mapping[Unit, str]]:
    """Yield each row's ids in every unit, told by its chunk id.

    Only where subdirs with colons leave it open is the metadata read.
    """
    collection = bundle.manifest.collection
    starts = {
        subdir: f"{collection}:{subdir}:" for subdir in bundle.manifest.source_subdirs
    }
    for row, chunk_id in enumerate(bundle.chunk_ids()):
        fits = [name for name, start in starts.items() if chunk_id.startswith(start)]
        if len(fits) == 1:
            subdir = fits[0]
        else:
            subdir = str(bundle.metadata(row).get("source_subdir", ROOT_SUBDIR))
        inside = chunk_id.removeprefix(f"{collection}:{subdir}:")
        filename = inside.rpartition(":chunk:")[0] or inside
        source = filename if subdir == ROOT_SUBDIR else f"{subdir}/{filename}"
        yield {"chunk_id": chunk_id, "source": source, "filename": filename}
