"""A bundle's single rankings by name: one for each model whose vectors it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ModelMismatch
from ..export.layout import BundleNames
from ..export.manifest import Manifest
from ..records import RankedList
from ..retrieval.indexes import BoolArray, DenseIndex, SparseIndex
from .parts import open_dense, open_sparse
from .query_encoders import QueryEncoders
from .results import dense_name, sparse_name


@dataclass(frozen=True, slots=True)
class StageRankings:
    """Rankings of one query by name, e.g. `dense:all-miniLM-l6` or `fused`.

    `missing` says why one that the bundle names could not be made.
    """

    lists: dict[str, RankedList]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DenseLeg:
    """One dense model's ranking."""

    key: str
    index: DenseIndex

    @property
    def name(self) -> str:
        """`dense:` and the model key."""
        return dense_name(self.key)

    def rank(
        self,
        encoders: QueryEncoders,
        text: str,
        depth: int,
        allowed: BoolArray | None = None,
    ) -> RankedList:
        """Return the best `depth` rows.

        Raises:
            ModelMismatch: the query's vector has another width than the bundle's.
        """
        vector = encoders.dense(text, self.key)
        width = self.index.vectors.shape[1]
        if vector.shape != (width,):
            raise ModelMismatch(
                f"The query's vector has the shape {vector.shape}; the bundle's have "
                f"{width} numbers.",
                cure="Search with the model that the manifest names.",
            )
        return self.index.search(vector, depth, allowed)


@dataclass(frozen=True, slots=True)
class SparseLeg:
    """One sparse model's ranking."""

    key: str
    index: SparseIndex

    @property
    def name(self) -> str:
        """`sparse:` and the model key."""
        return sparse_name(self.key)

    def rank(
        self,
        encoders: QueryEncoders,
        text: str,
        depth: int,
        allowed: BoolArray | None = None,
    ) -> RankedList:
        """Return the best `depth` rows that share a term with the query."""
        return self.index.search(encoders.sparse(text, self.key), depth, allowed)


def open_legs(folder: Path, manifest: Manifest) -> tuple[DenseLeg | SparseLeg, ...]:
    """Return a leg for each model of the manifest that has its files, dense first.

    Raises:
        BundleError: a file is damaged or does not fit the manifest.
    """
    names = BundleNames(manifest.collection)
    dense = [
        DenseLeg(run.model, open_dense(folder / names.dense(run.model), manifest))
        for run in manifest.dense_run or ()
        if (folder / names.dense(run.model)).is_file()
    ]
    sparse = [
        SparseLeg(run.sparse_model, open_sparse(folder, run, manifest))
        for run in manifest.sparse_run or ()
    ]
    return (*dense, *sparse)
