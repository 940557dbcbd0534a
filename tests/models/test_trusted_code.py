"""Code that came with a model runs where it is named, and nowhere else."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import save_dense
from transformers import dynamic_module_utils

from processor.ultimate_embedder.errors import ModelError
from processor.ultimate_embedder.models.choice import choose_dense
from processor.ultimate_embedder.models.manager import ModelManager

OWN_CODE = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "of-its-own"

class OwnModel(BertModel):
    config_class = OwnConfig
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedding model of a family that only its own code knows."""
    monkeypatch.setattr(
        dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = save_dense(tmp_path / "own")
    (folder / "own.py").write_text(OWN_CODE)
    stated = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    stated |= {"model_type": "of-its-own", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


def test_code_of_a_model_that_is_not_named_does_not_run(
    folder: Path, tmp_path: Path
) -> None:
    config = choose_dense(str(folder))
    with pytest.raises(ModelError, match="code of its own, which is not run") as raised:
        ModelManager(offline=True).locate(config)
    assert f"--trust-remote-code {folder}" in (raised.value.cure or "")
    assert not (tmp_path / "modules").exists()


def test_code_of_a_model_that_is_named_runs(folder: Path, tmp_path: Path) -> None:
    config = choose_dense(str(folder), trusted=True)
    manager = ModelManager(offline=True)
    ids = manager.tokenizer(config).encode(["word1 word2"], "document").ids
    with manager.resident(config, dtype="float32") as encoder:
        found = encoder.encode(ids)
    assert list((tmp_path / "modules").rglob("own.py"))
    plain = json.loads((folder / "config.json").read_text())
    plain["model_type"] = "bert"
    del plain["auto_map"]
    (folder / "config.json").write_text(json.dumps(plain))
    with ModelManager(offline=True).resident(
        replace(config, trust_remote_code=False), dtype="float32"
    ) as encoder:
        np.testing.assert_allclose(encoder.encode(ids), found, atol=1e-6)
