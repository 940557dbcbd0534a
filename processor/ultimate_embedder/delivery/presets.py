"""How a collection is tuned, by name, and what its vectors are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..errors import UsageError


@dataclass(frozen=True, slots=True)
class Hnsw:
    """The graph over dense vectors.

    `m` edges a node, `ef_construct` candidates while it is built. Segments whose
    vectors take fewer KB than `full_scan_threshold` are read in full instead.
    """

    m: int
    ef_construct: int
    full_scan_threshold: int
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class ScalarInt8:
    """Dense vectors kept a second time in 8 bits a number, for a first look.

    `quantile` is the share of numbers that the 256 steps span.
    """

    quantile: float
    always_ram: bool


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a collection is made with; None leaves a choice to the server.

    `vectors_on_disk` and `payload_on_disk` say where full vectors and payloads lie.
    `names` gives vectors other names than their model keys.
    """

    name: str
    hnsw: Hnsw | None = None
    int8: ScalarInt8 | None = None
    vectors_on_disk: bool | None = None
    payload_on_disk: bool | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the settings on one line."""
        parts = []
        if self.hnsw:
            graph = self.hnsw
            place = ", on disk" if graph.on_disk else ""
            parts.append(
                f"HNSW m={graph.m} ef_construct={graph.ef_construct} "
                f"full_scan_threshold={graph.full_scan_threshold} KB{place}"
            )
        if self.int8:
            place = " in RAM" if self.int8.always_ram else ""
            parts.append(f"int8 quantisation{place}, quantile {self.int8.quantile}")
        if self.vectors_on_disk:
            parts.append("full vectors on disk")
        if self.payload_on_disk:
            parts.append("payload on disk")
        return "; ".join(parts) or "the server's own defaults"


_GRAPH: Final = Hnsw(m=48, ef_construct=512, full_scan_threshold=50_000)
_INT8: Final = ScalarInt8(quantile=0.99, always_ram=True)

EARLIER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "jina-code-embeddings-1.5b": "jina-code-1.5b",
        "qdrant-minilm-onnx": "qdrant-minilm",
        "all-miniLM-l6": "qdrant-minilm",  # the same weights
        "qdrant-bm25": "bm25",
        "qdrant-minilm-attention": "minilm-attention",
    }
)
"""What the collection `docs_v5_multi` of the first design called its vectors; bge-m3
and nomic-coderank had their keys there too."""

DEFAULT: Final = "default"
PRESETS: Mapping[str, Tuning] = MappingProxyType(
    {
        tuning.name: tuning
        for tuning in (
            Tuning(DEFAULT, _GRAPH, _INT8),
            Tuning("docs_v5_multi", _GRAPH, _INT8, names=EARLIER_NAMES),
            Tuning("full-precision", _GRAPH),
            Tuning(
                "low-memory",
                Hnsw(m=16, ef_construct=256, full_scan_threshold=10_000, on_disk=True),
                _INT8,
                vectors_on_disk=True,
                payload_on_disk=True,
            ),
            Tuning("server-defaults"),
        )
    }
)


def preset(name: str) -> Tuning:
    """Return the tuning of a name.

    Raises:
        UsageError: there is none; names those there are.
    """
    if name not in PRESETS:
        raise UsageError(
            f"No preset is called '{name}'.", cure=f"Known: {', '.join(PRESETS)}."
        )
    return PRESETS[name]


def parse_names(texts: list[str]) -> dict[str, str]:
    """Return key -> name from `KEY=NAME` texts.

    Raises:
        UsageError: a text has another form, or two name one key.
    """
    names: dict[str, str] = {}
    for text in texts:
        key, _, name = text.partition("=")
        if not key.strip() or not name.strip():
            raise UsageError(
                f"'{text}' names no vector.", cure="Write --vector-name KEY=NAME."
            )
        if names.setdefault(key.strip(), name.strip()) != name.strip():
            raise UsageError(f"Two --vector-name options name '{key.strip()}'.")
    return names
