"""All checks of a bundle, in the order of what a finding would cost."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..export.layout import MANIFEST
from .chunk_ids import check_chunk_ids
from .counts import check_counts, check_presence
from .deep import Embed, check_deep
from .deep_sparse import EmbedSparse
from .dense import check_dense
from .files import check_files, read_manifest
from .opened import open_bundle
from .report import Findings, VerificationReport
from .rerank import check_rerank
from .rows import check_rows


def verify_bundle(
    path: Path,
    deep: bool = False,
    embed: Embed | None = None,
    embed_sparse: EmbedSparse | None = None,
) -> VerificationReport:
    """Check every file of the bundle in `path` and return what was found.

    Files are read in blocks and side by side; memory beyond that is eight bytes a
    chunk and a cursor for each distinct sparse term. With `deep`, `embed` makes the
    vectors of a sample again, and `embed_sparse` those of sparse models that are not
    made of texts alone; notes say what could not be made again.

    Raises:
        ValueError: `deep` without `embed`.
        UsageError: faiss is needed and not installed.
    """
    if deep and embed is None:
        raise ValueError("a deep verification needs `embed`")
    findings = Findings()
    manifest = read_manifest(path, findings)
    if not path.is_dir():
        return findings.report(str(path))
    intact = check_files(path, manifest, findings)
    if manifest is None:
        return findings.report(str(path))
    try:
        bundle = open_bundle(path, manifest, intact, findings)
    except UsageError as error:
        findings.add(MANIFEST, "names", error.message)
        return findings.report(str(path))
    check_counts(bundle, findings)
    check_presence(bundle, findings)
    check_dense(bundle, findings)
    check_chunk_ids(bundle, findings)
    seen = check_rows(bundle, findings)
    check_rerank(bundle, seen, findings)
    if deep and embed is not None:
        check_deep(bundle, embed, findings, embed_sparse)
    return findings.report(str(path))
