"""Where the words of a query stand in a text, as the sparse ranking sees them."""

from __future__ import annotations

import re
import threading
from functools import cache, lru_cache
from typing import Self

from ..encoders.bm25 import Bm25Encoder
from ..encoders.word_characters import word_ranges
from ..export.manifest import Manifest

_WORDS_KEPT = 50_000


class Highlighter:
    """Marks words whose stem is one of the query's; stop-words are not marked.

    Threads may share one.
    """

    def __init__(self, encoder: Bm25Encoder) -> None:
        self._encoder = encoder
        self._encoding = threading.Lock()  # the encoder keeps a memo of words
        self._terms = lru_cache(maxsize=_WORDS_KEPT)(self._encode)

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return one that cuts words as the bundle's BM25 vectors were made."""
        for run in manifest.sparse_run or ():
            if run.statistics.get("kind") == "bm25":
                return cls(Bm25Encoder(run.statistics["profile"]))
        return cls(Bm25Encoder())

    def spans(self, query: str, text: str) -> list[tuple[int, int]]:
        """Return [start, end) in characters of `text`, in order, without overlap."""
        wanted = self._encode(query)
        if not wanted:
            return []
        return [
            found.span()
            for found in _words().finditer(text)
            if not wanted.isdisjoint(self._terms(found.group()))
        ]

    def _encode(self, text: str) -> frozenset[int]:
        with self._encoding:
            return frozenset(self._encoder.encode_query(text).indices.tolist())


@cache
def _words() -> re.Pattern[str]:
    """Return what matches a word as the BM25 encoder cuts them."""
    ranges = "".join(
        f"{re.escape(chr(first))}-{re.escape(chr(last))}"
        for first, last in word_ranges()
    )
    return re.compile(f"[{ranges}]+")
