"""Statistics, vocabularies and lists that do not fit, under sums that hold."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_parts import BM25, export_bundle
from real_bundle import run_bundle
from test_contradictions import (
    POINTS,
    POSTINGS,
    RERANK,
    edit_line,
    findings_after,
    reseal,
    setter,
)

from processor.ultimate_embedder.errors import BundleError
from processor.ultimate_embedder.export.layout import MANIFEST
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.verify import verify_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return export_bundle(tmp_path)


def stated(bundle: Path, **facts: Any) -> tuple[Any, ...]:
    """Return the sparse headers, the first with these statistics added."""
    runs = Manifest.parse((bundle / MANIFEST).read_bytes()).sparse_run or ()
    first = runs[0].model_copy(update={"statistics": {**runs[0].statistics, **facts}})
    return (first, *runs[1:])


@pytest.mark.parametrize(
    "facts",
    [
        {"documents": 24},
        {"entries": 1},
        {"empty_documents": 9},
        {"unique_terms": 7},
    ],
    ids=str,
)
def test_sparse_statistics_that_the_files_do_not_bear_out_are_found(
    bundle: Path, facts: dict[str, int]
) -> None:
    (finding,) = findings_after(bundle, sparse_run=stated(bundle, **facts))
    (name,) = facts
    assert (finding.file, finding.place) == (MANIFEST, f"sparse_run {BM25} {name}")


def test_the_statistics_of_a_run_are_borne_out(tmp_path: Path) -> None:
    bundle = run_bundle(tmp_path)
    facts = (Manifest.read(bundle).sparse_run or ())[0].statistics
    assert {"documents", "entries", "unique_terms", "average_length"} <= facts.keys()
    assert verify_bundle(bundle).whole


def test_another_average_length_than_the_manifests_is_found(bundle: Path) -> None:
    right = stated(bundle, average_length=6.5)
    assert findings_after(bundle, sparse_run=right) == ()
    wrong = stated(bundle, average_length=6.25)
    (finding,) = findings_after(bundle, sparse_run=wrong)
    assert (finding.file, finding.place) == (POSTINGS, "statistics")


def test_another_number_of_filled_vectors_in_the_postings_is_found(
    bundle: Path,
) -> None:
    path = bundle / POSTINGS / "statistics.npy"
    statistics = np.load(path)
    statistics[1] -= 1
    np.save(path, statistics)
    (finding,) = findings_after(bundle)
    assert finding.problem == "18 vectors that are not empty, not 19"


def test_an_index_outside_the_models_vocabulary_is_found_by_line(bundle: Path) -> None:
    whole = stated(bundle, vocabulary_size=2**32)
    assert findings_after(bundle, sparse_run=whole) == ()
    small = stated(bundle, vocabulary_size=2**31)
    found = findings_after(bundle, sparse_run=small)
    assert {finding.file for finding in found} == {"docs_sparse.jsonl"}
    assert "is not in the vocabulary of 2147483648" in found[0].problem


def test_a_file_that_is_listed_twice_is_found(bundle: Path) -> None:
    reseal(bundle)
    manifest = Manifest.read(bundle)
    twice = (*manifest.artifacts, manifest.artifacts[0])
    manifest.model_copy(update={"artifacts": twice}).write(bundle)
    (finding,) = verify_bundle(bundle).findings
    assert finding.problem == "docs_ids.jsonl is listed 2 times"


def test_a_renamed_key_of_a_reranked_query_is_found(bundle: Path) -> None:
    edit_line(bundle / RERANK, 1, lambda r: r.update(scorer=r.pop("scores")))
    (finding,) = findings_after(bundle)
    assert finding.file == RERANK
    assert "scores" in finding.problem


def test_metadata_that_is_no_object_is_found(bundle: Path) -> None:
    edit_line(bundle / POINTS, 3, setter("payload", "metadata", value=[1]))
    found = findings_after(bundle)
    assert any(f.file == POINTS and "no object" in f.problem for f in found)


def test_a_file_that_cannot_be_read_is_a_finding(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: the sum cannot be taken, and lines end in the middle."""
    name = "docs_ids.jsonl"
    real = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise OSError(5, "Input/output error", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    found = [f for f in verify_bundle(bundle).findings if f.file == name]
    assert found[0].problem == "cannot be read: Input/output error"
    assert any("cannot be read further" in finding.problem for finding in found)


def test_a_process_without_memory_damages_no_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:
        raise OSError(12, "Cannot allocate memory", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        verify_bundle(bundle)


@pytest.mark.parametrize("left", [0, 1, 3, 6, 10])
def test_a_process_without_file_descriptors_damages_no_bundle(
    bundle: Path, left: int
) -> None:
    assert verify_bundle(bundle).whole
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 16, before[1]))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(left):
            os.close(held.pop())
        with pytest.raises(OSError, match="Too many open files"):
            verify_bundle(bundle)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_cannot_be_looked_at_is_told_by_its_name_in_the_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:
        raise OSError(5, "Input/output error", str(path / "part"))

    monkeypatch.setattr(Path, "is_dir", refuse)
    (finding,) = verify_bundle(bundle).findings
    assert str(finding) == "part: whole file: cannot be read: Input/output error"


def test_a_manifest_that_lost_the_key_of_its_own_sum_is_not_read(bundle: Path) -> None:
    content = (bundle / MANIFEST).read_bytes()
    flipped = content.replace(b'"manifest_sha256"', b'"manifest_sha257"')
    (bundle / MANIFEST).write_bytes(flipped)
    with pytest.raises(BundleError, match="its own sum differs"):
        Manifest.read(bundle)
