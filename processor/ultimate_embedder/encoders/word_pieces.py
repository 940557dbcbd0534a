"""Word pieces put together to words and looked up as stems, many texts at a time.

A word begins with a piece that does not continue one, or with its text. Special tokens
are passed over. What is in no sparse vector, stop-words and punctuation, is dropped.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from ..errors import ModelError
from ..records import Int64Array, UInt32Array
from .stem_tokens import StemTokens
from .words import STOP_WORDS, stemmer

_NOT_WORDS: Final = STOP_WORDS | frozenset(string.punctuation)
_MEMO_WORDS: Final = 1 << 18
_DROPPED: Final = -1
_NEVER_MET: Final = -2
_BEGINS, _CONTINUES, _SPECIAL, _UNKNOWN = range(4)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of texts, in order, and which pieces they are made of.

    Shapes: `rows` and `tokens` int64 [words]; `pieces` int64 [n], places of tokens that
    are not special, and `word_of` int64 [n], the word that each belongs to.
    """

    rows: Int64Array
    tokens: Int64Array
    pieces: Int64Array
    word_of: Int64Array


class WordPieces:
    """What the pieces of one WordPiece vocabulary make. One thread at a time."""

    def __init__(self, vocabulary: Tokenizer, name: str) -> None:
        """Take the vocabulary of the sparse model `name`.

        Raises:
            ModelError: it is not one of word pieces.
        """
        prefix = getattr(vocabulary.model, "continuing_subword_prefix", None)
        if not prefix:
            raise ModelError(
                f"The attention sparse model {name} needs a WordPiece tokenizer, not "
                f"{type(vocabulary.model).__name__}."
            )
        pieces = {number: piece for piece, number in vocabulary.get_vocab().items()}
        self.stems = StemTokens()
        self._name = name
        self._texts = {
            number: piece.removeprefix(prefix) for number, piece in pieces.items()
        }
        self._kinds = np.full(max(pieces) + 2, _UNKNOWN, dtype=np.int8)
        for number, piece in pieces.items():
            self._kinds[number] = _CONTINUES if piece.startswith(prefix) else _BEGINS
        for number, token in vocabulary.get_added_tokens_decoder().items():
            if token.special:
                self._kinds[number] = _SPECIAL
        self._stem = stemmer().stem_word
        self._of_one = np.full(len(self._kinds), _NEVER_MET, dtype=np.int64)
        self._of_more: dict[bytes, int] = {}

    def words(self, ids: UInt32Array, rows: Int64Array) -> Words:
        """Return the words of texts; token ids and their rows are [n], rows ascend.

        Raises:
            ModelError: a token is not in the vocabulary.
        """
        if len(self._of_more) > _MEMO_WORDS:
            self._forget()
        # Beyond the vocabulary all ids are the last one, which is not known.
        kinds = self._kinds[np.minimum(ids, len(self._kinds) - 1)]
        if (kinds == _UNKNOWN).any():
            raise ModelError(
                f"Token {ids[kinds == _UNKNOWN][0]} is not in the vocabulary of "
                f"{self._name}: the attention comes from another model."
            )
        places = np.flatnonzero(kinds != _SPECIAL)
        ids, rows = ids[places], rows[places]
        begins = kinds[places] == _BEGINS
        begins[:1] = True
        begins[1:] |= rows[1:] != rows[:-1]
        first = np.flatnonzero(begins)
        tokens = self._tokens(ids, first)
        kept = np.flatnonzero(tokens != _DROPPED)
        number = np.full(len(first), _DROPPED, dtype=np.int64)
        number[kept] = np.arange(len(kept))
        word_of = number[np.cumsum(begins) - 1]
        used = word_of != _DROPPED
        return Words(rows[first[kept]], tokens[kept], places[used], word_of[used])

    def _tokens(self, ids: UInt32Array, first: Int64Array) -> Int64Array:
        """Return the token of each word, `_DROPPED` for none: int64 [words]."""
        beyond = np.append(first, len(ids))[1:]
        tokens = self._of_one[ids[first]]
        several = np.flatnonzero(beyond - first > 1)
        tokens[several] = _DROPPED
        for number in np.unique(ids[first[tokens == _NEVER_MET]]):
            self._of_one[number] = self._token([int(number)])
        new = np.flatnonzero(tokens == _NEVER_MET)
        tokens[new] = self._of_one[ids[first[new]]]
        data, known = ids.tobytes(), self._of_more
        bounds = (ids.itemsize * np.stack((first, beyond))[:, several]).tolist()
        for place, start, stop in zip(several.tolist(), *bounds, strict=True):
            word = data[start:stop]
            token = known.get(word)
            if token is None:
                numbers = np.frombuffer(word, dtype=ids.dtype).tolist()
                token = known[word] = self._token(numbers)
            tokens[place] = token
        return tokens

    def _token(self, numbers: list[int]) -> int:
        word = "".join(self._texts[number] for number in numbers)
        if not word or word in _NOT_WORDS:
            return _DROPPED
        return self.stems.token(self._stem(word))

    def _forget(self) -> None:
        self._of_more.clear()
        self._of_one[:] = _NEVER_MET
        self.stems.forget()
