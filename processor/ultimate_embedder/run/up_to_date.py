"""Is the bundle that stands there what a run would make? Then it is left alone.

The answer rests on a fingerprint of all that decides a bundle's bytes, which the
manifest keeps, and on the sums of the files.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from ..config import PipelineConfig
from ..encoders.weight_difference import difference_sha256
from ..encoders.words import RULES_REVISION
from ..errors import BundleError
from ..export.checksums import file_sha256
from ..export.layout import MANIFEST
from ..export.manifest import Manifest
from ..export.manifest_sections import Artifact, RerankNotRun, RerankRan
from ..hardware import this_machine
from ..intake.measure import MeasuredCollection

_FACT_DIGITS = 16
_RULES = 2  # raise it when the same input comes to give other bytes
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


@dataclass(frozen=True, slots=True)
class Outdated:
    """Why a bundle is made anew; `damaged`: its bytes are not those that were made."""

    reason: str
    damaged: bool = False


def run_facts(
    config: PipelineConfig,
    collection: MeasuredCollection,
    *,
    device: str,
    dtype: str,
    redact_key: bytes | None,
) -> dict[str, str]:
    """Return short hashes of everything that a collection's bundle follows from."""
    facts: dict[str, object] = {
        "rules": [_RULES, RULES_REVISION],
        "chunks": collection.store.digest,
        "set_aside": [asdict(one) for one in collection.store.conservation.quarantined],
        "queries": file_sha256(config.queries) if config.queries else None,
        "redaction_key": hashlib.sha256(redact_key).hexdigest() if redact_key else None,
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
    settings = asdict(config)
    facts |= {key: settings[key] for key in settings if key not in _DECIDE_NOTHING}
    return {name: _digest(fact)[:_FACT_DIGITS] for name, fact in facts.items()}


def run_fingerprint(facts: Mapping[str, str]) -> str:
    """Return one hash of these facts, in hex."""
    return _digest(dict(facts))


def up_to_date(bundle: Path, facts: Mapping[str, str]) -> Manifest | Outdated | None:
    """Return the manifest of a bundle that was made just so and is undamaged.

    Otherwise why it is not: it was made otherwise, a stage of it fell back to a second
    choice or did not run, or a file is not what its sum says. None: there is no bundle.
    """
    if not (bundle / MANIFEST).exists():
        return None
    try:
        manifest = Manifest.read(bundle)
    except BundleError as error:
        return Outdated(error.message.rstrip("."), damaged=True)
    if manifest.run_fingerprint != run_fingerprint(facts):
        return Outdated(_changed(manifest.run_facts, facts))
    if _second_choice(manifest):
        return Outdated("a stage of it fell back to a second choice or did not run")
    damaged = [one.path for one in manifest.artifacts if not _sum_holds(bundle, one)]
    if damaged:
        return Outdated(f"{', '.join(damaged)}: not what the sums say", damaged=True)
    return manifest


def _changed(made_from: Mapping[str, str] | None, facts: Mapping[str, str]) -> str:
    if made_from is None:
        return "it does not say what it was made from"
    names = [name for name in facts if facts[name] != made_from.get(name)]
    return f"{', '.join(names or sorted(set(made_from) - set(facts)))} changed"


def _digest(fact: object) -> str:
    return hashlib.sha256(
        orjson.dumps(fact, default=str, option=orjson.OPT_SORT_KEYS)
    ).hexdigest()


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


def _sum_holds(bundle: Path, artifact: Artifact) -> bool:
    try:
        return file_sha256(bundle / artifact.path) == artifact.sha256
    except OSError:
        return False
