"""What the service answers is what the bundle itself finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_parts import TEXTS, FakeEncoders, write_bundle
from serving_parts import RAN
from starlette.testclient import TestClient

from processor.ultimate_embedder.search import Bundle, open_bundle
from processor.ultimate_embedder.serving.app import create_app
from processor.ultimate_embedder.serving.service import SearchService

QUERY = "filter points by payload"


def ask(client: TestClient, **fields: object) -> dict:
    response = client.post("/search", json={"query": QUERY, **fields})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("fields", "stage"),
    [
        ({}, "fused"),
        ({"sparse": False}, "dense"),
        ({"rerank": True}, "reranked"),
    ],
)
def test_hits_are_those_of_the_bundles_own_search(
    client: TestClient, bundle: Bundle, fields: dict[str, bool], stage: str
) -> None:
    found = ask(client, top_k=5, **fields)
    own = bundle.search(QUERY, stage=stage, top_k=5)
    assert found["stage"] == stage
    assert [(hit["chunk_id"], hit["rank"], hit["text"]) for hit in found["hits"]] == [
        (hit.chunk_id, hit.rank, hit.text) for hit in own
    ]
    assert [hit["score"] for hit in found["hits"]] == [hit.score for hit in own]
    assert found["hits"][0]["metadata"] == own[0].metadata
    assert found["rankings"] == {}


def test_without_sparse_no_hit_carries_a_sparse_score(client: TestClient) -> None:
    found = ask(client, sparse=False, rerank=True, compare=True)
    assert list(found["rankings"]) == ["dense", "reranked"]
    assert all(set(hit["stages"]) <= {"dense", "reranked"} for hit in found["hits"])
    assert set(found["milliseconds"]) == {"dense", "reranked", "total"}


def test_a_comparison_holds_every_stages_ranking(
    client: TestClient, bundle: Bundle
) -> None:
    found = ask(client, rerank=True, compare=True, top_k=4)
    assert list(found["rankings"]) == ["dense", "sparse", "fused", "reranked"]
    for stage, hits in found["rankings"].items():
        own = bundle.search(QUERY, stage=stage, top_k=4)
        assert [hit["chunk_id"] for hit in hits] == [hit.chunk_id for hit in own]
    first = found["hits"][0]
    for stage, place in first["stages"].items():
        ranked = found["rankings"][stage]
        if place["rank"] <= 4:
            assert ranked[place["rank"] - 1]["chunk_id"] == first["chunk_id"]
    took = found["milliseconds"]
    assert sum(took[stage] for stage in found["rankings"]) <= took["total"]


def test_filters_hold(client: TestClient) -> None:
    found = ask(client, filters={"source_subdir": "guides", "n": 1}, top_k=20)
    assert found["hits"]
    for hit in found["hits"]:
        assert hit["metadata"]["source_subdir"] == "guides"
        assert hit["metadata"]["n"] == 1


def test_words_of_the_query_are_marked_where_asked(client: TestClient) -> None:
    assert ask(client)["hits"][0]["highlights"] == []
    hit = ask(client, highlight=True)["hits"][0]
    words = [hit["text"][start:end] for start, end in hit["highlights"]]
    assert {"filter", "payload"} <= set(words)
    assert "to" not in {word.lower() for word in words}  # a stop-word


def test_a_stage_that_cannot_run_is_told_with_its_reason(
    make_client, tmp_path: Path
) -> None:
    path = write_bundle(tmp_path / "other", sparse=False)
    client = make_client({"docs": open_bundle(path, FakeEncoders())})
    found = ask(client, compare=True)
    assert found["missing"]["sparse"].startswith("Sparse was off")
    refused = client.post("/search", json={"query": QUERY, "rerank": True})
    assert refused.status_code == 422
    assert "Rerank was off" in refused.json()["error"]


def test_a_model_that_is_not_there_is_told_with_its_cure(
    make_client, tmp_path: Path
) -> None:
    path = write_bundle(tmp_path / "other", rerank=RAN)
    client = make_client({"docs": open_bundle(path, FakeEncoders(["rerank"]))})
    refused = client.post("/search", json={"query": QUERY, "rerank": True})
    assert refused.status_code == 503
    assert refused.json() == {"error": "No rerank model here.", "cure": "Fetch it."}
    assert ask(client)["hits"]


def test_a_chunk_is_given_with_its_place_in_its_file(
    make_client, tmp_path: Path
) -> None:
    path = write_bundle(tmp_path / "other", per_file=3)
    client = make_client({"docs": open_bundle(path, FakeEncoders())})
    chunks = [f"docs:guides:004.md:chunk:{n}" for n in range(3)]
    for number, chunk_id in enumerate(chunks):
        found = client.get(f"/chunks/{chunk_id}").json()
        assert found["chunk_id"] == chunk_id
        assert found["row"] == 12 + number
        assert found["text"] == TEXTS[12 + number][1]
        assert found["metadata"]["source_subdir"] == "guides"
        assert (found["number"], found["of"]) == (number + 1, 3)
        assert found["before"] == (chunks[number - 1] if number else None)
        assert found["after"] == (chunks[number + 1] if number < 2 else None)


def test_a_chunk_is_looked_for_where_it_is_asked_for(
    make_client, bundle: Bundle, tmp_path: Path
) -> None:
    other = open_bundle(
        write_bundle(tmp_path / "b", texts=[("x", "a lone shard", 1)]), FakeEncoders()
    )
    client = make_client({"docs": bundle, "more": other})
    lone = "/chunks/docs:x:000.md:chunk:0"
    assert client.get(lone).json()["collection"] == "more"
    assert client.get(lone, params={"collection": "more"}).status_code == 200
    assert client.get(lone, params={"collection": "docs"}).status_code == 404
    assert client.get(lone, params={"collection": "none"}).status_code == 404


def test_collections_tell_what_can_be_asked(client: TestClient) -> None:
    (found,) = client.get("/collections").json()["collections"]
    assert found["name"] == "docs"
    assert found["chunks"] == 27
    assert found["stages"]["dense"] == "hashed-words"
    assert found["stages"]["reranked"] == "word-overlap"
    assert set(found["stages"]) == {"dense", "sparse", "fused", "reranked"}
    assert found["missing"] == {}


def test_a_reranker_that_lacked_at_the_start_is_told_as_missing(
    tmp_path: Path,
) -> None:
    path = write_bundle(tmp_path / "other", rerank=RAN)
    service = SearchService({"docs": open_bundle(path, FakeEncoders(["rerank"]))})
    assert service.warm_up() == {"docs": "No rerank model here. Fetch it."}
    with TestClient(create_app(service)) as client:
        (found,) = client.get("/collections").json()["collections"]
    assert found["missing"] == {"reranked": "No rerank model here. Fetch it."}
    assert set(found["stages"]) == {"dense", "sparse", "fused"}


def test_of_several_collections_one_is_named(
    make_client, bundle: Bundle, tmp_path: Path
) -> None:
    other = open_bundle(
        write_bundle(tmp_path / "b", texts=[("x", "a lone shard", 1)]), FakeEncoders()
    )
    client = make_client({"docs": bundle, "more": other})
    unnamed = client.post("/search", json={"query": QUERY})
    assert unnamed.status_code == 422
    assert unnamed.json()["cure"] == "Name one of: docs, more."
    found = ask(client, collection="more")
    assert [hit["text"] for hit in found["hits"]] == ["a lone shard"]
    wrong = client.post("/search", json={"query": QUERY, "collection": "none"})
    assert wrong.status_code == 404
    assert wrong.json()["cure"] == "There are: docs, more."


def test_a_filter_that_names_nothing_is_not_found(client: TestClient) -> None:
    for filters in ({"nokey": 1}, {"source_subdir": "nowhere"}):
        found = client.post("/search", json={"query": QUERY, "filters": filters})
        assert found.status_code == 404, filters
        assert found.json()["cure"].startswith("There are: ")


def test_models_are_let_go_of_when_the_service_ends(tmp_path: Path) -> None:
    encoders = FakeEncoders()
    service = SearchService({"docs": open_bundle(write_bundle(tmp_path), encoders)})
    with TestClient(create_app(service)):
        assert not encoders.closed
    assert encoders.closed
