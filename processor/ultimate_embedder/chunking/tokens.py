"""Token positions of a whole text in one pass, and token counts of texts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ..errors import UsageError

PIECE_CHARACTERS = 4096
PIECES_AT_ONCE = 64
MIN_BUDGET = 32
"""Fewer tokens than this could not hold every single character: some need many."""

SAFE_BLANKS = " \t\n\r"
"""Blank to every tokenizer and to Python; other control characters are not."""

Positions = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenStarts:
    """Where tokens begin: int32 [tokens], never falling, in characters.

    `exact`: between two blanks there are as many tokens as that stretch has alone.
    """

    starts: Positions
    exact: bool

    def before(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return how many tokens begin before each position."""
        return np.searchsorted(self.starts, positions, side="left")


class TokenCounter:
    """Counts the tokens a model will see: special tokens and document prompt too.

    `budget` is what the limit leaves to the text.
    """

    def __init__(self, backend: Tokenizer, max_tokens: int, prompt: str = "") -> None:
        """Take a backend that neither truncates nor pads.

        Raises:
            UsageError: the limit leaves too little for text.
        """
        self._backend = backend
        self._prompt = prompt
        self.max_tokens = max_tokens
        self.overhead = len(backend.encode(prompt))
        self.budget = max_tokens - self.overhead
        if self.budget < MIN_BUDGET:
            raise UsageError(
                f"A limit of {max_tokens} tokens leaves {self.budget} for text beside "
                f"special tokens and prompt; at least {MIN_BUDGET} are needed.",
                cure=f"Use --max-tokens {self.overhead + MIN_BUDGET} or more.",
            )
        self._words_are_independent = _words_are_independent(backend) and (
            not prompt or prompt[-1] in SAFE_BLANKS
        )

    def check_overlap(self, overlap: int) -> None:
        """Return if an overlap of so many tokens leaves room for something new.

        Raises:
            UsageError: it is negative, or more than half of the budget.
        """
        if not 0 <= overlap <= self.budget // 2:
            raise UsageError(
                f"--overlap {overlap} is not possible with --max-tokens "
                f"{self.max_tokens}.",
                cure=f"Use 0 to {self.budget // 2}.",
            )

    def starts(self, text: str) -> TokenStarts:
        """Tokenise the text once, in pieces cut at line ends to bound the memory."""
        found: list[Positions] = []
        exact = self._words_are_independent
        batch: list[tuple[int, str]] = []
        for start, piece, clean in _pieces(text):
            exact = exact and clean
            batch.append((start, piece))
            if len(batch) == PIECES_AT_ONCE:
                found.append(self._batch_starts(batch))
                batch = []
        found.append(self._batch_starts(batch))
        # Some normalisers give offsets that step back by a character.
        return TokenStarts(np.maximum.accumulate(np.concatenate(found)), exact)

    def _batch_starts(self, batch: Sequence[tuple[int, str]]) -> Positions:
        pieces = [piece for _, piece in batch]
        encodings = self._backend.encode_batch(pieces, add_special_tokens=False)
        arrays = [
            np.array([begin for begin, _ in encoding.offsets], dtype=np.int32) + start
            for (start, _), encoding in zip(batch, encodings, strict=True)
        ]
        return np.concatenate([*arrays, np.empty(0, np.int32)])

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokenise each text alone, as the model will; return the token counts."""
        counts: list[int] = []
        for first in range(0, len(texts), PIECES_AT_ONCE):
            batch = texts[first : first + PIECES_AT_ONCE]
            prompted = [self._prompt + text for text in batch]
            counts += map(len, self._backend.encode_batch_fast(prompted))
        return counts


def _pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (start, piece, whether it ends at a blank or at the end of the text)."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARACTERS
        if end >= len(text):
            yield start, text[start:], True
            return
        cut = text.rfind("\n", start, end) + 1 or text.rfind(" ", start, end) + 1
        yield start, text[start : cut or end], cut > 0
        start = cut or end


def _words_are_independent(backend: Tokenizer) -> bool:
    """Does no token, and no choice of tokens, depend on what stands beyond a blank?

    True for BERT's rules; other kinds may join blanks to words or to each other.
    """
    return (
        isinstance(backend.model, models.WordPiece)
        and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(backend.normalizer, normalizers.BertNormalizer)
        and not any(
            token.lstrip or token.rstrip or token.single_word or " " in token.content
            for token in backend.get_added_tokens_decoder().values()
        )
    )
