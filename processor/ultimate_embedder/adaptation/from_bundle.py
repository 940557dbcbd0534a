"""A reranker adapted to one bundle: trained on its probes, judged on others of them."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import RerankingConfig
from ..encoders.cross_encoder import TorchCrossEncoder
from ..encoders.pair_batches import score_pairs
from ..encoders.weight_difference import DifferenceCard
from ..errors import ModelNotAvailable, UsageError
from ..export.manifest_sections import RerankRan
from ..hardware import this_machine
from ..models.catalogue import RERANKING_MODELS, rerank_model
from ..models.choice import choose_rerank
from ..models.manager import ModelManager
from ..records import Float32Array
from ..retrieval.blend import BlendConfig
from ..search.loading import rerank_config
from ..search.parts import Parts, open_parts
from .base import Base, find_base
from .bundle_probes import (
    DEPTH,
    LegsOf,
    Ranked,
    Split,
    groups,
    manifest_legs,
    rank_probes,
    split,
)
from .folder import check_target, write_folder
from .fusion_advice import FusionAdvice, advise
from .groups import Group, sample
from .judging import (
    WEIGHTS,
    blended_ranks,
    choose_blend,
    compare,
    estimate,
    fused_ranks,
    ndcg,
)
from .report import ADAPTED, FUSED, RERANKED, AdaptReport, readme
from .settings import TrainingConfig
from .training import Report, Trained, Trainer

MIN_PROBES = 60
PROBES = 1000
CANDIDATES = 30
"""How many candidates of a query are reordered where the outcome is judged."""

RESIDUAL = "residual-minilm-l6"

_EPOCHS = 3
_LEAST_STEPS = 60
_LOOKS = 6
_WINDOW = 256
_TRIAL_STEPS = 2
_OVERTIME = 1.5  # times the minutes asked for, until a clock ends training
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptChoices:
    """What the caller decides. Neither steps nor minutes: by the number of probes.

    `settings` are those of training; steps, scale and the like are set from the rest.
    """

    probes: int = PROBES
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    keep_anyway: bool = False
    offline: bool = False
    settings: TrainingConfig | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps is not None and self.minutes is not None:
            raise UsageError("Steps and minutes exclude each other.")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"Minutes must be above zero, not {self.minutes:g}.")


@dataclass(frozen=True, slots=True)
class _Now:
    """The bundle's reranker, where it can be had, and what training starts from."""

    reranker: RerankingConfig | None
    scorer: TorchCrossEncoder | None
    origin: RerankingConfig
    base: Base

    @property
    def started_from(self) -> str:
        return self.origin.name if self.base.start.tensors else "its base"


Say = Callable[[str], None]


def adapt(
    bundle: Path,
    output: Path,
    choices: AdaptChoices,
    *,
    legs_of: LegsOf | None = None,
    origin: RerankingConfig | None = None,
    say: Say = lambda _line: None,
    progress: Report | None = None,
) -> AdaptReport:
    """Train on a bundle's probes; write the reranker if it is better than before.

    `legs_of` and `origin` stand in for the models that the manifest names and for the
    reranker that training starts from. `say` is told what begins.

    Raises:
        UsageError: too few probes, or something is in the output folder.
        ModelNotAvailable: a model that made the bundle is not here.
    """
    _check_output(output)
    parts = open_parts(bundle)
    now = _now(parts, choices, origin)
    say("drawing and ranking probes")
    legs = legs_of or manifest_legs(parts, ModelManager(offline=choices.offline))
    probes = rank_probes(parts, legs, choices.probes, choices.seed)
    divided = _enough(split(probes), len(probes))
    config, limit = _settings(now, divided, choices)
    say(f"training: {config.steps} steps of {config.pairs_a_step} pairs")
    trainer = _trainer(now, config)
    trained = trainer.train(
        groups(divided.trained),
        _looked_at(divided.chosen, config),
        report=progress,
        seconds=limit,
    )
    say(f"judging on {len(divided.judged)} probes")
    return _judged(
        _Outcome(parts, now, divided, config, trainer, trained, choices), output
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    parts: Parts
    now: _Now
    divided: Split
    config: TrainingConfig
    trainer: Trainer
    trained: Trained
    choices: AdaptChoices

    def card(self, blend: BlendConfig | None = None) -> DifferenceCard:
        origin = self.now.origin
        return DifferenceCard(
            base_model=origin.hf_model_id,
            base_package=origin.package,
            base_sha256=origin.weights_sha256 or "",
            rank=self.config.rank,
            max_tokens=min(_WINDOW, origin.max_tokens),
            blend=None if blend is None else str(blend),
            training=self.training if blend else {},
        )

    @property
    def training(self) -> dict[str, Any]:
        """What makes it repeatable."""
        machine = this_machine()
        return {
            "collection": self.parts.manifest.collection,
            "bundle_manifest_sha256": self.parts.manifest.manifest_sha256,
            "probes": sum(map(len, _in_parts(self.divided))),
            "probe_seed": self.choices.seed,
            "steps_done": self.trained.steps,
            "best_step": self.trained.best_step,
            "ended_by": self.trained.ending,
            "seconds": round(self.trained.seconds, 1),
            "processor": machine.processor,
            "dtype": machine.cpu_dtype,
            **asdict(self.config),
        }


def _judged(done: _Outcome, output: Path) -> AdaptReport:
    """Judge the reranker as it would be loaded, and write it if it is to be kept."""
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "adapted"
        tensors = done.trainer.difference()
        write_folder(folder, tensors, done.card())
        config = choose_rerank(str(folder))
        scorer = TorchCrossEncoder.load(config, offline=True)
    chosen = _first(groups(done.divided.chosen))
    weights = (*WEIGHTS, round(done.trained.weight, 2))
    blend = choose_blend(chosen, _logits(scorer, chosen), done.config.bound, weights)
    report = _report(done, scorer, blend)
    if not (report.better or done.choices.keep_anyway):
        return report
    report = report.model_copy(update={"folder": str(output)})
    write_folder(output, tensors, done.card(blend), readme(report, output.name))
    return report


def _report(
    done: _Outcome, scorer: TorchCrossEncoder, blend: BlendConfig
) -> AdaptReport:
    judged = _first(groups(done.divided.judged))
    missed = len(done.divided.judged) - len(judged)
    figures = {FUSED: ndcg(fused_ranks(judged), missed)}
    if done.now.scorer is not None and done.now.reranker is not None:
        logits = _logits(done.now.scorer, judged)
        ranks = blended_ranks(judged, logits, done.now.reranker.blend)
        figures[RERANKED] = ndcg(ranks, missed)
    best = max(figures, key=lambda stage: float(figures[stage].mean()))
    ranks = blended_ranks(judged, _logits(scorer, judged), blend)
    figures[ADAPTED] = ndcg(ranks, missed)
    seed = done.choices.seed
    return AdaptReport(
        collection=done.parts.manifest.collection,
        probes=sum(map(len, _in_parts(done.divided))),
        trained=len(done.divided.trained),
        chosen=len(done.divided.chosen),
        judged=len(done.divided.judged),
        missed=missed,
        candidates=CANDIDATES,
        reranker=done.now.reranker.name if done.now.reranker else None,
        started_from=done.now.started_from,
        blend=str(blend),
        stages=estimate(figures, seed),
        comparison=compare(figures, ADAPTED, best, seed),
        fusion=_advice(done),
        training=done.training,
    )


def _advice(done: _Outcome) -> FusionAdvice:
    divided = done.divided
    choosing = [probe.lists for probe in (*divided.trained, *divided.chosen)]
    judging = [probe.lists for probe in divided.judged]
    fusion = done.parts.fusion_of(len(judging[0].lists))
    return advise(fusion, choosing, judging, DEPTH, done.choices.seed)


def _now(parts: Parts, choices: AdaptChoices, origin: RerankingConfig | None) -> _Now:
    reranker, scorer = None, None
    if isinstance(parts.manifest.rerank_run, RerankRan):
        try:
            reranker = rerank_config(parts.manifest.rerank_run)
            scorer = TorchCrossEncoder.load(reranker, offline=choices.offline)
        except ModelNotAvailable:
            scorer = None  # the report names no reranker then; fusion is what there is
    if origin is None:
        known = scorer is not None and reranker is not None and reranker.difference
        origin = reranker if known and reranker else rerank_model(RESIDUAL)
    try:
        base = find_base(origin, offline=choices.offline)
    except ModelNotAvailable:
        base = find_base(origin, offline=choices.offline, anew=True)
    return _Now(reranker if scorer else None, scorer, origin, base)


def _settings(
    now: _Now, divided: Split, choices: AdaptChoices
) -> tuple[TrainingConfig, float | None]:
    """Return the settings, and the seconds after which a clock ends training."""
    config = choices.settings or TrainingConfig()
    config = replace(config, seed=choices.seed)
    if now.base.start.tensors:
        blend = now.origin.blend
        config = replace(config, imitated=0.1)
        if blend is not None and blend.weight > 0:
            bound = blend.bound or config.bound
            config = replace(config, scale=1 / blend.weight, bound=bound)
    limit = None
    if choices.steps is not None:
        steps = choices.steps
    elif choices.minutes is not None:
        seconds = choices.minutes * 60
        limit = seconds * _OVERTIME
        steps = max(1, int(seconds / _seconds_a_step(now, config, divided)))
    else:
        rounds = len(divided.trained) / config.groups_a_step
        steps = max(_LEAST_STEPS, math.ceil(_EPOCHS * rounds))
    return replace(
        config,
        steps=steps,
        warm_up=max(1, min(config.warm_up, steps // 5)),
        check_every=max(1, steps // _LOOKS),
    ), limit


def _seconds_a_step(now: _Now, config: TrainingConfig, divided: Split) -> float:
    """Return what a step takes here, measured on a model that is thrown away."""
    trial = _trainer(now, replace(config, steps=_TRIAL_STEPS))
    begun = time.monotonic()
    trial.train(groups(divided.trained))
    return (time.monotonic() - begun) / _TRIAL_STEPS


def _trainer(now: _Now, config: TrainingConfig) -> Trainer:
    model = now.base.model(config, dtype=this_machine().cpu_dtype)
    return Trainer(model, now.base.encoder(config), config)


def _looked_at(probes: Sequence[Ranked], config: TrainingConfig) -> list[Group]:
    rng = np.random.Generator(np.random.PCG64(config.seed))
    return [
        sample(group, config.negatives, config.hard, config.hard_taken, rng)
        for group in groups(probes)
    ]


def _first(found: Sequence[Group]) -> list[Group]:
    """Return the groups cut to the candidates that are judged, if the answer is in."""
    cut = [group.first(CANDIDATES) for group in found]
    return [group for group in cut if group is not None]


def _logits(scorer: TorchCrossEncoder, found: Sequence[Group]) -> list[Float32Array]:
    cap = RerankingConfig(name="", hf_model_id="").batch_cap
    return [score_pairs(scorer, group.pairs, cap) for group in found]


def _enough(divided: Split, probes: int) -> Split:
    usable = [len(groups(part)) for part in _in_parts(divided)]
    if probes >= MIN_PROBES and min(usable) > 0:
        return divided
    raise UsageError(
        f"Only {probes} probes can be drawn from this bundle; adapting needs "
        f"{MIN_PROBES}.",
        cure="Adapt to a larger collection with headings or docstrings.",
    )


def _in_parts(divided: Split) -> tuple[tuple[Ranked, ...], ...]:
    return divided.trained, divided.chosen, divided.judged


def _check_output(output: Path) -> None:
    check_target(output)
    if not _NAME.fullmatch(output.name) or output.name in RERANKING_MODELS:
        raise UsageError(
            f"'{output.name}' cannot name a reranker.",
            cure="Name a folder of letters, digits, dots, hyphens and underscores that "
            "is no key of `models list`.",
        )
