"""A model is here when all of its weights are, in a form that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_parts import Site
from tiny_models import save_dense
from transformers import BertModel

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.hub import HuggingFaceHub
from processor.ultimate_embedder.encoders.sources import ModelLocation, locate_model
from processor.ultimate_embedder.encoders.weight_files import lacking_weights
from processor.ultimate_embedder.errors import (
    EmbedderError,
    ModelError,
    ModelNotAvailable,
    UnknownModel,
    UsageError,
)
from processor.ultimate_embedder.models.choice import choose_dense
from processor.ultimate_embedder.models.entries import entries
from processor.ultimate_embedder.models.inventory import state_of
from processor.ultimate_embedder.models.manager import ModelManager

MODEL = "acme/tiny"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def in_parts(folder: Path) -> list[str]:
    """Save a model whose weights are several files; return their names."""
    save_dense(folder)
    model = BertModel.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="3KB")
    parts = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    return parts


def say_of_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


def refusal(locate: Callable[[], ModelLocation]) -> EmbedderError:
    """Return the error of a model that is not here: one line, with a cure."""
    with pytest.raises(ModelError) as raised:
        locate()
    assert "\n" not in str(raised.value)
    assert raised.value.cure
    return raised.value


def test_weights_in_parts_are_fetched_with_their_index_and_loaded(
    site: Site, tmp_path: Path
) -> None:
    parts = in_parts(tmp_path / "large")
    (tmp_path / "large" / "consolidated.safetensors").write_text("another form")
    site.publish(MODEL, tmp_path / "large")
    found = locate_model(MODEL)
    assert sorted(p.name for p in found.path.glob("*.safetensors")) == parts
    config = choose_dense(MODEL)
    with ModelManager(offline=True).resident(config) as encoder:
        assert encoder.dimension == config.vector_dim


def test_a_part_that_is_lost_makes_the_rest_no_model(
    site: Site, tmp_path: Path
) -> None:
    parts = in_parts(tmp_path / "large")
    site.publish(MODEL, tmp_path / "large")
    found = locate_model(MODEL)
    (found.path / parts[1]).unlink()
    error = refusal(lambda: locate_model(MODEL, offline=True))
    assert f"models fetch {MODEL}" in (error.cure or "")
    assert locate_model(MODEL).origin == "hub"
    assert site.downloads(parts[0]) == 1  # what is there is kept
    (tmp_path / "large" / parts[2]).unlink()
    error = refusal(lambda: locate_model(str(tmp_path / "large")))
    assert error.message == f"{tmp_path / 'large'} lacks {parts[2]}."


def test_a_model_whose_hub_lacks_a_part_is_refused_before_the_other_parts_come(
    site: Site, tmp_path: Path
) -> None:
    parts = in_parts(tmp_path / "large")
    (tmp_path / "large" / parts[1]).unlink()
    site.publish(MODEL, tmp_path / "large")
    error = refusal(lambda: locate_model(MODEL))
    assert f"it lacks {parts[1]}" in error.message
    assert not any(site.downloads(part) for part in parts)


@pytest.mark.parametrize(
    "name", ["../up.safetensors", "/etc/passwd", "a/b.safetensors"]
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "large"
    in_parts(folder)
    (tmp_path / "up.safetensors").touch()
    say_of_index(folder, lambda names: names.update({"one": name}))
    error = refusal(lambda: locate_model(str(folder)))
    assert name in error.message


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {}}', "{"])
def test_an_index_that_says_nothing_stands_for_no_weights(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / INDEX).write_text(content)
    assert lacking_weights(tmp_path) == (WEIGHTS,)


def test_facts_alone_are_no_model(
    site: Site, hub: HuggingFaceHub, tmp_path: Path
) -> None:
    site.publish(MODEL, save_dense(tmp_path / "tiny"))
    config = choose_dense(MODEL, offline=False)
    assert hub.cached(MODEL, "main") is not None
    assert site.downloads(WEIGHTS) == 0
    for ask in (
        lambda: choose_dense(MODEL),
        lambda: ModelManager(offline=True).locate(config),
    ):
        assert "not on this machine" in refusal(ask).message  # type: ignore[arg-type]
    (entry,) = entries([MODEL])
    state = state_of(entry, cap_bytes=2**30)
    assert (state.place, state.ready, state.refused) == ("missing", False, None)


def test_a_folder_of_facts_alone_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = save_dense(tmp_path / "tiny")
    (folder / WEIGHTS).unlink()
    error = refusal(lambda: locate_model(str(folder)))
    assert error.message == f"{folder} offers no safetensors weights."
    assert "Copy the whole folder" in (error.cure or "")


def test_pickles_are_refused_wherever_they_lie(site: Site, tmp_path: Path) -> None:
    folder = save_dense(tmp_path / "old")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    error = refusal(lambda: locate_model(str(folder)))
    assert "pickles (pytorch_model.bin), which are not read" in error.message
    assert "save_pretrained" in (error.cure or "")
    site.publish(MODEL, folder)
    error = refusal(lambda: locate_model(MODEL))
    assert f"{MODEL}@refs/pr/N" in (error.cure or "")
    assert not any("/resolve/" in line for line in site.asked)


def test_pickles_in_the_cache_are_named(
    site: Site, hub: HuggingFaceHub, tmp_path: Path
) -> None:
    folder = save_dense(tmp_path / "old")
    (folder / "pytorch_model.bin").write_text("of another program")
    site.publish(MODEL, folder)
    commit = hub.listing(MODEL, "main").commit
    hub.download(MODEL, commit, ["config.json", "pytorch_model.bin"])
    hub.remember(MODEL, "main", commit)
    error = refusal(lambda: locate_model(MODEL, offline=True))
    assert "pickles alone (pytorch_model.bin)" in error.message
    assert locate_model(MODEL).path.joinpath(WEIGHTS).is_file()


@pytest.mark.parametrize(
    "name", ["acme/..", "../acme/x", "acme/ti--ny", "acme/a..b", "/a/b"]
)
def test_an_id_that_is_no_id_is_one_line(cache: Path, name: str) -> None:
    with pytest.raises(UnknownModel) as raised:
        choose_dense(name, offline=False)
    assert "\n" not in str(raised.value)
    assert name in raised.value.message
    error = refusal(lambda: locate_model(name, offline=True))
    assert name in error.message
    assert not cache.exists()


@pytest.mark.parametrize(
    "revision", ["../../../up", "/etc", "a/../b", "-x", "a//b", ""]
)
def test_a_revision_leads_nowhere_else(
    site: Site, hub: HuggingFaceHub, tmp_path: Path, revision: str
) -> None:
    site.publish(MODEL, save_dense(tmp_path / "tiny"))
    if not revision:
        assert choose_dense(f"{MODEL}@", offline=False).revision is None
        return
    with pytest.raises(UsageError, match="is no revision of acme/tiny") as raised:
        choose_dense(f"{MODEL}@{revision}", offline=False)
    assert raised.value.cure
    with pytest.raises(UsageError):
        locate_model(MODEL, revision=revision, offline=True)
    assert site.asked == []


def test_a_folder_here_is_not_taken_for_a_model_that_a_revision_pins(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dense(tmp_path / "acme" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert locate_model(MODEL).origin == "folder"
    with pytest.raises(ModelNotAvailable, match="not on this machine"):
        locate_model(MODEL, revision="a" * 40, offline=True)


def test_a_local_folder_keeps_its_place_whatever_revision_stands_beside_it(
    tmp_path: Path,
) -> None:
    folder = save_dense(tmp_path / "tiny")
    config = ModelConfig("tiny", str(folder), 16, 48, revision="a" * 40, pooling="cls")
    assert ModelManager(offline=True).locate(config).origin == "folder"


def message(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message whose content is shorter than 128 bytes."""
    assert number < 16
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def graph_with_tensors_in(name: str) -> bytes:
    pair = message(1, b"location") + message(2, name.encode())
    return message(7, message(5, message(13, pair)))


@pytest.mark.parametrize("name", ["model.onnx_data", "tensors.bin"])
def test_a_graph_of_the_hub_comes_with_the_file_of_its_tensors(
    site: Site, tmp_path: Path, name: str
) -> None:
    folder = save_dense(tmp_path / "tiny")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(graph_with_tensors_in(name))
    (folder / "onnx" / name).write_text("tensors")
    site.publish(MODEL, folder)
    found = locate_model(MODEL, backend="onnx")
    assert (found.path / "onnx" / name).is_file()
    (found.path / "onnx" / name).unlink()
    refusal(lambda: locate_model(MODEL, backend="onnx", offline=True))
    assert locate_model(MODEL, backend="onnx").origin == "hub"
    (folder / "onnx" / name).unlink()
    site.publish(MODEL, folder, commit="c" * 40)
    error = refusal(lambda: locate_model(MODEL, revision="c" * 40, backend="onnx"))
    assert f"lacks onnx/{name}" in error.message
