"""What a collection of qdrant-edge is made with, and what its file says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .layout import FLOAT32, CollectionLayout, DenseVector, SparseVectorKind
from .presets import Tuning

if TYPE_CHECKING:
    from qdrant_edge import EdgeConfig, HnswIndexConfig, ScalarQuantizationConfig


def edge_config(layout: CollectionLayout, tuning: Tuning) -> EdgeConfig:
    """Return the engine's configuration; what is not said is left to it."""
    import qdrant_edge as edge

    return edge.EdgeConfig(
        vectors={
            name: edge.EdgeVectorParams(
                size=vector.size,
                distance=getattr(edge.Distance, vector.distance),
                on_disk=tuning.vectors_on_disk,
            )
            for name, vector in layout.dense.items()
        },
        sparse_vectors={
            name: edge.EdgeSparseVectorParams(
                modifier=edge.Modifier.Idf if kind.idf else None
            )
            for name, kind in layout.sparse.items()
        },
        on_disk_payload=tuning.payload_on_disk,
        hnsw_config=_hnsw(tuning),
        quantization_config=_int8(tuning),
    )


def layout_of(stored: Mapping[str, Any]) -> CollectionLayout:
    """Return the vectors that a collection's own file names."""
    return CollectionLayout(
        {
            name: DenseVector(
                vector["size"],
                vector["distance"],
                vector.get("datatype") or FLOAT32,
                rows=vector.get("multivector_config") is not None,
            )
            for name, vector in (stored.get("vectors") or {}).items()
        },
        {
            name: SparseVectorKind(idf=vector.get("modifier") == "idf")
            for name, vector in (stored.get("sparse_vectors") or {}).items()
        },
    )


def _hnsw(tuning: Tuning) -> HnswIndexConfig | None:
    import qdrant_edge as edge

    if tuning.hnsw is None:
        return None
    return edge.HnswIndexConfig(
        m=tuning.hnsw.m,
        ef_construct=tuning.hnsw.ef_construct,
        full_scan_threshold=tuning.hnsw.full_scan_threshold,
        on_disk=tuning.hnsw.on_disk,
    )


def _int8(tuning: Tuning) -> ScalarQuantizationConfig | None:
    import qdrant_edge as edge

    if tuning.int8 is None:
        return None
    return edge.ScalarQuantizationConfig(
        type=edge.ScalarType.Int8,
        quantile=tuning.int8.quantile,
        always_ram=tuning.int8.always_ram,
    )
