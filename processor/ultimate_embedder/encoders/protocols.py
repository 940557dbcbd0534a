"""What a stage may ask of a model. Backends and fakes meet the same contract tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..records import Float32Array, SparseVector, UInt32Array

Role = Literal["document", "query"]


@dataclass(frozen=True, slots=True)
class Frame:
    """How many tokens stand before and after a text's own: special ones, the prompt."""

    head: int
    tail: int

    @property
    def size(self) -> int:
        """Both ends together."""
        return self.head + self.tail


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token ids of whole texts, however long, special tokens and prompt in.

    `ids[i]` is uint32 [length of text i]; the model's window is not looked at.
    """

    ids: tuple[UInt32Array, ...]
    frame: Frame


class Tokenizer(Protocol):
    """Text to token ids, for one model."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal behaviour: hash of vocabulary, rules, window, prompts."""

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` itself, without truncation or padding."""

    def encode(self, texts: Sequence[str], role: Role) -> Tokenised:
        """Tokenise texts with the prompt of `role`; nothing is cut off."""


class DenseEncoder(Protocol):
    """Token ids to vectors.

    On a CPU the bytes of a row depend on its ids alone: not on its neighbours, their
    number or the order (contract of the bundle).
    """

    @property
    def dimension(self) -> int:
        """Width of a vector."""

    @property
    def dtype(self) -> str:
        """Precision of the weights, e.g. `bfloat16`."""

    @property
    def device(self) -> str:
        """Where it runs, e.g. `cpu`, `cuda:0`."""

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm."""

    def padded_length(self, tokens: int) -> int:
        """Return how many token positions are computed for a text of `tokens`."""


class AttentionEncoder(DenseEncoder, Protocol):
    """A dense encoder that can also tell how much [CLS] attends to each token."""

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Return the same vectors as `encode`, bit for bit, and for each text the
        [CLS] row of the last layer's attention, averaged over heads: float32 [length].
        """


class SparseEncoder(Protocol):
    """Texts to sparse vectors, live."""

    @property
    def name(self) -> str:
        """The model key, also the vector name."""

    def encode_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """Return a vector for each text."""

    def encode_query(self, text: str) -> SparseVector:
        """Return the vector of a query."""


class PairScorer(Protocol):
    """(query, document) pairs to relevance scores: a CrossEncoder."""

    @property
    def name(self) -> str:
        """The model key."""

    @property
    def device(self) -> str:
        """Where it runs."""

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return token counts of pairs after truncation, to sort them by."""

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """Return the positions computed for pairs of these lengths in one call."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return float32 [pairs]: the raw output, larger is more relevant."""
