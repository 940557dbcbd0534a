"""SPLADE vectors of single texts, by a model that is loaded when first asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..hardware import this_machine
from ..records import SparseVector
from .splade_source import SpladeSource

if TYPE_CHECKING:
    from .splade import SpladeEncoder


class SpladeQueries:
    """Satisfies `SparseEncoder` on the CPU; weights are loaded at the first text."""

    def __init__(self, source: SpladeSource) -> None:
        """Take a source on any device; here its weights go to the CPU."""
        self._source = replace(source, device="cpu", dtype=this_machine().cpu_dtype)
        self._encoder: SpladeEncoder | None = None

    @property
    def name(self) -> str:
        """The model key, also the vector name."""
        return self._source.config.name

    def encode_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Return the vector of each text."""
        return self._loaded().encode_documents(texts)

    def encode_query(self, text: str) -> SparseVector:
        """Return the vector of a query."""
        return self._loaded().encode_query(text)

    def _loaded(self) -> SpladeEncoder:
        if self._encoder is None:
            from .splade import SpladeEncoder

            self._encoder = SpladeEncoder.load(self._source)
        return self._encoder
