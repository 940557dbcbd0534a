"""`models check` and `models fetch`, as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_parts import COMMIT, LATER, Site
from tiny_models import save_dense, save_reranker, save_splade

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.models import list_models, show_model
from processor.ultimate_embedder.cli.models_check import check_models
from processor.ultimate_embedder.cli.models_fetch import fetch_models
from processor.ultimate_embedder.config import GIB
from processor.ultimate_embedder.encoders.hub import HuggingFaceHub
from processor.ultimate_embedder.encoders.sources import locate_model
from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.models.lock import read_lock

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Be in a folder without settings, and with an empty cache."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    for name in ("EMBEDDER_PROFILE", "EMBEDDER_MODELS_LOCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def published(site: Site, tmp_path: Path) -> Site:
    site.publish("acme/tiny", save_dense(tmp_path / "tiny"))
    return site


def checked(capsys: Captured, *typed: str) -> tuple[int, dict[str, Any]]:
    code = run_function(check_models, [*typed, "--json"])
    document = json.loads(capsys.readouterr().out)
    return code, {model["key"]: model for model in document["models"]}


def test_the_default_profile_is_all_here_and_fits(capsys: Captured) -> None:
    code, models = checked(capsys)
    assert code == 0
    assert {key: model["place"] for key, model in models.items()} == {
        "all-miniLM-l6": "package",
        "qdrant-bm25": "none needed",
        "qdrant-minilm-attention": "package",
        "residual-minilm-l6": "package",
    }
    dense = models["all-miniLM-l6"]
    assert dense["bytes_here"] > 90 * 10**6
    assert (dense["memory"]["from"], dense["memory"]["batch"]) == ("files", 256)


def test_what_is_missing_is_told_with_the_registrys_size(capsys: Captured) -> None:
    code, models = checked(capsys, "--profile", "kaggle-t4x2")
    assert code == 1
    qwen = models["qwen3-embedding-0.6b"]
    assert (qwen["place"], qwen["ready"]) == ("missing", False)
    assert qwen["bytes_to_fetch"] == 595_776_512 * 2
    assert not qwen["bytes_to_fetch_exact"]
    assert qwen["memory"]["fits"]
    assert qwen["memory"]["from"] == "registry"
    assert models["bge-m3"]["pinned"] is False


def test_a_model_that_is_too_large_is_told_with_its_figure(capsys: Captured) -> None:
    assert run_function(check_models, ["nomic-embed-code"]) == 1
    out = capsys.readouterr().out
    assert "too large" in out
    assert "GiB in 16 bits, more than the cap of 12 GiB leaves" in out
    _, models = checked(capsys, "nomic-embed-code", "--gpu-memory-cap", "24")
    assert models["nomic-embed-code"]["memory"]["fits"]


def test_a_smaller_cap_gives_smaller_batches(capsys: Captured) -> None:
    def batch(cap: str) -> int:
        typed = ("jina-code-embeddings-1.5b", "--gpu-memory-cap", cap)
        found: int = checked(capsys, *typed)[1][typed[0]]["memory"]["batch"]
        return found

    assert batch("3") == 0 < batch("5") < batch("12")


def test_what_is_not_known_is_said_to_be_unknown(capsys: Captured) -> None:
    code, models = checked(capsys, "acme/tiny")
    assert code == 1
    assert models["acme/tiny"]["bytes_to_fetch"] is None
    assert models["acme/tiny"]["memory"] is None
    run_function(check_models, ["acme/tiny"])
    out = capsys.readouterr().out
    assert out.count("unknown") >= 2
    assert "1 to fetch with 'models fetch': 0.00 GiB and 1 of unknown size" in out


def test_no_connection_is_opened_unless_asked(
    published: Site, capsys: Captured
) -> None:
    checked(capsys, "acme/tiny", "bge-m3")
    assert published.asked == []
    _, models = checked(capsys, "acme/tiny", "--online")
    sizes = published.files["acme/tiny", COMMIT]
    assert models["acme/tiny"]["bytes_to_fetch"] == sum(map(len, sizes.values()))
    assert models["acme/tiny"]["bytes_to_fetch_exact"]


def test_a_hub_that_does_not_answer_leaves_the_registrys_size(
    published: Site, capsys: Captured
) -> None:
    assert run_function(check_models, ["nomic-coderank", "--online", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "nomic-coderank: The hub has no public model" in err
    [model] = json.loads(out)["models"]
    assert model["bytes_to_fetch"] == 136_731_648 * 4


def test_a_check_that_reaches_no_hub_does_not_speak_of_fetching(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run_function(check_models, ["nomic-coderank", "--online"]) == 1
    told = "nomic-coderank: The hub tells no sizes: HF_HUB_OFFLINE is set."
    err = capsys.readouterr().err
    assert told in err
    assert "fetch" not in err


def test_a_model_that_is_not_here_is_fetched_by_the_key_of_the_registry(
    published: Site, capsys: Captured
) -> None:
    assert run_function(show_model, ["acme/tiny"]) == 1
    assert "'ultimate-embedder models fetch acme/tiny'" in capsys.readouterr().err
    with pytest.raises(ModelNotAvailable) as raised:
        locate_model("BAAI/bge-m3", revision="refs/pr/130", offline=True)
    cure = raised.value.cure or ""
    assert "'ultimate-embedder models fetch bge-m3'" in cure


def test_a_reranker_of_lists_is_refused_with_the_reason(capsys: Captured) -> None:
    code, models = checked(capsys, "jina-reranker-v3")
    assert code == 1
    assert "whole lists" in models["jina-reranker-v3"]["refused"]
    assert run_function(fetch_models, ["jina-reranker-v3"]) == 1
    assert "whole lists" in capsys.readouterr().err


def test_a_fetch_primes_the_cache_and_keeps_the_commit(
    published: Site, capsys: Captured, hub: HuggingFaceHub
) -> None:
    assert run_function(fetch_models, ["acme/tiny", "qdrant-bm25"]) == 0
    out, err = capsys.readouterr()
    found = locate_model("acme/tiny", offline=True)
    assert (found.revision, found.pinned) == (COMMIT, True)
    assert f"acme/tiny: fetched at {COMMIT}" in out
    assert str(found.path) in out
    assert "qdrant-bm25: needs no files" in out
    assert f"commits: {hub.lock_path}" in out
    assert err == ""
    code, models = checked(capsys, "acme/tiny")
    assert (code, models["acme/tiny"]["commit"]) == (0, COMMIT)
    assert models["acme/tiny"]["memory"]["from"] == "files"


def test_what_was_fetched_once_is_taken_again_until_an_update(
    published: Site, tmp_path: Path, capsys: Captured
) -> None:
    run_function(fetch_models, ["acme/tiny"])
    published.publish("acme/tiny", save_dense(tmp_path / "new"), commit=LATER)
    published.asked.clear()
    assert run_function(fetch_models, ["acme/tiny", "--json"]) == 0
    assert published.asked == []
    assert locate_model("acme/tiny").revision == COMMIT
    capsys.readouterr()
    assert run_function(fetch_models, ["acme/tiny", "--update", "--json"]) == 0
    [model] = json.loads(capsys.readouterr().out)["models"]
    assert (model["commit"], model["origin"]) == (LATER, "hub")
    assert locate_model("acme/tiny", offline=True).revision == LATER


def test_a_project_keeps_its_commits_where_it_says(
    published: Site, tmp_path: Path, hub: HuggingFaceHub, capsys: Captured
) -> None:
    lock = tmp_path / "models.lock.json"
    assert run_function(fetch_models, ["acme/tiny", "--models-lock", str(lock)]) == 0
    assert read_lock(lock).pinned("acme/tiny", None) == COMMIT
    assert not hub.lock_path.exists()
    assert not locate_model("acme/tiny", offline=True).pinned


def test_one_that_cannot_be_had_leaves_the_others_fetched(
    published: Site, tmp_path: Path, capsys: Captured
) -> None:
    published.publish("acme/wordy", save_splade(tmp_path / "wordy"))
    typed = ["acme/tiny", "acme/nowhere", "acme/wordy"]
    capsys.readouterr()  # what saving a model shows
    assert run_function(fetch_models, [*typed, "--json"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [model["key"] for model in document["models"]] == [typed[0], typed[2]]
    [failed] = document["failed"]
    assert failed["key"] == "acme/nowhere"
    assert json.loads(err)["message"].startswith("acme/nowhere: The hub has no public")


@pytest.mark.parametrize(
    "typed", [[], ["no-such-key"], ["--profile", "huge"], ["bge-m4"]]
)
def test_what_stands_for_no_model_is_bad_usage(
    typed: list[str], capsys: Captured
) -> None:
    assert run_function(fetch_models, typed) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_cap_that_is_no_number_is_bad_usage(capsys: Captured) -> None:
    assert run_function(check_models, ["--gpu-memory-cap", "much"]) == 2
    assert "--gpu-memory-cap is 'much'" in capsys.readouterr().err


def test_the_list_says_where_files_are(published: Site, capsys: Captured) -> None:
    assert run_function(list_models, ["--json"]) == 0
    places = {m["key"]: m["files"] for m in json.loads(capsys.readouterr().out)}
    assert places["all-miniLM-l6"] == "package"
    assert places["bge-m3"] == "missing"
    assert places["qdrant-bm25"] == "none needed"


def test_a_model_is_shown_with_its_commit_and_place(
    site: Site, tmp_path: Path, capsys: Captured
) -> None:
    folder = save_dense(tmp_path / "m3")
    site.publish("BAAI/bge-m3", folder, reference="refs/pr/130")
    assert run_function(fetch_models, ["bge-m3"]) == 0
    capsys.readouterr()
    assert run_function(show_model, ["bge-m3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["files"], shown["commit"]) == ("cache", COMMIT)
    assert Path(shown["path"]).is_dir()
    assert shown["revision"] == "refs/pr/130"


def test_the_figures_of_a_cap_are_in_bytes(capsys: Captured) -> None:
    run_function(check_models, ["--gpu-memory-cap", "8", "--json"])
    assert json.loads(capsys.readouterr().out)["gpu_memory_cap_bytes"] == 8 * GIB


def test_a_model_that_the_registry_has_not_is_shown_by_its_own_files(
    published: Site, tmp_path: Path, capsys: Captured
) -> None:
    assert run_function(show_model, ["acme/tiny", "--json"]) == 1
    assert "models fetch acme/tiny" in capsys.readouterr().err
    assert run_function(fetch_models, ["acme/tiny"]) == 0
    capsys.readouterr()
    wordy, judge = tmp_path / "wordy", tmp_path / "judge"
    save_splade(wordy)
    save_reranker(judge)
    for typed, kind, place in (
        ("acme/tiny", "dense", "cache"),
        (str(tmp_path / "tiny"), "dense", "folder"),
        (str(wordy), "sparse", "folder"),
        (str(judge), "rerank", "folder"),
    ):
        assert run_function(show_model, [typed, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["kind"], shown["files"]) == (kind, place)
        if kind == "dense":
            assert (shown["key"], shown["pooling"]) == ("tiny", "cls")


def test_a_model_without_a_window_shows_none(capsys: Captured) -> None:
    assert run_function(list_models, []) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if "qdrant-bm25" in x]
    assert line.split()[1:4] == ["sparse", "-", "-"]
