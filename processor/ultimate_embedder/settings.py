"""The settings of a run, and which layer decided each.

Five layers, a later one wins: built-in defaults (of the profile, and of the machine
where it is a Kaggle notebook), the config file, `.env`, the environment, the command
line. This is the only reader of the environment; it changes nothing in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .config import (
    ALL_EXPORTS,
    DEFAULT_GPU_MEMORY_CAP_BYTES,
    KaggleGPUConfig,
    PipelineConfig,
    Provenance,
)
from .models.catalogue import profile as find_profile
from .models.choice import choose_dense, choose_rerank, choose_sparse
from .models.roster import Chooser, Model, Roster
from .setting_layers import (
    DEFAULT_LAYER,
    ENVIRONMENT_LAYER,
    KAGGLE_VARIABLE,
    Decision,
    command_layer,
    dotenv_layer,
    file_layer,
    own_but_unknown,
    variable_layer,
)
from .setting_table import SETTINGS

KAGGLE_ROOT = Path("/kaggle")

_MACHINE_FREE_DEFAULTS: Mapping[str, object] = {
    "collections": (),
    "enable_rerank": True,
    "enable_sparse": True,
    "rerank_batch_cap": None,
    "rerank_fallback": None,
    "trust_remote_code": (),
    "models_lock": None,
    "rerank_timeout": None,
    "queries": None,
    "probes": True,
    "sparse_device": "cpu",
    "gpu_memory_cap": DEFAULT_GPU_MEMORY_CAP_BYTES,
    "gpu_wait": 0.0,
    "workers": 0,
    "jsonl_layout": "qdrant",
    "exports": ALL_EXPORTS,
    "bm25_profile": "qdrant-word",
    "long_texts": "windows",
    "fusion": None,
    "baseline": None,
    "resume": True,
    "redact_queries": False,
    "skip_failed_models": False,
    "seed": 0,
    "log_format": None,
    "log_level": "info",
    "metrics_port": None,
    "metrics_textfile": None,
    "otlp_endpoint": None,
    "otlp_protocol": None,
    "otlp_file": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportingConfig:
    """How a run tells what it does. `log_format` None: rich on a terminal."""

    log_format: str | None = None
    log_level: str = "info"
    metrics_port: int | None = None
    metrics_textfile: Path | None = None
    otlp_endpoint: str | None = None
    otlp_protocol: str | None = None
    otlp_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Defaults of a command that stand above those of the profile.

    `unless_profile` are those that give way to a profile that was asked for.
    """

    name: str
    values: Mapping[str, object]
    unless_profile: Mapping[str, object] = field(default_factory=dict)

    def defaults(self, *, profile_given: bool) -> Mapping[str, object]:
        """Return the values that stand above those of the profile."""
        return {**self.values, **({} if profile_given else self.unless_profile)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run was told. `notes` are one-line remarks for the operator."""

    pipeline: PipelineConfig
    reporting: ReportingConfig
    notes: tuple[str, ...] = ()


def resolve(
    command_line: Mapping[str, tuple[object, str]],
    *,
    config_file: Path | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    kaggle_root: Path | None = None,
    preset: Preset | None = None,
) -> Settings:
    """Return the settings of a run.

    `command_line` maps a key to its value and the option that gave it. The config file
    and `.env` are looked for in `directory`, the current one unless told. `kaggle_root`
    is that of `EMBEDDER_KAGGLE_ROOT`, else `/kaggle`, unless told. Raises
    `UsageError` naming the place, the value and what is allowed there.
    """
    decisions, notes = decide(
        command_line,
        config_file=config_file,
        directory=directory,
        environment=environment,
        kaggle_root=kaggle_root,
        preset=preset,
    )
    return Settings(
        pipeline=_pipeline(decisions), reporting=_reporting(decisions), notes=notes
    )


def decide(
    command_line: Mapping[str, tuple[object, str]],
    *,
    config_file: Path | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    kaggle_root: Path | None = None,
    preset: Preset | None = None,
) -> tuple[dict[str, Decision], tuple[str, ...]]:
    """Return the decision for each key, and remarks; see `resolve`."""
    here = directory if directory is not None else Path.cwd()
    variables = environment if environment is not None else os.environ
    dotenv, dotenv_notes = dotenv_layer(here / ".env")
    given: dict[str, Decision] = {
        **file_layer(here, config_file),
        **dotenv,
        **variable_layer(variables, ENVIRONMENT_LAYER, {}),
        **command_layer(command_line),
    }
    root = kaggle_root if kaggle_root is not None else kaggle_folder(variables)
    defaults = _defaults(given.get("profile"), root, preset)
    notes = (*dotenv_notes, *own_but_unknown(variables, "the environment"))
    return {**defaults, **given}, notes


def kaggle_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder whose `input` holds data sets and whose `working` is kept."""
    variables = environment if environment is not None else os.environ
    return Path(variables.get(KAGGLE_VARIABLE) or KAGGLE_ROOT)


def on_kaggle(root: Path) -> bool:
    """Say whether this is a Kaggle notebook: both of its folders exist."""
    return (root / "input").is_dir() and (root / "working").is_dir()


def in_notebook(environment: Mapping[str, str] | None = None) -> bool:
    """Say whether a Jupyter kernel started this process.

    A notebook's `!command` gives the process a terminal of its own, which nobody sees:
    what is written there should hold no control characters.
    """
    variables = environment if environment is not None else os.environ
    return "JPY_PARENT_PID" in variables


def _defaults(
    profile: Decision | None, kaggle_root: Path, preset: Preset | None
) -> dict[str, Decision]:
    kaggle = on_kaggle(kaggle_root)
    machine = "Kaggle folders" if kaggle else "built in"
    default_profile = "kaggle-t4x2" if kaggle else "embedded"
    chosen = find_profile(profile.value if profile else default_profile)
    by_machine: dict[str, object] = {
        "profile": default_profile,
        "chunked_dir": kaggle_root / "input" if kaggle else Path("Chunked"),
        "output_dir": kaggle_root / "working" if kaggle else Path("Embeddings"),
    }
    by_profile: dict[str, object] = {
        "ensemble_models": chosen.dense,
        "sparse_models": chosen.sparse,
        "rerank_model": chosen.rerank,
        "device": chosen.device,
        "offline": chosen.offline,
    }
    if chosen.gpu_memory_cap_bytes is not None:
        by_profile["gpu_memory_cap"] = chosen.gpu_memory_cap_bytes
    by_preset = preset.defaults(profile_given=profile is not None) if preset else {}
    layers: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("built in", _MACHINE_FREE_DEFAULTS),
        (machine, by_machine),
        (f"profile {chosen.name}", by_profile),
        (f"preset {preset.name}" if preset else "", by_preset),
    )
    return {
        key: Decision(value, DEFAULT_LAYER, source)
        for source, values in layers
        for key, value in values.items()
    }


def _pipeline(decisions: Mapping[str, Decision]) -> PipelineConfig:
    value = {key: decision.value for key, decision in decisions.items()}
    roster = Roster(
        offline=value["offline"],
        trusted=value["trust_remote_code"],
        lock=value["models_lock"],
    )
    dense = _choose(roster, choose_dense, decisions["ensemble_models"])
    sparse = _choose(roster, choose_sparse, decisions["sparse_models"])
    (rerank,) = _choose(roster, choose_rerank, decisions["rerank_model"])
    if value["rerank_batch_cap"] is not None:
        rerank = replace(rerank, batch_cap=value["rerank_batch_cap"])
    if value["rerank_fallback"] is not None:
        _choose(roster, choose_rerank, decisions["rerank_fallback"])
        rerank = replace(rerank, fallback=value["rerank_fallback"])
    roster.require_trust_used(decisions["trust_remote_code"].source)
    same_name = value.keys() & {field.name for field in fields(PipelineConfig)}
    return PipelineConfig(
        **{key: value[key] for key in same_name},
        dense=dense,
        sparse=sparse,
        rerank=rerank,
        gpu=_gpu(value),
        rerank_timeout_seconds=value["rerank_timeout"],
        provenance=_provenance(decisions),
    )


def _choose(
    roster: Roster, chooser: Chooser[Model], decision: Decision
) -> tuple[Model, ...]:
    names = decision.value if isinstance(decision.value, tuple) else (decision.value,)
    return roster.choose(chooser, names, decision.source)


def _gpu(value: Mapping[str, Any]) -> KaggleGPUConfig:
    device: str = value["device"]
    return KaggleGPUConfig(
        backend=device.partition(":")[0],
        devices=tuple(device.split(",")) if ":" in device else (),
        memory_cap_bytes=value["gpu_memory_cap"],
        wait_seconds=value["gpu_wait"],
        workers=value["workers"],
    )


def _reporting(decisions: Mapping[str, Decision]) -> ReportingConfig:
    keys = [field.name for field in fields(ReportingConfig)]
    return ReportingConfig(**{key: decisions[key].value for key in keys})


def _provenance(decisions: Mapping[str, Decision]) -> tuple[Provenance, ...]:
    return tuple(
        Provenance(
            key=key,
            value=setting.show(decisions[key].value),
            source=decisions[key].source,
            layer=decisions[key].layer,
        )
        for key, setting in SETTINGS.items()
    )
