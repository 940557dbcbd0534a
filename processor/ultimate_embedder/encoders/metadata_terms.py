"""Sparse vectors from the terms a chunker wrote into chunk metadata.

A second choice for when no live model can be had: the weights are the chunker's, the
ids those of all sparse vectors here, so that queries meet them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeGuard

import numpy as np

from ..records import Metadata, SparseVector
from .words import QDRANT_WORD, stemmer, token_id, word_profile


class MetadataTerms:
    """Reads `sparse_features.term_weights` of chunk metadata.

    Three shapes are met: a list of objects with `term` and `weight`, a list of pairs,
    and an object from term to weight. `ignored` counts the entries that are none of
    them or whose weight is not a positive finite number.
    """

    def __init__(self, profile: str = QDRANT_WORD) -> None:
        self._profile = word_profile(profile)
        self._stem = stemmer().stem_word
        self.ignored = 0

    def vector(self, metadata: Metadata) -> SparseVector:
        """Return the chunk's terms, a stem with the largest weight it was given."""
        weights: dict[int, float] = {}
        for term, weight in self._entries(metadata):
            for run in self._profile.runs(term):
                for stem in self._profile.stems(run, self._stem):
                    number = token_id(stem)
                    weights[number] = max(weights.get(number, 0.0), weight)
        order = sorted(weights)
        return SparseVector(
            np.array(order, dtype=np.uint32),
            np.array([weights[number] for number in order], dtype=np.float32),
        )

    def _entries(self, metadata: Metadata) -> Iterator[tuple[str, float]]:
        for term, weight in _pairs(metadata):
            if isinstance(term, str) and _is_weight(weight):
                yield term, weight
            else:
                self.ignored += 1


def _pairs(metadata: Metadata) -> Iterator[tuple[object, object]]:
    """Yield (term, weight) as found, (None, None) for an entry of another shape."""
    features = metadata.get("sparse_features")
    entries = features.get("term_weights") if isinstance(features, Mapping) else None
    if isinstance(entries, Mapping):
        yield from entries.items()
        return
    for entry in entries if isinstance(entries, list | tuple) else ():
        if isinstance(entry, Mapping):
            yield entry.get("term"), entry.get("weight")
        elif isinstance(entry, list | tuple) and len(entry) == 2:
            yield entry[0], entry[1]
        else:
            yield None, None


def _is_weight(value: object) -> TypeGuard[float]:
    """Say whether a value is a weight that float32 can hold and is not zero there."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        single = float(np.float32(value)) if abs(value) < 3e38 else math.inf
    except OverflowError:
        return False
    return math.isfinite(single) and single > 0.0
