"""BM42 vectors: words weighted by how much [CLS] attends to them.

As fastembed's `Bm42`: word pieces are joined to words, punctuation and stop-words fall
out, a word weighs the sum of its pieces, a stem its heaviest word, and the value is
ln(1 + weight) ** alpha. The engine multiplies the IDF in (`modifier: idf`).
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from tokenizers import Tokenizer

from ..errors import ModelError
from ..records import Float32Array, SparseVector, UInt32Array
from .words import STOP_WORDS, stemmer, token_id

ALPHA: Final = 0.5
_NOT_WORDS: Final = STOP_WORDS | frozenset(string.punctuation)
_MEMO_WORDS: Final = 1 << 18


class TokenAttention(Protocol):
    """The attention of a collection, by row."""

    def row(self, row: int) -> tuple[UInt32Array, Float32Array]:
        """Return the token ids of a row, special tokens included, and for each the
        [CLS] attention of the last layer, averaged over heads: both [length].
        """


AttendTexts = Callable[[Sequence[str]], Iterable[tuple[UInt32Array, Float32Array]]]
"""Texts -> for each what `TokenAttention.row` returns: a live model."""


class AttentionSparseEncoder:
    """A `SparseEncoder` for a WordPiece model; queries need its tokenizer alone.

    `attend` is asked by `encode_documents`; a collection whose attention is on disk
    goes through `encode_attention` and needs none.
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
        prefix = getattr(vocabulary.model, "continuing_subword_prefix", None)
        if not prefix:
            raise ModelError(
                f"The attention sparse model {name} needs a WordPiece tokenizer, not "
                f"{type(vocabulary.model).__name__}."
            )
        self.name = name
        self.alpha = alpha
        self._vocabulary = vocabulary
        self._attend = attend
        self._prefix: str = prefix
        self._pieces = {
            number: piece for piece, number in vocabulary.get_vocab().items()
        }
        self._special = frozenset(
            number
            for number, token in vocabulary.get_added_tokens_decoder().items()
            if token.special
        )
        self._stem_of = lru_cache(_MEMO_WORDS)(stemmer().stem_word)
        self._id_of = lru_cache(_MEMO_WORDS)(token_id)

    def encode_attention(self, ids: UInt32Array, weights: Float32Array) -> SparseVector:
        """Return the vector of a text from its token ids and their attention.

        Raises:
            ModelError: the lengths differ or an attention is not finite.
        """
        if len(ids) != len(weights) or not np.isfinite(weights).all():
            raise ModelError(
                f"The attention for {self.name} is not usable: {len(ids)} tokens, "
                f"{len(weights)} weights, or one that is not finite."
            )
        per_token = weights.astype(np.float64).tolist()
        heaviest: dict[str, float] = {}
        for word, places in self._words(ids.tolist()):
            if word in _NOT_WORDS:
                continue
            stem, weight = self._stem_of(word), sum(per_token[at] for at in places)
            heaviest[stem] = max(heaviest.get(stem, 0.0), weight)
        return _vector(
            {
                self._id_of(stem): math.log1p(weight) ** self.alpha
                for stem, weight in heaviest.items()
            }
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
        return [self.encode_attention(*attended) for attended in self._attend(texts)]

    def encode_query(self, text: str) -> SparseVector:
        """Return the distinct words of a query, each with value 1.0."""
        ids = self._vocabulary.encode(text).ids
        words = (word for word, _ in self._words(ids) if word not in _NOT_WORDS)
        return _vector({self._id_of(self._stem_of(word)): 1.0 for word in words})

    def _words(self, ids: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """Yield words and the places of their pieces, special tokens passed over."""
        word, places = "", list[int]()
        for place, number in enumerate(ids):
            if number in self._special:
                continue
            piece = self._piece(number)
            if piece.startswith(self._prefix):
                word += piece[len(self._prefix) :]
                places.append(place)
                continue
            if word:
                yield word, places
            word, places = piece, [place]
        if word:
            yield word, places

    def _piece(self, number: int) -> str:
        try:
            return self._pieces[number]
        except KeyError:
            raise ModelError(
                f"Token {number} is not in the vocabulary of {self.name}: the "
                "attention comes from another model."
            ) from None


def _vector(weights: dict[int, float]) -> SparseVector:
    """Return the entries of `weights` that are not zero, ids ascending."""
    entries = sorted((number, w) for number, w in weights.items() if w > 0.0)
    indices = np.array([number for number, _ in entries], dtype=np.uint32)
    values = np.array([weight for _, weight in entries], dtype=np.float32)
    return SparseVector(indices, values)
