"""BM25 document and query vectors, equal to those of Qdrant and fastembed.

Two passes. `TermCounter` counts the terms of texts; from the counts follow the number
of documents and their average length, and with these `bm25_values` gives
tf (k + 1) / (tf + k (1 - b + b L / average)), Robertson and Zaragoza 2009, without the
IDF: the engine multiplies it in (`modifier: idf`). L is the number of tokens that
are left after the stop-words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..records import Float32Array, Int64Array, SparseVector, UInt32Array
from .stem_tokens import TOKEN_BITS, TOKEN_MASK, StemTokens, rows_of_keys
from .words import QDRANT_WORD, WordProfile, stemmer, word_profile

K: Final = 1.2
B: Final = 0.75
LIBRARY_AVERAGE_LENGTH: Final = 256.0
"""What the libraries assume of a corpus that nobody measured."""

_DROPPED = -1  # a piece without a stem; below it: pieces of several stems
_MEMO_BUDGET_BYTES = 64 * 2**20
_ENTRY_BYTES = 200  # of a piece in the memo, strings and both dictionaries together


@dataclass(frozen=True, slots=True)
class TermCounts:
    """Term counts of texts in compressed rows.

    Shapes: `indptr` int64 [texts + 1]; `ids` uint32 [nnz], ascending and unique in a
    row; `counts` uint32 [nnz]; `lengths` uint32 [texts], tokens after stop-words.
    """

    indptr: Int64Array
    ids: UInt32Array
    counts: UInt32Array
    lengths: UInt32Array


class _PieceMemo(dict[bytes, int]):
    """Piece -> its token: looked up millions of times, computed once.

    A token is that of the piece's stem, `_DROPPED`, or -2 - i for `several[i]`.
    """

    def __init__(self, profile: WordProfile) -> None:
        super().__init__()
        self._stems_of = profile.piece_stems
        self._stem = stemmer().stem_word
        self.stems = StemTokens()
        self.several: list[list[int]] = []
        self._bytes = 0

    def __missing__(self, piece: bytes) -> int:
        stems = self._stems_of(piece, self._stem)
        if len(stems) == 1:
            token = self.stems.token(stems[0])
        elif stems:
            self.several.append([self.stems.token(stem) for stem in stems])
            token = -1 - len(self.several)
        else:
            token = _DROPPED
        self[piece] = token
        self._bytes += _ENTRY_BYTES * (len(stems) or 1) + 2 * len(piece)
        return token

    def trim(self) -> None:
        """Forget everything once the memory budget is used up."""
        if self._bytes > _MEMO_BUDGET_BYTES:
            self.clear()
            self.stems.forget()
            self.several.clear()
            self._bytes = 0


class TermCounter:
    """Counts the terms of texts, by a tokenizer profile.

    Where two stems of a text share an id, the one met later for the first time counts
    alone: so fastembed, and Qdrant's engine half of the time.
    """

    def __init__(self, profile: str | WordProfile = QDRANT_WORD) -> None:
        self.profile = word_profile(profile) if isinstance(profile, str) else profile
        self._memo = _PieceMemo(self.profile)

    def count(self, texts: Sequence[str]) -> TermCounts:
        """Return the term counts of `texts`, row by row."""
        rows, tokens = self._tokens(texts)
        lengths = np.bincount(rows, minlength=len(texts)).astype(np.uint32)
        keys = (rows << TOKEN_BITS) | tokens
        keys.sort()
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.diff(starts, append=len(keys)).astype(np.uint32)
        keys = keys[starts]
        keys, counts = self._memo.stems.settled(keys, counts, rows, tokens)
        ids = (keys & TOKEN_MASK).astype(np.uint32)
        indptr = rows_of_keys(keys, len(texts))
        return TermCounts(indptr, ids, counts, lengths)

    def token_ids(self, text: str) -> UInt32Array:
        """Return the distinct ids of a text, ascending."""
        return self.count([text]).ids

    def _tokens(self, texts: Sequence[str]) -> tuple[Int64Array, Int64Array]:
        """Return the row and the token of every stem, in text order."""
        self._memo.trim()
        look_up, pieces = self._memo.__getitem__, self.profile.pieces
        found: list[int] = []
        ends: list[int] = []
        for text in texts:
            found.extend(map(look_up, pieces(text)))
            ends.append(len(found))
        tokens = np.fromiter(found, dtype=np.int64, count=len(found))
        bounds: Int64Array = np.array([0, *ends], dtype=np.int64)
        rows = np.repeat(np.arange(len(texts), dtype=np.int64), np.diff(bounds))
        if (tokens < _DROPPED).any():
            rows, tokens = self._spread(rows, tokens)
        kept = tokens != _DROPPED
        return rows[kept], tokens[kept]

    def _spread(
        self, rows: Int64Array, tokens: Int64Array
    ) -> tuple[Int64Array, Int64Array]:
        """Replace each piece of several stems by its stems, in place."""
        at = np.flatnonzero(tokens < _DROPPED)
        kinds, kind_of = np.unique(-2 - tokens[at], return_inverse=True)
        lists = [self._memo.several[kind] for kind in kinds.tolist()]
        sizes = np.array([len(some) for some in lists], dtype=np.int64)
        flat = np.array(list(chain.from_iterable(lists)), dtype=np.int64)
        counts = np.ones(len(tokens), dtype=np.int64)
        counts[at] = sizes[kind_of]
        first = np.cumsum(counts) - counts  # where each piece's stems begin
        begin = (np.cumsum(sizes) - sizes)[kind_of]  # and in `flat`
        spread = np.repeat(tokens, counts)
        places = np.flatnonzero(spread < _DROPPED)
        spread[places] = flat[places + np.repeat(begin - first[at], counts[at])]
        return np.repeat(rows, counts), spread


def bm25_values(
    counts: npt.NDArray[np.unsignedinteger],
    lengths: npt.NDArray[np.unsignedinteger],
    *,
    average_length: float,
    k: float = K,
    b: float = B,
) -> Float32Array:
    """Return float32 [n]: the weights of terms seen `counts` times in documents of
    `lengths` tokens (both [n]), computed in float64.
    """
    norm = k * (1.0 - b + b * (lengths.astype(np.float64) / average_length))
    frequency = counts.astype(np.float64)
    return (frequency * (k + 1.0) / (frequency + norm)).astype(np.float32)


class Bm25Encoder:
    """A `SparseEncoder`: BM25 weights for documents, 1.0 a term for queries.

    `average_length` counts tokens after stop-words; queries do not depend on it.
    """

    def __init__(
        self,
        profile: str | WordProfile = QDRANT_WORD,
        *,
        average_length: float = LIBRARY_AVERAGE_LENGTH,
        k: float = K,
        b: float = B,
        name: str = "qdrant-bm25",
    ) -> None:
        if not average_length > 0.0 or k < 0.0 or not 0.0 <= b <= 1.0:
            raise UsageError(
                "BM25 needs average_length > 0, k >= 0 and b in 0..1, not "
                f"{average_length}, {k} and {b}."
            )
        self.name = name
        self.average_length, self.k, self.b = average_length, k, b
        self._counter = TermCounter(profile)

    @property
    def profile(self) -> str:
        """The tokenizer profile, the same for documents and queries."""
        return self._counter.profile.name

    def encode_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Return the vector of each text."""
        found = self._counter.count(texts)
        values = bm25_values(
            found.counts,
            np.repeat(found.lengths, np.diff(found.indptr)),
            average_length=self.average_length,
            k=self.k,
            b=self.b,
        )
        bounds = found.indptr.tolist()
        return [
            SparseVector(found.ids[start:stop], values[start:stop])
            for start, stop in pairwise(bounds)
        ]

    def encode_query(self, text: str) -> SparseVector:
        """Return the distinct terms of a query, each with value 1.0."""
        ids = self._counter.token_ids(text)
        return SparseVector(ids, np.ones(len(ids), dtype=np.float32))
