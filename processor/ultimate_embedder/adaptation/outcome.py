"""What training on a bundle came to: judged as a search loads it, written if better."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config import RerankingConfig
from ..encoders.cross_encoder import TorchCrossEncoder
from ..encoders.pair_batches import score_pairs
from ..encoders.weight_difference import DifferenceCard
from ..hardware import this_machine
from ..models.choice import choose_rerank
from ..records import Float32Array
from ..retrieval.blend import BlendConfig
from ..search.depth import fusion_depth
from ..search.parts import Parts
from .bundle_probes import Split, candidate_groups
from .choices import AdaptChoices
from .folder import write_folder
from .fusion_advice import FusionAdvice, advise
from .groups import Group
from .judging import (
    WEIGHTS,
    blended_ranks,
    choose_blend,
    compare,
    estimate,
    fused_ranks,
    ndcg,
)
from .origin import Origin
from .report import ADAPTED, FUSED, RERANKED, AdaptReport, readme
from .settings import TrainingConfig
from .training import Trainer
from .watch import Trained

_WINDOW = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A trainer that is done, and what it was made from."""

    parts: Parts
    origin: Origin
    divided: Split
    config: TrainingConfig
    choices: AdaptChoices
    trainer: Trainer
    trained: Trained

    @property
    def candidates(self) -> int:
        """How many candidates of a query are reordered, here and in a search."""
        return self.origin.config.candidates

    def card(self, blend: BlendConfig | None = None) -> DifferenceCard:
        """Return the card of the difference; without a blend that of a trial."""
        origin = self.origin.config
        return DifferenceCard(
            base_model=origin.hf_model_id,
            base_package=origin.package,
            base_sha256=origin.weights_sha256 or "",
            rank=self.config.rank,
            max_tokens=min(_WINDOW, origin.max_tokens),
            candidates=self.candidates,
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
            "probes": self.divided.probes,
            "probe_seed": self.choices.seed,
            "steps_done": self.trained.steps,
            "best_step": self.trained.best_step,
            "ended_by": self.trained.ending,
            "seconds": round(self.trained.seconds, 1),
            "processor": machine.processor,
            "dtype": machine.cpu_dtype,
            **asdict(self.config),
        }


def judged(done: Outcome, output: Path) -> AdaptReport:
    """Judge the reranker as it would be loaded, and write it if it is to be kept."""
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / "adapted"
        tensors = done.trainer.difference()
        write_folder(folder, tensors, done.card())
        scorer = TorchCrossEncoder.load(choose_rerank(str(folder)), offline=True)
    chosen = candidate_groups(done.divided.chosen, done.candidates)
    weights = (*WEIGHTS, round(done.trained.weight, 2))
    blend = choose_blend(chosen, _logits(scorer, chosen), done.config.bound, weights)
    report = _report(done, scorer, blend)
    if not (report.better or done.choices.keep_anyway):
        return report
    report = report.model_copy(update={"folder": str(output)})
    write_folder(output, tensors, done.card(blend), readme(report, output.name))
    return report


def _report(
    done: Outcome, scorer: TorchCrossEncoder, blend: BlendConfig
) -> AdaptReport:
    divided, origin, seed = done.divided, done.origin, done.choices.seed
    found = candidate_groups(divided.judged, done.candidates)
    missed = len(divided.judged) - len(found)
    figures = {FUSED: ndcg(fused_ranks(found), missed)}
    if origin.scorer is not None and origin.reranker is not None:
        ranks = blended_ranks(
            found, _logits(origin.scorer, found), origin.reranker.blend
        )
        figures[RERANKED] = ndcg(ranks, missed)
    best = max(figures, key=lambda stage: float(figures[stage].mean()))
    ranks = blended_ranks(found, _logits(scorer, found), blend)
    figures[ADAPTED] = ndcg(ranks, missed)
    return AdaptReport(
        collection=done.parts.manifest.collection,
        probes=divided.probes,
        trained=len(divided.trained),
        chosen=len(divided.chosen),
        judged=len(divided.judged),
        missed=missed,
        candidates=done.candidates,
        reranker=origin.reranker.name if origin.reranker else None,
        started_from=origin.name,
        blend=str(blend),
        stages=estimate(figures, seed),
        comparison=compare(figures, ADAPTED, best, seed),
        fusion=_advice(done),
        training=done.training,
    )


def _advice(done: Outcome) -> FusionAdvice:
    divided = done.divided
    choosing = [probe.lists for probe in (*divided.trained, *divided.chosen)]
    judging = [probe.lists for probe in divided.judged]
    fusion = done.parts.fusion_of(len(judging[0].lists))
    depth = fusion_depth(done.candidates)
    return advise(fusion, choosing, judging, depth, done.choices.seed)


def _logits(scorer: TorchCrossEncoder, found: Sequence[Group]) -> list[Float32Array]:
    cap = RerankingConfig(name="", hf_model_id="").batch_cap
    return [score_pairs(scorer, group.pairs, cap) for group in found]
