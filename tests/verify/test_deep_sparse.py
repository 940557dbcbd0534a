"""Sparse vectors of a sample are made again: BM25 from texts, attention by a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from bundle_parts import (
    ATTENTION,
    BM25,
    PRIMARY,
    ListStore,
    dense_run,
    make_manifest,
    make_store,
)
from test_contradictions import edit_line, reseal

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.encoders.attention_sparse import AttentionSparseEncoder
from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.encoders.metadata_terms import MetadataTerms
from processor.ultimate_embedder.encoders.texts import TextEncoder
from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.export.runtime import ExportRuntime
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import (
    Float32Array,
    SparseInferenceRun,
    SparseMatrix,
    SparseVector,
)
from processor.ultimate_embedder.verify import VerificationReport, verify_bundle

ROWS, AVERAGE, SPLADE = 9, 4.75, "splade"
BM25_FACTS = {"kind": "bm25", "profile": "qdrant-word", "k": 1.2, "b": 0.75}
FACTS = {
    BM25: {**BM25_FACTS, "average_length": AVERAGE},
    ATTENTION: {"kind": "attention", "alpha": 0.5},
}
Change = Callable[[list[SparseVector]], None]


def matrix(vectors: Sequence[SparseVector]) -> SparseMatrix:
    return SparseMatrix(
        np.cumsum([0, *(len(vector) for vector in vectors)]),
        np.concatenate([vector.indices for vector in vectors]),
        np.concatenate([vector.values for vector in vectors]),
    )


def export(
    output: Path,
    store: ListStore,
    dense: Float32Array,
    sparse: dict[str, list[SparseVector]],
    facts: dict[str, dict[str, Any]] = FACTS,
    **said: Any,
) -> Path:
    vectors = {PRIMARY: dense}
    matrices = {key: matrix(rows) for key, rows in sparse.items()}
    runs = tuple(
        SparseInferenceRun(
            run_id="r",
            latency_ms=1,
            sparse_model=key,
            coverage=1.0,
            statistics=facts[key],
        )
        for key in sparse
    )
    manifest = make_manifest(store, vectors, matrices, 0).model_copy(
        update={
            "sparse_run": runs,
            "dense_run": (dense_run(PRIMARY, len(store), dense.shape[1], **said),),
        }
    )
    with ExportRuntime(output, "docs") as runtime:
        runtime.write_ids(store)
        runtime.write_dense(PRIMARY, dense)
        averages = {key: facts[key].get("average_length") for key in matrices}
        runtime.write_sparse(matrices, averages)
        runtime.write_points(store, vectors, matrices)
        return runtime.publish(manifest)


def ones(texts: Sequence[str], key: str = PRIMARY) -> Float32Array:
    return np.tile(np.eye(1, 8, dtype=np.float32), (len(texts), 1))


def bm25_vectors(store: ListStore) -> list[SparseVector]:
    encoder = Bm25Encoder("qdrant-word", average_length=AVERAGE)
    return list(encoder.encode_documents([chunk.text for chunk in store]))


def deep(bundle: Path, **parts: Any) -> VerificationReport:
    return verify_bundle(bundle, deep=True, embed=ones, **parts)


def test_bm25_vectors_are_made_again_with_the_stored_average_length(
    tmp_path: Path,
) -> None:
    store = make_store(ROWS)
    bundle = export(tmp_path, store, ones([""] * ROWS), {BM25: bm25_vectors(store)})
    report = deep(bundle)
    assert report.whole
    told = f"{ROWS} sparse vectors made again by {BM25}, {ROWS} equal bit for bit"
    assert told in report.checks


def other_value(vectors: list[SparseVector]) -> None:
    values = vectors[3].values.copy()
    values[0] *= np.float32(1.0001)
    vectors[3] = SparseVector(vectors[3].indices, values)


def other_term(vectors: list[SparseVector]) -> None:
    indices = vectors[3].indices.copy()
    indices[0] -= 1
    vectors[3] = SparseVector(indices, vectors[3].values)


@pytest.mark.parametrize(
    ("change", "problem"), [(other_value, "other values"), (other_term, "other terms")]
)
def test_a_bm25_vector_that_its_text_does_not_give_is_found_by_line(
    tmp_path: Path, change: Change, problem: str
) -> None:
    store = make_store(ROWS)
    vectors = bm25_vectors(store)
    change(vectors)
    bundle = export(tmp_path, store, ones([""] * ROWS), {BM25: vectors})
    assert verify_bundle(bundle).whole
    (finding,) = deep(bundle).findings
    assert (finding.file, finding.place) == ("docs_sparse.jsonl", "line 4")
    assert problem in finding.problem


def test_another_average_length_than_the_one_used_is_found(tmp_path: Path) -> None:
    store = make_store(ROWS)
    facts = {BM25: {**BM25_FACTS, "average_length": 99.0}}
    bundle = export(
        tmp_path, store, ones([""] * ROWS), {BM25: bm25_vectors(store)}, facts
    )
    assert verify_bundle(bundle).whole
    assert {f.place for f in deep(bundle).findings} >= {"line 1", "line 9"}


def test_vectors_from_metadata_are_made_again(tmp_path: Path) -> None:
    store = make_store(ROWS)
    for row, chunk in enumerate(store):
        chunk.metadata["sparse_features"] = {"term_weights": {f"word{row}": 1.5}}
    terms = MetadataTerms("qdrant-word")
    facts = {
        ATTENTION: {
            "kind": "attention",
            "profile": "qdrant-word",
            "source": "metadata",
        }
    }
    vectors = [terms.vector(chunk.metadata) for chunk in store]
    bundle = export(tmp_path, store, ones([""] * ROWS), {ATTENTION: vectors}, facts)
    told = f"{ROWS} sparse vectors made again by {ATTENTION}, {ROWS} equal bit for bit"
    assert told in deep(bundle).checks


def unavailable(texts: Sequence[str], _: object) -> Float32Array:
    raise ModelNotAvailable("its weights are not here")


@pytest.mark.parametrize(
    "parts",
    [{}, {"embed_sparse": unavailable}],
    ids=["no encoder", "no weights"],
)
def test_what_could_not_be_compared_is_said_and_is_no_fault(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    store = make_store(ROWS)
    bundle = export(
        tmp_path, store, ones([""] * ROWS), {ATTENTION: bm25_vectors(store)}
    )
    report = verify_bundle(bundle, deep=True, embed=unavailable, **parts)
    assert report.whole
    notes = "\n".join(report.notes)
    assert f"not embedded again by {PRIMARY}" in notes
    assert f"not made again by {ATTENTION}" in notes


def test_statistics_that_do_not_say_how_bm25_was_made_are_a_note(
    tmp_path: Path,
) -> None:
    store = make_store(ROWS)
    facts = {BM25: {"kind": "bm25", "profile": "qdrant-word"}}
    bundle = export(
        tmp_path, store, ones([""] * ROWS), {BM25: bm25_vectors(store)}, facts
    )
    report = deep(bundle)
    assert report.whole
    assert any("does not state average length" in note for note in report.notes)


def test_splade_vectors_are_compared_by_their_cosine(tmp_path: Path) -> None:
    store = make_store(ROWS)
    vectors = bm25_vectors(store)
    facts = {SPLADE: {"kind": "splade"}}
    bundle = export(tmp_path, store, ones([""] * ROWS), {SPLADE: vectors}, facts)

    def nearly(texts: Sequence[str], _: object) -> list[SparseVector]:
        """Return the same vectors with a term more, of nearly no weight."""
        return [
            SparseVector(
                np.concatenate(([np.uint32(0)], vector.indices)),
                np.concatenate(([np.float32(1e-3)], vector.values)),
            )
            for vector in vectors
        ]

    def turned(texts: Sequence[str], _: object) -> list[SparseVector]:
        return [*vectors[1:], vectors[0]]

    report = deep(bundle, embed_sparse=nearly)
    assert report.whole
    told = f"{ROWS} sparse vectors made again by {SPLADE}, 0 equal bit for bit"
    assert told in report.checks
    found = deep(bundle, embed_sparse=turned).findings
    assert {finding.place for finding in found} >= {"line 1", "line 9"}
    assert all("cosine" in finding.problem for finding in found)


def test_bm25_and_metadata_terms_are_made_again_as_the_manifest_says(
    tmp_path: Path,
) -> None:
    store = ListStore(
        [replace(chunk, text=f"snake_case {chunk.text}") for chunk in make_store(ROWS)]
    )
    for chunk in store:
        chunk.metadata["sparse_features"] = {"term_weights": {"snake_case": 1.5}}
    said = {"profile": "code", "k": 1.7, "b": 0.3, "average_length": AVERAGE}
    facts = {
        BM25: {"kind": "bm25", **said},
        ATTENTION: {"kind": "attention", "profile": "code", "source": "metadata"},
    }
    encoder = Bm25Encoder("code", average_length=AVERAGE, k=1.7, b=0.3)
    vectors = {
        BM25: list(encoder.encode_documents([chunk.text for chunk in store])),
        ATTENTION: [MetadataTerms("code").vector(chunk.metadata) for chunk in store],
    }
    report = deep(export(tmp_path, store, ones([""] * ROWS), vectors, facts))
    assert report.whole
    for key in vectors:
        told = f"{ROWS} sparse vectors made again by {key}, {ROWS} equal bit for bit"
        assert told in report.checks


@pytest.mark.parametrize(
    ("factor", "places"),
    [(1.01, set()), (1.05, {f"line {n + 1}" for n in range(ROWS)})],
)
def test_attention_may_differ_a_little_between_machines(
    tmp_path: Path, factor: float, places: set[str]
) -> None:
    store = make_store(ROWS)
    vectors = bm25_vectors(store)

    def other(texts: Sequence[str], _: object) -> list[SparseVector]:
        changed = np.float32(factor)
        return [SparseVector(one.indices, one.values * changed) for one in vectors]

    bundle = export(tmp_path, store, ones([""] * ROWS), {ATTENTION: vectors})
    report = deep(bundle, embed_sparse=other)
    assert {finding.place for finding in report.findings} == places
    told = f"{ROWS} sparse vectors made again by {ATTENTION}, 0 equal bit for bit"
    assert told in report.checks


def test_a_model_that_is_not_here_stops_no_other_comparison(tmp_path: Path) -> None:
    store = make_store(ROWS)
    vectors = bm25_vectors(store)
    other_value(vectors)
    both = {ATTENTION: bm25_vectors(store), BM25: vectors}
    report = deep(export(tmp_path, store, ones([""] * ROWS), both))
    assert [finding.place for finding in report.findings] == ["line 4"]
    assert any(f"not made again by {ATTENTION}" in note for note in report.notes)


EMPTY = SparseVector(np.empty(0, np.uint32), np.empty(0, np.float32))


@pytest.mark.parametrize("empty", [("stored", "made"), ("stored",), ("made",)])
def test_a_splade_vector_without_terms_is_like_another_such_one_alone(
    tmp_path: Path, empty: tuple[str, ...]
) -> None:
    store = make_store(ROWS)
    vectors = {name: bm25_vectors(store) for name in ("stored", "made")}
    for name in empty:
        vectors[name][3] = EMPTY
    facts = {SPLADE: {"kind": "splade"}}
    sparse = {SPLADE: vectors["stored"]}
    bundle = export(tmp_path, store, ones([""] * ROWS), sparse, facts)
    report = deep(bundle, embed_sparse=lambda _, __: vectors["made"])
    places = [finding.place for finding in report.findings]
    assert places == ([] if len(empty) == 2 else ["line 4"])


def test_a_splade_vector_a_little_turned_is_found(tmp_path: Path) -> None:
    store = make_store(ROWS)
    vectors = bm25_vectors(store)
    changed = list(vectors)
    values = vectors[3].values.copy()
    values[0] *= np.float32(1.3)
    changed[3] = SparseVector(vectors[3].indices, values)
    facts = {SPLADE: {"kind": "splade"}}
    bundle = export(tmp_path, store, ones([""] * ROWS), {SPLADE: changed}, facts)
    (finding,) = deep(bundle, embed_sparse=lambda _, __: vectors).findings
    assert (finding.place, "cosine 0.9" in finding.problem) == ("line 4", True)


@pytest.mark.parametrize("end", [b"", b"[]\n"], ids=["missing", "no object"])
def test_a_sparse_line_at_fault_is_told_and_not_made_again(
    tmp_path: Path, end: bytes
) -> None:
    store = make_store(ROWS)
    bundle = export(tmp_path, store, ones([""] * ROWS), {BM25: bm25_vectors(store)})
    path = bundle / "docs_sparse.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], end]))
    reseal(bundle)
    report = deep(bundle)
    assert path.name in {finding.file for finding in report.findings}
    assert not any("made again" in check for check in report.checks)


def test_rows_after_one_that_lacks_its_vector_are_still_made_again(
    tmp_path: Path,
) -> None:
    store = make_store(ROWS)
    vectors = bm25_vectors(store)
    other_value(vectors)
    bundle = export(tmp_path, store, ones([""] * ROWS), {BM25: vectors})
    edit_line(bundle / "docs_sparse.jsonl", 2, lambda record: record.pop(BM25))
    reseal(bundle)
    found = {(f.place, f.problem) for f in deep(bundle).findings}
    assert ("line 4", f"'{BM25}': other values than its text made again") in found


def test_damaged_points_or_sparse_vectors_are_not_made_again(tmp_path: Path) -> None:
    store = make_store(ROWS)
    vectors = {BM25: bm25_vectors(store)}
    bundle = export(tmp_path, store, ones([""] * ROWS), vectors)
    sparse, points = bundle / "docs_sparse.jsonl", bundle / "docs_qdrant.jsonl"
    whole = sparse.read_bytes()
    sparse.write_bytes(whole.replace(b"0", b"1", 1))
    notes = deep(bundle).notes
    assert "no sparse vectors made again: their file is damaged" in notes
    sparse.write_bytes(whole)
    points.write_bytes(points.read_bytes().replace(b"plain text", b"other text"))
    report = deep(bundle)
    assert "not embedded again: there are no undamaged points" in report.notes
    assert {finding.file for finding in report.findings} == {points.name}


def test_attention_vectors_are_repeated_by_the_embedded_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manager, config, store = (
        ModelManager(offline=True),
        dense_model(PRIMARY),
        make_store(4),
    )
    tokenizer = manager.tokenizer(config)
    with manager.resident(config) as encoder:
        texts = TextEncoder(encoder, tokenizer, config.max_tokens, "windows")
        dense, attended = texts.vectors_and_attention([chunk.text for chunk in store])
        dtype = encoder.dtype
    sparse = AttentionSparseEncoder(tokenizer.backend)
    vectors = list(sparse.encode_rows(attended))
    said = {"dtype": dtype, "long_texts": "windows"}
    whole = {BM25: bm25_vectors(store), ATTENTION: vectors}
    bundle = export(tmp_path, store, dense, whole, **said)
    assert run_function(verify, [str(bundle), "--deep"]) == 0
    out = capsys.readouterr().out
    for key in (BM25, ATTENTION):
        assert f"4 sparse vectors made again by {key}, 4 equal bit for bit" in out
    turned = {BM25: whole[BM25], ATTENTION: [*vectors[1:], vectors[0]]}
    bundle = export(tmp_path, store, dense, turned, **said)
    assert run_function(verify, [str(bundle)]) == 0
    capsys.readouterr()
    assert run_function(verify, [str(bundle), "--deep", "--json"]) == 1
    findings = orjson.loads(capsys.readouterr().out)["findings"]
    assert {finding["place"] for finding in findings} == {
        f"line {row}" for row in (1, 2, 3, 4)
    }
