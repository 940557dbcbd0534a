"""What a collection is made with, as qdrant-client's models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .layout import CollectionLayout
from .presets import Tuning

if TYPE_CHECKING:
    from qdrant_client import models


def collection_request(layout: CollectionLayout, tuning: Tuning) -> dict[str, Any]:
    """Return the arguments of `create_collection`; what is not said is left out."""
    from qdrant_client import models

    dense = {
        name: models.VectorParams(
            size=vector.size,
            distance=models.Distance(vector.distance),
            on_disk=tuning.vectors_on_disk,
        )
        for name, vector in layout.dense.items()
    }
    sparse = {
        name: models.SparseVectorParams(
            modifier=models.Modifier.IDF if kind.idf else None
        )
        for name, kind in layout.sparse.items()
    }
    request: dict[str, Any] = {
        "vectors_config": dense,
        "sparse_vectors_config": sparse,
        "hnsw_config": _hnsw(tuning),
        "quantization_config": _int8(tuning),
        "on_disk_payload": tuning.payload_on_disk,
    }
    return {key: value for key, value in request.items() if value is not None}


def _hnsw(tuning: Tuning) -> models.HnswConfigDiff | None:
    from qdrant_client import models

    if tuning.hnsw is None:
        return None
    return models.HnswConfigDiff(
        m=tuning.hnsw.m,
        ef_construct=tuning.hnsw.ef_construct,
        full_scan_threshold=tuning.hnsw.full_scan_threshold,
        on_disk=tuning.hnsw.on_disk,
    )


def _int8(tuning: Tuning) -> models.ScalarQuantization | None:
    from qdrant_client import models

    if tuning.int8 is None:
        return None
    return models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(
            type=models.ScalarType.INT8,
            quantile=tuning.int8.quantile,
            always_ram=tuning.int8.always_ram,
        )
    )
