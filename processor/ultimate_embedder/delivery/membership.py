"""Which points a collection holds, compared with those of a bundle."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.bytes_]
"""Ids as 16 bytes each, S16 [n]. Trailing zero bytes are no part of a NumPy string, but
all have the same width here, so that equal strings are equal ids."""


@dataclass(frozen=True, slots=True)
class Membership:
    """`missing` are ids of the bundle that the collection lacks, by row; `surplus` are
    those of the collection that the bundle lacks."""

    missing: list[str]
    surplus: list[str]


def id_bytes(text: str) -> bytes:
    """Return the 16 bytes of a UUID.

    Raises:
        ValueError: it is none.
    """
    return uuid.UUID(text).bytes


def compare(ids: IdArray, pages: Iterable[list[str]]) -> Membership:
    """Return how the ids of a collection, page by page, differ from `ids` [rows]."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    seen = np.zeros(len(ids), dtype=bool)
    surplus: list[str] = []
    for page in pages:
        known: list[str] = []
        for text in page:
            (known if _is_uuid(text) else surplus).append(text)
        found = np.array([id_bytes(text) for text in known], dtype="S16")
        places = np.searchsorted(ordered, found).clip(max=len(ordered) - 1)
        here = ordered[places] == found
        seen[order[places[here]]] = True
        surplus += [known[place] for place in np.flatnonzero(~here)]
    missing = [as_text(ids[row]) for row in np.flatnonzero(~seen)]
    return Membership(missing, surplus)


def as_text(content: bytes) -> str:
    """Return an id as it is written: a UUID."""
    return str(uuid.UUID(bytes=bytes(content).ljust(16, b"\0")))


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:  # a number, which Qdrant takes as an id too
        return False
    return True
