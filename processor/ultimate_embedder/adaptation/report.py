"""What adapting to a bundle came to: figures, a decision, advice on fusion."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from ..retrieval.significance import Estimate
from .fusion_advice import FusionAdvice
from .judging import Comparison

FUSED, RERANKED, ADAPTED = "fused", "reranked", "adapted"


class AdaptReport(BaseModel):
    """Figures are nDCG@10 on the `judged` probes, which no choice has seen.

    `stages` holds fused, reranked where the bundle's reranker can be had, and adapted.
    `comparison` sets adapted against the better of the others. Of the judged probes
    `missed` have no answer among the candidates and count 0 for every stage.
    """

    model_config = ConfigDict(frozen=True)

    collection: str
    probes: int
    trained: int
    chosen: int
    judged: int
    missed: int
    candidates: int
    reranker: str | None
    started_from: str
    blend: str
    stages: dict[str, Estimate]
    comparison: Comparison
    fusion: FusionAdvice
    training: dict[str, Any]
    folder: str | None = None

    @property
    def better(self) -> bool:
        """Whether the adapted reranker is kept on its merits."""
        return self.comparison.better

    @property
    def decision(self) -> str:
        """Whether the adapted reranker is kept and why, in one line."""
        found = self.comparison
        change = f"{found.gain:+.3f} nDCG@10 against {found.against}, p = {found.p:.3f}"
        if found.better:
            return f"kept: {change}"
        why = "no gain beyond chance" if found.gain > 0 else "no gain"
        kept = "not kept" if self.folder is None else "written although not better"
        return f"{kept}: {why} ({change})"

    @property
    def fusion_advice(self) -> str:
        """What the probes say of the fusion, in one line."""
        advice, found = self.fusion, self.fusion.comparison
        if found is None:
            return f"{advice.current}: no other weight did better"
        change = f"{found.gain:+.3f} nDCG@10, p = {found.p:.3f}"
        if advice.expression is None:
            return f"{advice.current}: {advice.other} is not better ({change})"
        return f"{advice.expression} does better than {advice.current} ({change})"


def readme(report: AdaptReport, name: str) -> str:
    """Return the model card of an adapted reranker, in Markdown."""
    rows = [f"| {stage} | {found} |" for stage, found in report.stages.items()]
    facts = [f"| {key} | {value} |" for key, value in report.training.items()]
    lines = [
        f"# {name}",
        "",
        f"A residual reranker adapted to the collection `{report.collection}`, as the",
        "difference of its weights to those of its base. Its logits join the fused",
        f"scores as `{report.blend}`.",
        "",
        "## Figures",
        "",
        f"nDCG@10 with 95 % intervals on {report.judged} probes that neither training",
        f"nor any choice has seen; the first {report.candidates} candidates are",
        "reordered. Probes are headings and docstrings of the collection itself, taken",
        "out of the text that answers: figures for other questions may differ.",
        "",
        "| stage | nDCG@10 |",
        "| --- | --- |",
        *rows,
        "",
        f"Decision: {report.decision}.",
        "",
        "## Training",
        "",
        f"Trained on {report.trained} probes, stopped and weighed by {report.chosen}",
        f"others; started from {report.started_from}.",
        "",
        "| setting | value |",
        "| --- | --- |",
        *facts,
        "",
        "## Use",
        "",
        "    ultimate-embedder embed --rerank-model DIR ...",
        '    ultimate-embedder search BUNDLE "question" --rerank-model DIR',
    ]
    return "\n".join(lines) + "\n"
