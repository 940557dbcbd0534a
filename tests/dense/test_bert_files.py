"""BERT-like encoders are read without transformers, to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.bert_files import read_bert
from processor.ultimate_embedder.encoders.dense_torch import TorchDenseEncoder
from processor.ultimate_embedder.encoders.loading import load_encoder
from processor.ultimate_embedder.errors import ModelMismatch

TINY = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 70,
}
FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (BertModel, BertConfig),
    "roberta": (RobertaModel, RobertaConfig),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig),
}
CONFIG = ModelConfig(name="tiny", hf_model_id="tiny", vector_dim=32, max_tokens=64)


def _saved(folder: Path, family: str = "bert", **options: Any) -> Path:
    torch.manual_seed(3)
    model, config = FAMILIES[family]
    model(config(**{**TINY, **options})).save_pretrained(folder)
    return folder


def _change(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_weights_that_transformers_loaded(
    tmp_path: Path, family: str, dtype: str
) -> None:
    folder = _saved(tmp_path, family)
    assert read_bert(folder, dtype) is not None
    plain = TorchDenseEncoder.load(folder, CONFIG, device="cpu", dtype=dtype)
    theirs = TorchDenseEncoder(
        load_encoder(folder, CONFIG, device="cpu", dtype=dtype),
        CONFIG,
        device="cpu",
        dtype=dtype,
    )
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 120, n).astype(np.uint32) for n in (1, 7, 16, 64)]
    assert plain.encode(ids).tobytes() == theirs.encode(ids).tobytes()


def test_names_may_begin_with_the_family(tmp_path: Path) -> None:
    file = _saved(tmp_path) / "model.safetensors"
    state = {f"bert.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})
    assert read_bert(tmp_path, "float32") is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoModel": "code.Model"}},
        {"quantization_config": {"bits": 4}},
        {"is_decoder": True},
        {"hidden_act": "relu"},
        {"position_embedding_type": "relative_key"},
        {"model_type": "electra"},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_is_not_plain_is_left_to_transformers(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    _change(_saved(tmp_path), **settings)
    assert read_bert(tmp_path, "float32") is None


def test_parameters_beside_those_of_the_family_are_left_to_transformers(
    tmp_path: Path,
) -> None:
    BertForMaskedLM(BertConfig(**TINY)).save_pretrained(tmp_path)
    assert read_bert(tmp_path, "float32") is None


def test_files_that_are_missing_or_damaged_are_left_to_transformers(
    tmp_path: Path,
) -> None:
    file = _saved(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert read_bert(tmp_path, "float32") is None
    file.unlink()
    assert read_bert(tmp_path, "float32") is None


def test_another_width_than_the_registrys_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path, hidden_size=64)
    with pytest.raises(ModelMismatch, match="64-d vectors; the registry says 32"):
        TorchDenseEncoder.load(tmp_path, CONFIG, device="cpu", dtype="float32")


def test_encoding_with_a_plain_model_imports_no_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from processor.ultimate_embedder.config import ModelConfig\n"
        "from processor.ultimate_embedder.encoders.dense_torch import *\n"
        "config = ModelConfig(name='tiny', hf_model_id='tiny', vector_dim=32, "
        "max_tokens=64)\n"
        "encoder = TorchDenseEncoder.load(Path(sys.argv[1]), config, device='cpu', "
        "dtype='float32')\n"
        "encoder.encode([np.array([5, 6], dtype=np.uint32)])\n"
        "print('transformers' in sys.modules)\n"
    )
    run = [sys.executable, "-c", code, str(_saved(tmp_path))]
    assert subprocess.check_output(run, text=True).strip() == "False"


def test_cores_that_share_out_the_texts_change_no_byte(tmp_path: Path) -> None:
    encoder = TorchDenseEncoder.load(
        _saved(tmp_path), CONFIG, device="cpu", dtype="float32"
    )
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 120, n).astype(np.uint32) for n in range(1, 60, 3)]
    alone = encoder.encode_with_attention(ids)
    encoder.threads = 3
    shared = encoder.encode_with_attention(ids)
    assert shared[0].tobytes() == alone[0].tobytes()
    for found, expected in zip(shared[1], alone[1], strict=True):
        assert found.tobytes() == expected.tobytes()
