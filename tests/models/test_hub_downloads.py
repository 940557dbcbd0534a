"""Files come from the cache, else from the hub: tried again where that may help."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hub_parts import COMMIT, LATER, Site

from processor.ultimate_embedder.encoders.hub import PAUSES, HuggingFaceHub
from processor.ultimate_embedder.encoders.sources import locate_model
from processor.ultimate_embedder.errors import ModelNotAvailable, OutputError
from processor.ultimate_embedder.models.lock import ModelLock, write_lock

MODEL = "acme/tiny"


def folder_of(path: Path, *names: str, **config: object) -> Path:
    """Write files with their own names as content, and a config.json.

    A graph is an empty message: one without tensors.
    """
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("" if name.endswith(".onnx") else name)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    return path


@pytest.fixture
def published(site: Site, tmp_path: Path) -> Site:
    folder = folder_of(
        tmp_path / "published",
        "model.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
        "1_Pooling/config.json",
        "onnx/model.onnx",
        "onnx/config.json",
        "README.md",
    )
    site.publish(MODEL, folder)
    return site


def test_what_is_read_is_fetched_and_nothing_else(published: Site) -> None:
    found = locate_model(MODEL)
    names = {p.relative_to(found.path).as_posix() for p in found.path.rglob("*.*")}
    assert names == {
        "config.json",
        "tokenizer.json",
        "1_Pooling/config.json",
        "model.safetensors",
    }
    assert (found.revision, found.origin, found.pinned) == (COMMIT, "hub", False)


def test_the_cache_is_asked_first(published: Site) -> None:
    first = locate_model(MODEL)
    published.asked.clear()
    again = locate_model(MODEL)
    assert (again.path, again.revision, again.origin) == (first.path, COMMIT, "cache")
    assert published.asked == []


@pytest.mark.parametrize("failure", [503, 500, 429, 0])
def test_what_may_pass_is_tried_again_with_growing_pauses(
    published: Site, pauses: list[float], failure: int
) -> None:
    published.failures += [("/revision/main", failure)] * 2
    found = locate_model(MODEL)
    assert found.revision == COMMIT
    assert pauses == list(PAUSES[:2])


def test_a_download_that_breaks_off_is_tried_again(
    published: Site, pauses: list[float]
) -> None:
    published.failures += [("/model.safetensors", 503), ("/model.safetensors", 0)]
    found = locate_model(MODEL)
    assert (found.path / "model.safetensors").read_text() == "model.safetensors"
    assert pauses


def test_after_the_last_attempt_the_error_is_one_line_with_a_cure(
    published: Site, pauses: list[float]
) -> None:
    published.failures += [("/revision/main", 503)] * 10
    with pytest.raises(ModelNotAvailable, match="status 503") as raised:
        locate_model(MODEL)
    assert pauses == list(PAUSES)
    assert len(published.failures) == 10 - len(PAUSES) - 1
    assert "\n" not in str(raised.value)
    assert "HF_HOME" in (raised.value.cure or "")


@pytest.mark.parametrize(
    ("model", "revision", "said"),
    [
        ("acme/nowhere", None, "no public model acme/nowhere"),
        (MODEL, "refs/pr/9", "no revision refs/pr/9"),
        ("acme/gated", None, "acme/gated is gated"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(
    published: Site, pauses: list[float], model: str, revision: str | None, said: str
) -> None:
    published.gated.add("acme/gated")
    with pytest.raises(ModelNotAvailable, match=said) as raised:
        locate_model(model, revision=revision)
    assert pauses == []
    assert len(published.asked) == 1
    assert raised.value.cure


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_of_the_server_is_not_tried_again(
    published: Site, pauses: list[float], status: int
) -> None:
    published.failures += [("/revision/main", status)]
    with pytest.raises(ModelNotAvailable):
        locate_model(MODEL)
    assert pauses == []


def test_an_offline_run_opens_no_socket(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ModelNotAvailable, match="this run is offline") as raised:
        locate_model(MODEL, revision="refs/pr/1", offline=True)
    assert "models fetch acme/tiny@refs/pr/1" in (raised.value.cure or "")


def test_a_hub_that_is_not_there_is_told_with_a_cure(
    site: Site, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    hub = HuggingFaceHub(endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(ModelNotAvailable, match="the hub is not reached") as raised:
        locate_model(MODEL, hub=hub)
    assert "local folder" in (raised.value.cure or "")
    assert "models check" in (raised.value.cure or "")
    assert pauses == list(PAUSES)


def test_pickles_alone_are_refused_before_anything_is_fetched(
    site: Site, tmp_path: Path
) -> None:
    site.publish(MODEL, folder_of(tmp_path / "old", "pytorch_model.bin"))
    with pytest.raises(ModelNotAvailable, match=r"pickles \(pytorch_model.bin\)") as e:
        locate_model(MODEL)
    assert "refs/pr/N" in (e.value.cure or "")
    assert not any("/resolve/" in line for line in site.asked)


def test_a_graph_is_fetched_for_the_onnx_backend_and_no_weights(
    published: Site,
) -> None:
    found = locate_model(MODEL, backend="onnx")
    assert (found.path / "onnx" / "model.onnx").is_file()
    assert not (found.path / "model.safetensors").exists()


def test_a_fetch_that_was_interrupted_is_no_model(
    published: Site, pauses: list[float]
) -> None:
    published.failures += [("/model.safetensors", 404)] * 20
    with pytest.raises(ModelNotAvailable):
        locate_model(MODEL)
    with pytest.raises(ModelNotAvailable, match="offline"):
        locate_model(MODEL, offline=True)
    published.failures.clear()
    assert locate_model(MODEL).path.joinpath("model.safetensors").is_file()
    assert published.downloads("tokenizer.json") == 1  # what was there is kept


def test_the_lock_decides_which_commit_is_taken(
    published: Site, hub: HuggingFaceHub, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "later", "model.safetensors", hidden_size=7)
    published.publish(MODEL, folder, commit=LATER)
    lock = ModelLock({}).with_commit(MODEL, None, COMMIT)
    write_lock(hub.lock_path, lock)
    found = locate_model(MODEL)
    assert (found.revision, found.pinned) == (COMMIT, True)
    assert locate_model(MODEL, revision=LATER).revision == LATER


def test_a_commit_in_the_configuration_stands_above_the_lock(
    published: Site, hub: HuggingFaceHub
) -> None:
    write_lock(hub.lock_path, ModelLock({}).with_commit(MODEL, None, LATER))
    found = locate_model(MODEL, revision=COMMIT)
    assert (found.revision, found.pinned) == (COMMIT, True)


def test_a_cache_that_cannot_be_written_to_stops_with_its_cure(
    published: Site, cache: Path
) -> None:
    cache.write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot be kept in the cache") as raised:
        locate_model(MODEL)
    assert "HF_HOME" in (raised.value.cure or "")
