"""The run header: what will be done, and which layer decided each toggle."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import LongTexts, PipelineConfig, Provenance
from ..disk_space import gib
from .output import Sheet

_LONG_TEXTS: Mapping[LongTexts, str] = {
    "windows": "embedded in windows of the model",
    "cut": "cut off at the model's window",
}
_LIBRARIES_A_ROW = 3


def header_sheet(config: PipelineConfig, versions: Mapping[str, str]) -> Sheet:
    """Return the header of a run as a table of names and values."""
    said = {entry.key: entry for entry in config.provenance}
    rows = [
        ("profile", config.profile, _by(said, "profile")),
        ("input", str(config.chunked_dir), _by(said, "chunked_dir")),
        ("output", str(config.output_dir), _by(said, "output_dir")),
        ("collections", _collections(config), _by(said, "collections")),
        ("dense", _dense(config), _by(said, "ensemble_models")),
        ("long texts", _LONG_TEXTS[config.long_texts], _by(said, "long_texts")),
        ("sparse", _sparse(config), _sparse_by(config, said)),
        ("fusion", _fusion(config), _by(said, "fusion")),
        ("rerank", _rerank(config), _rerank_by(config, said)),
        ("queries", _queries(config), _by(said, "queries", "probes")),
        ("device", _device(config), _by(said, "device", "workers")),
        (
            "GPU memory cap",
            f"{gib(config.gpu.memory_cap_bytes)} per GPU",
            _by(said, "gpu_memory_cap"),
        ),
        ("exports", _exports(config), _by(said, "exports", "jsonl_layout")),
        ("mode", _mode(config), _by(said, "resume", "offline")),
        *_libraries(versions),
    ]
    return Sheet(
        title="Ultimate Embedder", columns=("", "value", "decided by"), rows=tuple(rows)
    )


def _libraries(versions: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return rows of a few each: one of all would make the whole table wide."""
    named = [f"{name} {version}" for name, version in versions.items()]
    starts = range(0, len(named), _LIBRARIES_A_ROW)
    parts = [", ".join(named[start : start + _LIBRARIES_A_ROW]) for start in starts]
    return [("" if row else "libraries", part, "") for row, part in enumerate(parts)]


def _by(said: Mapping[str, Provenance], *keys: str) -> str:
    """Return the layers of `keys`: of the first alone while the rest are built in."""
    entries = [said[key] for key in keys if key in said]
    entries = entries[:1] + [e for e in entries[1:] if not _is_plain_default(e)]
    texts = [
        entry.layer if entry.source == entry.layer else f"{entry.layer}: {entry.source}"
        for entry in entries
    ]
    return ", ".join(dict.fromkeys(texts))


def _is_plain_default(entry: Provenance) -> bool:
    return entry.layer == "default" and not entry.source.startswith("preset ")


def _sparse_by(config: PipelineConfig, said: Mapping[str, Provenance]) -> str:
    models = ("sparse_models",) if config.enable_sparse else ()
    return _by(said, "enable_sparse", *models)


def _rerank_by(config: PipelineConfig, said: Mapping[str, Provenance]) -> str:
    models = ("rerank_model", "rerank_batch_cap") if config.enable_rerank else ()
    return _by(said, "enable_rerank", *models)


def _collections(config: PipelineConfig) -> str:
    return ", ".join(config.collections) if config.collections else "all that are found"


def _dense(config: PipelineConfig) -> str:
    """Name the models in the order of their passes: one at a time."""
    models = [
        f"{model.name} ({model.vector_dim}-d, {model.max_tokens} tokens)"
        for model in config.dense
    ]
    models += [f"{name} (attention only)" for name in _attention_only(config)]
    if len(models) == 1:
        return models[0]
    return "; ".join(
        f"pass {turn} of {len(models)}: {model}"
        for turn, model in enumerate(models, start=1)
    )


def _attention_only(config: PipelineConfig) -> list[str]:
    """Name the models that run for a sparse model's sake alone."""
    wanted = (m.dense_key for m in config.active_sparse if m.kind == "attention")
    there = {model.name for model in config.dense}
    return [name for name in dict.fromkeys(wanted) if name and name not in there]


def _sparse(config: PipelineConfig) -> str:
    names = ", ".join(model.name for model in config.active_sparse)
    return f"on: {names or 'no model'}" if config.enable_sparse else "off"


def _fusion(config: PipelineConfig) -> str:
    if not any(model.kind == "bm25" for model in config.active_sparse):
        return "none: BM25 is off"
    return f"{config.primary.name} and BM25 by {config.active_fusion}"


def _rerank(config: PipelineConfig) -> str:
    model = config.active_rerank
    if model is None:
        return "off"
    return (
        f"on: {model.name}, top {model.candidates} candidates -> {model.top_k}, "
        f"at most {model.batch_cap} pairs a batch"
    )


def _queries(config: PipelineConfig) -> str:
    if config.queries is not None:
        return str(config.queries)
    return "probes from the collection" if config.probes else "none"


def _device(config: PipelineConfig) -> str:
    devices = ", ".join(config.gpu.devices) or config.gpu.backend
    workers = config.gpu.workers or "one per core"
    return f"{devices}; CPU workers: {workers}"


def _exports(config: PipelineConfig) -> str:
    return f"{', '.join(config.exports)}; JSONL layout {config.jsonl_layout}"


def _mode(config: PipelineConfig) -> str:
    start = "resume what is unfinished" if config.resume else "start afresh"
    return f"{start}; {'offline' if config.offline else 'hub allowed'}"
