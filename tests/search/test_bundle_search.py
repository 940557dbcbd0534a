"""Search over an exported bundle against plain computations."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from search_parts import (
    BM25,
    DENSE,
    NOT_RUN,
    RAN,
    TEXTS,
    FakeEncoders,
    MakeBundle,
    bm25_matrix,
    hashed,
    make_chunks,
    shared_words,
)

from processor.ultimate_embedder.encoders.bm25 import Bm25Encoder
from processor.ultimate_embedder.errors import (
    BundleError,
    ModelMismatch,
    ModelNotAvailable,
    UsageError,
)
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.export.manifest_sections import FusionRun
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.retrieval.blend import BlendConfig, blend
from processor.ultimate_embedder.retrieval.postings import write_postings
from processor.ultimate_embedder.search import Bundle, Stage, open_bundle
from processor.ultimate_embedder.search.parts import open_sparse

QUERY = "how to filter by payload"
STAGES: tuple[Stage, ...] = ("dense", "sparse")


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return open_bundle(make_bundle(rerank=RAN), FakeEncoders())


def dense_scores(query: str) -> list[float]:
    return [float(hashed(text) @ hashed(query)) for _, text, _ in TEXTS]


def sparse_scores(query: str) -> list[float]:
    """Sum value * idf over shared terms, document by document."""
    matrix = bm25_matrix([text for _, text, _ in TEXTS])
    asked = Bm25Encoder().encode_query(query)
    scores = []
    for vector in matrix:
        total = 0.0
        for term, value in zip(vector.indices, vector.values, strict=True):
            df = sum(term in other.indices for other in matrix)
            idf = np.log1p((len(matrix) - df + 0.5) / (df + 0.5))
            total += float(value) * idf * (term in asked.indices)
        scores.append(total)
    return scores


def best(scores: list[float], k: int, rows: list[int] | None = None) -> list[int]:
    rows = list(range(len(scores))) if rows is None else rows
    found = [row for row in rows if scores[row] > 0]
    return sorted(found, key=lambda row: (-round(scores[row], 6), row))[:k]


def test_dense_and_sparse_rankings_are_those_of_sorting_all_scores(
    bundle: Bundle,
) -> None:
    dense, sparse = (bundle.search(QUERY, stage=s, top_k=12) for s in STAGES)
    assert [hit.row for hit in dense] == best(dense_scores(QUERY), 12)
    assert [hit.row for hit in sparse] == best(sparse_scores(QUERY), 12)
    assert [hit.score for hit in dense] == pytest.approx(
        [dense_scores(QUERY)[hit.row] for hit in dense], abs=1e-6
    )


def test_the_chunk_with_the_words_of_the_question_is_first(
    make_bundle: MakeBundle,
) -> None:
    texts = [*TEXTS, ("api", "A walrus naps beside the turbine.", 0)]
    opened = open_bundle(make_bundle(texts=texts), FakeEncoders())
    for stage in ("sparse", "fused"):
        assert opened.search("napping walrus", stage=stage)[0].row == len(TEXTS)


def test_fused_scores_are_the_weighted_standard_scores_of_the_two_legs(
    bundle: Bundle,
) -> None:
    """Rows that share no word with the question count once, with a score of 0."""
    found = [score for score in sparse_scores(QUERY) if score > 0]
    assert len(found) < len(TEXTS)
    listed = {"dense": np.array(dense_scores(QUERY)), "sparse": np.array([*found, 0.0])}
    for hit in bundle.search(QUERY, top_k=20):
        scores = {"dense": dense_scores(QUERY)[hit.row]}
        scores["sparse"] = sparse_scores(QUERY)[hit.row]
        standard = {
            stage: (scores[stage] - listed[stage].mean()) / listed[stage].std()
            for stage in STAGES
        }
        expected = 0.7 * standard["dense"] + 0.3 * standard["sparse"]
        assert hit.score == pytest.approx(expected, abs=1e-5)
        assert hit.stages["fused"].rank == hit.rank
        assert "reranked" not in hit.stages


def test_a_reranked_hit_carries_the_rank_and_score_of_every_stage(
    bundle: Bundle,
) -> None:
    hits = bundle.search(QUERY, stage="reranked", top_k=5)
    candidates = {hit.row for hit in bundle.search(QUERY, top_k=100)}
    scores = [shared_words(QUERY, text) for _, text, _ in TEXTS]
    assert [hit.row for hit in hits] == best(scores, 5, sorted(candidates))
    assert set(hits[0].stages) == {"dense", "sparse", "fused", "reranked"}
    assert hits[0].score == hits[0].stages["reranked"].score == scores[hits[0].row]


def test_a_hit_holds_id_text_and_metadata_of_its_row(bundle: Bundle) -> None:
    chunks = make_chunks(TEXTS)
    for hit in bundle.search(QUERY, top_k=100):
        chunk = chunks[hit.row]
        assert (hit.chunk_id, hit.text) == (chunk.chunk_id, chunk.text)
        assert hit.metadata == chunk.metadata


def test_a_search_blends_as_the_manifest_says(make_bundle: MakeBundle) -> None:
    config = BlendConfig(weight=0.7, bound=2)
    ran = RAN.model_copy(update={"statistics": {"blend": str(config)}})
    opened = open_bundle(make_bundle(rerank=ran), FakeEncoders())
    results = opened.search_stages(QUERY)
    fused = results.rankings["fused"]
    words = np.array([shared_words(QUERY, TEXTS[row][1]) for row in fused.rows])
    expected = blend(fused, words, config)
    assert np.ptp(words) > 0
    assert results.rankings["reranked"].rows.tolist() == expected.rows.tolist()
    assert results.rankings["reranked"].scores.tolist() == expected.scores.tolist()


def test_a_search_reranks_as_many_candidates_as_the_run_did(
    make_bundle: MakeBundle,
) -> None:
    ran = RAN.model_copy(update={"statistics": {"candidates_per_query": 4}})
    opened = open_bundle(make_bundle(rerank=ran), FakeEncoders())
    results = opened.search_stages(QUERY, top_k=3)
    read = results.rankings["reranked"].rows.tolist()
    assert sorted(read) == sorted(results.rankings["fused"].rows[:4].tolist())
    assert len(opened.search_stages(QUERY, top_k=6).rankings["reranked"]) == 6


@pytest.mark.parametrize("stated", [0, -1, "4"])
def test_a_number_of_candidates_that_is_none_is_not_read(
    make_bundle: MakeBundle, stated: object
) -> None:
    ran = RAN.model_copy(update={"statistics": {"candidates_per_query": stated}})
    opened = open_bundle(make_bundle(rerank=ran), FakeEncoders())
    results = opened.search_stages(QUERY, top_k=3)
    assert len(results.rankings["reranked"]) == len(TEXTS)


def test_where_nothing_is_found_no_reranker_is_asked(make_bundle: MakeBundle) -> None:
    opened = open_bundle(make_bundle(rerank=RAN), FakeEncoders(missing=["rerank"]))
    assert opened.search(QUERY, stage="reranked", filters={"n": 999}) == []
    with pytest.raises(ModelNotAvailable, match="No rerank model"):
        opened.search(QUERY, stage="reranked")


def test_a_blend_of_another_version_is_named_and_not_guessed(
    make_bundle: MakeBundle,
) -> None:
    ran = RAN.model_copy(update={"statistics": {"blend": "blend(by=magic)"}})
    opened = open_bundle(make_bundle(rerank=ran), FakeEncoders())
    assert "blend(by=magic)" in opened.search_stages(QUERY).missing["reranked"]
    with pytest.raises(UsageError, match="by=magic"):
        opened.search(QUERY, stage="reranked")


@pytest.mark.parametrize("stage", ["dense", "sparse", "fused", "reranked"])
@pytest.mark.parametrize("subdir", ["api", "guides", "guides more"])
def test_a_filter_on_source_subdir_holds_before_the_cut(
    bundle: Bundle, stage: str, subdir: str
) -> None:
    rows = [row for row, (name, _, _) in enumerate(TEXTS) if name == subdir]
    query = "secure the call of a name"  # every text shares a word with it
    hits = bundle.search(
        query,
        stage=stage,
        top_k=len(rows),
        filters={"source_subdir": subdir},
    )
    assert sorted(hit.row for hit in hits) == rows
    if stage == "dense":
        ordered = best([1 + s for s in dense_scores(query)], len(rows), rows)
        assert [hit.row for hit in hits] == ordered


def test_any_metadata_can_filter_and_conditions_add_up(bundle: Bundle) -> None:
    expected = [r for r, (name, _, n) in enumerate(TEXTS) if n == 2 and name == "api"]
    for wanted in (2, "2"):
        hits = bundle.search(
            "call", top_k=99, filters={"n": wanted, "source_subdir": "api"}
        )
        assert sorted(hit.row for hit in hits) == expected
    assert bundle.search("call", filters={"n": 999}) == []


def test_a_key_that_no_chunk_has_is_refused_and_those_present_are_named(
    bundle: Bundle,
) -> None:
    for _ in range(2):
        with pytest.raises(
            UsageError, match=r"metadata key 'absent'\. There are: .*n, "
        ):
            bundle.search("call", filters={"absent": "x"})


def test_an_unknown_source_subdir_is_refused_and_those_present_are_named(
    bundle: Bundle,
) -> None:
    with pytest.raises(UsageError, match="api, guides, guides more"):
        bundle.search(QUERY, filters={"source_subdir": "guide"})


def test_subdirs_that_begin_alike_up_to_a_colon_are_told_apart(
    make_bundle: MakeBundle,
) -> None:
    texts = [("a", "call one", 0), ("a:b", "call two", 1), ("a", "call three", 2)]
    opened = open_bundle(make_bundle(texts=texts), FakeEncoders())
    for subdir, rows in (("a", [0, 2]), ("a:b", [1])):
        hits = opened.search("call", filters={"source_subdir": subdir})
        assert sorted(hit.row for hit in hits) == rows


def test_the_simple_layout_reads_the_same(make_bundle: MakeBundle) -> None:
    qdrant = open_bundle(make_bundle(), FakeEncoders()).search(QUERY)
    simple = open_bundle(make_bundle(jsonl_layout="simple"), FakeEncoders())
    assert simple.search(QUERY) == qdrant


def test_without_sparse_the_fused_ranking_is_the_dense_one_and_sparse_says_why(
    make_bundle: MakeBundle,
) -> None:
    opened = open_bundle(make_bundle(sparse=False), FakeEncoders())
    with pytest.raises(UsageError, match=r"Sparse was off .* \(cli\)"):
        opened.search(QUERY, stage="sparse")
    fused, dense = (opened.search(QUERY, stage=s) for s in ("fused", "dense"))
    assert [hit.row for hit in fused] == [hit.row for hit in dense]
    assert "sparse" in opened.missing


def test_a_run_that_fused_the_dense_ranking_alone_is_searched_so(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle()
    said = FusionRun(method="rrf", legs=(DENSE,))
    Manifest.read(path).model_copy(update={"fusion_run": said}).write(path)
    opened = open_bundle(path, FakeEncoders())
    every = opened.search_stages(QUERY, top_k=len(TEXTS)).rankings
    assert every["fused"].rows.tolist() == every["dense"].rows.tolist()
    assert every["sparse"].rows.tolist() == best(sparse_scores(QUERY), len(TEXTS))


@pytest.mark.parametrize(
    ("made", "fused"), [((BM25, "other"), "other"), (("other", BM25), None)]
)
def test_of_two_sparse_models_the_one_that_the_run_fused_is_searched_else_bm25(
    make_bundle: MakeBundle, made: tuple[str, str], fused: str | None
) -> None:
    path = make_bundle()
    reversed_texts = bm25_matrix([text for _, text, _ in reversed(TEXTS)])
    write_postings(reversed_texts, path / "docs_other_postings", average_length=9.0)
    manifest = Manifest.read(path)
    assert manifest.sparse_run is not None
    (run,) = manifest.sparse_run
    runs = tuple(run.model_copy(update={"sparse_model": key}) for key in made)
    changed = {
        "sparse_run": runs,
        "fusion_run": fused and FusionRun(method="rrf", legs=(DENSE, fused)),
    }
    manifest.model_copy(update=changed).write(path)
    hits = open_bundle(path, FakeEncoders()).search(QUERY, top_k=len(TEXTS))
    found = [hit for hit in hits if "sparse" in hit.stages]
    found.sort(key=lambda hit: hit.stages["sparse"].rank)
    scores = sparse_scores(QUERY)[:: -1 if fused else 1]
    assert [hit.row for hit in found] == best(scores, len(TEXTS))


def test_of_two_dense_models_the_first_of_the_manifest_is_searched(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle()
    vectors = np.load(path / f"docs_{DENSE}_embeddings.npy")
    np.save(path / "docs_other_embeddings.npy", vectors[::-1])
    manifest = Manifest.read(path)
    (run,) = manifest.dense_run
    for order in ((DENSE, "other"), ("other", DENSE)):
        runs = tuple(run.model_copy(update={"model": key}) for key in order)
        manifest.model_copy(update={"dense_run": runs}).write(path)
        opened = open_bundle(path, FakeEncoders())
        hits = opened.search(QUERY, stage="dense", top_k=len(TEXTS))
        scores = dense_scores(QUERY)[:: 1 if order[0] == DENSE else -1]
        assert [hit.row for hit in hits] == best(scores, len(TEXTS))


@pytest.mark.parametrize(
    ("rerank", "reason"), [(None, "Rerank was off"), (NOT_RUN, "Fetch them")]
)
def test_a_bundle_that_was_not_reranked_says_why(
    make_bundle: MakeBundle, rerank: object, reason: str
) -> None:
    opened = open_bundle(make_bundle(rerank=rerank), FakeEncoders())
    with pytest.raises(UsageError, match=reason):
        opened.search(QUERY, stage="reranked")
    assert reason in opened.search_stages(QUERY).missing["reranked"]


def test_a_missing_model_is_an_error_where_it_is_needed_and_told_elsewhere(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle(rerank=RAN)
    opened = open_bundle(path, FakeEncoders(missing=["sparse", "rerank"]))
    for stage in ("sparse", "fused", "reranked"):
        with pytest.raises(ModelNotAvailable, match="No sparse model"):
            opened.search(QUERY, stage=stage)
    assert opened.search(QUERY, stage="dense")
    results = opened.search_stages(QUERY)
    assert list(results.rankings) == ["dense"]
    assert "Fetch it" in results.missing["sparse"]
    assert "sparse" in results.missing["fused"]
    with pytest.raises(ModelNotAvailable, match="No ranking"):
        open_bundle(path, FakeEncoders(missing=["dense", "sparse"])).search_stages("x")


def test_without_sparse_the_dense_ranking_is_reranked(make_bundle: MakeBundle) -> None:
    opened = open_bundle(make_bundle(rerank=RAN), FakeEncoders())
    results = opened.search_stages(QUERY, sparse=False)
    assert list(results.rankings) == list(results.seconds) == ["dense", "reranked"]
    dense, reranked = results.rankings["dense"], results.rankings["reranked"]
    assert set(reranked.rows.tolist()) <= set(dense.rows.tolist())
    assert min(results.seconds.values()) > 0


def test_a_reranker_does_not_read_the_dense_ranking_where_fusion_fails(
    make_bundle: MakeBundle,
) -> None:
    opened = open_bundle(make_bundle(rerank=RAN), FakeEncoders(missing=["sparse"]))
    results = opened.search_stages(QUERY)
    assert list(results.rankings) == ["dense"]
    assert "no fused ranking" in results.missing["reranked"]


def test_a_bundle_without_points_still_ranks(make_bundle: MakeBundle) -> None:
    opened = open_bundle(make_bundle(exports=("npy",), rerank=RAN), FakeEncoders())
    hit = opened.search(QUERY, filters={"source_subdir": "guides"})[0]
    assert (hit.text, hit.metadata) == (None, {})
    assert hit.chunk_id.startswith("docs:guides:")
    with pytest.raises(UsageError, match="reads metadata"):
        opened.search(QUERY, filters={"n": 1})
    with pytest.raises(UsageError, match="reads texts"):
        opened.search(QUERY, stage="reranked")


def test_a_bundle_without_vector_files_says_so(make_bundle: MakeBundle) -> None:
    opened = open_bundle(make_bundle(exports=("jsonl",)), FakeEncoders())
    with pytest.raises(UsageError, match="no dense vectors"):
        opened.search(QUERY, stage="dense")


@pytest.mark.parametrize("query", ["", "  \n", "\ud800"])
def test_a_query_that_is_none_is_refused(bundle: Bundle, query: str) -> None:
    with pytest.raises(UsageError):
        bundle.search(query)


def test_an_unknown_stage_and_a_top_k_of_zero_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="dense, sparse, fused, reranked"):
        bundle.search(QUERY, stage="magic")
    with pytest.raises(UsageError, match="top_k"):
        bundle.search(QUERY, top_k=0)


def test_a_query_vector_of_another_width_is_refused(make_bundle: MakeBundle) -> None:
    class Narrow(FakeEncoders):
        def dense(self, text: str, key: str | None = None) -> Float32Array:
            return hashed(text)[:4]

    with pytest.raises(ModelMismatch, match="16 numbers"):
        open_bundle(make_bundle(), Narrow()).search(QUERY)


def test_a_folder_without_manifest_is_no_bundle(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    path = make_bundle()
    (path / "processing_summary.json").unlink()
    for folder in (path, tmp_path / "nowhere"):
        with pytest.raises(BundleError):
            open_bundle(folder, FakeEncoders())


def test_vectors_that_do_not_fit_the_manifest_are_refused(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle()
    np.save(path / f"docs_{DENSE}_embeddings.npy", np.zeros((3, 16), np.float32))
    with pytest.raises(BundleError, match=r"\(3, 16\)"):
        open_bundle(path, FakeEncoders())


def test_postings_that_do_not_fit_the_manifest_are_refused(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle()
    folder = path / f"docs_{BM25}_postings"
    shutil.rmtree(folder)
    few = bm25_matrix([text for _, text, _ in TEXTS[:3]])
    write_postings(few, folder, average_length=4.0)
    with pytest.raises(BundleError, match="count 3 documents"):
        open_bundle(path, FakeEncoders())


def test_rare_terms_count_for_more_where_the_model_does_not_weigh_them_itself(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle()
    manifest = Manifest.read(path)
    assert manifest.sparse_run is not None
    found = {}
    for kind in ("bm25", "attention", "splade"):
        run = manifest.sparse_run[0].model_copy(update={"statistics": {"kind": kind}})
        index = open_sparse(path, run, manifest)
        ranking = index.search(FakeEncoders().sparse(QUERY), 9)
        found[kind] = dict(zip(ranking.rows, ranking.scores, strict=True))
    assert found["bm25"] == found["attention"] != found["splade"]


def test_missing_postings_are_named(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    shutil.rmtree(path / f"docs_{BM25}_postings")
    with pytest.raises(BundleError, match="postings") as caught:
        open_bundle(path, FakeEncoders())
    assert caught.value.cure == f"Run 'ultimate-embedder repair {path}'."


def test_a_missing_file_that_repair_makes_again_is_told_with_that_command(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle()
    (path / "docs_ids.jsonl").unlink()
    with pytest.raises(BundleError) as caught:
        open_bundle(path, FakeEncoders())
    assert caught.value.cure == f"Run 'ultimate-embedder repair {path}'."


def test_missing_vectors_that_the_manifest_lists_are_not_said_to_be_left_out(
    make_bundle: MakeBundle,
) -> None:
    path = make_bundle()
    (path / f"docs_{DENSE}_embeddings.npy").unlink()
    with pytest.raises(UsageError, match=r"is missing\. Run 'ultimate-embedder repair"):
        open_bundle(path, FakeEncoders()).search(QUERY, stage="dense")


def test_threads_searching_at_once_find_what_one_finds(bundle: Bundle) -> None:
    queries = [f"how to {text[7:20]}" for _, text, _ in TEXTS[:8]]
    filters = {"source_subdir": "api", "n": "1"}
    expected = [bundle.search(query, filters=filters) for query in queries]
    fresh: list[object] = [None] * len(queries)
    start = threading.Barrier(len(queries))

    def ask(place: int) -> None:
        start.wait()
        fresh[place] = bundle.search(queries[place], filters=filters)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fresh == expected


@pytest.mark.parametrize("stage", ["dense", "sparse", "fused", "reranked"])
def test_a_batch_of_queries_finds_what_each_finds(bundle: Bundle, stage: Stage) -> None:
    queries = [f"how to {text[7:20]}" for _, text, _ in TEXTS[:9]]
    filters = {"source_subdir": "api"}
    found = bundle.search_batch(queries, stage=stage, top_k=3, filters=filters)
    assert found == [
        bundle.search(query, stage=stage, top_k=3, filters=filters) for query in queries
    ]
    assert bundle.search_batch([]) == []


def test_a_batch_with_a_query_that_is_none_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="empty"):
        bundle.search_batch(["how to scroll", " "])


def test_leaving_the_block_lets_go_of_the_models(make_bundle: MakeBundle) -> None:
    encoders = FakeEncoders()
    with open_bundle(make_bundle(), encoders) as opened:
        opened.search(QUERY)
    assert encoders.closed


def test_a_chunk_is_found_by_its_id(make_bundle: MakeBundle) -> None:
    opened = open_bundle(make_bundle(), FakeEncoders())
    ids = opened.chunk_ids()
    assert [opened.row(one) for one in ids] == list(range(len(ids)))
    assert [opened.chunk(row)[0] for row in range(len(ids))] == ids
    assert opened.row("docs:guides:nowhere.md:chunk:0") is None
    assert opened.row("\ud800") is None
