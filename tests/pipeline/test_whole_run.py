"""From chunk files to a published bundle: what holds over all stages together."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import orjson
import pytest
from pipeline_parts import Run, config_for, write_collection
from qdrant_client.models import PointStruct

from processor.ultimate_embedder import batch_runner
from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.protocols import PairScorer
from processor.ultimate_embedder.encoders.weight_difference import SHIPPED, WEIGHTS
from processor.ultimate_embedder.errors import (
    ModelNotAvailable,
    OutputError,
    RunStopped,
    UsageError,
)
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import (
    RerankNotRun,
    RerankRan,
)
from processor.ultimate_embedder.export.publish import previous_path
from processor.ultimate_embedder.models.catalogue import dense_model, rerank_model
from processor.ultimate_embedder.records import point_id
from processor.ultimate_embedder.retrieval.fusion import FusionConfig
from processor.ultimate_embedder.run.output_lock import only_run_in
from processor.ultimate_embedder.search.parts import open_parts
from processor.ultimate_embedder.telemetry.events import (
    BatchFinished,
    CollectionFinished,
    StageFinished,
    StageSkipped,
    StageStarted,
    Warned,
    silent,
)
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts

MANIFEST = "processing_summary.json"


def files_of(bundle: Path) -> dict[str, str]:
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def lines(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_bundle_holds_the_files_of_the_contract_and_its_sums_hold(
    run: Run, tmp_path: Path
) -> None:
    outcome, _ = run()
    assert outcome.exit_code == 0
    bundle = tmp_path / "out" / "docs"
    names = set(files_of(bundle))
    assert {
        "docs_qdrant.jsonl",
        "docs_all-miniLM-l6_embeddings.npy",
        "docs_all-miniLM-l6_index.faiss",
        "docs_ids.jsonl",
        "docs_sparse.jsonl",
        "docs_rerank.jsonl",
        "SHA256SUMS",
    } <= names
    assert any(name.startswith("docs_qdrant-bm25_postings/") for name in names)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=bundle, check=True)


def test_ids_texts_and_vectors_agree_in_every_file(run: Run, tmp_path: Path) -> None:
    run()
    bundle = tmp_path / "out" / "docs"
    ids = lines(bundle / "docs_ids.jsonl")
    points = lines(bundle / "docs_qdrant.jsonl")
    sparse = lines(bundle / "docs_sparse.jsonl")
    vectors = np.load(bundle / "docs_all-miniLM-l6_embeddings.npy")
    index = faiss.read_index(str(bundle / "docs_all-miniLM-l6_index.faiss"))
    assert len(ids) == len(points) == len(sparse) == len(vectors) == index.ntotal == 72
    for row, (known, point, weights) in enumerate(
        zip(ids, points, sparse, strict=True)
    ):
        PointStruct(**point)
        chunk_id = point["payload"]["chunk_id"]
        text = point["payload"]["text"]
        assert known == {
            "row": row,
            "point_id": point_id(chunk_id),
            "chunk_id": chunk_id,
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        assert point["id"] == known["point_id"]
        assert weights["chunk_id"] == chunk_id
        assert weights["qdrant-bm25"] == point["vector"]["qdrant-bm25"]
        stored = np.array(point["vector"]["all-miniLM-l6"], dtype=np.float32)
        np.testing.assert_array_equal(stored, vectors[row])
    _, found = index.search(vectors[:10], 1)
    best = (vectors[:10] @ vectors.T).argmax(axis=1)
    np.testing.assert_array_equal(found[:, 0], best)


def test_the_manifest_accounts_for_every_chunk_and_stage(run: Run) -> None:
    outcome, heard = run()
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.schema_version == "v4.1"
    assert manifest.conservation is not None
    assert manifest.conservation.adds_up
    assert manifest.chunk_count == 72
    assert {name: sub.chunks for name, sub in manifest.source_subdirs.items()} == {
        "subdir0": 24,
        "subdir1": 24,
        "subdir2": 24,
    }
    assert manifest.dense_run is not None
    assert manifest.dense_run[0].chunks == 72
    assert manifest.sparse_run is not None
    assert [sparse.coverage for sparse in manifest.sparse_run] == [1.0, 1.0]
    assert isinstance(manifest.rerank_run, RerankRan)
    assert manifest.rerank_run.queries == 32
    assert manifest.rerank_run.device == "cpu"
    assert manifest.fusion_run is not None
    assert manifest.fusion_run.queries == 72
    assert set(manifest.fusion_run.quality) == {
        "all-miniLM-l6",
        "qdrant-bm25",
        "qdrant-minilm-attention",
        "fused",
        "reranked",
    }
    computed = sum(e.items for e in heard.of(BatchFinished) if e.stage == "dense")
    assert computed == 72


def test_stages_switched_off_change_no_dense_byte_and_leave_no_file(
    run: Run, tmp_path: Path
) -> None:
    run()
    full = files_of(tmp_path / "out" / "docs")
    off = {"enable_sparse": False, "enable_rerank": False}
    outcome, heard = run(output_dir=tmp_path / "off", **off)
    bare = tmp_path / "off" / "docs"
    computed = sum(e.items for e in heard.of(BatchFinished) if e.stage == "dense")
    assert computed == 72  # nothing was taken over from the first run
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.sparse_run is None
    assert manifest.rerank_run is None
    files = files_of(bare)
    assert set(files) == {
        "SHA256SUMS",
        "docs_all-miniLM-l6_embeddings.npy",
        "docs_all-miniLM-l6_index.faiss",
        "docs_ids.jsonl",
        "docs_qdrant.jsonl",
    }
    for name in files.keys() - {"SHA256SUMS", "docs_qdrant.jsonl"}:
        assert files[name] == full[name], name
    for point in lines(bare / "docs_qdrant.jsonl"):
        assert list(point["vector"]) == ["all-miniLM-l6"]
    skipped = {(e.stage, e.reason) for e in heard.of(StageSkipped)}
    assert skipped == {("sparse", "disabled"), ("rerank", "disabled")}


def test_stages_switched_off_and_on_again_in_one_folder_leave_nothing_behind(
    run: Run, tmp_path: Path
) -> None:
    run()
    bundle = tmp_path / "out" / "docs"
    full = files_of(bundle)
    run(enable_sparse=False, enable_rerank=False)
    left = [n for n in files_of(bundle) if "sparse" in n or "_postings" in n]
    assert left == []
    assert "docs_rerank.jsonl" not in files_of(bundle)
    run()
    assert files_of(bundle) == full


def test_the_same_input_gives_the_same_bytes_in_another_folder(
    run: Run, tmp_path: Path
) -> None:
    run()
    run(output_dir=tmp_path / "again")
    assert files_of(tmp_path / "out" / "docs") == files_of(tmp_path / "again" / "docs")


def test_a_second_run_computes_nothing_again(run: Run) -> None:
    run()
    _, heard = run()
    assert not [e for e in heard.of(BatchFinished) if e.stage == "dense"]


def test_what_an_earlier_run_did_is_told_as_such(run: Run) -> None:
    _, first = run()
    outcome, second = run()
    told = [
        {e.model: e.reused for e in heard.of(StageFinished) if e.model}
        for heard in (first, second)
    ]
    models = ("all-miniLM-l6", "qdrant-bm25", "qdrant-minilm-attention")
    assert [told[0][model] for model in models] == [0, 0, 0]
    assert [told[1][model] for model in models] == [72, 72, 72]
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.dense_run is not None
    assert manifest.dense_run[0].statistics["reused_chunks"] == 72


def test_fresh_computes_everything_again(run: Run) -> None:
    run()
    _, heard = run(resume=False)
    computed = sum(e.items for e in heard.of(BatchFinished) if e.stage == "dense")
    assert computed == 72


def test_attention_vectors_of_a_model_without_dense_vectors_are_judged_too(
    run: Run,
) -> None:
    companion = replace(dense_model("all-miniLM-l6"), name="other")
    outcome, _ = run(dense=(companion,))
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.dense_run is not None
    assert [dense.model for dense in manifest.dense_run] == ["other"]
    assert manifest.fusion_run is not None
    assert "qdrant-minilm-attention" in manifest.fusion_run.quality


def test_a_companion_that_is_missing_is_skipped_on_request_and_stands_in_the_manifest(
    run: Run,
) -> None:
    missing = replace(
        dense_model("all-miniLM-l6"),
        name="missing",
        package=None,
        hf_model_id="nobody/has-this-model",
    )
    roster = (dense_model("all-miniLM-l6"), missing)
    with pytest.raises(ModelNotAvailable):
        run(dense=roster)
    outcome, heard = run(dense=roster, skip_failed_models=True)
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.dense_run is not None
    assert [dense.model for dense in manifest.dense_run] == ["all-miniLM-l6"]
    warning = manifest.warnings[0]
    assert warning.startswith("Model missing is skipped")
    assert warning in [event.message for event in heard.of(Warned)]
    with pytest.raises(ModelNotAvailable):
        run(dense=roster[::-1], skip_failed_models=True)


def test_without_a_reranker_the_run_succeeds_and_says_why(
    run: Run, tmp_path: Path
) -> None:
    def load(config: RerankingConfig) -> PairScorer:
        raise ModelNotAvailable("The weights are not here.", cure="Fetch them.")

    run()
    heard = RecordingListener()
    parts = replace(hashing_parts(), load_scorer=load)
    outcome = BatchRunner(config_for(tmp_path), heard, "run-2", parts).run()
    manifest = outcome.collections[0].manifest
    assert outcome.exit_code == 0
    assert manifest is not None
    assert manifest.rerank_run == RerankNotRun(
        reason="The weights are not here.", cure="Fetch them."
    )
    warning = "rerank did not run: The weights are not here. Fetch them."
    assert manifest.warnings[0] == warning
    assert warning in [event.message for event in heard.of(Warned)]
    assert not (tmp_path / "out" / "docs" / "docs_rerank.jsonl").exists()


def test_the_manifest_names_the_weights_that_scored(run: Run) -> None:
    outcome, _ = run(rerank=rerank_model("residual-minilm-l6"))
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert isinstance(manifest.rerank_run, RerankRan)
    statistics = manifest.rerank_run.statistics
    shipped = (SHIPPED / "residual-minilm-l6" / WEIGHTS).read_bytes()
    assert statistics["difference_sha256"] == hashlib.sha256(shipped).hexdigest()
    assert statistics["max_tokens"] == 256


def test_given_queries_are_reranked_and_stand_in_the_rerank_file(
    run: Run, tmp_path: Path
) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text(
        '{"_id": "q1", "text": "the qudczz words"}\n{"_id": "q2", "text": "snapshot"}\n'
    )
    run(queries=queries)
    records = lines(tmp_path / "out" / "docs" / "docs_rerank.jsonl")
    assert [record["query_id"] for record in records] == ["q1", "q2"]
    assert records[0]["candidate_ids"][0] == "docs:subdir0:page3.md:chunk:2"
    assert set(records[0]) == {
        "query_id",
        "query",
        "candidate_ids",
        "scores",
        "cross_scores",
        "fused_scores",
        "dense_scores",
        "sparse_scores",
    }


def test_without_probes_and_queries_rerank_says_what_it_lacks(run: Run) -> None:
    outcome, _ = run(probes=False)
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.fusion_run is not None
    assert (manifest.fusion_run.queries, manifest.fusion_run.quality) == (0, {})
    assert isinstance(manifest.rerank_run, RerankNotRun)
    assert "no query" in manifest.rerank_run.reason
    assert manifest.warnings == ()


@pytest.mark.parametrize("probes", [True, False])
@pytest.mark.parametrize(
    ("options", "expression"),
    [
        ({}, "sum(scale=raw, weights=1:0.016)"),
        ({"fusion": FusionConfig(k=10.0)}, "rrf(k=10)"),
        ({"enable_sparse": False}, "sum(scale=raw)"),
    ],
    ids=["measured for the model", "asked for", "nothing to join"],
)
def test_the_bundle_is_searched_with_the_fusion_that_its_manifest_names(
    run: Run, options: dict, expression: str, probes: bool
) -> None:
    outcome, _ = run(probes=probes, enable_rerank=False, **options)
    manifest = outcome.collections[0].manifest
    assert manifest is not None
    assert manifest.fusion_run is not None
    assert manifest.fusion_run.parameters["expression"] == expression
    legs = ("all-miniLM-l6", "qdrant-bm25")
    assert manifest.fusion_run.legs == legs[: 1 + options.get("enable_sparse", True)]
    bundle = outcome.collections[0].bundle
    assert bundle is not None
    assert str(open_parts(bundle).fusion) == expression


def test_redacted_queries_leave_no_text_and_the_same_bytes_twice(
    run: Run, tmp_path: Path
) -> None:
    run(redact_queries=True)
    bundle = tmp_path / "out" / "docs"
    before = files_of(bundle)
    records = lines(bundle / "docs_rerank.jsonl")
    assert all(len(record["query"]) == 64 for record in records)
    run(redact_queries=True)
    assert files_of(bundle) == before


def test_a_failed_collection_is_reported_and_the_others_are_complete(
    run: Run, tmp_path: Path
) -> None:
    bad = tmp_path / "chunked" / "bad" / "f_chunks.json"
    bad.parent.mkdir()
    bad.write_text(json.dumps([{"text": " "}]))
    outcome, heard = run()
    assert outcome.exit_code == 1
    found = {one.name: one for one in outcome.collections}
    assert "no usable chunk" in str(found["bad"].error)
    assert found["docs"].bundle is not None
    errors = {e.collection: e.error for e in heard.of(CollectionFinished)}
    assert errors["docs"] is None
    assert errors["bad"] is not None


def test_a_plan_goes_on_past_a_collection_with_nothing_usable(
    run: Run, tmp_path: Path
) -> None:
    bad = tmp_path / "chunked" / "bad" / "f_chunks.json"
    bad.parent.mkdir()
    bad.write_text(json.dumps([{"text": " "}]))
    heard = RecordingListener()
    plan = BatchRunner(config_for(tmp_path), heard, "run-1", hashing_parts()).plan()
    assert [one.name for one in plan.failed] == ["bad"]
    assert plan.exit_code == 1
    (docs,) = plan.collections
    assert (docs.name, docs.chunks, docs.models[0].batches) == ("docs", 72, 2)
    assert not (tmp_path / "out").exists()


def test_reading_is_told_file_by_file(run: Run) -> None:
    _, heard = run()
    read = [e for e in heard.of(BatchFinished) if e.stage == "read"]
    assert [e.items for e in read] == [1] * 12


def test_every_stage_tells_its_size_before_and_its_work_on_the_way(run: Run) -> None:
    _, heard = run()
    for started in heard.of(StageStarted):
        finished = sum(
            e.items
            for e in heard.of(BatchFinished)
            if (e.stage, e.model) == (started.stage, started.model)
        )
        assert started.total == finished, started.stage


def test_an_unknown_collection_lists_those_found(run: Run) -> None:
    with pytest.raises(UsageError, match=r"nothere.*Found: docs"):
        run(collections=("nothere",))


def test_a_second_run_in_one_folder_waits_outside(run: Run, tmp_path: Path) -> None:
    with (
        only_run_in(tmp_path / "out" / ".work"),
        pytest.raises(RunStopped, match=r"Another run .* works in"),
    ):
        run()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_refused_with_a_cure(
    run: Run, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OutputError, match=r"cannot be locked.*--output-dir"):
        run()


def test_a_bundle_left_hidden_is_back_although_the_run_fails(
    run: Run, tmp_path: Path
) -> None:
    run()
    bundle = tmp_path / "out" / "docs"
    before = files_of(bundle)
    bundle.rename(previous_path(bundle))  # killed between two renames
    for path in (tmp_path / "chunked").rglob("*_chunks.json"):
        path.write_text("{")
    outcome, _ = run()
    assert outcome.exit_code == 1
    assert files_of(bundle) == before
    assert not previous_path(bundle).exists()


def test_a_bundle_left_hidden_is_found_up_to_date(run: Run, tmp_path: Path) -> None:
    run()
    bundle = tmp_path / "out" / "docs"
    bundle.rename(previous_path(bundle))
    runner = BatchRunner(
        config_for(tmp_path), silent, "run-2", hashing_parts(), leave_up_to_date=True
    )
    (outcome,) = runner.run().collections
    assert outcome.up_to_date
    assert outcome.bundle == bundle


def test_a_hidden_bundle_that_cannot_be_shown_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(batch_runner, "recover", refuse)
    with pytest.raises(OutputError, match=r"Not allowed to write .*docs"):
        run()


def test_a_foreign_folder_in_the_bundles_place_is_left_alone(
    run: Run, tmp_path: Path
) -> None:
    precious = tmp_path / "out" / "docs" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(UsageError, match="is not a bundle"):
        run()
    assert precious.read_text() == "years of work"


def test_a_disk_that_is_full_stops_the_run_and_keeps_the_old_bundle(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    bundle = tmp_path / "out" / "docs"
    before = files_of(bundle)
    monkeypatch.setattr(
        "processor.ultimate_embedder.disk_space.shutil.disk_usage",
        lambda _: type("Usage", (), {"free": 10})(),
    )
    with pytest.raises(OutputError, match="Not enough disk space"):
        run()
    assert files_of(bundle) == before


def test_several_collections_each_give_a_bundle(run: Run, tmp_path: Path) -> None:
    write_collection(tmp_path / "chunked", "more", pages=3)
    outcome, _ = run()
    assert [one.name for one in outcome.collections] == ["docs", "more"]
    assert Manifest.read(tmp_path / "out" / "more").chunk_count == 18
