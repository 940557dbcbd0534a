"""Stems as numbers: their ids in sparse vectors, told apart where two share one.

Rows of many texts are worked on at once, as keys: a row's number above, a token below.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..records import Int64Array
from .words import token_id

TOKEN_BITS: Final = 34
TOKEN_MASK: Final = (1 << TOKEN_BITS) - 1
_FIRST_ALIAS = 1 << 32  # above all ids: a stem whose id another stem took


class StemTokens:
    """Stem -> token: its id, or an alias where the id belongs to another stem.

    One thread at a time.
    """

    def __init__(self) -> None:
        self._owner: dict[int, str] = {}
        self._aliases: dict[str, int] = {}
        self._alias_ids: list[int] = []

    def token(self, stem: str) -> int:
        """Return the token of a stem: below 2^34, the same until `forget`."""
        number = token_id(stem)
        owner = self._owner.setdefault(number, stem)
        if owner is stem or owner == stem:
            return number
        if stem not in self._aliases:
            self._aliases[stem] = _FIRST_ALIAS + len(self._alias_ids)
            self._alias_ids.append(number)
        return self._aliases[stem]

    def forget(self) -> None:
        """Give up all tokens."""
        self._owner.clear()
        self._aliases.clear()
        self._alias_ids.clear()

    def settled(
        self,
        keys: Int64Array,
        values: npt.NDArray[Any],
        rows: Int64Array,
        tokens: Int64Array,
    ) -> tuple[Int64Array, npt.NDArray[Any]]:
        """Return keys with ids for tokens, ascending, and their values.

        `keys` ascend, one for each stem of a row; `rows` and `tokens` are all stems as
        the texts have them. Of two stems of a row with one id the one that is met
        later for the first time stays.
        """
        if not self._alias_ids:
            return keys, values
        key_rows, names = keys >> TOKEN_BITS, keys & TOKEN_MASK
        if not (names >= _FIRST_ALIAS).any():
            return keys, values
        kept = np.ones(len(keys), dtype=bool)
        for row in np.unique(key_rows[names >= _FIRST_ALIAS]):
            first_met = dict.fromkeys(tokens[rows == row].tolist())
            winner = {self._id(token): token for token in first_met}
            for place in np.flatnonzero(key_rows == row):
                kept[place] = winner[self._id(int(names[place]))] == names[place]
        ids = np.array([self._id(token) for token in names.tolist()], dtype=np.int64)
        settled, left = ((key_rows << TOKEN_BITS) | ids)[kept], values[kept]
        order = np.argsort(settled)
        return settled[order], left[order]

    def _id(self, token: int) -> int:
        if token < _FIRST_ALIAS:
            return token
        return self._alias_ids[token - _FIRST_ALIAS]


def rows_of_keys(keys: Int64Array, rows: int) -> Int64Array:
    """Return where the entries of each row begin and end: int64 [rows + 1]."""
    indptr = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys >> TOKEN_BITS, minlength=rows), out=indptr[1:])
    return indptr
