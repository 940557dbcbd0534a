"""What is learnt from: a query, its answer, and what was found beside it.

{"query": "...", "source": "...", "documents": ["answer", ...],
 "fused_z": [...], "ranks": [...]}                        one line of a groups file
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..records import RankedList


@dataclass(frozen=True, slots=True)
class Group:
    """One query's candidates: the answer first, the others as fusion ranked them.

    `fused_z` are z-scores of the fused list, see `make_group`, `ranks` the places
    there, from 1.
    Shapes: documents, fused_z and ranks have one length, at least 2.
    """

    query: str
    source: str
    documents: tuple[str, ...]
    fused_z: tuple[float, ...]
    ranks: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The query with each document."""
        return [(self.query, document) for document in self.documents]

    def first(self, count: int) -> Group | None:
        """Return the group cut to the first places; None: the answer is not there."""
        kept = [place for place, rank in enumerate(self.ranks) if rank <= count]
        return self.only(kept) if kept[:1] == [0] and len(kept) > 1 else None

    def only(self, places: Sequence[int]) -> Group:
        """Return the group with the documents of these places."""
        return Group(
            self.query,
            self.source,
            tuple(self.documents[place] for place in places),
            tuple(self.fused_z[place] for place in places),
            tuple(self.ranks[place] for place in places),
        )


def make_group(
    query: str,
    source: str,
    fused: RankedList,
    answer: int,
    text_of: Callable[[int], str],
    candidates: int | None = None,
) -> Group | None:
    """Return the group of a fused list; None: it lacks the answer, or all else.

    z-scores take mean and deviation of the first `candidates`, those that a blend would
    see, or of all. Where fused scores do not differ, all are 0, as in a blend.
    """
    rows = fused.rows.tolist()
    if answer not in rows or len(rows) < 2:
        return None
    seen = fused.scores[:candidates]
    deviation = float(seen.std())
    flat = deviation == 0 or seen[0] == seen[-1]
    centred = fused.scores - float(seen.mean())
    z = np.zeros(len(rows)) if flat else centred / deviation
    first = rows.index(answer)
    order = [first, *(place for place in range(len(rows)) if place != first)]
    return Group(
        query=query,
        source=source,
        documents=tuple(text_of(rows[place]) for place in order),
        fused_z=tuple(float(z[place]) for place in order),
        ranks=tuple(place + 1 for place in order),
    )


def thinned(group: Group, hard: int, more: int, rng: np.random.Generator) -> Group:
    """Return the group with its `hard` best negatives and `more` of the others."""
    others = len(group.documents) - 1
    rest = np.arange(1 + min(hard, others), others + 1)
    drawn = rng.choice(rest, size=min(more, len(rest)), replace=False)
    return group.only([0, *range(1, 1 + min(hard, others)), *sorted(drawn.tolist())])


def sample(
    group: Group, negatives: int, hard: int, hard_taken: int, rng: np.random.Generator
) -> Group:
    """Return the answer with so many negatives, `hard_taken` of them from the best.

    A group with fewer others gives some of them twice, so that all groups of a step
    have one length.
    """
    others = len(group.documents) - 1
    near = np.arange(1, 1 + min(hard, others))
    far = np.arange(1 + len(near), others + 1)
    taken = rng.choice(near, size=min(hard_taken, len(near)), replace=False).tolist()
    wanted = min(negatives - len(taken), len(far))
    taken += rng.choice(far, size=wanted, replace=False).tolist()
    taken += rng.integers(1, others + 1, size=negatives - len(taken)).tolist()
    return group.only([0, *taken])


def write_groups(path: Path, groups: Iterable[Group]) -> None:
    """Write groups as JSON lines."""
    with path.open("w", encoding="utf-8") as stream:
        for group in groups:
            stream.write(json.dumps(asdict(group), ensure_ascii=False) + "\n")


def read_groups(path: Path) -> Iterator[Group]:
    """Yield the groups of a file.

    Raises:
        InputError: a line is no group; names it.
    """
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                found = json.loads(line)
                yield Group(
                    str(found["query"]),
                    str(found["source"]),
                    tuple(found["documents"]),
                    tuple(found["fused_z"]),
                    tuple(found["ranks"]),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"Line {number} of {path.name} is no group.",
                    cure="Write the groups anew.",
                ) from error
