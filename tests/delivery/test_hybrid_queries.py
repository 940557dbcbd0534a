"""Our search, qdrant-client's local mode and qdrant-edge on the same bundle.

The texts are docstrings of the standard library, embedded by the models that come with
the package; the requests are those of `HybridQuery`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from docstring_bundle import QUERIES, Remembering, same_but_for_ties
from qdrant_client import QdrantClient, models

from processor.ultimate_embedder.delivery.bundle_points import plan_upload
from processor.ultimate_embedder.delivery.edge_store import EdgeStore
from processor.ultimate_embedder.delivery.hybrid_query import (
    HybridQuery,
    fused_request,
    leg_requests,
    one_request,
    search_store,
)
from processor.ultimate_embedder.delivery.layout import FoundPoint
from processor.ultimate_embedder.delivery.opening import in_folder
from processor.ultimate_embedder.delivery.store import Store
from processor.ultimate_embedder.delivery.upload import send_bundle
from processor.ultimate_embedder.errors import DeliveryError, UsageError
from processor.ultimate_embedder.records import RankedList, SparseVector, point_id
from processor.ultimate_embedder.retrieval.fusion import FusionConfig, fuse
from processor.ultimate_embedder.search import Bundle, open_bundle

DEFAULT = "sum(scale=raw, weights=1:0.016)"
FUSIONS = (
    DEFAULT,
    "sum(scale=zscore, weights=0.7:0.3)",
    "sum(scale=minmax, weights=1:0.5)",
    "rrf(k=60)",
    "rrf(k=10, weights=2:2)",
    "qdrant-rrf(k=2, weights=1:0.5)",
    "dbsf()",
)


@pytest.fixture(scope="module", params=["local mode", "edge"])
def store(
    request: pytest.FixtureRequest,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Store]:
    place = tmp_path_factory.mktemp("store")
    opened: Store = (
        in_folder(place, "docs")
        if request.param == "local mode"
        else EdgeStore(place, "docs")
    )
    with closing(opened):
        send_bundle(plan_upload(folder), opened)
        yield opened


def in_the_bundle(bundle: Bundle, text: str, top_k: int = 100) -> list[FoundPoint]:
    return [
        FoundPoint(point_id(hit.chunk_id), hit.score)
        for hit in bundle.search(text, top_k=top_k)
    ]


def ties(bundle: Bundle, text: str) -> bool:
    """Whether a leg has equal scores, among which engines choose as they like."""
    stages = bundle.search_stages(text, rerank=False, top_k=100).rankings
    legs = (stages["dense"].scores, stages["sparse"].scores)
    return any(len(leg) > 1 and np.diff(leg).max() > -1e-6 * leg[0] for leg in legs)


def fused_by_us(
    query: HybridQuery, lists: Sequence[Sequence[FoundPoint]]
) -> list[FoundPoint]:
    """Fuse lists of the store, with their choice among ties, as search does."""
    ids = list(dict.fromkeys(point.id for points in lists for point in points))
    rows = {identity: row for row, identity in enumerate(ids)}
    fused = fuse(
        [
            RankedList(
                np.array([rows[p.id] for p in points], dtype=np.int64),
                np.array([p.score for p in points]),
            )
            for points in lists
        ],
        query.fusion,
    )
    return [
        FoundPoint(ids[row], score)
        for row, score in zip(fused.rows.tolist(), fused.scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_same_points_in_the_same_order_as_search_in_the_bundle(
    fusion: str, folder: Path, encoders: Remembering, store: Store
) -> None:
    """Ranks of equal scores differ between engines: there our fusion of their lists
    is compared with theirs."""
    chosen = None if fusion == DEFAULT else FusionConfig.parse(fusion)
    bundle = open_bundle(folder, encoders, fusion=chosen)
    assert str(bundle.fusion) == fusion
    compared = 0
    for text in QUERIES:
        query = HybridQuery(vectors=bundle.query_vectors(text), fusion=bundle.fusion)
        theirs = search_store(store, query, top_k=10)
        for point in theirs:
            assert point.payload is not None
            assert point_id(point.payload["chunk_id"]) == point.id
        if "rrf" in fusion and ties(bundle, text):
            lists = store.query(leg_requests(query))
            ours = fused_by_us(query, lists)
        else:
            ours = in_the_bundle(bundle, text)
            compared += 1
        same_but_for_ties(ours, theirs, scores_too="2:2" not in fusion)
    assert compared >= 3


def test_lists_that_are_cut_and_lists_that_end_by_themselves_were_both_among_them(
    folder: Path, encoders: Remembering
) -> None:
    bundle = open_bundle(folder, encoders)
    found = [len(bundle.search(q, stage="sparse", top_k=100)) for q in QUERIES]
    assert len(bundle) > 100
    assert max(found) == 100
    assert 0 in found
    assert any(0 < length < 100 for length in found)


def test_lists_shorter_than_the_candidates_agree_too(
    folder: Path, encoders: Remembering, store: Store
) -> None:
    """A depth of 200 is asked of both: then nothing is cut off."""
    bundle = open_bundle(folder, encoders)
    for text in QUERIES[:5]:
        vectors = bundle.query_vectors(text)
        query = HybridQuery(vectors=vectors, fusion=bundle.fusion, depth=200)
        theirs = search_store(store, query, top_k=10)
        same_but_for_ties(in_the_bundle(bundle, text, top_k=200), theirs)


def test_one_request_with_the_true_last_scores_is_the_sum_itself(
    folder: Path, encoders: Remembering, store: Store
) -> None:
    bundle = open_bundle(folder, encoders)
    for text in QUERIES:
        query = HybridQuery(vectors=bundle.query_vectors(text), fusion=bundle.fusion)
        dense, sparse = store.query(leg_requests(query))
        last = (dense[-1].score, sparse[-1].score if len(sparse) == 100 else 0.0)
        theirs = store.query([one_request(query, 10, last)])[0]
        same_but_for_ties(in_the_bundle(bundle, text), theirs)


def test_assumed_last_scores_move_only_points_that_a_list_lacks(
    folder: Path, encoders: Remembering, store: Store
) -> None:
    bundle = open_bundle(folder, encoders)
    for text in QUERIES:
        query = HybridQuery(vectors=bundle.query_vectors(text), fusion=bundle.fusion)
        lists = store.query(leg_requests(query))
        in_both = set.intersection(*({p.id for p in points} for points in lists))
        found = store.query([one_request(query, 10, (0.3, 5.0))])[0]
        exact = {point.id: point.score for point in in_the_bundle(bundle, text)}
        for point in found:
            if point.id in in_both:
                assert point.score == pytest.approx(exact[point.id], abs=2e-5)


def test_a_condition_holds_before_lists_are_cut(
    folder: Path, encoders: Remembering, store: Store
) -> None:
    bundle = open_bundle(folder, encoders)
    some = QUERIES[0]
    none = {"must": [{"key": "metadata.source_subdir", "match": {"value": "none"}}]}
    all_of_them = {
        "should": [
            {"key": "metadata.source_subdir", "match": {"value": w}}
            for w in ("library", "x")
        ]
    }
    unlike = {"must_not": [{"key": "chunk_id", "match": {"value": ""}}], "must": [none]}
    vectors = bundle.query_vectors(some)
    for conditions, expected in ((none, 0), (all_of_them, 10), (unlike, 0)):
        query = HybridQuery(
            vectors=vectors, fusion=bundle.fusion, conditions=conditions
        )
        assert len(search_store(store, query)) == expected


def test_what_the_embedded_engine_is_not_asked_for_is_a_clear_error(
    store: Store,
) -> None:
    if not isinstance(store, EdgeStore):
        pytest.skip("a server takes every filter")
    request = {
        "query": {"nearest": [0.0] * 384},
        "using": "all-miniLM-l6",
        "limit": 1,
        "filter": {"must": [{"key": "a", "values_count": {"gt": 1}}]},
    }
    with pytest.raises(DeliveryError, match="values_count"):
        store.query([request])


def question(fusion: str, lists: int = 2) -> HybridQuery:
    vectors = {
        "dense": np.array([1.0, 0.0], dtype=np.float32),
        "sparse": SparseVector(np.array([7], np.uint32), np.array([2.0], np.float32)),
    }
    some = dict(list(vectors.items())[:lists])
    return HybridQuery(vectors=some, fusion=FusionConfig.parse(fusion), exact=True)


@pytest.mark.parametrize(
    ("fusion", "words"),
    [
        ("rrf(k=60, weights=2:1)", "qdrant-rrf"),
        ("rrf(k=1.5)", "whole numbers"),
        ("sum(scale=raw)", "leg_requests"),
    ],
)
def test_what_qdrant_cannot_fuse_is_refused_with_the_cure(
    fusion: str, words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        fused_request(question(fusion), 10)
    assert words in f"{refused.value.message} {refused.value.cure}"


def test_only_raw_sums_are_asked_for_with_assumed_scores() -> None:
    with pytest.raises(UsageError, match="two requests"):
        one_request(question("sum(scale=zscore)"), 10, (0.3, 5.0))
    with pytest.raises(UsageError, match="2 weights for 1"):
        question(DEFAULT, lists=1)


def test_requests_are_json_that_qdrants_models_take() -> None:
    scores = [[0.9, 0.5], [7.0]]
    for fusion in FUSIONS:
        query = question(fusion)
        for body in (*leg_requests(query), fused_request(query, 10, scores)):
            request = models.QueryRequest(**json.loads(json.dumps(body)))
            leg = request.prefetch[0] if request.prefetch else request  # type: ignore[index]
            assert leg.params is not None
            assert leg.params.exact
    body = fused_request(question(DEFAULT), 10, scores)
    assert body["query"]["defaults"] == {"$score[0]": 0.5, "$score[1]": 0.0}


def test_the_sample_in_the_docs_finds_what_search_finds(
    folder: Path,
    encoders: Remembering,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sample is run as it stands, with this bundle and a server in this process."""
    page = Path(__file__).resolve().parents[2] / "docs" / "search-it.md"
    samples = page.read_text(encoding="utf-8").split("```python\n")[1:]
    code = next(one.partition("```")[0] for one in samples if "leg_requests" in one)
    with closing(in_folder(tmp_path / "qdrant", "my_docs")) as store:
        send_bundle(plan_upload(folder, "my_docs"), store)
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    monkeypatch.setattr("qdrant_client.QdrantClient", lambda **_: client)
    (tmp_path / "Embeddings").mkdir()
    (tmp_path / "Embeddings" / "my_docs").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    with closing(client):
        exec(compile(code, str(page), "exec"), {})  # noqa: S102 - our own page
    printed = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    asked = "how do I copy a directory tree?"
    ours = open_bundle(folder, encoders).search(asked)
    assert asked in code
    assert printed == [hit.chunk_id for hit in ours]
    assert all(a.score > b.score for a, b in pairwise(ours))
