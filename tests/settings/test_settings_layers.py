"""Which layer decides a setting, and what is said when one is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processor.ultimate_embedder.config import GIB, RerankingConfig
from processor.ultimate_embedder.errors import UnknownModel, UsageError
from processor.ultimate_embedder.retrieval.fusion import FusionConfig
from processor.ultimate_embedder.setting_table import SETTINGS
from processor.ultimate_embedder.settings import (
    Preset,
    Settings,
    in_notebook,
    resolve,
)


def settled(
    directory: Path,
    command_line: Mapping[str, tuple[object, str]] | None = None,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Settings:
    options.setdefault("kaggle_root", directory / "no-kaggle")
    return resolve(
        command_line or {},
        directory=directory,
        environment=environment or {},
        **options,
    )


def origin(settings: Settings, key: str) -> tuple[str, str, str]:
    (found,) = [entry for entry in settings.pipeline.provenance if entry.key == key]
    return found.value, found.layer, found.source


def write(directory: Path, name: str, content: str) -> Path:
    path = directory / name
    path.write_text(content, encoding="utf-8")
    return path


def kaggle_folders(root: Path) -> Path:
    (root / "input").mkdir(parents=True)
    (root / "working").mkdir()
    return root


def test_without_any_layer_the_embedded_profile_decides(tmp_path: Path) -> None:
    pipeline = settled(tmp_path).pipeline
    assert pipeline.profile == "embedded"
    assert [model.name for model in pipeline.dense] == ["all-miniLM-l6"]
    assert [model.name for model in pipeline.sparse] == [
        "qdrant-bm25",
        "qdrant-minilm-attention",
    ]
    assert (pipeline.enable_sparse, pipeline.enable_rerank) == (True, True)
    assert (pipeline.chunked_dir, pipeline.output_dir) == (
        Path("Chunked"),
        Path("Embeddings"),
    )
    assert pipeline.gpu.memory_cap_bytes == 12 * GIB
    assert pipeline.gpu.backend == "cpu"


def test_each_layer_overrides_the_ones_before_it_and_is_named(tmp_path: Path) -> None:
    key = "enable_rerank"
    assert origin(settled(tmp_path), key) == ("true", "default", "built in")
    write(tmp_path, "ultimate-embedder.toml", "# rerank\nenable_rerank = false\n")
    assert origin(settled(tmp_path), key) == (
        "false",
        "config file",
        "ultimate-embedder.toml:2",
    )
    write(tmp_path, ".env", "\n\nEMBEDDER_ENABLE_RERANK=yes\n")
    assert origin(settled(tmp_path), key) == ("true", ".env", ".env:3")
    environment = {"EMBEDDER_ENABLE_RERANK": "0"}
    assert origin(settled(tmp_path, environment=environment), key) == (
        "false",
        "environment",
        "EMBEDDER_ENABLE_RERANK",
    )
    flag = {key: (True, "--enable-rerank")}
    assert origin(settled(tmp_path, flag, environment), key) == (
        "true",
        "command line",
        "--enable-rerank",
    )


def test_every_setting_has_exactly_one_provenance_entry(tmp_path: Path) -> None:
    keys = [entry.key for entry in settled(tmp_path).pipeline.provenance]
    assert keys == list(SETTINGS)


def test_the_bm25_profile_comes_from_any_layer(tmp_path: Path) -> None:
    write(tmp_path, "ultimate-embedder.toml", 'bm25_profile = "fastembed"\n')
    assert settled(tmp_path).pipeline.bm25_profile == "fastembed"
    environment = {"EMBEDDER_BM25_PROFILE": "code"}
    assert settled(tmp_path, environment=environment).pipeline.bm25_profile == "code"


def test_the_five_variables_of_the_contract_are_read(tmp_path: Path) -> None:
    pipeline = settled(
        tmp_path,
        environment={
            "EMBEDDER_ENABLE_RERANK": "no",
            "EMBEDDER_ENABLE_SPARSE": "off",
            "EMBEDDER_SPARSE_MODELS": "splade, qdrant-bm25",
            "EMBEDDER_RERANK_BATCH_CAP": "7",
            "EMBEDDER_PROFILE": "kaggle-t4x2",
        },
    ).pipeline
    assert (pipeline.enable_rerank, pipeline.enable_sparse) == (False, False)
    assert [model.name for model in pipeline.sparse] == ["splade", "qdrant-bm25"]
    assert pipeline.rerank is not None
    assert pipeline.rerank.batch_cap == 7
    assert pipeline.rerank.name == "bge-reranker-v2-m3"
    assert pipeline.profile == "kaggle-t4x2"
    assert pipeline.primary.name == "qwen3-embedding-0.6b"


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), ("ON", True), ("0", False), ("no", False)],
)
def test_hf_hub_offline_means_what_it_means_to_its_library(
    tmp_path: Path, value: str, offline: bool
) -> None:
    settings = settled(tmp_path, environment={"HF_HUB_OFFLINE": value})
    assert settings.pipeline.offline is offline


def test_the_fusion_is_that_of_the_primary_model_unless_one_is_asked_for(
    tmp_path: Path,
) -> None:
    measured = settled(tmp_path).pipeline.active_fusion
    assert str(measured) == "sum(scale=raw, weights=1:0.016)"
    other = settled(tmp_path, {"ensemble_models": (["bge-m3"], "-")}).pipeline
    assert str(other.active_fusion) == "sum(scale=zscore, weights=0.7:0.3)"
    asked = {"fusion": ("rrf(k=10)", "--fusion")}
    assert settled(tmp_path, asked).pipeline.active_fusion == FusionConfig(k=10)
    assert origin(settled(tmp_path, asked), "fusion") == (
        "rrf(k=10)",
        "command line",
        "--fusion",
    )
    write(tmp_path, "ultimate-embedder.toml", "fusion = 'dbsf()'\n")
    assert settled(tmp_path).pipeline.active_fusion == FusionConfig(method="dbsf")
    auto = {"EMBEDDER_FUSION": "auto"}
    assert settled(tmp_path, environment=auto).pipeline.active_fusion == measured


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    settings = settled(tmp_path, environment={"EMBEDDER_ENABLE_RERANK": " "})
    assert origin(settings, "enable_rerank")[1] == "default"


def test_reading_dotenv_leaves_the_environment_alone(tmp_path: Path) -> None:
    write(tmp_path, ".env", "EMBEDDER_PROFILE=embedded\nEMBEDDER_ODD=1\n")
    before = dict(os.environ)
    settled(tmp_path)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("EMBEDDER_ENABLE_RERANK", "maybe", "true"),
        ("EMBEDDER_ENABLE_SPARSE", "2", "false"),
        ("EMBEDDER_RERANK_BATCH_CAP", "0", "1 or more"),
        ("EMBEDDER_RERANK_BATCH_CAP", "many", "whole number"),
        ("EMBEDDER_PROFILE", "kagle", "kaggle-t4x2"),
        ("EMBEDDER_SPARSE_MODELS", "qdrant-bm52", "qdrant-bm25"),
        ("EMBEDDER_BM25_PROFILE", "klingon", "code"),
        ("EMBEDDER_FUSION", "mean()", "rrf(k=60)"),
        ("EMBEDDER_FUSION", "sum(weights=1:2:3)", "dense model and BM25"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere", "http"),
    ],
)
def test_a_bad_value_is_named_with_its_place_and_what_is_allowed(
    tmp_path: Path, variable: str, value: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as from_environment:
        settled(tmp_path, environment={variable: value})
    write(tmp_path, ".env", f"# one\n{variable}={value}\n")
    with pytest.raises(UsageError) as from_file:
        settled(tmp_path)
    for place, caught in ((variable, from_environment), (".env:2", from_file)):
        message = str(caught.value)
        assert place in message
        assert f"'{value}'" in message
        assert allowed in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("enable_sparse = 'perhaps'", ("toml:2: enable_sparse", "'perhaps'", "true")),
        ("jsonl_layout = 'fancy'", ("toml:2", "'fancy'", "qdrant, simple")),
        ("exports = ['npy', 'csv']", ("toml:2", "csv", "npy, jsonl, faiss")),
        ("gpu_memory_cap = -1", ("toml:2", "'-1'", "above 0")),
        ("workers = 1.5", ("toml:2", "1.5", "whole number")),
        ("enable_rerankk = true", ("toml:2", "enable_rerankk", "'enable_rerank'")),
        ("[embed]", ("toml:2", "embed")),
    ],
)
def test_a_bad_line_of_the_config_file_is_named(
    tmp_path: Path, line: str, words: tuple[str, ...]
) -> None:
    write(tmp_path, "ultimate-embedder.toml", f"seed = 3\n{line}\n")
    with pytest.raises(UsageError) as caught:
        settled(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_config_file_that_is_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.toml"):
        settled(tmp_path, config_file=tmp_path / "missing.toml")


def test_a_value_without_quotes_is_answered_with_an_example(tmp_path: Path) -> None:
    write(tmp_path, "ultimate-embedder.toml", "profile = embedded\n")
    with pytest.raises(UsageError) as raised:
        settled(tmp_path)
    assert "line 1" in str(raised.value)
    assert 'Strings need quotes: profile = "embedded".' in str(raised.value)


@pytest.mark.parametrize("name", ["ultimate-embedder.toml", ".env"])
def test_a_file_of_settings_in_another_encoding_is_refused(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"# caf\xe9\n")
    with pytest.raises(UsageError, match="not in UTF-8"):
        settled(tmp_path)


def test_a_config_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "ultimate-embedder.toml", "profile = \n")
    with pytest.raises(UsageError, match=r"ultimate-embedder\.toml.*line 1"):
        settled(tmp_path)


def test_a_dotenv_line_without_a_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ".env", "A=1\n'unclosed=2\n")
    with pytest.raises(UsageError, match=r"\.env:2"):
        settled(tmp_path)


def test_paths_of_the_config_file_start_at_its_folder(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    write(tmp_path / "conf", "mine.toml", "output_dir = 'out'\nbaseline = '/abs'\n")
    pipeline = settled(tmp_path, config_file=tmp_path / "conf" / "mine.toml").pipeline
    assert pipeline.output_dir == tmp_path / "conf" / "out"
    assert pipeline.baseline == Path("/abs")


def test_the_kaggle_folders_choose_profile_and_directories(tmp_path: Path) -> None:
    root = kaggle_folders(tmp_path / "kaggle")
    settings = settled(tmp_path, kaggle_root=root)
    pipeline = settings.pipeline
    assert pipeline.profile == "kaggle-t4x2"
    assert (pipeline.chunked_dir, pipeline.output_dir) == (
        root / "input",
        root / "working",
    )
    assert origin(settings, "profile")[1:] == ("default", "Kaggle folders")
    assert pipeline.gpu.backend == "auto"


def test_half_of_the_kaggle_folders_is_no_kaggle(tmp_path: Path) -> None:
    (tmp_path / "kaggle" / "input").mkdir(parents=True)
    settings = settled(tmp_path, kaggle_root=tmp_path / "kaggle")
    assert settings.pipeline.profile == "embedded"


def test_a_profile_that_is_asked_for_wins_over_kaggle(tmp_path: Path) -> None:
    root = kaggle_folders(tmp_path / "kaggle")
    settings = settled(
        tmp_path, {"profile": ("embedded", "--profile")}, kaggle_root=root
    )
    assert settings.pipeline.primary.name == "all-miniLM-l6"
    assert settings.pipeline.chunked_dir == root / "input"


def test_a_preset_stands_over_the_profile_and_under_everything_else(
    tmp_path: Path,
) -> None:
    preset = Preset(
        name="single",
        values={"ensemble_models": ("nomic-coderank",), "enable_sparse": False},
    )
    settings = settled(tmp_path, preset=preset)
    assert [model.name for model in settings.pipeline.dense] == ["nomic-coderank"]
    assert origin(settings, "enable_sparse") == ("false", "default", "preset single")
    environment = {"EMBEDDER_ENABLE_SPARSE": "1"}
    settings = settled(tmp_path, environment=environment, preset=preset)
    assert settings.pipeline.enable_sparse


@pytest.mark.parametrize(
    ("device", "backend", "devices"),
    [
        ("auto", "auto", ()),
        ("cpu", "cpu", ()),
        ("cuda", "cuda", ()),
        ("cuda:1", "cuda", ("cuda:1",)),
        ("cuda:0, cuda:1", "cuda", ("cuda:0", "cuda:1")),
    ],
)
def test_devices_are_read(
    tmp_path: Path, device: str, backend: str, devices: tuple[str, ...]
) -> None:
    gpu = settled(tmp_path, {"device": (device, "--device")}).pipeline.gpu
    assert (gpu.backend, gpu.devices) == (backend, devices)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu,cuda:0", "cuda,cuda:1", ""])
def test_an_unknown_device_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(UsageError, match=r"--device is .*cuda:0,cuda:1"):
        settled(tmp_path, {"device": (device, "--device")})


def test_the_cap_is_given_in_gib_and_kept_in_bytes(tmp_path: Path) -> None:
    settings = settled(tmp_path, {"gpu_memory_cap": ("1.5", "--gpu-memory-cap")})
    assert settings.pipeline.gpu.memory_cap_bytes == 3 * GIB // 2
    assert origin(settings, "gpu_memory_cap")[0] == "1.5 GiB"


def test_exports_keep_their_fixed_order(tmp_path: Path) -> None:
    pipeline = settled(tmp_path, {"exports": (["faiss,npy"], "--exports")}).pipeline
    assert pipeline.exports == ("npy", "faiss")


def test_an_unknown_model_is_answered_with_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        settled(tmp_path, {"ensemble_models": (["bge-m4"], "--ensemble-models")})
    assert "--ensemble-models" in str(caught.value)
    assert "Did you mean 'bge-m3'?" in str(caught.value)
    assert "all-miniLM-l6" in str(caught.value)


def test_a_misspelt_variable_of_ours_is_remarked(tmp_path: Path) -> None:
    notes = settled(tmp_path, environment={"EMBEDDER_ENABLE_RERANKER": "1"}).notes
    assert len(notes) == 1
    assert "EMBEDDER_ENABLE_RERANKER" in notes[0]
    assert "'EMBEDDER_ENABLE_RERANK'" in notes[0]


def test_a_library_variable_in_dotenv_is_remarked(tmp_path: Path) -> None:
    write(tmp_path, ".env", "HF_HOME=cache\nHF_HUB_OFFLINE=1\n")
    settings = settled(tmp_path)
    assert settings.pipeline.offline
    assert [note.split(" is ")[0] for note in settings.notes] == [".env:1: HF_HOME"]


def test_reporting_is_settled_by_the_same_layers(tmp_path: Path) -> None:
    write(tmp_path, "ultimate-embedder.toml", "log_format = 'json'\n")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    command = {"metrics_port": ("9100", "--metrics-port")}
    reporting = settled(tmp_path, command, environment).reporting
    assert reporting.log_format == "json"
    assert reporting.otlp_endpoint == "http://collector:4318"
    assert reporting.metrics_port == 9100


def test_a_variable_for_traces_alone_wins_over_the_one_for_all_signals(
    tmp_path: Path,
) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4318/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "EMBEDDER_OTLP_FILE": "spans.jsonl",
    }
    reporting = settled(tmp_path, environment=environment).reporting
    assert reporting.otlp_endpoint == "http://traces:4318/v1/traces"
    assert reporting.otlp_protocol == "grpc"
    assert reporting.otlp_file == Path("spans.jsonl")
    command = {"otlp_endpoint": ("http://mine:4318", "--otlp-endpoint")}
    settings = settled(tmp_path, command, environment)
    assert settings.reporting.otlp_endpoint == "http://mine:4318"


def test_a_login_in_the_address_for_spans_is_used_and_not_shown(
    tmp_path: Path,
) -> None:
    address = "http://user:secret@host:4318/token"
    settings = settled(tmp_path, {"otlp_endpoint": (address, "--otlp-endpoint")})
    assert settings.reporting.otlp_endpoint == address
    shown = {entry.key: entry.value for entry in settings.pipeline.provenance}
    assert shown["otlp_endpoint"] == "http://host:4318"
    without = {
        entry.key: entry.value for entry in settled(tmp_path).pipeline.provenance
    }
    assert without["otlp_endpoint"] == "-"


def test_a_refused_address_is_quoted_without_its_login(tmp_path: Path) -> None:
    given = {"otlp_endpoint": ("ftp://user:secret@host:4318", "--otlp-endpoint")}
    with pytest.raises(UsageError, match="ftp://host:4318") as refused:
        settled(tmp_path, given)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["http://[::1", "http://host:99999"])
def test_an_address_that_cannot_be_read_is_refused_by_its_option(
    tmp_path: Path, address: str
) -> None:
    given = {"otlp_endpoint": (address, "--otlp-endpoint")}
    with pytest.raises(UsageError, match=r"--otlp-endpoint is .* such as http://"):
        settled(tmp_path, given)


def test_the_rerank_cap_changes_nothing_else_of_the_model(tmp_path: Path) -> None:
    plain = settled(tmp_path).pipeline.rerank
    capped = settled(
        tmp_path, environment={"EMBEDDER_RERANK_BATCH_CAP": "3"}
    ).pipeline.rerank
    assert isinstance(plain, RerankingConfig)
    assert isinstance(capped, RerankingConfig)
    assert capped.batch_cap == 3
    assert capped.name == plain.name
    assert capped.candidates == plain.candidates


def test_a_jupyter_kernel_is_recognised_by_its_variable() -> None:
    assert in_notebook({"JPY_PARENT_PID": "7"})
    assert not in_notebook({"PATH": "/bin"})


def test_the_example_of_dotenv_shows_the_defaults(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / ".env.example"
    lines = re.findall(r"(?m)^#([A-Z0-9_]+=.*)$", example.read_text(encoding="utf-8"))
    write(tmp_path, ".env", "\n".join(lines))
    settings = settled(tmp_path)
    assert settings.notes == ()
    known = {one.variable for one in SETTINGS.values() if one.variable}
    assert {line.partition("=")[0] for line in lines} == known
    plain = settled(tmp_path / "empty", kaggle_root=tmp_path / "no-kaggle").pipeline
    assert settings.pipeline.offline
    assert replace(settings.pipeline, provenance=()) == replace(plain, provenance=())
