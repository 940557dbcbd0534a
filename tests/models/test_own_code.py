"""Code of a model is refused by name and allowed by name; a family is no proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_parts import Site
from tiny_models import save_dense
from transformers import NomicBertConfig

from processor.ultimate_embedder.encoders.own_code import computes_the_same
from processor.ultimate_embedder.encoders.sources import locate_model
from processor.ultimate_embedder.errors import ModelError

OWN = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}

PUBLISHED = {
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": 3072,
    "layer_norm_epsilon": 1e-12,
    "activation_function": "swiglu",
    "prenorm": False,
    "parallel_block": False,
    "causal": False,
    "use_rms_norm": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "vocab_size": 30528,
}
"""How models of the family that came with code were published."""


def brings(folder: Path, code: dict[str, str] = OWN, **stated: object) -> Path:
    """Make a whole model with code of its own, and say so in its config.json."""
    save_dense(folder)
    (folder / "own.py").write_text("raise AssertionError('it ran')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": code, **stated}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_family_that_nobody_knows_is_refused_naming_the_way_to_allow_it(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/own", brings(tmp_path / "own", model_type="nobody-knows"))
    with pytest.raises(ModelError, match="acme/own brings code") as raised:
        locate_model("acme/own")
    assert "--trust-remote-code acme/own" in (raised.value.cure or "")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("part", ["all", "facts"])
def test_a_family_that_transformers_has_too_is_no_proof_that_it_does_the_same(
    site: Site, tmp_path: Path, part: Any
) -> None:
    """A decoder with a mask of its own, say, under the name of its base."""
    site.publish("acme/both", brings(tmp_path / "both"))  # model_type is bert
    with pytest.raises(ModelError, match=r"family bert too, but .* is not known"):
        locate_model("acme/both", part=part)
    with pytest.raises(ModelError, match="family bert too"):
        locate_model(str(tmp_path / "both"))


def test_code_that_reads_texts_is_not_used_and_not_refused(
    site: Site, tmp_path: Path
) -> None:
    code = {"AutoTokenizer": "own.Tokenizer"}
    site.publish("acme/words", brings(tmp_path / "words", code))
    assert locate_model("acme/words").origin == "hub"


def test_trusted_code_is_fetched_even_where_the_rest_is_cached(
    site: Site, tmp_path: Path
) -> None:
    site.publish("acme/own", brings(tmp_path / "own"))
    with pytest.raises(ModelError):
        locate_model("acme/own")
    found = locate_model("acme/own", trust_remote_code=True)
    assert (found.path / "own.py").is_file()
    assert site.downloads("model.safetensors") == 1
    assert locate_model("acme/own", trust_remote_code=True).origin == "cache"


@pytest.mark.parametrize("family", ["bert", "nobody-knows"])
def test_code_of_another_repository_is_not_run_trusted_or_not(
    site: Site, tmp_path: Path, family: str
) -> None:
    code = {"AutoModel": "acme/elsewhere--own.Model"}
    site.publish("acme/other", brings(tmp_path / "other", code, model_type=family))
    with pytest.raises(ModelError, match="acme/elsewhere--own") as raised:
        locate_model("acme/other", trust_remote_code=True)
    assert "Copy that code" in (raised.value.cure or "")


def test_a_family_taken_over_from_published_code_needs_that_code_no_more(
    tmp_path: Path,
) -> None:
    folder = brings(tmp_path / "nomic")
    (folder / "config.json").write_text(json.dumps(PUBLISHED | {"auto_map": OWN}))
    assert locate_model(str(folder)).origin == "folder"
    code = {"AutoModel": "acme/elsewhere--own.Model"}
    (folder / "config.json").write_text(json.dumps(PUBLISHED | {"auto_map": code}))
    assert locate_model(str(folder)).origin == "folder"
    with pytest.raises(ModelError, match="not run, trusted or not") as raised:
        locate_model(str(folder), trust_remote_code=True)
    assert "Leave the trust out" in (raised.value.cure or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prenorm", True),
        ("causal", True),
        ("rotary_emb_fraction", 0.5),
        ("rotary_emb_base", 10_000),
        ("rotary_scaling_factor", 2),
        ("activation_function", "gelu"),
        ("qkv_proj_bias", True),
        ("n_layer", 6),
        ("n_embd", 512),
        ("layer_norm_epsilon", 1e-5),
    ],
)
def test_a_setting_that_transformers_would_pass_over_is_not_the_same(
    name: str, value: object
) -> None:
    assert computes_the_same(PUBLISHED)
    assert not computes_the_same(PUBLISHED | {name: value})


@pytest.mark.parametrize("name", ["rotary_emb_fraction", "activation_function"])
def test_what_is_unsaid_is_what_the_published_code_takes_then(name: str) -> None:
    unsaid = {key: value for key, value in PUBLISHED.items() if key != name}
    assert not computes_the_same(unsaid)


def test_transformers_reads_none_of_those_settings() -> None:
    """If it learns to, the table of settings has to be read again."""
    fields = {"prenorm", "rotary_emb_base", "rotary_emb_fraction", "n_layer"}
    assert not fields & set(NomicBertConfig.__dataclass_fields__)
    assert not fields & set(NomicBertConfig.attribute_map)
