"""Is the bundle that stands there what a run would make? Then it is left alone.

The answer rests on a fingerprint of all that decides a bundle's bytes, which the
manifest keeps, and on the sums of the files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from ..config import PipelineConfig
from ..encoders.weight_difference import difference_sha256
from ..encoders.words import RULES_REVISION
from ..errors import BundleError
from ..export.checksums import file_sha256
from ..export.manifest import Manifest
from ..export.manifest_sections import RerankNotRun, RerankRan
from ..hardware import this_machine
from ..intake.measure import MeasuredCollection

_RULES = 1  # raise it when the same input comes to give other bytes
_LIBRARIES = ("ultimate-embedder", "torch", "transformers", "tokenizers", "faiss-cpu")
_DECIDE_NOTHING = frozenset(
    {
        "chunked_dir",
        "output_dir",
        "collections",
        "profile",
        "gpu",
        "resume",
        "offline",
        "baseline",
        "provenance",
        "queries",
        "rerank_timeout_seconds",
        "skip_failed_models",
    }
)
"""Settings that stand for no byte of a bundle, or that are represented otherwise."""


def run_fingerprint(
    config: PipelineConfig,
    collection: MeasuredCollection,
    *,
    device: str,
    dtype: str,
    redact_key: bytes | None,
) -> str:
    """Return a hash of everything that a collection's bundle follows from, in hex."""
    settings = asdict(config)
    facts = {
        "rules": [_RULES, RULES_REVISION],
        "chunks": collection.store.digest,
        "set_aside": [asdict(one) for one in collection.store.conservation.quarantined],
        "settings": {
            key: value for key, value in settings.items() if key not in _DECIDE_NOTHING
        },
        "queries": file_sha256(config.queries) if config.queries else None,
        "redacted_with": hashlib.sha256(redact_key).hexdigest() if redact_key else None,
        "models": [
            [model.config.name, model.location.revision, model.tokenizer.fingerprint]
            for model in collection.models
        ],
        "reranker": _reranker(config),
        "device": device.split(":", maxsplit=1)[0],
        "batches": None
        if device == "cpu"
        else [config.gpu.base_batch_size, config.gpu.memory_cap_bytes],
        "dtype": dtype,
        "libraries": [importlib.metadata.version(name) for name in _LIBRARIES],
        "instruction_sets": this_machine().instruction_sets,
    }
    return hashlib.sha256(
        orjson.dumps(facts, default=str, option=orjson.OPT_SORT_KEYS)
    ).hexdigest()


def up_to_date(bundle: Path, fingerprint: str) -> Manifest | None:
    """Return the manifest of a bundle that was made just so and is undamaged.

    None: it was made otherwise, a stage of it fell back to a second choice or did not
    run, or a file is not what its sum says.
    """
    try:
        manifest = Manifest.read(bundle)
    except BundleError:
        return None  # none there, or damaged: it is made anew
    if manifest.run_fingerprint != fingerprint or _second_choice(manifest):
        return None
    return manifest if _sums_hold(bundle, manifest) else None


def _reranker(config: PipelineConfig) -> str | None:
    """Return what pins a difference of weights; others are pinned by their name."""
    model = config.active_rerank
    if model is None or model.difference is None:
        return None
    try:
        return difference_sha256(model.difference)
    except FileNotFoundError:
        return "absent"


def _second_choice(manifest: Manifest) -> bool:
    rerank = manifest.rerank_run
    fell_back: list[Any] = [run.fallback_used for run in manifest.sparse_run or ()]
    if isinstance(rerank, RerankRan):
        fell_back.append(rerank.fallback_used)
    return any(fell_back) or isinstance(rerank, RerankNotRun)


def _sums_hold(bundle: Path, manifest: Manifest) -> bool:
    try:
        return all(
            file_sha256(bundle / artifact.path) == artifact.sha256
            for artifact in manifest.artifacts
        )
    except OSError:
        return False
