"""An exported graph gives torch's vectors, and is checked as weights are."""

from __future__ import annotations

import importlib
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_parts import save_family, some_texts
from torch.onnx._internal.torchscript_exporter import onnx_proto_utils
from transformers import AutoModel

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.onnx_files import tensor_files
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.errors import (
    MissingExtra,
    ModelError,
    ModelMismatch,
    ModelNotAvailable,
    UsageError,
)
from processor.ultimate_embedder.models.manager import ModelManager

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
OUTPUT = "last_hidden_state"


class HiddenStates(torch.nn.Module):
    """An encoder with the inputs and the output of a published graph."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, mask: Any, kinds: Any) -> Any:
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds)[0]


def export(source: Path, target: Path) -> None:
    """Write model.onnx of the BERT-like model in a folder."""
    model = AutoModel.from_pretrained(
        source, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids = torch.ones((2, 8), dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It looks for functions of onnxscript in the finished bytes; there are none.
        patch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda proto, _: proto)
        torch.onnx.export(
            HiddenStates(model),
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            str(target / "model.onnx"),
            dynamo=False,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in (*INPUTS, OUTPUT)},
            opset_version=17,
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A tiny BERT beside its graph."""
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    folder = tmp_path_factory.mktemp("onnx")
    config = save_family(folder, "bert")
    export(folder, folder)
    return replace(config, backend="onnx")


def test_the_embedded_model_as_a_graph_gives_torchs_vectors(
    minilm: ModelConfig,
    manager: ModelManager,
    tokenizer: HubTokenizer,
    fitting: list[str],
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    export(manager.locate(minilm).path, tmp_path)
    config = replace(minilm, hf_model_id=str(tmp_path), package=None, backend="onnx")
    ids = tokenizer.encode(fitting[:24], "document").ids
    with manager.resident(config) as graph:
        found = graph.encode(ids)
    with manager.resident(minilm, dtype="float32") as encoder:
        np.testing.assert_allclose(found, encoder.encode(ids), atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_graph_gives_the_vectors_of_its_weights(
    exported: ModelConfig, pooling: Any
) -> None:
    config = replace(exported, pooling=pooling)
    ids = list(ModelManager().tokenizer(config).encode(some_texts(12), "document").ids)
    with ModelManager().resident(config) as graph:
        found = graph.encode(ids)
        alone = np.concatenate([graph.encode([row]) for row in reversed(ids)])
    torch_config = replace(config, backend="pytorch")
    with ModelManager().resident(torch_config, dtype="float32") as encoder:
        np.testing.assert_allclose(found, encoder.encode(ids), atol=1e-4)
    assert found.tobytes() == alone[::-1].tobytes()


def test_a_graph_of_another_width_is_refused(exported: ModelConfig) -> None:
    with pytest.raises(ModelMismatch, match="32-d vectors; the registry says 384"):
        ModelManager().resident(replace(exported, vector_dim=384)).__enter__()


def test_a_graph_with_fewer_positions_is_refused(exported: ModelConfig) -> None:
    with pytest.raises(ModelMismatch, match="has 80 positions"):
        ModelManager().resident(replace(exported, max_tokens=81)).__enter__()


def test_a_damaged_or_missing_graph_is_one_clear_line(
    exported: ModelConfig, tmp_path: Path
) -> None:
    config = ModelConfig("g", str(tmp_path), 32, 80, backend="onnx")
    with pytest.raises(ModelNotAvailable, match=r"lacks model\.onnx"):
        ModelManager().resident(config).__enter__()
    whole = Path(exported.hf_model_id, "model.onnx").read_bytes()
    for damaged in (b"not a graph", whole[: len(whole) // 2]):
        (tmp_path / "model.onnx").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.onnx is no ONNX graph") as caught:
            ModelManager().resident(config).__enter__()
        assert "\n" not in str(caught.value)
    (tmp_path / "model.onnx").write_bytes(b"")  # a message without a graph
    with pytest.raises(ModelError, match="g cannot be loaded") as caught:
        ModelManager().resident(config).__enter__()
    assert "\n" not in str(caught.value)


def keep_tensors_beside(graph: Path, target: Path, name: str) -> None:
    """Write a graph again, with ONNX Runtime, its tensors in another file."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(target / "model.onnx")
    place = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(f"{place}file_name", name)
    options.add_session_config_entry(f"{place}min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(str(graph), options)


@pytest.mark.parametrize("name", ["model.onnx_data", "tensors.bin"])
def test_a_graph_is_whole_with_the_file_that_its_tensors_lie_in(
    exported: ModelConfig, tmp_path: Path, name: str
) -> None:
    source = Path(exported.hf_model_id)
    assert tensor_files(source / "model.onnx") == ()
    keep_tensors_beside(source / "model.onnx", tmp_path, name)
    shutil.copy(source / "tokenizer.json", tmp_path)
    assert tensor_files(tmp_path / "model.onnx") == (name,)
    config = replace(exported, hf_model_id=str(tmp_path))
    ids = ModelManager().tokenizer(config).encode(some_texts(6), "document").ids
    with ModelManager().resident(exported) as graph:
        expected = graph.encode(ids)
    with ModelManager().resident(config) as graph:
        assert graph.encode(ids).tobytes() == expected.tobytes()
    (tmp_path / name).unlink()
    with pytest.raises(ModelNotAvailable, match=f"lacks {name}"):
        ModelManager().resident(config).__enter__()


def test_tensors_that_lie_elsewhere_are_refused(
    exported: ModelConfig, tmp_path: Path
) -> None:
    keep_tensors_beside(Path(exported.hf_model_id, "model.onnx"), tmp_path, "abcdef")
    graph = tmp_path / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"abcdef", b"../abc"))
    with pytest.raises(ModelError, match=r"'\.\./abc', which is not beside it"):
        tensor_files(graph)


def test_a_graph_gives_no_attention_and_runs_on_no_card(exported: ModelConfig) -> None:
    with ModelManager().resident(exported) as graph:
        encoder: AttentionEncoder = graph
        with pytest.raises(ModelError, match="gives no attention"):
            encoder.encode_with_attention([])
    with pytest.raises(UsageError, match="runs on the CPU alone, not on cuda:0"):
        ModelManager().resident(exported, device="cuda:0", dtype="float16").__enter__()


def test_without_onnx_runtime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    config = ModelConfig("g", str(tmp_path), 32, 80, backend="onnx")
    with pytest.raises(MissingExtra, match=r"pip install '\.\[onnx\]'"):
        ModelManager().resident(config).__enter__()
