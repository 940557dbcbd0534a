"""Texts to vectors outside a plan: queries, probes, and what is embedded again.

The same rule as in a run holds for long texts, so a text has the same bytes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import LongTexts
from ..records import Attended, Float32Array, Int64Array, UInt32Array
from .protocols import AttentionEncoder, Frame, Role, Tokenised, Tokenizer
from .windows import cut_ids, own_attention, pool_windows, share_out, window_ids

_TEXTS_A_CALL = 64
_PIECES_A_CALL = 64


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A tokenizer and an encoder, with what is done to texts over `max_tokens`."""

    encoder: AttentionEncoder
    tokenizer: Tokenizer
    max_tokens: int
    long_texts: LongTexts

    def vectors(self, texts: Sequence[str], role: Role) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm."""
        found = [np.empty((0, self.encoder.dimension), dtype=np.float32)]
        for some in self._tokenised(texts, role):
            cut = _Cut(some, self.max_tokens)
            pieces = [self.encoder.encode(batch) for batch in cut.batches()]
            found.append(cut.pooled(np.concatenate(pieces)))
        return np.concatenate(found)

    def vectors_and_attention(
        self, texts: Sequence[str]
    ) -> tuple[Float32Array, list[Attended]]:
        """Return the vectors of documents, and each one's ids with their attention."""
        found = [np.empty((0, self.encoder.dimension), dtype=np.float32)]
        attended: list[Attended] = []
        for some in self._tokenised(texts, "document"):
            cut = _Cut(some, self.max_tokens)
            made = [self.encoder.encode_with_attention(ids) for ids in cut.batches()]
            found.append(cut.pooled(np.concatenate([vectors for vectors, _ in made])))
            attention = [weights for _, batch in made for weights in batch]
            attended += zip(some.ids, cut.joined(attention), strict=True)
        return np.concatenate(found), attended

    def _tokenised(self, texts: Sequence[str], role: Role) -> Iterator[Tokenised]:
        """Yield some texts at a time, cut to the window if that is wanted."""
        for start in range(0, len(texts), _TEXTS_A_CALL):
            some = self.tokenizer.encode(texts[start : start + _TEXTS_A_CALL], role)
            if self.long_texts == "cut":
                kept = (cut_ids(ids, some.frame, self.max_tokens) for ids in some.ids)
                some = Tokenised(tuple(kept), some.frame)
            yield some


@dataclass(frozen=True, slots=True)
class _Piece:
    """One pass through the model: its ids, and which of its text's tokens are its."""

    ids: UInt32Array
    start: int
    stop: int


class _Cut:
    """Texts in pieces: those that fit as they are, the others in windows."""

    def __init__(self, texts: Tokenised, max_tokens: int) -> None:
        self._frame: Frame = texts.frame
        self._texts = [_pieces(ids, texts.frame, max_tokens) for ids in texts.ids]

    def batches(self) -> Iterator[list[UInt32Array]]:
        """Yield the ids of the pieces, some at a time, in order."""
        pieces = [piece.ids for text in self._texts for piece in text]
        for start in range(0, len(pieces), _PIECES_A_CALL):
            yield pieces[start : start + _PIECES_A_CALL]

    def pooled(self, vectors: Float32Array) -> Float32Array:
        """Return float32 [texts, dimension] from a vector for each piece."""
        ends = np.cumsum([len(text) for text in self._texts])
        of_texts = np.split(vectors, ends[:-1])
        return np.stack(
            [
                rows[0] if len(text) == 1 else pool_windows(rows, _own_tokens(text))
                for rows, text in zip(of_texts, self._texts, strict=True)
            ]
        )

    def joined(self, attention: Sequence[Float32Array]) -> list[Float32Array]:
        """Return each text's attention, float32 [length], from that of its pieces."""
        rest = iter(attention)
        return [
            next(rest) if len(text) == 1 else self._join(text, rest)
            for text in self._texts
        ]

    def _join(
        self, text: list[_Piece], attention: Iterator[Float32Array]
    ) -> Float32Array:
        whole = np.empty(text[-1].stop + self._frame.tail, dtype=np.float32)
        for piece in text:
            first, kept = own_attention(
                next(attention), piece.start, piece.stop, len(whole), self._frame
            )
            whole[first : first + len(kept)] = kept
        return whole


def _own_tokens(text: list[_Piece]) -> Int64Array:
    return np.array([piece.stop - piece.start for piece in text], dtype=np.int64)


def _pieces(ids: UInt32Array, frame: Frame, max_tokens: int) -> list[_Piece]:
    _, starts, stops = share_out(np.array([len(ids)]), frame, max_tokens)
    if not len(starts):
        return [_Piece(ids, frame.head, len(ids) - frame.tail)]
    return [
        _Piece(window_ids(ids, start, stop, frame), start, stop)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
