"""(query, document) pairs to padded arrays, a few of like length at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from ..encoders.pair_batches import length_batches
from ..records import Int64Array

_PAIRS_A_BATCH = 8
_LENGTH_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Shapes: `places` [pairs], where they stood; the others [pairs, tokens].

    `mask` is true for tokens and false for padding.
    """

    places: Int64Array
    ids: Int64Array
    types: Int64Array
    mask: npt.NDArray[np.bool_]


class PairEncoder:
    """A base's tokenizer; pairs that are too long lose tokens of the longer side."""

    def __init__(self, base: Path, max_tokens: int) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first")

    def batches(self, pairs: Sequence[tuple[str, str]]) -> Iterator[PairBatch]:
        """Yield all pairs, shortest first."""
        found = self._tokenizer.encode_batch(list(pairs))
        lengths = [len(encoding) for encoding in found]
        for places in length_batches(lengths, _PAIRS_A_BATCH):
            yield _batch(places, [found[place] for place in places])


def _batch(places: Int64Array, encodings: Sequence[Encoding]) -> PairBatch:
    longest = max(len(encoding) for encoding in encodings)
    width = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    ids, types = np.zeros((2, len(encodings), width), dtype=np.int64)
    mask = np.zeros((len(encodings), width), dtype=np.bool_)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding)] = encoding.ids
        types[row, : len(encoding)] = encoding.type_ids
        mask[row, : len(encoding)] = True
    return PairBatch(places, ids, types, mask)
