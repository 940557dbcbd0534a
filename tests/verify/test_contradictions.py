"""Files that contradict one another are found even where every sum holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from bundle_parts import BM25, PRIMARY, export_bundle, unit_vectors

from processor.ultimate_embedder.export.checksums import format_sums
from processor.ultimate_embedder.export.faiss_index import write_index
from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import Artifact, RerankRan
from processor.ultimate_embedder.records import CrossEncoderRerankRun, RankedList
from processor.ultimate_embedder.retrieval.blend import BlendConfig, blend
from processor.ultimate_embedder.verify import Finding, verify_bundle

IDS, POINTS, SPARSE = "docs_ids.jsonl", "docs_qdrant.jsonl", "docs_sparse.jsonl"
RERANK = "docs_rerank.jsonl"
VECTORS = f"docs_{PRIMARY}_embeddings.npy"
INDEX = f"docs_{PRIMARY}_index.faiss"
POSTINGS = f"docs_{BM25}_postings"

Change = Callable[[Any], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return export_bundle(tmp_path)


def reseal(bundle: Path, **changes: Any) -> None:
    """Make sums and manifest fit the files again, as a careful forger would."""
    manifest = Manifest.parse((bundle / MANIFEST).read_bytes())
    rows = {artifact.path: artifact.rows for artifact in manifest.artifacts}

    def artifact(name: str) -> Artifact:
        content = (bundle / name).read_bytes()
        return Artifact(
            path=name,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            rows=rows[name],
        )

    artifacts = [artifact(name) for name in rows if name != SUMS]
    (bundle / SUMS).write_bytes(format_sums((a.path, a.sha256) for a in artifacts))
    artifacts.append(artifact(SUMS))
    manifest.model_copy(update={"artifacts": tuple(artifacts)} | changes).write(bundle)


def edit_line(path: Path, number: int, change: Change) -> None:
    """Change the parsed record in a line, counted from 1."""
    lines = path.read_bytes().splitlines()
    record = orjson.loads(lines[number - 1])
    change(record)
    lines[number - 1] = orjson.dumps(record)
    path.write_bytes(b"\n".join(lines) + b"\n")


def findings_after(bundle: Path, **changes: Any) -> tuple[Finding, ...]:
    reseal(bundle, **changes)
    return verify_bundle(bundle).findings


def setter(*path: Any, value: Any) -> Change:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


def test_a_resealed_bundle_is_whole(bundle: Path) -> None:
    assert findings_after(bundle) == ()


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        (IDS, setter("row", value=7), "row is 7 instead of 3"),
        (IDS, setter("point_id", value="0"), "point_id is not the UUIDv5"),
        (IDS, setter("chunk_id", value=1), "another shape"),
        (POINTS, setter("id", value="0"), "id is not the UUIDv5"),
        (POINTS, setter("payload", "text", value="x"), "text_sha256"),
        (POINTS, setter("payload", "chunk_id", value="x"), "chunk_id differs"),
        (POINTS, setter("payload", "metadata", "collection", value="x"), "collection"),
        (POINTS, setter("vector", PRIMARY, 0, value=0.125), "differs from the .npy"),
        (POINTS, setter("vector", PRIMARY, value=[0.5]), "differs from the .npy"),
        (POINTS, setter("vector", PRIMARY, value=["x"]), "another shape"),
        (POINTS, setter("vector", PRIMARY, value=[1e39]), "out of the range"),
        (POINTS, lambda r: r["vector"].pop(PRIMARY), "has vectors of"),
        (POINTS, lambda r: r["vector"].pop(BM25), "has other sparse vectors"),
        (POINTS, setter("vector", BM25, "values", 0, value=9.5), "the sparse file"),
        (SPARSE, setter("chunk_id", value="x"), "chunk_id differs"),
        (SPARSE, setter(BM25, "values", 0, value=0.0), "a value is zero"),
        (SPARSE, setter(BM25, "indices", 0, value=2**32 - 1), "do not ascend"),
        (SPARSE, setter(BM25, "indices", 0, value=-1), "unsigned 32-bit"),
        (SPARSE, setter(BM25, "values", value=[]), "6 indices and 0 values"),
        (SPARSE, lambda record: record.pop(BM25), "has vectors of"),
    ],
)
def test_a_contradiction_in_a_line_is_found_there(
    bundle: Path, file: str, change: Change, problem: str
) -> None:
    edit_line(bundle / file, 4, change)
    found = findings_after(bundle)
    assert any(
        finding.file == file
        and problem in finding.problem
        and "line 4, byte" in finding.place
        for finding in found
    ), found


def test_a_chunk_id_that_stands_twice_is_found(bundle: Path) -> None:
    for file in (IDS, POINTS, SPARSE):
        lines = (bundle / file).read_bytes().splitlines(keepends=True)
        lines[6] = lines[5]
        (bundle / file).write_bytes(b"".join(lines))
    problems = {(f.file, f.place, f.problem) for f in findings_after(bundle)}
    assert (IDS, "row 6", "the chunk_id stood before") in problems


@pytest.mark.parametrize(
    ("value", "problem"), [(np.nan, "not finite"), (3.0, "L2 norm"), (0, "L2 norm")]
)
def test_a_vector_that_is_not_a_finite_unit_is_found_by_row(
    bundle: Path, value: float, problem: str
) -> None:
    vectors = np.load(bundle / VECTORS)
    vectors[9] = value
    np.save(bundle / VECTORS, vectors)
    found = {(f.file, f.place): f.problem for f in findings_after(bundle)}
    assert problem in found[VECTORS, "row 9"]


def test_vectors_of_another_shape_are_found(bundle: Path) -> None:
    np.save(bundle / VECTORS, unit_vectors(22, 12))
    found = findings_after(bundle)
    assert any("shape (22, 12) instead of (23, 12)" in f.problem for f in found)


def test_an_index_with_another_vector_is_found_by_row(bundle: Path) -> None:
    vectors = np.load(bundle / VECTORS)
    vectors[11] = -vectors[11]
    write_index(bundle / INDEX, vectors)
    found = {(f.file, f.place): f.problem for f in findings_after(bundle)}
    assert found[INDEX, "row 11"] == "differs from the .npy file"
    assert any(place.startswith("search for row") for _, place in found)


def test_an_index_of_another_size_is_found(bundle: Path) -> None:
    write_index(bundle / INDEX, unit_vectors(5, 12))
    assert any("5 rows of width 12" in f.problem for f in findings_after(bundle))


def test_a_file_that_is_no_index_is_found(bundle: Path) -> None:
    (bundle / INDEX).write_bytes(b"nothing")
    assert {f.file for f in findings_after(bundle)} == {INDEX}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("values", lambda array: array.__setitem__(3, 9.5)),
        ("rows", lambda array: array.__setitem__(0, 22)),
        ("terms", lambda array: array.__setitem__(-1, 2**32 - 1)),
        ("statistics", lambda array: array.__setitem__(0, 99)),
    ],
)
def test_inverted_lists_that_differ_from_the_sparse_file_are_found(
    bundle: Path, name: str, change: Change
) -> None:
    array = np.load(bundle / POSTINGS / f"{name}.npy")
    change(array)
    np.save(bundle / POSTINGS / f"{name}.npy", array)
    assert POSTINGS in {finding.file for finding in findings_after(bundle)}


def test_entries_only_the_inverted_lists_have_are_found(bundle: Path) -> None:
    for file, path in ((SPARSE, (BM25,)), (POINTS, ("vector", BM25))):
        edit_line(bundle / file, 23, setter(*path, value={"indices": [], "values": []}))
    found = findings_after(bundle)
    assert {finding.file for finding in found} == {POSTINGS}
    assert [finding.problem for finding in found] == [
        "holds 6 entries that the sparse file lacks",
        "19 vectors that are not empty, not 18",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (setter("candidate_ids", 0, value="nobody"), "candidate 'nobody' is unknown"),
        (setter("scores", value=[1.0]), "1 scores for 3 candidates"),
        (setter("scores", 0, value=None), "scores holds something that is not"),
        (setter("scores", 0, value=True), "scores holds something that is not"),
        (setter("dense_scores", 0, value="x"), "dense_scores holds something"),
        (lambda r: r.pop("candidate_ids"), "another shape"),
    ],
)
def test_a_reranked_query_that_contradicts_the_rest_is_found(
    bundle: Path, change: Change, problem: str
) -> None:
    edit_line(bundle / RERANK, 2, change)
    (finding,) = findings_after(bundle)
    assert finding.file == RERANK
    assert finding.place.startswith("line 2, byte")
    assert problem in finding.problem


SUM = BlendConfig(weight=2, bound=1.5)
LOGITS = [4.0, -0.5, 0.25]


def blended(record: dict[str, Any]) -> None:
    """Give a line scores as the rerank stage would, of three candidates and a fourth.

    The fourth was not kept, so the scaling of fused scores is not to be had from these.
    """
    record["cross_scores"] = LOGITS
    fused = RankedList(np.arange(4), np.array([*record["fused_scores"], 0.05]))
    found = blend(fused, np.array([*LOGITS, -9.0]), SUM, 3)
    assert found.rows.tolist() == [0, 2, 1]
    order = found.rows.tolist()
    record["scores"] = found.scores.tolist()
    for key in ("candidate_ids", "cross_scores", "fused_scores"):
        record[key] = [record[key][place] for place in order]
    for key in ("dense_scores", "sparse_scores"):
        record[key] = [record[key][place] for place in order]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (None, None),
        (setter("scores", 1, value=0.9), "are not blend(weight=2, bound=1.5) of"),
        (setter("cross_scores", 0, value=1.0), "are not blend(weight=2, bound=1.5) of"),
        (setter("fused_scores", 2, value=0.41), "are not blend("),
        (lambda r: r.pop("cross_scores"), "are not blend("),
        (setter("cross_scores", 0, value=None), "cross_scores holds something"),
        (setter("scores", 2, value=99.0), "the scores rise"),
        (lambda r: r.update(fused_scores=[-x for x in r["fused_scores"]]), "are not"),
    ],
)
def test_scores_that_are_not_the_blend_of_their_parts_are_found(
    bundle: Path, change: Change | None, problem: str | None
) -> None:
    for line in (1, 2):
        edit_line(bundle / RERANK, line, blended)
    if change is not None:
        edit_line(bundle / RERANK, 2, change)
    ran = RerankRan(
        model="m", queries=2, candidates=3, top_k=3, statistics={"blend": str(SUM)}
    )
    found = findings_after(bundle, rerank_run=ran)
    assert bool(found) == bool(problem)
    if problem:
        assert problem in found[0].problem
        assert all(finding.place.startswith("line 2") for finding in found)


@pytest.mark.parametrize("statistics", [{}, {"blend": "mix(0.5)"}])
def test_scores_of_which_nothing_is_known_are_not_recomputed(
    bundle: Path, statistics: dict[str, Any]
) -> None:
    edit_line(bundle / RERANK, 1, blended)
    ran = RerankRan(model="m", queries=2, candidates=3, top_k=3, statistics=statistics)
    assert findings_after(bundle, rerank_run=ran) == ()


def test_a_blend_of_equal_fused_scores_is_that_of_the_logits(bundle: Path) -> None:
    def alike(record: dict[str, Any]) -> None:
        record["cross_scores"] = [3.0, 1.0, 0.5]
        record["scores"] = SUM.term(np.array(record["cross_scores"])).tolist()
        record["fused_scores"] = [0.5] * 3

    for line in (1, 2):
        edit_line(bundle / RERANK, line, alike)
    ran = RerankRan(
        model="m", queries=2, candidates=3, top_k=3, statistics={"blend": str(SUM)}
    )
    assert findings_after(bundle, rerank_run=ran) == ()
    edit_line(bundle / RERANK, 2, setter("scores", 0, value=4.0))
    (finding,) = findings_after(bundle, rerank_run=ran)
    assert finding.place.startswith("line 2")


def test_fused_scores_that_differ_in_their_last_bit_accuse_no_blend(
    bundle: Path,
) -> None:
    plain, near = BlendConfig(weight=1), float(np.nextafter(0.5, 1))
    fused = RankedList(np.arange(3), np.array([near, 0.5, 0.1]))
    found = blend(fused, np.array([9.0, 8.7, -9.0]), plain, 2)
    assert found.rows.tolist() == [0, 1]

    def tied(record: dict[str, Any]) -> None:
        record["candidate_ids"] = record["candidate_ids"][:2]
        record["scores"], record["cross_scores"] = found.scores.tolist(), [9.0, 8.7]
        record["fused_scores"] = [near, 0.5]
        record["dense_scores"] = record["sparse_scores"] = [None, None]

    for line in (1, 2):
        edit_line(bundle / RERANK, line, tied)
    said = {"blend": str(plain)}
    ran = RerankRan(model="m", queries=2, candidates=3, top_k=2, statistics=said)
    assert findings_after(bundle, rerank_run=ran) == ()
    edit_line(bundle / RERANK, 2, setter("cross_scores", 0, value=9.1))
    assert len(findings_after(bundle, rerank_run=ran)) == 1


def test_scores_of_a_model_that_stepped_in_are_by_its_own_blend(bundle: Path) -> None:
    edit_line(bundle / RERANK, 1, lambda r: r.update(cross_scores=r["scores"]))
    edit_line(bundle / RERANK, 2, blended)
    said = {"blend": None, "blends": {"first": None, "smaller": str(SUM)}}
    ran = RerankRan(model="first", queries=2, candidates=3, top_k=3, statistics=said)
    assert findings_after(bundle, rerank_run=ran) == ()
    edit_line(bundle / RERANK, 2, setter("scores", 1, value=0.9))
    (finding,) = findings_after(bundle, rerank_run=ran)
    assert finding.problem == "the scores are not the cross_scores"


def test_scores_that_should_be_the_logits_and_are_not_are_found(bundle: Path) -> None:
    alone = RerankRan(
        model="m", queries=2, candidates=3, top_k=3, statistics={"blend": None}
    )
    for line in (1, 2):
        edit_line(bundle / RERANK, line, lambda r: r.update(cross_scores=r["scores"]))
    assert findings_after(bundle, rerank_run=alone) == ()
    edit_line(bundle / RERANK, 1, setter("cross_scores", 1, value=2.5))
    (finding,) = findings_after(bundle, rerank_run=alone)
    assert "are not the cross_scores" in finding.problem


def test_reranked_queries_that_differ_from_their_headers_are_found(
    bundle: Path,
) -> None:
    ids = orjson.loads((bundle / RERANK).read_bytes().splitlines()[0])["candidate_ids"]

    def header(candidates: list[str]) -> CrossEncoderRerankRun:
        return CrossEncoderRerankRun(
            run_id="r",
            latency_ms=1,
            query="q",
            candidate_ids=candidates,
            scores=[1.0] * len(candidates),
            batch_size=3,
        )

    ran = RerankRan(model="m", queries=2, candidates=3, top_k=3)
    right = ran.model_copy(update={"runs": (header(ids), header(ids))})
    assert findings_after(bundle, rerank_run=right) == ()
    wrong = ran.model_copy(update={"runs": (header(ids), header(ids[::-1]))})
    (finding,) = findings_after(bundle, rerank_run=wrong)
    assert (finding.file, finding.place[:6]) == (RERANK, "line 2")
    short = ran.model_copy(update={"runs": (header(ids),)})
    assert len(findings_after(bundle, rerank_run=short)) == 1


def test_a_missing_line_is_found_in_each_file(bundle: Path) -> None:
    for file in (IDS, POINTS, SPARSE, RERANK):
        lines = (bundle / file).read_bytes().splitlines(keepends=True)
        (bundle / file).write_bytes(b"".join(lines[:-1]))
    found = {(f.file, f.place) for f in findings_after(bundle)}
    assert {(IDS, "line 22"), (POINTS, "line 22"), (SPARSE, "line 22")} <= found
    assert (RERANK, "line 1") in found


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"chunk_count": 24}, "conservation.embedded"),
        ({"source_subdirs": {}}, None),
        ({"dense_run": ()}, "dense_run"),
        ({"sparse_run": None}, "artifacts"),
        ({"rerank_run": None}, "artifacts"),
    ],
)
def test_a_manifest_that_contradicts_the_files_is_found(
    bundle: Path, changes: dict[str, Any], place: str | None
) -> None:
    places = {f.place for f in findings_after(bundle, **changes) if f.file == MANIFEST}
    assert (place in places) if place else not places


def test_counts_that_do_not_add_up_are_found(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    assert manifest.conservation is not None
    lossy = manifest.conservation.model_copy(update={"chunks_read": 99})
    (finding,) = findings_after(bundle, conservation=lossy)
    assert finding.place == "conservation"


def test_folders_counted_otherwise_are_found(bundle: Path) -> None:
    subdirs = dict(Manifest.read(bundle).source_subdirs)
    subdirs["guide"], subdirs["api"] = subdirs["api"], subdirs["guide"]
    found = {
        finding.place for finding in findings_after(bundle, source_subdirs=subdirs)
    }
    assert found == {"source_subdirs 'api'", "source_subdirs 'guide'"}
