"""What a model's own small files state: width, window, pooling, prompts. No weights.

The files are those of Hugging Face models, `config.json` and `tokenizer_config.json`,
and of sentence-transformers: `sentence_bert_config.json`, `1_Pooling/config.json`,
`config_sentence_transformers.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ..config import ModelConfig, Pooling
from ..errors import ModelError, ModelMismatch

_CURE = "Give the folder of a model in Hugging Face layout."
_WIDTHS = ("hidden_size", "n_embd", "dim", "d_model")
_WINDOWS = (
    "max_position_embeddings",
    "max_trained_positions",
    "n_positions",
    "max_seq_length",
)
POSITIONS_AFTER_PADDING = ("roberta", "camembert", "xmod", "ibert", "mpnet")
"""Families whose first position is the one after that of the padding."""
_LONGEST = 10**7  # what a tokenizer states when it has no limit is far above
_MODES: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_NAMES: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedFacts:
    """What the files of one model say; None where they do not.

    `prompts` maps a task's name to what stands before its texts.
    """

    model_type: str
    architectures: tuple[str, ...]
    width: int | None
    window: int | None
    pooling: Pooling | None
    prompts: Mapping[str, str]
    default_prompt: str | None
    outputs: int | None

    @property
    def query_prompt(self) -> str:
        """What stands before a query."""
        return self._prompt(_QUERY_PROMPTS)

    @property
    def document_prompt(self) -> str:
        """What stands before a document."""
        return self._prompt(_DOCUMENT_PROMPTS)

    def _prompt(self, names: tuple[str, ...]) -> str:
        for name in (*names, self.default_prompt):
            if name is not None and name in self.prompts:
                return self.prompts[name]
        return ""


def read_facts(folder: Path) -> StatedFacts:
    """Return what the files in a folder state.

    Raises:
        ModelError: one of them cannot be read, or it pools in several ways at once.
    """
    model = read_json(folder / "config.json")
    sentence = read_json(folder / "config_sentence_transformers.json", optional=True)
    return StatedFacts(
        model_type=str(model.get("model_type", "")),
        architectures=tuple(map(str, model.get("architectures") or ())),
        width=_first_count(model, _WIDTHS),
        window=_window(folder, model),
        pooling=stated_pooling(folder),
        prompts=_texts(sentence.get("prompts")),
        default_prompt=sentence.get("default_prompt_name"),
        outputs=_outputs(model),
    )


def own_classes(folder: Path) -> dict[str, str]:
    """Return which class of transformers the model brings itself, and where it lies.

    Raises:
        ModelError: config.json cannot be read.
    """
    stated = read_json(folder / "config.json", optional=True)
    return _texts(stated.get("auto_map"))


def stated_pooling(folder: Path) -> Pooling | None:
    """Return how the model's states are pooled, None where its files do not say.

    Raises:
        ModelError: in a way that is not done here, or in several at once.
    """
    stated = read_json(folder / "1_Pooling" / "config.json", optional=True)
    if not stated:
        return None
    named = stated.get("pooling_mode")
    wanted = (
        {named} if isinstance(named, str) else {k for k in stated if _on(stated, k)}
    )
    known = {**_MODES, **_NAMES}
    if len(wanted) != 1 or not wanted <= known.keys():
        raise ModelError(
            f"{folder / '1_Pooling' / 'config.json'} asks for the pooling "
            f"{', '.join(sorted(wanted)) or 'of none'}, which is not done here.",
            cure=f"Choose a model with one of {', '.join(_NAMES)}.",
        )
    return known[wanted.pop()]


def check_prompts(folder: Path, config: ModelConfig) -> None:
    """Refuse a model whose files state other prompts than `config`.

    Files that state none, or prompts for other tasks alone, are compared as far as
    they go: a prompt of `config` has to be among them.

    Raises:
        ModelMismatch: naming both.
    """
    if not (folder / "config.json").is_file():
        return
    facts = read_facts(folder)
    if not any(facts.prompts.values()):
        return
    for role, asked, stated, names in (
        ("query", config.query_prefix, facts.query_prompt, _QUERY_PROMPTS),
        ("document", config.document_prefix, facts.document_prompt, _DOCUMENT_PROMPTS),
    ):
        told = facts.default_prompt or any(name in facts.prompts for name in names)
        fits = asked == stated if told else asked in ("", *facts.prompts.values())
        if not fits:
            raise ModelMismatch(
                f"Model {config.name} has the {role} prompt {asked!r} in the registry; "
                f"its files state {stated if told else dict(facts.prompts)!r}.",
                cure="Fetch the revision that the registry pins, or name the model's "
                "folder, whose own prompts are taken then.",
            )


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one where it may be absent and is.

    Raises:
        ModelError: it cannot be read or is no object.
    """
    if optional and not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or error
        raise ModelError(f"Cannot read {path}: {why}.", cure=_CURE) from error
    except ValueError as error:
        raise ModelError(f"{path} is no JSON in UTF-8.", cure=_CURE) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object.", cure=_CURE)
    return content


def is_count(value: object) -> TypeGuard[int]:
    """Say whether a value is a whole number above zero."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _first_count(stated: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((stated[n] for n in names if is_count(stated.get(n))), None)


def _window(folder: Path, model: Mapping[str, Any]) -> int | None:
    """Return the stated limit, but never more than there are positions."""
    sentence = read_json(folder / "sentence_bert_config.json", optional=True)
    tokenizer = read_json(folder / "tokenizer_config.json", optional=True)
    limits = [sentence.get("max_seq_length"), _positions(model)]
    if not is_count(limits[0]):
        limits.append(tokenizer.get("model_max_length"))
    found = [limit for limit in limits if is_count(limit) and limit < _LONGEST]
    return min(found, default=None)


def _positions(model: Mapping[str, Any]) -> int | None:
    found = _first_count(model, _WINDOWS)
    family = str(model.get("model_type", ""))
    if found is None or not any(name in family for name in POSITIONS_AFTER_PADDING):
        return found
    padding = model.get("pad_token_id")
    return found - (padding if is_count(padding) else 0) - 1


def _on(stated: Mapping[str, Any], key: str) -> bool:
    return key.startswith("pooling_mode_") and stated[key] is True


def _texts(found: object) -> dict[str, str]:
    """Return the entries of a table that are texts; classes come in lists too."""
    if not isinstance(found, dict):
        return {}
    flat = {
        str(key): next((part for part in value if part), None)
        if isinstance(value, list | tuple)
        else value
        for key, value in found.items()
    }
    return {key: value for key, value in flat.items() if isinstance(value, str)}


def _outputs(model: Mapping[str, Any]) -> int | None:
    labels = model.get("id2label")
    if isinstance(labels, dict):
        return len(labels)
    stated = model.get("num_labels")
    return stated if is_count(stated) else None
