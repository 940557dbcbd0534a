"""BM42 vectors: words weighted by how much [CLS] attends to them.

As fastembed's `Bm42`: word pieces are joined to words, punctuation and stop-words fall
out, a word weighs the sum of its pieces, a stem its heaviest word, and the value is
ln(1 + weight) ** alpha. The engine multiplies the IDF in (`modifier: idf`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import numpy as np
from tokenizers import Tokenizer

from ..errors import ModelError
from ..records import (
    Attended,
    Float32Array,
    Float64Array,
    SparseMatrix,
    SparseVector,
    UInt32Array,
)
from .stem_tokens import TOKEN_BITS, TOKEN_MASK, rows_of_keys
from .word_pieces import WordPieces, Words

ALPHA: Final = 0.5


class TokenAttention(Protocol):
    """The attention of a collection, by row."""

    def row(self, row: int) -> Attended:
        """Return a row's token ids and their attention."""


AttendTexts = Callable[[Sequence[str]], Iterable[Attended]]
"""Texts -> their token ids and attention: a live model."""


class AttentionSparseEncoder:
    """A `SparseEncoder` for a WordPiece model; queries need its tokenizer alone.

    `attend` is asked by `encode_documents`; a collection whose attention is on disk
    goes through `encode_rows` and needs none. One thread at a time.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        *,
        attend: AttendTexts | None = None,
        alpha: float = ALPHA,
        name: str = "qdrant-minilm-attention",
    ) -> None:
        """Take the tokenizer of the model, without truncation.

        Raises:
            ModelError: it is not a WordPiece tokenizer.
        """
        self.name = name
        self.alpha = alpha
        self._vocabulary = vocabulary
        self._attend = attend
        self._pieces = WordPieces(vocabulary, name)

    def encode_rows(self, texts: Sequence[Attended]) -> SparseMatrix:
        """Return the vectors of texts, each its token ids and their attention.

        Raises:
            ModelError: lengths differ, an attention is not finite, or a token is not in
                the vocabulary.
        """
        for ids, weights in texts:
            if len(ids) != len(weights):
                raise self._unusable(ids, weights)
        attention = np.concatenate(
            [np.empty(0), *(weights for _, weights in texts)], dtype=np.float64
        )
        if not np.isfinite(attention).all():
            raise next(
                self._unusable(*one) for one in texts if not np.isfinite(one[1]).all()
            )
        words = self._words([ids for ids, _ in texts])
        of_words = np.bincount(  # adds in the order of the pieces
            words.word_of, attention[words.pieces], minlength=len(words.tokens)
        ).astype(np.float64)
        return self._heaviest(words, of_words, len(texts))

    def _heaviest(self, words: Words, weights: Float64Array, rows: int) -> SparseMatrix:
        """Return for each stem of a row its heaviest word's value."""
        keys = (words.rows << TOKEN_BITS) | words.tokens
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        heaviest = (
            np.maximum.reduceat(weights[order], starts) if len(starts) else weights
        )
        stems = self._pieces.stems
        keys, heaviest = stems.settled(keys[starts], heaviest, words.rows, words.tokens)
        values = np.log1p(heaviest) ** self.alpha
        keys, values = keys[values > 0], values[values > 0]
        return SparseMatrix(
            rows_of_keys(keys, rows),
            (keys & TOKEN_MASK).astype(np.uint32),
            values.astype(np.float32),
        )

    def _words(self, texts: Sequence[UInt32Array]) -> Words:
        rows = np.repeat(np.arange(len(texts)), [len(ids) for ids in texts])
        ids = np.concatenate([np.empty(0, dtype=np.uint32), *texts])
        return self._pieces.words(ids, rows)

    def _unusable(self, ids: UInt32Array, weights: Float32Array) -> ModelError:
        return ModelError(
            f"The attention for {self.name} is not usable: {len(ids)} tokens, "
            f"{len(weights)} weights, or one that is not finite."
        )

    def encode_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Return the vector of each text, by the live model.

        Raises:
            ModelError: this encoder was made for queries only.
        """
        if self._attend is None:
            raise ModelError(
                f"{self.name} has no model to encode documents with: it was opened "
                "for queries."
            )
        return list(self.encode_rows(list(self._attend(texts))))

    def encode_query(self, text: str) -> SparseVector:
        """Return the distinct words of a query, each with value 1.0."""
        ids = np.array(self._vocabulary.encode(text).ids, dtype=np.uint32)
        words = self._words([ids])
        found = self._heaviest(words, np.ones(len(words.tokens)), 1).indices
        return SparseVector(found, np.ones(len(found), dtype=np.float32))
