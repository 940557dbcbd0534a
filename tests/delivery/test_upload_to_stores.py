"""One contract, over both real engines: qdrant-client's local mode and Qdrant Edge."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge
from delivery_bundle import (
    DENSE,
    SPARSE,
    WIDTH,
    Content,
    chunk_at,
    make_content,
    write_bundle,
)
from qdrant_client import QdrantClient, models

from processor.ultimate_embedder.delivery import upload as module
from processor.ultimate_embedder.delivery.bundle_points import UploadPlan, plan_upload
from processor.ultimate_embedder.delivery.edge_store import EdgeStore
from processor.ultimate_embedder.delivery.layout import (
    CollectionLayout,
    DenseVector,
    Point,
    SparseVectorKind,
)
from processor.ultimate_embedder.delivery.opening import Server, at_server, in_folder
from processor.ultimate_embedder.delivery.presets import DEFAULT, preset
from processor.ultimate_embedder.delivery.store import Store
from processor.ultimate_embedder.delivery.upload import (
    UploadOptions,
    UploadReport,
    send_bundle,
)
from processor.ultimate_embedder.errors import DeliveryError
from processor.ultimate_embedder.records import point_id

OpenStore = Callable[[str], Store]


@pytest.fixture(params=["local mode", "edge"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens a collection by name; each call stands for a new process."""
    opened: list[Store] = []

    def open_named(name: str) -> Store:
        for store in opened:
            store.close()
        store = (
            in_folder(tmp_path / "qdrant", name)
            if request.param == "local mode"
            else EdgeStore(tmp_path / "edge", name)
        )
        opened.append(store)
        return store

    yield open_named
    for store in opened:
        store.close()


def send(bundle: Path, open_store: OpenStore, **options: bool) -> UploadReport:
    return send_bundle(
        plan_upload(bundle), open_store("docs"), UploadOptions(**options)
    )


class Cut(Exception):
    """The process ends here."""


def send_in_part(
    bundle: Path, store: Store, batches: int, *, recreate: bool = False
) -> None:
    """Send a bundle in small batches and break off after so many."""
    upsert, left = store.upsert, iter(range(batches))

    def cut(points: list[Point]) -> None:
        if next(left, None) is None:
            raise Cut
        upsert(points)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setattr(store, "upsert", cut)
        options = UploadOptions(recreate=recreate, batch_bytes=8_000)
        send_bundle(plan_upload(bundle), store, options)


def ids_of(content: Content) -> list[str]:
    return [point_id(chunk.chunk_id) for chunk in content.chunks]


def test_every_point_arrives_as_it_stands_in_the_bundle(
    bundle: Path, content: Content, open_store: OpenStore
) -> None:
    report = send(bundle, open_store)
    assert (report.created, report.points_before, report.points_after) == (True, 0, 60)
    stored = open_store("docs").fetch(ids_of(content))
    assert len(stored) == 60
    for row, identity in enumerate(ids_of(content)):
        point = stored[identity]
        chunk = content.chunks[row]
        assert point["payload"] == {
            "chunk_id": chunk.chunk_id,
            "text": chunk.text,
            "metadata": chunk.metadata,
        }
        np.testing.assert_allclose(
            point["vector"][DENSE], content.dense[row], rtol=0, atol=1e-6
        )
        for key in SPARSE:
            wanted, found = content.sparse[key][row], point["vector"][key]
            assert found["indices"] == wanted.indices.tolist()
            np.testing.assert_array_equal(
                np.array(found["values"], np.float32), wanted.values
            )


def test_sending_a_bundle_twice_changes_nothing(
    bundle: Path, content: Content, open_store: OpenStore
) -> None:
    send(bundle, open_store)
    before = open_store("docs").fetch(ids_of(content))
    again = send(bundle, open_store)
    assert (again.created, again.points_before, again.points_after) == (False, 60, 60)
    assert open_store("docs").fetch(ids_of(content)) == before


def test_the_collection_reads_back_as_the_layout_it_was_made_with(
    bundle: Path, open_store: OpenStore
) -> None:
    assert open_store("docs").layout() is None
    send(bundle, open_store)
    assert open_store("docs").layout() == CollectionLayout(
        {DENSE: DenseVector(WIDTH, "Cosine")},
        {
            "qdrant-bm25": SparseVectorKind(idf=True),
            "qdrant-minilm-attention": SparseVectorKind(idf=True),
            "splade": SparseVectorKind(idf=False),
        },
    )


def test_a_bundle_without_sparse_vectors_is_taken(
    tmp_path: Path, content: Content, open_store: OpenStore
) -> None:
    bundle = write_bundle(tmp_path / "dense", replace(content, sparse={}))
    assert send(bundle, open_store).points_after == 60


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (
            CollectionLayout({DENSE: DenseVector(4)}),
            "4 dimensions, Cosine instead of 8",
        ),
        (CollectionLayout({"other": DenseVector(8)}), "no vector 'all-miniLM-l6'"),
        (CollectionLayout({DENSE: DenseVector(8, "Dot")}), "Dot instead of"),
        (
            CollectionLayout(
                {DENSE: DenseVector(8)},
                {
                    "qdrant-bm25": SparseVectorKind(idf=False),
                    "qdrant-minilm-attention": SparseVectorKind(idf=True),
                    "splade": SparseVectorKind(idf=False),
                },
            ),
            "'qdrant-bm25' has sparse, no modifier instead of sparse, modifier idf",
        ),
        (
            CollectionLayout(
                {DENSE: DenseVector(8), "more": DenseVector(2)},
                {key: SparseVectorKind(idf=key != "splade") for key in SPARSE},
            ),
            "'more' (2 dimensions, Cosine) is not in the bundle",
        ),
    ],
    ids=["width", "name", "distance", "modifier", "surplus"],
)
def test_a_collection_that_does_not_fit_is_refused_untouched_and_can_be_replaced(
    bundle: Path, open_store: OpenStore, layout: CollectionLayout, reason: str
) -> None:
    open_store("docs").create(layout, preset(DEFAULT))
    with pytest.raises(DeliveryError, match="does not fit") as refused:
        send(bundle, open_store)
    assert reason in refused.value.message
    assert "--recreate" in (refused.value.cure or "")
    store = open_store("docs")
    assert (store.layout(), store.count()) == (layout, 0)
    assert send(bundle, open_store, recreate=True).points_after == 60


def test_points_of_something_else_are_reported_before_anything_is_sent(
    tmp_path: Path, bundle: Path, open_store: OpenStore
) -> None:
    larger = write_bundle(tmp_path / "larger", make_content(75))
    send(larger, open_store)
    sent: list[int] = []
    with pytest.raises(DeliveryError, match="holds 15 points of an earlier bundle"):
        send_bundle(plan_upload(bundle), open_store("docs"), advance=sent.append)
    assert sent == []
    assert send(bundle, open_store, recreate=True).points_after == 60


def test_what_another_bundle_changed_in_between_is_sent_again_on_resuming(
    tmp_path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two differ in one text, which no sample of the points meets."""
    monkeypatch.setattr(module, "LOOKED_AT_AGAIN", 4)
    content = make_content(130)
    chunks = list(content.chunks)
    chunks[3] = replace(chunks[3], text="Another version")
    first = write_bundle(tmp_path / "first" / "bundle", content)
    second = write_bundle(
        tmp_path / "second" / "bundle", replace(content, chunks=chunks)
    )
    send_in_part(first, open_store("docs"), 4)
    send(second, open_store)
    changed = ids_of(content)[3]
    stored = open_store("docs").payloads([changed])
    assert stored[changed]["text"] == "Another version"
    report = send(first, open_store)
    assert report.resumed_at > 0
    assert report.sent == 130 - report.resumed_at + 1
    assert "1 points had not arrived, or not as sent" in report.notes[0]
    stored = open_store("docs").payloads([changed])
    assert stored[changed]["text"] == chunk_at(3).text


def test_resuming_an_undisturbed_upload_sends_no_confirmed_point_again(
    bundle: Path, open_store: OpenStore
) -> None:
    send_in_part(bundle, open_store("docs"), 2)
    report = send(bundle, open_store)
    assert 0 < report.resumed_at < 60
    assert (report.sent, report.notes) == (60 - report.resumed_at, ())


def test_payloads_are_read_by_id_without_vectors(
    bundle: Path, content: Content, open_store: OpenStore
) -> None:
    send(bundle, open_store)
    first, second, *_ = ids_of(content)
    missing = point_id("docs:guide:missing.md:chunk:0")
    stored = open_store("docs").fetch([first, second])
    assert open_store("docs").payloads([first, second, missing]) == {
        identity: point["payload"] for identity, point in stored.items()
    }


def foreign_point(store: Store, plan: UploadPlan) -> None:
    """Store a point that is of no bundle."""
    point = next(plan.every(1))
    store.upsert([{**point, "id": str(uuid.UUID(int=1)), "payload": {"x": 1}}])


def another_layout(store: Store, plan: UploadPlan) -> None:
    """Put another collection into the place."""
    store.drop()
    store.create(CollectionLayout({DENSE: DenseVector(4)}), plan.tuning)


@pytest.mark.parametrize("disturb", [foreign_point, another_layout])
def test_an_interrupted_recreate_that_was_disturbed_recreates_once_more(
    bundle: Path,
    open_store: OpenStore,
    disturb: Callable[[Store, UploadPlan], None],
) -> None:
    send_in_part(bundle, open_store("docs"), 2, recreate=True)
    disturb(open_store("docs"), plan_upload(bundle))
    report = send(bundle, open_store, recreate=True)
    assert (report.created, report.resumed_at, report.points_after) == (True, 0, 60)


def test_an_interrupted_recreate_goes_on_in_the_collection_it_made(
    bundle: Path, open_store: OpenStore
) -> None:
    send_in_part(bundle, open_store("docs"), 2, recreate=True)
    report = send(bundle, open_store, recreate=True)
    assert report.created is False
    assert 0 < report.resumed_at < 60


def test_recreate_without_resuming_removes_the_collection_on_its_first_run(
    bundle: Path, open_store: OpenStore
) -> None:
    send_in_part(bundle, open_store("docs"), 2, recreate=True)
    report = send(bundle, open_store, recreate=True, resume=False)
    assert (report.created, report.resumed_at, report.sent) == (True, 0, 60)


def test_another_collection_beside_it_is_left_alone(
    bundle: Path, open_store: OpenStore
) -> None:
    send(bundle, open_store)
    send_bundle(
        plan_upload(bundle, "second"),
        open_store("second"),
        UploadOptions(recreate=True),
    )
    send_bundle(
        plan_upload(bundle, "second"),
        open_store("second"),
        UploadOptions(recreate=True),
    )
    assert open_store("docs").count() == 60


def test_a_store_that_loses_or_changes_points_is_found_out(
    bundle: Path, open_store: OpenStore
) -> None:
    class Forgetful:
        """Hands everything on to a real store, but alters what passes."""

        def __init__(self, inner: Store, alter: Callable[[list], list]) -> None:
            self._inner, self._alter = inner, alter

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        def upsert(self, points: list) -> None:
            if kept := self._alter(points):
                self._inner.upsert(kept)

    def without_last(points: list) -> list:
        return points[:-1]

    def other_payload(points: list) -> list:
        return [{**point, "payload": {"text": "x"}} for point in points]

    def other_vector(points: list) -> list:
        turned = [{**p["vector"], DENSE: p["vector"][DENSE][::-1]} for p in points]
        return [{**p, "vector": v} for p, v in zip(points, turned, strict=True)]

    plan = plan_upload(bundle)
    for alter, reason in (
        (without_last, "1 are missing"),
        (other_payload, "its payload differs"),
        (other_vector, f"vector '{DENSE}' differs"),
    ):
        store = Forgetful(open_store("docs"), alter)
        with pytest.raises(DeliveryError, match=reason):
            send_bundle(plan, store, UploadOptions(recreate=True))


def test_progress_counts_every_point_once(bundle: Path, open_store: OpenStore) -> None:
    told: list[int] = []
    send_bundle(plan_upload(bundle), open_store("docs"), advance=told.append)
    assert sum(told) == 60


def hybrid_ranking(content: Content, row: int) -> list[str]:
    """Rank by RRF over exact dense and IDF-weighted sparse search, in NumPy."""
    matrix = content.sparse["qdrant-bm25"]
    rows = len(content.chunks)
    df: dict[int, int] = {}
    for vector in matrix:
        for term in vector.indices.tolist():
            df[term] = df.get(term, 0) + 1
    query = matrix[row]
    scores = np.zeros(rows)
    for i, vector in enumerate(matrix):
        terms = dict(zip(vector.indices.tolist(), vector.values, strict=True))
        for term, value in zip(query.indices.tolist(), query.values, strict=True):
            if term in terms:
                idf = np.log(1 + (rows - df[term] + 0.5) / (df[term] + 0.5))
                scores[i] += value * terms[term] * idf
    dense = content.dense @ content.dense[row]
    legs = [np.argsort(-dense, kind="stable"), np.flatnonzero(scores > 0)]
    legs[1] = legs[1][np.argsort(-scores[legs[1]], kind="stable")]
    fused: dict[int, float] = {}
    for leg in legs:
        for place, found in enumerate(leg[:10].tolist()):
            fused[found] = fused.get(found, 0) + 1 / (place + 2)
    best = sorted(fused, key=lambda found: -fused[found])
    return [ids_of(content)[found] for found in best]


def test_a_hybrid_query_in_local_mode_finds_the_expected_row(
    tmp_path: Path, bundle: Path, content: Content
) -> None:
    row = 23
    with closing(in_folder(tmp_path / "qdrant", "docs")) as store:
        send_bundle(plan_upload(bundle), store)
    with closing(QdrantClient(path=str(tmp_path / "qdrant"))) as client:
        sparse = content.sparse["qdrant-bm25"][row]
        found = client.query_points(
            "docs",
            prefetch=[
                models.Prefetch(
                    query=content.dense[row].tolist(), using=DENSE, limit=10
                ),
                models.Prefetch(
                    query=models.SparseVector(
                        indices=sparse.indices.tolist(), values=sparse.values.tolist()
                    ),
                    using="qdrant-bm25",
                    limit=10,
                ),
            ],
            query=models.FusionQuery(fusion=models.Fusion.RRF),
            limit=1,
        ).points
    assert str(found[0].id) == hybrid_ranking(content, row)[0]
    assert found[0].payload is not None
    assert found[0].payload["text"] == chunk_at(row).text


def test_a_hybrid_query_in_edge_finds_the_expected_row(
    tmp_path: Path, bundle: Path, content: Content
) -> None:
    row = 23
    with closing(EdgeStore(tmp_path / "edge", "docs")) as store:
        send_bundle(plan_upload(bundle), store)
    sparse = content.sparse["qdrant-bm25"][row]
    nearest = qdrant_edge.Query.Nearest
    with closing(qdrant_edge.EdgeShard.load(str(tmp_path / "edge" / "docs"))) as shard:
        found = shard.query(
            qdrant_edge.QueryRequest(
                limit=1,
                with_payload=True,
                prefetches=[
                    qdrant_edge.Prefetch(
                        query=nearest(content.dense[row].tolist(), using=DENSE),
                        limit=10,
                    ),
                    qdrant_edge.Prefetch(
                        query=nearest(
                            qdrant_edge.SparseVector(
                                sparse.indices.tolist(), sparse.values.tolist()
                            ),
                            using="qdrant-bm25",
                        ),
                        limit=10,
                    ),
                ],
                query=qdrant_edge.Fusion.Rrf(k=2),
            )
        )
    assert str(found[0].id) == hybrid_ranking(content, row)[0]


def test_a_folder_of_something_else_is_neither_used_nor_removed(
    tmp_path: Path, bundle: Path
) -> None:
    folder = tmp_path / "edge" / "docs"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    for recreate in (False, True):
        with (
            closing(EdgeStore(tmp_path / "edge", "docs")) as store,
            pytest.raises(DeliveryError, match="holds no Qdrant Edge collection"),
        ):
            send_bundle(plan_upload(bundle), store, UploadOptions(recreate=recreate))
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_file_in_the_place_of_an_edge_collection_is_one_clear_line(
    tmp_path: Path, bundle: Path
) -> None:
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "docs").write_text("years of work")
    for recreate in (False, True):
        with (
            closing(EdgeStore(tmp_path / "edge", "docs")) as store,
            pytest.raises(DeliveryError, match="Not a directory"),
        ):
            send_bundle(plan_upload(bundle), store, UploadOptions(recreate=recreate))
    assert (tmp_path / "edge" / "docs").read_text() == "years of work"


def test_an_edge_collection_open_elsewhere_is_a_clear_refusal(
    tmp_path: Path, bundle: Path
) -> None:
    with closing(EdgeStore(tmp_path / "edge", "docs")) as first:
        send_bundle(plan_upload(bundle), first)
        with (
            closing(EdgeStore(tmp_path / "edge", "docs")) as second,
            pytest.raises(DeliveryError, match="Another process has it open"),
        ):
            send_bundle(plan_upload(bundle), second)


# The client leaves its lock file to the garbage collector when it is refused the lock.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_local_folder_open_elsewhere_is_a_clear_refusal(tmp_path: Path) -> None:
    with (
        closing(in_folder(tmp_path / "qdrant", "docs")),
        pytest.raises(DeliveryError, match="already accessed"),
    ):
        in_folder(tmp_path / "qdrant", "docs")


def test_the_advice_about_large_local_collections_is_not_a_warning_here(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdrant_client.common import client_warnings
    from qdrant_client.local.local_collection import LocalCollection
    from qdrant_client.local.qdrant_local import QdrantLocal

    monkeypatch.setattr(client_warnings, "SEEN_MESSAGES", set())
    for holder in (LocalCollection, QdrantLocal):
        monkeypatch.setattr(holder, "LARGE_DATA_THRESHOLD", 10)
    for _ in range(2):
        with closing(in_folder(tmp_path / "qdrant", "docs")) as store:
            assert send_bundle(plan_upload(bundle), store).points_after == 60


def test_a_server_that_is_not_there_is_one_clear_line(bundle: Path) -> None:
    with closing(at_server(Server(url="http://127.0.0.1:9"), "docs")) as store:
        with pytest.raises(DeliveryError, match="cannot be reached") as refused:
            send_bundle(plan_upload(bundle), store)
        assert "\n" not in str(refused.value)


def test_a_server_that_refuses_the_key_is_one_line_that_names_the_variable(
    bundle: Path,
) -> None:
    seen: list[str | None] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["api-key"])
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"Must provide an API key")

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        opened = at_server(Server(url=url, api_key="a key", transport="http"), "docs")
        with closing(opened) as store, pytest.raises(DeliveryError) as refused:
            send_bundle(plan_upload(bundle), store)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert set(seen) == {"a key"}
    assert "401" in refused.value.message
    assert "QDRANT_API_KEY" in (refused.value.cure or "")
    assert "\n" not in str(refused.value)
