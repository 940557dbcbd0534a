"""A reranker adapted to one bundle: trained on its probes, judged on others of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..config import RerankingConfig
from ..errors import UsageError
from ..models.catalogue import RERANKING_MODELS
from ..models.manager import ModelManager
from ..search.parts import open_parts
from .bundle_probes import (
    LegsOf,
    Split,
    candidate_groups,
    groups,
    manifest_legs,
    rank_probes,
    split,
)
from .choices import AdaptChoices
from .folder import check_target
from .origin import find_origin
from .outcome import Outcome, judged
from .report import AdaptReport
from .schedule import sampled, schedule, trainer
from .watch import Report

MIN_PROBES = 60

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

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
    start = find_origin(parts, offline=choices.offline, config=origin)
    say("drawing probes and ranking them")
    legs = legs_of or manifest_legs(parts, ModelManager(offline=choices.offline))
    depth = start.config.candidates
    probes = rank_probes(parts, legs, choices.probes, choices.seed, depth)
    divided = _enough(split(probes), depth)
    say(
        f"{divided.probes} probes: {len(divided.trained)} to train on, "
        f"{len(divided.chosen)} to tell when to stop, {len(divided.judged)} to judge by"
    )
    planned = schedule(start, divided, choices)
    config = planned.config
    say(f"training: {config.steps} steps of {config.pairs_a_step} pairs")
    training = trainer(start, config)
    trained = training.train(
        groups(divided.trained),
        sampled(groups(divided.chosen), config),
        report=progress,
        seconds=planned.seconds,
    )
    say(f"judging: {depth} candidates of each of {len(divided.judged)} probes")
    done = Outcome(
        parts=parts,
        origin=start,
        divided=divided,
        config=config,
        choices=choices,
        trainer=training,
        trained=trained,
    )
    return judged(done, output)


def _enough(divided: Split, candidates: int) -> Split:
    if divided.probes < MIN_PROBES:
        raise UsageError(
            f"Only {divided.probes} probes can be drawn from this bundle; adapting "
            f"needs {MIN_PROBES}.",
            cure="Adapt to a larger collection with headings or docstrings.",
        )
    if all(candidate_groups(part, candidates) for part in divided.parts):
        return divided
    raise UsageError(
        f"Search finds too few of the {divided.probes} probes among its first "
        f"{candidates} candidates; there is nothing to learn from.",
        cure="Look at the quality card of the bundle first.",
    )


def _check_output(output: Path) -> None:
    check_target(output, cure="Name another folder with --output.")
    if not _NAME.fullmatch(output.name) or output.name in RERANKING_MODELS:
        raise UsageError(
            f"'{output.name}' cannot name a reranker.",
            cure="Name a folder of letters, digits, dots, hyphens and underscores that "
            "is no key of `models list`.",
        )
