"""The parts of a bundle that search reads, and why one is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..config import RERANK_CANDIDATES, RerankingConfig
from ..errors import UNREADABLE_ARRAY, BundleError, UsageError
from ..export.layout import BundleNames, repair_cure
from ..export.manifest import Manifest
from ..export.manifest_sections import RerankNotRun, RerankRan
from ..records import Float32Array, RankedList, SparseInferenceRun
from ..retrieval.blend import BlendConfig
from ..retrieval.fusion import DEFAULT_FUSION, FusionConfig
from ..retrieval.indexes import DenseIndex, SparseIndex
from ..retrieval.postings import Postings
from .json_lines import JsonLines
from .results import Stage, dense_name, sparse_name

_T = TypeVar("_T")

_TRIES = 3
_FIRST_SPARSE = "qdrant-bm25"
_WITH_IDF = ("bm25", "attention")
_NO_TEXTS = "A reranker reads texts; this bundle holds none (exports without jsonl)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Memory-mapped indexes and files; `missing` says why a stage cannot run.

    `primary` and `fused_sparse` are the keys of the models that are fused;
    `candidates` is how many of a fused ranking the reranker reads.
    """

    folder: Path
    manifest: Manifest
    primary: str | None
    fused_sparse: str | None
    dense: DenseIndex | None
    sparse: SparseIndex | None
    points: JsonLines | None
    ids: JsonLines
    fusion: FusionConfig
    fused_legs: tuple[Stage, ...]
    reranker: str | None = None
    blend: BlendConfig | None = None
    candidates: int = RERANK_CANDIDATES
    missing: dict[Stage, str] = field(default_factory=dict)

    def fusion_of(self, legs: int) -> FusionConfig:
        """Return the bundle's fusion; weights say nothing where a leg is missing."""
        return self.fusion.for_legs(legs)

    def by_stage(self, lists: Mapping[str, RankedList]) -> dict[Stage, RankedList]:
        """Return the fused legs among rankings named `dense:<key>`, `sparse:<key>`."""
        names: dict[Stage, str] = {
            "dense": dense_name(self.primary or ""),
            "sparse": sparse_name(self.fused_sparse or ""),
        }
        return {
            stage: lists[name]
            for stage, name in names.items()
            if stage in self.fused_legs and name in lists
        }

    def with_choices(
        self, fusion: FusionConfig | None, rerank: RerankingConfig | None
    ) -> Parts:
        """Return the parts with another fusion or reranker than the manifest's.

        Raises:
            UsageError: the fusion has weights for another number of rankings.
        """
        parts = self
        if fusion is not None:
            fusion.weights_for(len(self.fused_legs))
            parts = replace(parts, fusion=fusion)
        if rerank is not None:
            others: dict[Stage, str] = {
                stage: why for stage, why in self.missing.items() if stage != "reranked"
            }
            if self.points is None:
                others["reranked"] = _NO_TEXTS
            parts = replace(
                parts,
                reranker=rerank.name,
                blend=rerank.blend,
                candidates=rerank.candidates,
                missing=others,
            )
        return parts


def open_parts(path: Path) -> Parts:
    """Open a bundle's folder. Nothing large is read.

    A bundle that is replaced meanwhile is opened anew.

    Raises:
        BundleError: it is no bundle, its parts do not fit together, or it was replaced
            again and again.
    """
    for _ in range(_TRIES):
        parts = of_one_bundle(path, Manifest.read(path), _open)
        if parts is not None:
            return parts
    raise BundleError(
        f"{path} was replaced each time it was opened ({_TRIES} times).",
        cure="Open it again when no run writes it.",
    )


def of_one_bundle(
    path: Path, manifest: Manifest, open_files: Callable[[Path, Manifest], _T]
) -> _T | None:
    """Return what is opened of a folder; None: it holds another bundle by now.

    A run that ends exchanges folders: between two files that are opened by path, the
    vectors of one bundle and the ids of the next.

    Raises:
        BundleError: a file of this bundle cannot be opened.
    """
    try:
        opened = open_files(path, manifest)
    except BundleError:
        if _still_holds(path, manifest):
            raise
        return None
    return opened if _still_holds(path, manifest) else None


def _still_holds(path: Path, manifest: Manifest) -> bool:
    try:
        return Manifest.read(path) == manifest
    except BundleError:  # none at all, between the two renames of an exchange
        return False


def _open(path: Path, manifest: Manifest) -> Parts:
    names = BundleNames(manifest.collection)
    missing: dict[Stage, str] = {}
    primary = primary_key(manifest, path)
    fused_sparse = fused_sparse_run(manifest)
    dense = _dense(path, names, primary, manifest, missing)
    sparse = _sparse(path, fused_sparse, manifest, missing)
    points = path / names.points
    legs = fused_legs(manifest, missing)
    if not legs:
        missing["fused"] = "There is no ranking to fuse in this bundle."
    if why := why_no_rerank(manifest, has_texts=points.is_file()):
        missing["reranked"] = why
    blend = None if why else stated_blend(manifest, missing)
    return Parts(
        folder=path,
        manifest=manifest,
        primary=primary,
        fused_sparse=fused_sparse.sparse_model if fused_sparse else None,
        dense=dense,
        sparse=sparse,
        points=JsonLines(points) if points.is_file() else None,
        ids=JsonLines(path / names.ids),
        fusion=stated_fusion(manifest),
        fused_legs=legs,
        reranker=_reranker(manifest),
        blend=blend,
        candidates=stated_candidates(manifest),
        missing=missing,
    )


def primary_key(manifest: Manifest, path: Path) -> str | None:
    """Return the first dense model's key: as stated, else by the files there are."""
    if manifest.dense_run:
        return manifest.dense_run[0].model
    files = sorted(file.name for file in path.glob("*.npy"))
    return next(iter(BundleNames(manifest.collection).dense_keys(files)), None)


def fused_sparse_run(manifest: Manifest) -> SparseInferenceRun | None:
    """Return the sparse model that takes part in fusion, BM25 where nothing is said."""
    runs = {run.sparse_model: run for run in manifest.sparse_run or ()}
    legs = manifest.fusion_run.legs if manifest.fusion_run else ()
    for key in (*legs, _FIRST_SPARSE, *runs):
        if key in runs:
            return runs[key]
    return None


def open_dense(file: Path, manifest: Manifest) -> DenseIndex:
    """Return the index over one model's vectors; nothing large is read.

    Raises:
        BundleError: the file is damaged or does not fit the manifest.
    """
    try:
        vectors: Float32Array = np.load(file, mmap_mode="r")
    except UNREADABLE_ARRAY as error:
        raise BundleError(
            f"{file.name} is damaged: {error}.", cure=repair_cure(file.parent)
        ) from error
    if vectors.ndim != 2 or len(vectors) != manifest.chunk_count:
        raise BundleError(
            f"{file.name} has the shape {vectors.shape}; the manifest counts "
            f"{manifest.chunk_count} chunks.",
            cure=repair_cure(file.parent),
        )
    return DenseIndex(vectors)


def open_sparse(path: Path, run: SparseInferenceRun, manifest: Manifest) -> SparseIndex:
    """Return the index over one sparse model's inverted lists.

    Raises:
        BundleError: the files are damaged or do not fit the manifest.
    """
    names = BundleNames(manifest.collection)
    try:
        postings = Postings.open(path / names.postings(run.sparse_model))
    except BundleError as error:
        raise BundleError(error.message, cure=repair_cure(path)) from error
    if postings.documents != manifest.chunk_count:
        raise BundleError(
            f"The postings of {run.sparse_model} count {postings.documents} documents; "
            f"the manifest counts {manifest.chunk_count} chunks.",
            cure=repair_cure(path),
        )
    return SparseIndex(postings, idf=run.statistics.get("kind") in _WITH_IDF)


def _dense(
    path: Path,
    names: BundleNames,
    key: str | None,
    manifest: Manifest,
    missing: dict[Stage, str],
) -> DenseIndex | None:
    file = path / names.dense(key) if key else None
    if file is None or not file.is_file():
        listed = file is not None and file.name in {a.path for a in manifest.artifacts}
        missing["dense"] = (
            f"{file.name} is missing. {repair_cure(path)}"
            if file is not None and listed
            else "This bundle holds no dense vectors (exports without npy)."
        )
        return None
    return open_dense(file, manifest)


def _sparse(
    path: Path,
    run: SparseInferenceRun | None,
    manifest: Manifest,
    missing: dict[Stage, str],
) -> SparseIndex | None:
    if run is None:
        missing["sparse"] = why_no_sparse(manifest)
        return None
    return open_sparse(path, run, manifest)


def why_no_sparse(manifest: Manifest) -> str:
    toggles = manifest.feature_toggles
    if toggles and not toggles.enable_sparse:
        layer = toggles.sources.get("enable_sparse")
        by = f" ({layer})" if layer else ""
        return f"Sparse was off when this bundle was built{by}."
    return "This bundle holds no sparse vectors."


def why_no_rerank(manifest: Manifest, *, has_texts: bool) -> str | None:
    run = manifest.rerank_run
    if isinstance(run, RerankNotRun):
        why = run.reason.rstrip(".")
        return f"The run that built this bundle did not rerank: {why}. {run.cure}"
    if not isinstance(run, RerankRan):
        return "Rerank was off when this bundle was built."
    if not has_texts:
        return _NO_TEXTS
    return None


def fused_legs(manifest: Manifest, missing: dict[Stage, str]) -> tuple[Stage, ...]:
    """Return which rankings are fused: those the run fused, else all there are."""
    stated = manifest.fusion_run.legs if manifest.fusion_run else ()
    run = fused_sparse_run(manifest)
    legs: tuple[Stage, ...] = ("dense", "sparse")
    if stated and (run is None or run.sparse_model not in stated):
        legs = ("dense",)
    return tuple(leg for leg in legs if leg not in missing)


def stated_fusion(manifest: Manifest) -> FusionConfig:
    """Return the fusion that the manifest names, or the default one."""
    run = manifest.fusion_run
    for text in (run.parameters.get("expression"), f"{run.method}()") if run else ():
        try:
            return FusionConfig.parse(str(text))
        except UsageError:
            continue  # another version's method
    return DEFAULT_FUSION


def stated_blend(manifest: Manifest, missing: dict[Stage, str]) -> BlendConfig | None:
    """Return how the run joined logits and fused scores; None: logits alone."""
    run = manifest.rerank_run
    text = run.statistics.get("blend") if isinstance(run, RerankRan) else None
    if text is None:
        return None
    try:
        return BlendConfig.parse(str(text))
    except UsageError as error:
        missing["reranked"] = (
            f"The manifest blends in a way unknown here: {error.message}"
        )
        return None


def _reranker(manifest: Manifest) -> str | None:
    """Return the key of the model that the run reranked with."""
    run = manifest.rerank_run
    return run.model if isinstance(run, RerankRan) else None


def stated_candidates(manifest: Manifest) -> int:
    """Return how many candidates of a query the run reranked at most."""
    run = manifest.rerank_run
    found = isinstance(run, RerankRan) and run.statistics.get("candidates_per_query")
    return found if type(found) is int and found > 0 else RERANK_CANDIDATES
