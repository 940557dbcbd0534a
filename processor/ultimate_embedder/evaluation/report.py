"""What an evaluation found, as records that print as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..retrieval.significance import ALPHA, Estimate
from .measures import PRIMARY


class Record(BaseModel):
    """What all records share: they are frozen and hold no NaN."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class StageFigures(Record):
    """One stage's means over `queries` queries, with 95 % intervals, by measure."""

    stage: str
    queries: int
    measures: dict[str, Estimate]


class Comparison(Record):
    """`better_by`: the mean of `stage` less that of `against`, on the same queries.

    `p_value` is two-sided; `exact` tells that no signs were drawn at random.
    """

    stage: str
    against: str
    measure: str
    queries: int
    better_by: float
    p_value: float
    exact: bool

    @property
    def significant(self) -> bool:
        """Whether the p-value lies below 0.05."""
        return self.p_value < ALPHA


class CardAgreement(Record):
    """In how many pairs of stages the bundle's own card has the judged order.

    Pairs that the judgements leave equal do not count; equal in the card alone is no
    agreement. `sure_pairs` are those whose judged difference is significant.
    """

    probes: int
    pairs: int
    agreed: int
    sure_pairs: int
    sure_agreed: int
    card: dict[str, float]


class StageTable(Record):
    """Stages judged by the same queries, and each compared with each."""

    stages: tuple[StageFigures, ...]
    comparisons: tuple[Comparison, ...]

    def figures(self, stage: str) -> StageFigures | None:
        """Return one stage's figures, if it ran."""
        return next((one for one in self.stages if one.stage == stage), None)

    def compared(self, stage: str, against: str) -> Comparison | None:
        """Return how a stage compares with another, in this direction."""
        for one in self.comparisons:
            if (one.stage, one.against) == (stage, against):
                return one
            if (one.against, one.stage) == (stage, against):
                turned = {
                    "stage": stage,
                    "against": against,
                    "better_by": -one.better_by,
                }
                return one.model_copy(update=turned)
        return None

    def best_leg(self) -> str | None:
        """Return the single ranking with the highest nDCG@10."""
        legs = [one for one in self.stages if ":" in one.stage]
        best = max(legs, key=lambda one: one.measures[PRIMARY].value, default=None)
        return best.stage if best else None


class SetReport(Record):
    """One judged collection under one document treatment.

    `reranked` holds all stages over the queries that were reranked alone. `unit` says
    what judged ids name. `missing` says why a stage has no figures.
    """

    name: str
    treatment: str | None = None
    documents: int
    chunks: int
    unit: str
    queries: int
    all_stages: StageTable
    reranked: StageTable | None = None
    missing: dict[str, str] = Field(default_factory=dict)
    card: CardAgreement | None = None
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name, with the treatment where there is a choice."""
        return f"{self.name}, {self.treatment}" if self.treatment else self.name


class MeanReport(Record):
    """Means over sets, each set weighing the same, for one document treatment."""

    treatment: str | None = None
    sets: tuple[str, ...]
    all_stages: StageTable
    reranked: StageTable | None = None


class FailedSet(Record):
    """A collection that could not be evaluated, and why."""

    name: str
    treatment: str | None = None
    error: str


class Evaluation(Record):
    """Everything: what was chosen, each set, means over sets, and what failed."""

    settings: dict[str, Any]
    sets: tuple[SetReport, ...]
    means: tuple[MeanReport, ...] = ()
    failed: tuple[FailedSet, ...] = ()

    @property
    def card_agreement(self) -> CardAgreement | None:
        """The sets' agreements added up, None where no bundle has a card."""
        cards = [one.card for one in self.sets if one.card is not None]
        if not cards:
            return None
        return CardAgreement(
            probes=sum(card.probes for card in cards),
            pairs=sum(card.pairs for card in cards),
            agreed=sum(card.agreed for card in cards),
            sure_pairs=sum(card.sure_pairs for card in cards),
            sure_agreed=sum(card.sure_agreed for card in cards),
            card={},
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        total = self.card_agreement
        return {
            **self.model_dump(),
            "card_agreement": total.model_dump(exclude={"card"}) if total else None,
        }
