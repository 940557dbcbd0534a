"""`open_qdrant`: the same questions to a bundle and to its collection."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from docstring_bundle import QUERIES, Remembering, same_but_for_ties
from fake_qdrant import FakeQdrant, serving

from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.delivery.bundle_points import plan_upload
from processor.ultimate_embedder.delivery.layout import FoundPoint, Request
from processor.ultimate_embedder.delivery.opening import choose_target
from processor.ultimate_embedder.delivery.presets import preset
from processor.ultimate_embedder.delivery.store import Store
from processor.ultimate_embedder.delivery.upload import send_bundle
from processor.ultimate_embedder.errors import (
    BundleError,
    DeliveryError,
    ModelNotAvailable,
    UsageError,
)
from processor.ultimate_embedder.export.manifest import Manifest
from processor.ultimate_embedder.records import Float32Array, SparseVector
from processor.ultimate_embedder.retrieval.blend import BlendConfig
from processor.ultimate_embedder.retrieval.fusion import FusionConfig
from processor.ultimate_embedder.search import (
    Embedded,
    Hit,
    QdrantCollection,
    Server,
    Stage,
    open_bundle,
    open_qdrant,
)

Place = Server | Embedded | Path
Open = Callable[..., QdrantCollection]
OVERLAP = RerankingConfig(
    name="overlap",
    hf_model_id="none",
    candidates=30,
    blend=BlendConfig.parse("blend(weight=0.5, bound=3)"),
)


class WithOverlap:
    """The bundle's models, and a reranker that counts shared words."""

    def __init__(self, inner: Remembering) -> None:
        self.dense, self.sparse = inner.dense, inner.sparse
        self.reranked: list[tuple[str, int]] = []

    def rerank(self, text: str, documents: Sequence[str]) -> Float32Array:
        self.reranked.append((text, len(documents)))
        asked = set(text.lower().split())
        shares = [len(asked & set(one.lower().split())) / 9 for one in documents]
        return np.array(shares, dtype=np.float32)

    def close(self) -> None:
        """The models outlive a test."""


@pytest.fixture
def models(encoders: Remembering) -> WithOverlap:
    return WithOverlap(encoders)


@pytest.fixture(scope="module", params=["server", "local mode", "edge"])
def place(
    request: pytest.FixtureRequest,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """A place that the bundle was uploaded to, under names of its own."""
    target = tmp_path_factory.mktemp("place")
    fake = FakeQdrant()
    with serving(fake) as url:
        place: Place = {
            "server": Server(url=url, transport="http"),
            "local mode": target,
            "edge": Embedded(target),
        }[request.param]
        plan = plan_upload(folder, tuning=preset("docs_v5_multi"))
        server = place if isinstance(place, Server) else None
        path = place if isinstance(place, Path) else None
        edge = place.folder if isinstance(place, Embedded) else None
        with closing(choose_target(server, path, edge).open("docs")) as store:
            send_bundle(plan, store)
        yield place


@pytest.fixture
def opened(folder: Path, place: Place, models: WithOverlap) -> Iterator[Open]:
    held: list[QdrantCollection] = []

    def open_it(**options: object) -> QdrantCollection:
        names = preset("docs_v5_multi").names
        held.append(
            open_qdrant(folder, place, models, vector_names=names, **options)  # type: ignore[arg-type]
        )
        return held[-1]

    yield open_it
    for one in held:
        one.close()


def as_points(hits: Sequence[Hit]) -> list[FoundPoint]:
    return [FoundPoint(hit.chunk_id, hit.score) for hit in hits]


@pytest.mark.parametrize("stage", ["dense", "sparse", "fused", "reranked"])
def test_each_stage_finds_what_the_bundle_finds(
    stage: str, folder: Path, opened: Open, models: WithOverlap
) -> None:
    collection = opened(rerank=OVERLAP, exact=True)
    bundle = open_bundle(folder, models, rerank=OVERLAP)
    for text in QUERIES[::2]:
        ours = bundle.search(text, stage=stage, top_k=30)  # type: ignore[arg-type]
        theirs = collection.search(text, stage=stage)  # type: ignore[arg-type]
        same_but_for_ties(as_points(ours), as_points(theirs))


@pytest.mark.parametrize("fusion", ["qdrant-rrf(k=2)", "sum(scale=zscore)"])
@pytest.mark.parametrize("stage", ["sparse", "fused", "reranked"])
def test_a_batch_of_queries_finds_what_each_finds(
    stage: Stage, fusion: str, opened: Open
) -> None:
    how = FusionConfig.parse(fusion)
    collection = opened(rerank=OVERLAP, exact=True, fusion=how)
    queries = [*QUERIES[:9], *QUERIES, *QUERIES]  # more than go in a request
    each = {
        text: as_points(collection.search(text, stage=stage, top_k=30))
        for text in QUERIES
    }
    found = collection.search_batch(queries, stage=stage)
    assert len(found) == len(queries)
    for text, hits in zip(queries, found, strict=True):
        same_but_for_ties(each[text], as_points(hits))
        assert all(hit.text and stage in hit.stages for hit in hits)
    assert collection.search_batch([]) == []


@pytest.fixture
def sent(opened: Open, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Request]]:
    """The requests that follow, call by call."""
    calls: list[Sequence[Request]] = []
    with opened() as collection:
        store = type(collection._store)
    real = store.query

    def noted(self: Store, requests: Sequence[Request]) -> list[list[FoundPoint]]:
        calls.append(requests)
        return real(self, requests)

    monkeypatch.setattr(store, "query", noted)
    return calls


def test_a_batch_is_one_request_for_lists_and_one_to_fuse_them(
    opened: Open, sent: list[Sequence[Request]]
) -> None:
    collection = opened(fusion=FusionConfig.parse("sum(scale=zscore)"))
    collection.search_batch(QUERIES[:5])
    assert [len(requests) for requests in sent] == [10, 5]


@pytest.mark.parametrize(
    ("candidates", "top_k", "length"), [(30, 10, 100), (30, 110, 110), (120, 10, 120)]
)
def test_lists_are_as_long_as_those_that_a_run_and_a_bundle_fuse(
    candidates: int,
    top_k: int,
    length: int,
    opened: Open,
    sent: list[Sequence[Request]],
) -> None:
    collection = opened(rerank=replace(OVERLAP, candidates=candidates))
    for stage in ("fused", "reranked"):
        collection.search(QUERIES[0], stage=stage, top_k=top_k)  # type: ignore[arg-type]
    requests = [one for call in sent for one in call]
    lists = [leg for one in requests for leg in one.get("prefetch", [one])]
    assert {leg["limit"] for leg in lists} == {length}


def test_a_list_is_asked_for_alone_with_its_own_model(
    opened: Open, models: WithOverlap, sent: list[Sequence[Request]]
) -> None:
    def absent(text: str) -> SparseVector:
        raise ModelNotAvailable("No sparse model here.")

    collection = opened(exact=True)
    expected = collection.search(QUERIES[0], stage="dense")
    models.sparse = absent  # type: ignore[assignment]
    found = collection.search(QUERIES[0], stage="dense")
    same_but_for_ties(as_points(expected), as_points(found))
    assert [len(requests) for requests in sent] == [1, 1]
    assert all(set(hit.stages) == {"dense"} for hit in found)
    with pytest.raises(ModelNotAvailable, match="No sparse model"):
        collection.search(QUERIES[0])


@pytest.mark.parametrize("stage", ["dense", "sparse", "fused"])
def test_a_sparse_list_that_is_not_fused_can_be_asked_for(
    stage: Stage, folder: Path, place: Place, models: WithOverlap, tmp_path: Path
) -> None:
    """So it is with SPLADE as the only sparse model: the run fused the dense list."""
    manifest = Manifest.read(folder)
    assert manifest.fusion_run is not None
    legs = manifest.fusion_run.legs[:1]
    fusion = manifest.fusion_run.model_copy(update={"legs": legs})
    manifest.model_copy(update={"fusion_run": fusion}).write(tmp_path)
    names = preset("docs_v5_multi").names
    ours = open_bundle(folder, models).search(
        QUERIES[0], stage="sparse" if stage == "sparse" else "dense", top_k=30
    )
    with open_qdrant(
        tmp_path, place, models, vector_names=names, exact=True
    ) as collection:
        theirs = collection.search(QUERIES[0], stage=stage)
    same_but_for_ties(as_points(ours), as_points(theirs))


def test_a_hit_carries_the_rank_and_score_of_every_stage(
    folder: Path, opened: Open, models: WithOverlap
) -> None:
    collection = opened(rerank=OVERLAP)
    bundle = open_bundle(folder, models, rerank=OVERLAP)
    text = QUERIES[0]
    hits = collection.search(text, stage="reranked")
    ours = {h.chunk_id: h for h in bundle.search(text, stage="reranked", top_k=30)}
    for place, hit in enumerate(hits, start=1):
        mine = ours[hit.chunk_id]
        assert (hit.rank, hit.text, hit.metadata) == (place, mine.text, mine.metadata)
        assert hit.stages["reranked"].rank == place
        assert hit.stages.keys() == mine.stages.keys()
        for stage, there in hit.stages.items():
            here = mine.stages[stage]
            assert there.score == pytest.approx(here.score, rel=1e-4, abs=1e-4)
        assert hit.as_json()["row"] is None
    assert models.reranked[0] == (text, 30)


def test_nothing_is_reranked_unless_it_is_asked_for(
    opened: Open, models: WithOverlap
) -> None:
    collection = opened(rerank=OVERLAP)
    collection.search(QUERIES[0])
    assert models.reranked == []
    collection.close()
    with pytest.raises(UsageError, match="Rerank was off"):
        opened().search(QUERIES[0], stage="reranked")


@pytest.mark.parametrize("fusion", ["qdrant-rrf(k=2)", "dbsf()", "sum(scale=zscore)"])
def test_another_fusion_is_done_by_the_engine(
    fusion: str, folder: Path, opened: Open, models: WithOverlap
) -> None:
    chosen = FusionConfig.parse(fusion)
    collection = opened(fusion=chosen, exact=True)
    bundle = open_bundle(folder, models, fusion=chosen)
    same = 0
    for text in QUERIES[:6]:
        ours = [hit.chunk_id for hit in bundle.search(text)]
        same += ours == [hit.chunk_id for hit in collection.search(text)]
    assert same >= 4  # equal scores within a list are ranked as an engine likes


def test_filters_hold_before_the_cut(
    folder: Path, opened: Open, models: WithOverlap
) -> None:
    collection = opened()
    bundle = open_bundle(folder, models)
    text = QUERIES[0]
    source = bundle.search(text)[3].metadata["source"]
    for filters in ({"source": source}, {"source_subdir": "library"}):
        ours = {hit.chunk_id for hit in bundle.search(text, filters=filters)}
        theirs = {hit.chunk_id for hit in collection.search(text, filters=filters)}
        assert theirs == ours
    with pytest.raises(UsageError, match="No source_subdir is called 'nowhere'"):
        collection.search(text, filters={"source_subdir": "nowhere"})
    with pytest.raises(UsageError, match="cannot compare 'a'"):
        collection.search(text, filters={"a": [1]})
    assert collection.search(text, filters={"source": "7"}) == []


def test_where_nothing_is_found_no_reranker_is_asked(
    opened: Open, models: WithOverlap
) -> None:
    collection = opened(rerank=OVERLAP)
    nothing = {"source": "7"}
    assert collection.search(QUERIES[0], stage="reranked", filters=nothing) == []
    assert models.reranked == []


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (" ", {}, "empty"),
        ("\ud800", {}, "Unicode"),
        ("a", {"top_k": 0}, "top_k"),
        ("a", {"stage": "best"}, "Known: dense"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    opened: Open, text: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        opened().search(text, **options)  # type: ignore[arg-type]


def test_the_manifest_alone_is_enough(
    folder: Path, place: Place, models: WithOverlap, tmp_path: Path
) -> None:
    shutil.copy(folder / "processing_summary.json", tmp_path)
    names = preset("docs_v5_multi").names
    with open_qdrant(tmp_path, place, models, vector_names=names) as collection:
        assert len(collection) == collection.manifest.chunk_count
        assert len(collection.search(QUERIES[0])) == 10
    (tmp_path / "processing_summary.json").unlink()
    with pytest.raises(BundleError, match="holds no bundle"):
        open_qdrant(tmp_path, place, models)


def test_a_collection_that_is_not_there_is_refused_with_the_cure(
    folder: Path, place: Place, models: WithOverlap
) -> None:
    with pytest.raises(UsageError, match="There is no") as refused:
        open_qdrant(folder, place, models, collection="other")
    assert "Upload" in (refused.value.cure or "")


def test_a_server_that_is_not_there_is_one_clear_line(
    folder: Path, models: WithOverlap
) -> None:
    with pytest.raises(DeliveryError, match="cannot be reached"):
        open_qdrant(folder, Server(url="http://127.0.0.1:9"), models)


def test_texts_are_embedded_as_queries_alone() -> None:
    """There is no other entrance for a text than one that takes it for a query."""
    public = {name for name in dir(QdrantCollection) if not name.startswith("_")}
    assert public == {
        "close",
        "fusion",
        "manifest",
        "missing",
        "search",
        "search_batch",
    }
