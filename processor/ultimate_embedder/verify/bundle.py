"""All checks of a bundle, in the order of what a finding would cost."""

from __future__ import annotations

import os
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
from .report import Findings, VerificationReport, blame_no_bundle
from .rerank import check_rerank
from .rows import check_rows

_ALL = "counts, ids, texts, vectors, inverted lists, reranked queries"


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
        OSError: this process has no memory or no file descriptor left.
    """
    if deep and embed is None:
        raise ValueError("a deep verification needs `embed`")
    findings = Findings()
    try:
        _check(path, findings, embed if deep else None, embed_sparse)
    except OSError as error:
        blame_no_bundle(error)
        place = os.path.relpath(error.filename or path, path)
        reason = error.strerror or error
        findings.add(place, "whole file", f"cannot be read: {reason}")
    return findings.report(str(path))


def _check(
    path: Path,
    findings: Findings,
    embed: Embed | None,
    embed_sparse: EmbedSparse | None,
) -> None:
    """Do all checks; what needs a broken file is left out, and said.

    Raises:
        OSError: the folder, or a file where none was expected to fail, is not readable.
    """
    manifest = read_manifest(path, findings)
    if findings.unchecked or not path.is_dir():
        return
    intact = check_files(path, manifest, findings)
    if manifest is None or findings.skip(_ALL, MANIFEST):
        return
    try:
        bundle = open_bundle(path, manifest, intact, findings)
    except UsageError as error:
        findings.add(MANIFEST, "names", error.message)
        return
    check_counts(bundle, findings)
    check_presence(bundle, findings)
    check_dense(bundle, findings)
    check_chunk_ids(bundle, findings)
    seen = check_rows(bundle, findings)
    check_rerank(bundle, seen, findings)
    if embed is not None:
        check_deep(bundle, embed, findings, embed_sparse)
