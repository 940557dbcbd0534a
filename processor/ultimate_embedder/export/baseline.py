"""Do the dense files of a bundle repeat those of an earlier one, byte for byte?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from .layout import BundleNames
from .manifest import Manifest
from .manifest_sections import BaselineComparison, DenseRun, ModelBaseline

_MODEL_FIELDS = (
    "hf_model_id",
    "revision",
    "dimension",
    "dtype",
    "max_tokens",
    "document_prefix",
    "long_texts",
    "device",
)
_MACHINE_FIELDS = ("processor", "instruction_set")
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "onnxruntime")


def compare_baseline(
    old: Manifest | None,
    new: Manifest,
    dense_sums: Mapping[str, str],
    ids_sum: str,
    *,
    against: Literal["replaced", "baseline"] = "replaced",
    why_none: str = "there is no earlier bundle",
) -> BaselineComparison:
    """Return how `dense_sums` ({model: sum of its .npy}) relate to an earlier bundle.

    Equal sums are equal whatever else changed. Different sums mean `different` where
    chunks, model, settings and machine type were the same, else `not_comparable` with
    what changed. `why_none` is the reason where `old` is None.
    """
    if old is None:
        models = [
            ModelBaseline(model=key, status="not_comparable", reason=why_none, sha256=s)
            for key, s in dense_sums.items()
        ]
        return BaselineComparison(
            status="not_comparable", reason=why_none, models=tuple(models)
        )
    common = _common_reason(old, new, ids_sum)
    models = [
        _compare_model(old, new, key, digest, common)
        for key, digest in dense_sums.items()
    ]
    return _summarise(models, old, against)


def _summarise(
    models: list[ModelBaseline], old: Manifest, against: Literal["replaced", "baseline"]
) -> BaselineComparison:
    worst = next(
        (m for m in models if m.status == "different"),
        next((m for m in models if m.status == "not_comparable"), None),
    )
    return BaselineComparison(
        status=worst.status if worst else "equal",
        reason=f"{worst.model}: {worst.reason}" if worst else "",
        against=against,
        earlier_run_id=old.run_id,
        models=tuple(models),
    )


def _compare_model(
    old: Manifest, new: Manifest, key: str, digest: str, common: str
) -> ModelBaseline:
    earlier = _earlier_sum(old, key)
    if earlier == digest:
        return ModelBaseline(
            model=key, status="equal", sha256=digest, earlier_sha256=earlier
        )
    reason = (
        "the earlier bundle has no sum of this model"
        if earlier is None
        else common or _model_reason(_run(old, key), _run(new, key))
    )
    return ModelBaseline(
        model=key,
        status="not_comparable" if reason else "different",
        reason=reason or "same chunks, model, settings and machine, other bytes",
        sha256=digest,
        earlier_sha256=earlier,
    )


def _earlier_sum(old: Manifest, key: str) -> str | None:
    """Return the sum of an earlier dense file, which may not have been exported."""
    path = BundleNames(old.collection).dense(key)
    listed = [item.sha256 for item in old.artifacts if item.path == path]
    noted = old.baseline.models if old.baseline else ()
    listed += [item.sha256 for item in noted if item.model == key]
    return listed[0] if listed else None


def _common_reason(old: Manifest, new: Manifest, ids_sum: str) -> str:
    """Return what makes all models incomparable, or nothing."""
    path = BundleNames(old.collection).ids
    if ids_sum not in {item.sha256 for item in old.artifacts if item.path == path}:
        return "the chunks differ"
    machine = _changes(_MACHINE_FIELDS, old.environment, new.environment)
    libraries = [
        f"{name} {before} -> {after}"
        for name in _LIBRARIES
        if (before := old.environment.versions.get(name))
        != (after := new.environment.versions.get(name))
    ]
    return _sentence([*machine, *libraries])


def _run(manifest: Manifest, key: str) -> DenseRun | None:
    return next((run for run in manifest.dense_run or () if run.model == key), None)


def _model_reason(old: DenseRun | None, new: DenseRun | None) -> str:
    if old is None or new is None:
        return "a manifest says nothing of this model"
    if new.device.startswith("cuda"):
        return "on a GPU the bytes depend on how rows are grouped"
    return _sentence(_changes(_MODEL_FIELDS, old, new))


def _changes(names: Iterable[str], old: object, new: object) -> list[str]:
    return [
        f"{name} {before!r} -> {after!r}"
        for name in names
        if (before := getattr(old, name)) != (after := getattr(new, name))
    ]


def _sentence(changes: list[str]) -> str:
    return f"changed: {', '.join(changes)}" if changes else ""
