"""Whether a model needs code of its own, which runs for models trusted by name alone.

`auto_map` in config.json names such code. transformers may have a class for the same
family; it computes the same only where that is known, for `nomic_bert`, which was
taken over from the models' own code, and there by what the model's settings say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..models.facts import own_classes, read_json

_TEXT_TO_IDS = ("AutoTokenizer", "AutoProcessor")  # ids come from tokenizer.json here

_NOMIC_FIXED: Mapping[str, tuple[object, object]] = {
    "activation_function": ("gelu_new", "swiglu"),
    "prenorm": (False, False),
    "parallel_block": (False, False),
    "causal": (False, False),
    "use_rms_norm": (False, False),
    "rotary_emb_fraction": (0.0, 1.0),
    "rotary_emb_interleaved": (False, False),
    "rotary_emb_scale_base": (None, None),
    "rotary_scaling_factor": (None, None),
    "qkv_proj_bias": (True, False),
    "mlp_fc1_bias": (True, False),
    "mlp_fc2_bias": (True, False),
}
"""Settings of the code published with NomicBERT models: what it takes where they are
unsaid, and what transformers' NomicBertModel does, which reads none of them."""

_NOMIC_RENAMED: Mapping[str, str] = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
}
"""Settings of that code, and what transformers calls them; it reads its own alone."""

_NOMIC_BASE = 1000  # of the rotary angles, where rotary_emb_base is unsaid


def check_code(folder: Path, model: str, *, trusted: bool) -> None:
    """Refuse a model that only runs with code of its own, unless it may.

    Raises:
        ModelError: naming the model, with the way to allow it.
    """
    code = _classes_loaded(folder)
    if not code:
        return
    stated = read_json(folder / "config.json")
    same = computes_the_same(stated)
    if trusted:
        _refuse_elsewhere(code, model, same)
    elif not same:
        raise _untrusted(model, str(stated.get("model_type")))


def lacking_code(folder: Path) -> list[str]:
    """Return the files of a model's own code that are not in its folder."""
    modules = {
        place.rpartition(".")[0]
        for place in _classes_loaded(folder).values()
        if "--" not in place
    }
    names = (f"{module.partition('.')[0]}.py" for module in sorted(modules))
    return [name for name in names if not (folder / name).is_file()]


def _classes_loaded(folder: Path) -> dict[str, str]:
    """Return where the code of each class of transformers lies, by config.json."""
    stated = own_classes(folder)
    return {name: at for name, at in stated.items() if name not in _TEXT_TO_IDS}


def computes_the_same(stated: Mapping[str, Any]) -> bool:
    """Say whether transformers' own class is known to do what a model's code does.

    `stated` is what config.json says.
    """
    if stated.get("model_type") != "nomic_bert" or not _is_native("nomic_bert"):
        return False
    if any(
        stated.get(name, unsaid) != wanted
        for name, (unsaid, wanted) in _NOMIC_FIXED.items()
    ):
        return False
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    native: Any = CONFIG_MAPPING["nomic_bert"].from_dict(dict(stated))
    theta = native.rope_parameters["rope_theta"]
    return theta == stated.get("rotary_emb_base", _NOMIC_BASE) and all(
        stated.get(old, getattr(native, new)) == getattr(native, new)
        for old, new in _NOMIC_RENAMED.items()
    )


def _is_native(model_type: str) -> bool:
    """Say whether transformers has this family itself."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _refuse_elsewhere(code: Mapping[str, str], model: str, same: bool) -> None:
    elsewhere = [place for place in code.values() if "--" in place]
    if not elsewhere:
        return
    raise ModelError(
        f"{model} names code of another repository, {elsewhere[0]}, at no commit: "
        "it is not run, trusted or not.",
        cure="Leave the trust out: transformers has this model itself."
        if same
        else "Copy that code into the model's folder and name the folder.",
    )


def _untrusted(model: str, family: str) -> ModelError:
    though = (
        f" transformers has a family {family} too, but that it does the same is not "
        "known."
        if _is_native(family)
        else ""
    )
    return ModelError(
        f"{model} brings code of its own, which is not run.{though}",
        cure="Choose another model; or read that code, and allow it by name: "
        f"--trust-remote-code {model}",
    )
