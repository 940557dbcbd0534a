"""Uploads over HTTP to a server that obeys Qdrant's REST interface, faults included."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from delivery_bundle import Content, make_content, write_bundle
from fake_qdrant import FAULTS, Asked, FakeQdrant, Fault, serving
from qdrant_client import models

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.upload import upload
from processor.ultimate_embedder.delivery import qdrant_store
from processor.ultimate_embedder.delivery import upload as module
from processor.ultimate_embedder.delivery.bundle_points import plan_upload
from processor.ultimate_embedder.delivery.opening import Server, at_server, in_folder
from processor.ultimate_embedder.delivery.presets import preset
from processor.ultimate_embedder.delivery.retry import Retries
from processor.ultimate_embedder.delivery.upload import (
    UploadOptions,
    UploadReport,
    send_bundle,
)
from processor.ultimate_embedder.errors import DeliveryError, UsageError

SMALL = 16 * 1024  # bytes a batch: a dozen of them for a small bundle


@pytest.fixture
def fake() -> FakeQdrant:
    return FakeQdrant()


@pytest.fixture
def address(fake: FakeQdrant) -> Iterator[str]:
    with serving(fake) as url:
        yield url


def send(
    bundle: Path,
    address: str,
    *,
    patience: float = 60.0,
    seconds: int = 30,
    name: str = "docs",
    preset_name: str = "default",
    key: str | None = None,
    **options: object,
) -> UploadReport:
    retries = Retries(patience=patience, first=0.001, longest=0.01)
    server = Server(url=address, transport="http", seconds=seconds, api_key=key)
    plan = plan_upload(bundle, name, tuning=preset(preset_name))
    with closing(at_server(server, name, retries)) as store:
        return send_bundle(
            plan,
            store,
            UploadOptions(batch_bytes=SMALL, **options),  # type: ignore[arg-type]
        )


def stored(bundle: Path, fake: FakeQdrant, name: str = "docs") -> None:
    """Assert that the server holds the bundle's points, all of them and no other."""
    lines = (bundle / "docs_qdrant.jsonl").read_bytes().splitlines()
    rows = {row["id"]: row for row in map(orjson.loads, lines)}
    points, _ = fake.client.scroll(
        name, limit=10_000, with_payload=True, with_vectors=True
    )
    assert {str(point.id) for point in points} == rows.keys()
    for point in points:
        row = rows[str(point.id)]
        assert point.payload == row["payload"]
        assert isinstance(point.vector, dict)
        assert point.vector.keys() == row["vector"].keys()
        dense = row["vector"]["all-miniLM-l6"]
        assert point.vector["all-miniLM-l6"] == pytest.approx(dense, abs=1e-6)
        sparse = row["vector"]["qdrant-bm25"]
        assert point.vector["qdrant-bm25"].indices == sparse["indices"]


def test_the_collection_is_made_as_the_default_preset_says(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    report = send(bundle, address)
    assert (report.created, report.points_after, report.sent) == (True, 60, 60)
    stored(bundle, fake)
    made = fake.made["docs"].model_dump(mode="json", exclude_none=True)
    assert made["hnsw_config"]["m"] == 48
    assert made["hnsw_config"]["ef_construct"] == 512
    assert made["hnsw_config"]["full_scan_threshold"] == 50_000
    assert made["quantization_config"] == {
        "scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}
    }
    assert made["vectors"] == {"all-miniLM-l6": {"size": 8, "distance": "Cosine"}}
    assert made["sparse_vectors"] == {
        "qdrant-bm25": {"modifier": "idf"},
        "qdrant-minilm-attention": {"modifier": "idf"},
        "splade": {},
    }
    assert fake.indexes["docs"]["metadata.source_subdir"] == "keyword"
    assert fake.indexes["docs"]["chunk_id"] == "keyword"
    assert fake.indexes["docs"]["text"]["type"] == "text"
    assert all(
        a.query["wait"] == ["true"]
        for a in fake.asked
        if a.method == "PUT" and a.path.endswith(("points", "index"))
    )


def test_batches_stay_within_their_bytes(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    send(bundle, address)
    bodies = [len(a.body) for a in fake.asked if a.has("PUT /collections/docs/points")]
    assert len(bodies) > 2
    assert max(bodies) <= SMALL * 1.1  # the client writes floats with more digits


def test_other_presets_and_names_are_taken(
    bundle: Path, fake: FakeQdrant, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(bundle), "--url", address, "--transport", "http", "--json"]
    names = ["--preset", "docs_v5_multi", "--vector-name", "splade=learned"]
    assert run_function(upload, [*arguments, *names]) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert list(report["vectors"]) == [
        "qdrant-minilm",
        "bm25",
        "minilm-attention",
        "learned",
    ]
    point = fake.client.scroll("docs", limit=1, with_vectors=True)[0][0]
    assert set(point.vector or ()) == set(report["vectors"])
    assert (
        run_function(upload, [*arguments, "--preset", "full-precision", "--recreate"])
        == 0
    )
    assert fake.made["docs"].quantization_config is None
    assert (
        run_function(upload, [*arguments, "--preset", "low-memory", "--recreate"]) == 0
    )
    made = fake.made["docs"].model_dump(mode="json", exclude_none=True)
    assert made["vectors"]["all-miniLM-l6"]["on_disk"] is True
    assert made["on_disk_payload"] is True
    assert (
        run_function(upload, [*arguments, "--preset", "server-defaults", "--recreate"])
        == 0
    )
    assert fake.made["docs"].hnsw_config is None
    assert run_function(upload, [*arguments, "--preset", "turbo"]) == 2
    assert "Known: default, docs_v5_multi" in capsys.readouterr().err


def test_uploading_again_sends_the_same_and_changes_nothing(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    send(bundle, address)
    report = send(bundle, address)
    assert (report.created, report.points_before, report.points_after) == (
        False,
        60,
        60,
    )
    stored(bundle, fake)
    assert fake.count("PUT /collections/docs/index") == 3


def test_the_key_travels_and_a_refused_one_is_one_line(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    fake.key = "secret"
    assert send(bundle, address, key="secret").points_after == 60
    with pytest.raises(DeliveryError, match="401") as refused:
        send(bundle, address, key="wrong")
    assert "QDRANT_API_KEY" in (refused.value.cure or "")


@pytest.mark.parametrize("fault", FAULTS)
def test_one_kind_of_fault_at_every_third_request_leaves_the_right_points(
    bundle: Path, fake: FakeQdrant, address: str, fault: Fault
) -> None:
    if fault in {"slow", "429 wait"}:  # they take a second each
        chosen = {5, 9}
        fake.choose = lambda _: fault if len(fake.asked) in chosen else None
    else:
        fake.choose = lambda _: fault if len(fake.asked) % 3 == 0 else None
    seconds = 1 if fault == "slow" else 30
    fake.slow_seconds = 1.3
    report = send(bundle, address, seconds=seconds, patience=200)
    assert report.points_after == 60
    fake.choose = lambda _: None
    stored(bundle, fake)


@pytest.mark.parametrize("seed", range(6))
def test_faults_at_random_end_in_the_right_points_or_in_a_clear_error(
    bundle: Path, fake: FakeQdrant, address: str, seed: int
) -> None:
    """Forty in a hundred requests fail. An error is followed by the same command."""
    chance = random.Random(seed)
    kinds = [one for one in FAULTS if one not in {"slow", "429 wait"}]
    fake.choose = lambda _: chance.choice(kinds) if chance.random() < 0.4 else None
    failures = 0
    while True:
        try:
            report = send(bundle, address, patience=0.02)
            break
        except DeliveryError as error:
            assert "\n" not in str(error)
            failures += 1
            assert failures < 60
    assert report.points_after == 60
    fake.choose = lambda _: None
    stored(bundle, fake)


def test_a_server_that_stays_broken_is_an_error_and_the_next_upload_goes_on(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    def breaks(asked: Asked) -> Fault | None:
        return "500 before" if fake.count("PUT /collections/docs/points") > 2 else None

    fake.choose = breaks
    with pytest.raises(DeliveryError, match="500 no luck"):
        send(bundle, address, patience=0.05)
    there = fake.client.count("docs").count
    assert 0 < there < 60
    fake.choose = lambda _: None
    report = send(bundle, address)
    assert (report.resumed_at, report.sent) == (there, 60 - there)
    assert (report.points_before, report.points_after) == (there, 60)
    stored(bundle, fake)
    assert list(bundle.parent.glob(".upload-*")) == []


def test_a_collection_that_cannot_be_made_is_told_with_the_servers_reason(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    def breaks(asked: Asked) -> Fault | None:
        making = (asked.method, asked.path) == ("PUT", "/collections/docs")
        return "500 before" if making else None

    fake.choose = breaks
    with pytest.raises(DeliveryError, match="500 no luck"):
        send(bundle, address, patience=0.05)
    assert fake.count("PUT /collections/docs/") == 0
    fake.choose = lambda _: None
    assert send(bundle, address).points_after == 60


@pytest.mark.parametrize("fault", ["drop after", "500 after"])
def test_a_collection_that_was_made_though_the_answer_was_lost_is_used(
    bundle: Path, fake: FakeQdrant, address: str, fault: Fault
) -> None:
    def loses(asked: Asked) -> Fault | None:
        making = (asked.method, asked.path) == ("PUT", "/collections/docs")
        return fault if making else None

    fake.choose = loses
    assert send(bundle, address, patience=0.05).points_after == 60
    stored(bundle, fake)


def test_a_login_in_the_address_is_neither_told_nor_kept(
    bundle: Path, fake: FakeQdrant, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with_login = address.replace("//", "//user:secret@")
    refuses: Fault = "500 before"
    fake.choose = lambda asked: refuses if asked.has("docs/points") else None
    with pytest.raises(DeliveryError) as failed:
        send(bundle, with_login, patience=0.02)
    (cursor,) = bundle.parent.glob(".upload-*")
    told = f"{failed.value}{cursor.read_text()}"
    fake.choose = lambda _: None
    told += f"{send(bundle, with_login)}"
    arguments = [str(bundle), "--url", with_login, "--dry-run", "--json"]
    assert run_function(upload, arguments) == 0
    assert run_function(upload, [str(bundle), "--url", "ftp://user:secret@host"]) == 2
    captured = capsys.readouterr()
    told += captured.out + captured.err
    assert "secret" not in told
    assert address in told


def test_points_that_a_server_lost_after_confirming_are_sent_again(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    lost: list[str] = []

    def forgets(asked: Asked) -> Fault | None:
        if asked.has("scroll") and not lost:
            some = fake.client.scroll("docs", limit=7)[0]
            lost.extend(str(point.id) for point in some)
            fake.client.delete("docs", lost)
        return None

    fake.choose = forgets
    report = send(bundle, address)
    assert report.sent == 67
    assert "7 points had not arrived" in report.notes[0]
    stored(bundle, fake)


def test_a_server_that_keeps_losing_points_is_never_called_complete(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    def forgets(asked: Asked) -> Fault | None:
        if asked.has("scroll"):
            some = fake.client.scroll("docs", limit=2)[0]
            fake.client.delete("docs", [point.id for point in some])
        return None

    fake.choose = forgets
    with pytest.raises(DeliveryError, match="58 points for the bundle's 60: 2 are"):
        send(bundle, address)
    fake.choose = lambda _: None
    assert send(bundle, address).resumed_at == 0  # what it confirmed was not so
    stored(bundle, fake)


def test_an_upload_that_could_not_be_counted_sends_no_point_again(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    fake.choose = lambda asked: "500 before" if asked.has("scroll") else None
    with pytest.raises(DeliveryError, match="500 no luck"):
        send(bundle, address, patience=0.05)
    fake.choose = lambda _: None
    report = send(bundle, address)
    assert (report.resumed_at, report.sent, report.points_after) == (60, 0, 60)


def test_a_request_too_large_for_the_server_is_sent_in_parts(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    fake.largest_body = SMALL // 4
    assert send(bundle, address).points_after == 60
    stored(bundle, fake)


def test_a_single_chunk_too_large_for_the_server_is_named(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    fake.largest_body = 500
    with pytest.raises(DeliveryError, match=r"docs:guide:page-0000\.md:chunk:0.* 413"):
        send(bundle, address)


def test_an_upload_that_is_only_acknowledged_is_not_taken_for_stored(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    def hastes(asked: Asked) -> Fault | None:
        asked.query.pop("wait", None)
        return None

    fake.choose = hastes
    with pytest.raises(DeliveryError, match="not yet stored"):
        send(bundle, address, patience=0.02)


def test_a_removal_that_is_only_acknowledged_is_not_taken_for_done(
    tmp_path: Path, bundle: Path, fake: FakeQdrant, address: str
) -> None:
    send(write_bundle(tmp_path / "larger", make_content(75)), address)

    def hastes(asked: Asked) -> Fault | None:
        if asked.has("points/delete"):
            asked.query.pop("wait", None)
        return None

    fake.choose = hastes
    with pytest.raises(DeliveryError, match="not yet stored"):
        send(bundle, address, patience=0.02, remove_stale=True)


def test_more_points_than_a_page_or_a_request_holds_are_all_found_and_removed(
    tmp_path: Path,
    bundle: Path,
    fake: FakeQdrant,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PAGE_POINTS", "_DELETED_AT_ONCE", "_FETCHED_AT_ONCE"):
        monkeypatch.setattr(qdrant_store, name, 7)
    send(write_bundle(tmp_path / "larger", make_content(75)), address)
    assert send(bundle, address, remove_stale=True).stale_removed == 15
    stored(bundle, fake)


def test_points_are_counted_and_not_estimated(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    send(bundle, address)
    counts = [orjson.loads(a.body) for a in fake.asked if a.has("points/count")]
    assert counts
    assert all(asked["exact"] for asked in counts)


def test_something_else_at_the_address_is_one_clear_line(bundle: Path) -> None:
    fake = FakeQdrant()
    fake.answer = lambda _asked: (200, "hello")  # type: ignore[method-assign]
    with serving(fake) as address, pytest.raises(DeliveryError) as refused:
        send(bundle, address)
    assert "does not answer as Qdrant does" in refused.value.message
    assert "port" in (refused.value.cure or "")


def test_points_of_an_earlier_bundle_are_removed_on_request_alone(
    tmp_path: Path, bundle: Path, fake: FakeQdrant, address: str
) -> None:
    larger = write_bundle(tmp_path / "larger", make_content(75))
    send(larger, address)
    with pytest.raises(
        DeliveryError, match="15 points of an earlier bundle"
    ) as refused:
        send(bundle, address)
    assert "--remove-stale" in (refused.value.cure or "")
    assert fake.client.count("docs").count == 75
    report = send(bundle, address, remove_stale=True)
    assert (report.stale_removed, report.points_after) == (15, 60)
    stored(bundle, fake)


def test_points_of_an_earlier_bundle_stay_until_the_new_ones_are_all_there(
    tmp_path: Path, bundle: Path, fake: FakeQdrant, address: str
) -> None:
    larger = write_bundle(tmp_path / "larger", make_content(75))
    send(larger, address)
    before = fake.count("PUT /collections/docs/points")

    def breaks(asked: Asked) -> Fault | None:
        sending = fake.count("PUT /collections/docs/points") > before
        return "500 before" if asked.has("scroll") and sending else None

    fake.choose = breaks
    with pytest.raises(DeliveryError, match="500 no luck"):
        send(bundle, address, patience=0.05, remove_stale=True)
    assert fake.client.count("docs").count == 75


def test_points_of_another_collection_are_never_removed(
    bundle: Path, fake: FakeQdrant, address: str, content: Content
) -> None:
    send(bundle, address)
    point = fake.client.scroll("docs", limit=1, with_vectors=True)[0][0]
    other = models.PointStruct(id=7, vector=point.vector, payload={})
    fake.client.upsert("docs", [other])
    for options in ({}, {"remove_stale": True}):
        with pytest.raises(DeliveryError, match="1 points that are not of the"):
            send(bundle, address, **options)
    assert fake.client.count("docs").count == 61


def test_an_alias_is_swapped_once_everything_is_there(
    tmp_path: Path, fake: FakeQdrant, address: str, bundle: Path
) -> None:
    first = send(bundle, address, name="docs-1", alias="live")
    assert (first.alias_before, first.alias) == (None, "live")
    larger = write_bundle(tmp_path / "larger", make_content(75))

    def breaks(asked: Asked) -> Fault | None:
        return (
            "500 before" if fake.count("PUT /collections/docs-2/points") > 2 else None
        )

    fake.choose = breaks
    with pytest.raises(DeliveryError):
        send(larger, address, name="docs-2", alias="live", patience=0.01)
    assert fake.client.count("live").count == 60
    fake.choose = lambda _: None
    second = send(larger, address, name="docs-2", alias="live")
    assert second.alias_before == "docs-1"
    assert fake.client.count("live").count == 75
    assert fake.client.count("docs-1").count == 60
    changes = [a for a in fake.asked if a.has("POST /collections/aliases")]
    assert len(orjson.loads(changes[-1].body)["actions"]) == 2  # both in one step


def test_an_alias_that_is_a_collections_name_is_refused_before_anything_is_sent(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    send(bundle, address)
    with pytest.raises(UsageError, match="has a collection called 'docs'"):
        send(bundle, address, name="docs-2", alias="docs")
    assert not fake.client.collection_exists("docs-2")


def test_an_alias_waits_until_the_index_is_built(
    bundle: Path, fake: FakeQdrant, address: str
) -> None:
    fake.status = "red"
    with pytest.raises(DeliveryError, match="failed to build its indexes"):
        send(bundle, address, name="docs-1", alias="live")
    assert fake.client.get_aliases().aliases == []
    fake.status = "green"
    report = send(bundle, address, name="docs-1", alias="live")
    assert (report.resumed_at, report.sent, report.alias) == (60, 0, "live")


def test_an_alias_does_not_stand_for_a_collection_that_is_still_indexed(
    bundle: Path, fake: FakeQdrant, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INDEX_SECONDS", 0.0)
    monkeypatch.setattr(qdrant_store, "_LOOK_AGAIN_SECONDS", 0.01)
    fake.status = "yellow"
    with pytest.raises(DeliveryError, match="still builds its indexes"):
        send(bundle, address, name="docs-1", alias="live")
    assert fake.client.get_aliases().aliases == []


def test_an_aliased_collection_is_named_after_its_content(
    bundle: Path, fake: FakeQdrant, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(bundle), "--url", address, "--transport", "http"]
    for _ in range(2):
        assert run_function(upload, [*arguments, "--alias", "docs"]) == 0
    (made,) = fake.made
    assert made.startswith("docs-")
    assert fake.client.count("docs").count == 60
    assert f"'docs' stands for '{made}'" in capsys.readouterr().out


def test_a_cursor_of_another_bundle_or_place_is_not_gone_on_with(
    tmp_path: Path, bundle: Path, fake: FakeQdrant, address: str
) -> None:
    def breaks(asked: Asked) -> Fault | None:
        return "500 before" if fake.count("PUT /collections/docs/points") > 2 else None

    fake.choose = breaks
    with pytest.raises(DeliveryError):
        send(bundle, address, patience=0.01)
    fake.choose = lambda _: None
    with closing(in_folder(tmp_path / "q", "docs")) as store:
        assert send_bundle(plan_upload(bundle), store).resumed_at == 0
    fake.client.delete_collection("docs")
    assert send(bundle, address).resumed_at == 0
    stored(bundle, fake)


def test_an_upload_does_not_go_on_where_others_wrote_meanwhile(
    tmp_path: Path, bundle: Path, fake: FakeQdrant, address: str
) -> None:
    def breaks(asked: Asked) -> Fault | None:
        return "500 before" if fake.count("PUT /collections/docs/points") > 2 else None

    fake.choose = breaks
    with pytest.raises(DeliveryError):
        send(bundle, address, patience=0.01)
    fake.choose = lambda _: None
    other = write_bundle(tmp_path / "elsewhere" / "bundle", make_content(60, seed=8))
    assert send(other, address).points_after == 60
    assert send(bundle, address).resumed_at == 0
    stored(bundle, fake)
