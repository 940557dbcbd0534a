"""Is the bundle that stands there what a run would make? Then it is left alone.

The answer rests on a fingerprint of all that decides a bundle's bytes, which the
manifest keeps, and on the sums of the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from ..config import PipelineConfig, SparseModelConfig
from ..encoders.sources import locate_model
from ..encoders.splade_source import find_splade
from ..encoders.weight_difference import difference_sha256
from ..encoders.words import RULES_REVISION
from ..errors import BundleError, ModelError
from ..export.checksums import file_sha256
from ..export.layout import MANIFEST
from ..export.manifest import Manifest
from ..export.manifest_sections import Artifact, RerankNotRun, RerankRan
from ..hardware import this_machine
from ..intake.measure import MeasuredCollection
from ..libraries import GPU_KERNELS_REVISION, OF_A_BUNDLE, installed_versions

_FACT_DIGITS = 16
_RULES = 2  # raise it when the same input comes to give other bytes
_ABSENT = "absent"
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
    sparse_device: str = "cpu",
    sparse_dtype: str | None = None,
) -> dict[str, str]:
    """Return short hashes of everything that a collection's bundle follows from.

    `sparse_dtype` is by default the fastest precision of the sparse device.
    """
    splade = (model for model in config.active_sparse if model.kind == "splade")
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
        "splade": [
            _splade(model, config, sparse_device, sparse_dtype) for model in splade
        ],
        "reranker": _reranker(config),
        "device": device.split(":", maxsplit=1)[0],
        "batches": None
        if device == "cpu"
        else [
            config.gpu.rows_a_batch(on_gpu=True),
            config.gpu.memory_cap_bytes,
            GPU_KERNELS_REVISION,
        ],
        "dtype": dtype,
        "libraries": installed_versions(OF_A_BUNDLE),
        "instruction_sets": this_machine().instruction_sets,
    }
    settings = asdict(config)
    facts |= {key: settings[key] for key in settings if key not in _DECIDE_NOTHING}
    return {name: _digest(fact)[:_FACT_DIGITS] for name, fact in facts.items()}


def run_fingerprint(facts: Mapping[str, str]) -> str:
    """Return one hash of these facts, in hex."""
    return _digest(dict(facts))


def up_to_date(
    bundle: Path, facts: Mapping[str, str], dense: Sequence[str]
) -> Manifest | Outdated | None:
    """Return the manifest of a bundle that was made just so and is undamaged.

    Otherwise why it is not: it was made otherwise, lacks one of the models `dense`, a
    stage of it fell back to a second choice or did not run, or a file is not what its
    sum says. None: there is no bundle.
    """
    if not (bundle / MANIFEST).exists():
        return None
    try:
        manifest = Manifest.read(bundle)
    except BundleError as error:
        return Outdated(error.message.rstrip("."), damaged=True)
    if manifest.run_fingerprint != run_fingerprint(facts):
        return Outdated(_changed(manifest.run_facts, facts))
    if reason := _may_be_better(manifest, dense):
        return Outdated(reason)
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


def _splade(
    model: SparseModelConfig, config: PipelineConfig, device: str, dtype: str | None
) -> str:
    """Return what the vectors of a model with weights of its own follow from."""
    try:
        return find_splade(
            model,
            device=device,
            dtype=dtype,
            offline=True,  # what may be fetched has been
            long_texts=config.long_texts,
        ).fingerprint
    except ModelError:
        return _ABSENT  # its stage meets the same, and says it with its cure


def _reranker(config: PipelineConfig) -> str | None:
    """Return what pins the weights of the reranker, or its difference of weights."""
    model = config.active_rerank
    if model is None:
        return None
    try:
        if model.difference is not None:
            return difference_sha256(model.difference)
        return locate_model(
            model.hf_model_id,
            revision=model.revision,
            package=model.package,
            offline=True,
            trust_remote_code=model.trust_remote_code,
        ).revision
    except (FileNotFoundError, ModelError):
        return _ABSENT


def _may_be_better(manifest: Manifest, dense: Sequence[str]) -> str | None:
    """Return what did not go as asked, and may go so in another run."""
    made = {run.model for run in manifest.dense_run or ()}
    if skipped := [name for name in dense if name not in made]:
        return ", ".join(f"model {name} was skipped" for name in skipped)
    if _second_choice(manifest):
        return "a stage of it fell back to a second choice or did not run"
    return None


def _second_choice(manifest: Manifest) -> bool:
    """Say whether a stage made do with less.

    Not so a reranker that had no query to rerank: another run has none either.
    """
    rerank, ranked = manifest.rerank_run, manifest.fusion_run
    if any(run.fallback_used for run in manifest.sparse_run or ()):
        return True
    if isinstance(rerank, RerankRan):
        return rerank.fallback_used
    asked = ranked is None or ranked.query_source is not None
    return isinstance(rerank, RerankNotRun) and asked


def _sum_holds(bundle: Path, artifact: Artifact) -> bool:
    try:
        return file_sha256(bundle / artifact.path) == artifact.sha256
    except OSError:
        return False
