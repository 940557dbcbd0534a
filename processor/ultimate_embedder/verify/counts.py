"""The manifest against itself: counts add up, and the files it implies are listed."""

from __future__ import annotations

from ..export.layout import MANIFEST
from ..export.manifest_sections import RerankRan
from .opened import OpenBundle
from .report import Findings


def check_counts(bundle: OpenBundle, findings: Findings) -> None:
    """Compare `chunk_count` with all other counts of the manifest."""
    manifest = bundle.manifest
    count = manifest.chunk_count

    def expect(place: str, found: int, wanted: int) -> None:
        if found != wanted:
            findings.add(MANIFEST, place, f"{found} instead of {wanted}")

    for run in manifest.dense_run or ():
        expect(f"dense_run {run.model} chunks", run.chunks, count)
    if manifest.source_subdirs:
        total = sum(item.chunks for item in manifest.source_subdirs.values())
        expect("source_subdirs", total, count)
    if manifest.conservation is not None:
        expect("conservation.embedded", manifest.conservation.embedded, count)
        if not manifest.conservation.adds_up:
            findings.add(
                MANIFEST,
                "conservation",
                "read is not embedded and quarantined together",
            )
    for item in manifest.artifacts:
        if item.rows is not None:
            expect(f"artifacts {item.path} rows", item.rows, _rows(bundle, item.path))
    findings.checks.append("counts")


def check_presence(bundle: OpenBundle, findings: Findings) -> None:
    """Compare the files listed with the stages that ran and the exports asked for."""
    manifest, names = bundle.manifest, bundle.names
    if not manifest.artifacts:
        return
    exports = manifest.export.exports if manifest.export else ()
    wanted = {names.ids: True, names.points: "jsonl" in exports}
    for run in manifest.dense_run or ():
        wanted[names.dense(run.model)] = "npy" in exports
        wanted[names.index(run.model)] = "faiss" in exports
    wanted[names.sparse] = bool(manifest.sparse_run)
    wanted[names.rerank] = isinstance(manifest.rerank_run, RerankRan)
    listed = set(bundle.listed)
    for name, needed in wanted.items():
        if needed != (name in listed):
            problem = "is not listed" if needed else "is listed, its stage did not run"
            findings.add(MANIFEST, "artifacts", f"{name} {problem}")
    found = names.dense_keys(bundle.listed)
    for key in set(found) - {run.model for run in manifest.dense_run or ()}:
        findings.add(MANIFEST, "dense_run", f"says nothing of '{key}'")


def _rows(bundle: OpenBundle, path: str) -> int:
    rerank = bundle.manifest.rerank_run
    if path == bundle.names.rerank and isinstance(rerank, RerankRan):
        return rerank.queries
    return bundle.manifest.chunk_count
