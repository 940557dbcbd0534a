"""The shipped reranker's weights: `python -m training.train_residual POOLS`.

Reads the pools that training.mine wrote. Those named held-* are not trained on: half of
their queries tell when to stop and how much logits count in the blend, the other half
are judged. The difference to the embedded model's weights goes to the package with a
card that holds every number needed to do it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from processor.ultimate_embedder.adaptation.base import find_base
from processor.ultimate_embedder.adaptation.folder import check_target, write_folder
from processor.ultimate_embedder.adaptation.groups import (
    Group,
    read_groups,
    write_groups,
)
from processor.ultimate_embedder.adaptation.judging import (
    WEIGHTS,
    blended_ranks,
    choose_blend,
    compare,
    estimate,
    fused_ranks,
    ndcg,
)
from processor.ultimate_embedder.adaptation.settings import TrainingConfig
from processor.ultimate_embedder.adaptation.training import Trainer
from processor.ultimate_embedder.adaptation.watch import Progress, Trained
from processor.ultimate_embedder.config import RerankingConfig
from processor.ultimate_embedder.encoders.weight_difference import (
    SHIPPED,
    DifferenceCard,
)
from processor.ultimate_embedder.errors import EmbedderError, InputError
from processor.ultimate_embedder.hardware import this_machine
from processor.ultimate_embedder.models.catalogue import rerank_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.retrieval.blend import BlendConfig
from training.residual_groups import (
    JUDGED,
    GroupChoices,
    pool_groups,
    pool_sha256,
)

RESIDUAL = "residual-minilm-l6"
CARD = Path(__file__).with_name("data_card.json")
HELD = "held-"
LOOKED_AT = 80
"""So many lists held out tell when to stop: a look has to be quick."""
LOOKED_AT_DEEP = 12
JUDGED_TIMES = 2
SETTINGS = TrainingConfig(
    steps=2400,
    learning_rate=1e-3,
    warm_up=30,
    max_tokens=144,
    queries=5,
    negatives=5,
    hard_taken=3,
    patience=12,
    keeps="last",  # lists held out are of mined pools alone, and rates fall to 2 %
)
"""What the shipped weights were trained with."""


@dataclass(frozen=True, slots=True)
class PoolGroups:
    """A pool's groups, and the queries whose answer is in none."""

    name: str
    sha256: str
    groups: tuple[Group, ...]
    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Where things are, and the numbers."""

    pools: Path
    work: Path
    output: Path
    card: Path = CARD
    settings: TrainingConfig = SETTINGS
    names: tuple[str, ...] = ()  # of the pools to take, none: all
    blend: BlendConfig | None = None  # None: what does best on the lists held out
    choices: GroupChoices = field(default_factory=GroupChoices)
    origin: RerankingConfig = field(default_factory=lambda: rerank_model(RESIDUAL))
    seconds: float | None = None
    window: int = 256


Say = Callable[[str], None]


def gather(recipe: Recipe, manager: ModelManager, say: Say) -> list[PoolGroups]:
    """The groups of every pool, made once and kept in the work folder.

    Raises:
        InputError: there is no pool, or one is not that of the data card.
    """
    recipe.work.mkdir(parents=True, exist_ok=True)
    folders = sorted(path.parent for path in recipe.pools.glob("*/queries.jsonl"))
    folders = [one for one in folders if not recipe.names or one.name in recipe.names]
    if not folders:
        raise InputError(
            f"There is no pool in {recipe.pools}.", cure="Mine the pools first."
        )
    stated = _stated(recipe.card)
    found = []
    for folder in folders:
        sha256 = pool_sha256(folder)
        if stated.get(folder.name, sha256) != sha256:
            raise InputError(
                f"The pool {folder.name} is not the one of the data card.",
                cure="Mine the pools anew.",
            )
        found.append(_kept(recipe, folder, sha256, manager))
        say(f"{folder.name}: {len(found[-1].groups)} groups")
    return found


def train(
    recipe: Recipe, pools: Sequence[PoolGroups], say: Say
) -> tuple[Trainer, Trained, BlendConfig]:
    """The trainer at the end of training, how it went, and the blend chosen."""
    base = find_base(recipe.origin, offline=True, anew=True)
    model = base.model(recipe.settings, dtype=this_machine().cpu_dtype)
    trainer = Trainer(model, base.encoder(recipe.settings), recipe.settings)
    groups = learnt_from(pools)
    looked_at = _looked_at(pools)

    def report(done: Progress) -> None:
        say(
            f"step {done.step} of {done.steps}, {done.seconds:.0f} s, loss "
            f"{done.loss:.3f} (fused {done.fused:.3f})"
            + ("" if done.held_out is None else f", held out {done.held_out:.3f}")
        )

    done = trainer.train(groups, looked_at, report=report, seconds=recipe.seconds)
    weights = (*WEIGHTS, round(done.weight, 2))
    bound = recipe.settings.bound
    if recipe.blend is not None:
        return trainer, done, recipe.blend
    if not looked_at:
        return trainer, done, BlendConfig(weight=round(done.weight, 2), bound=bound)
    logits = trainer.logits(looked_at)
    return trainer, done, choose_blend(looked_at, logits, bound, weights)


def learnt_from(pools: Sequence[PoolGroups]) -> list[Group]:
    """Return the groups to train on; those that people judged count more than once."""
    return [
        group
        for pool in pools
        if not _held(pool)
        for group in pool.groups
        for _ in range(JUDGED_TIMES if group.source == JUDGED else 1)
    ]


def judge(
    pools: Sequence[PoolGroups],
    blend: BlendConfig,
    logits: Callable[[Sequence[Group]], list[Float32Array]],
) -> dict[str, Any]:
    """nDCG@10 of fused and reranked on the judged half of each held-out pool."""
    table: dict[str, Any] = {}
    for pool in pools:
        groups = _halves(pool)[1]
        if not _held(pool) or not groups:
            continue
        missed = pool.missed // 2
        figures = {
            "fused": ndcg(fused_ranks(groups), missed),
            "reranked": ndcg(blended_ranks(groups, logits(groups), blend), missed),
        }
        gain = compare(figures, "reranked", "fused")
        means = {stage: str(value) for stage, value in estimate(figures).items()}
        table[pool.name] = {
            **means,
            "queries": len(groups) + missed,
            "gain": round(gain.gain, 4),
            "p": round(gain.p, 4),
        }
    return table


def run(recipe: Recipe, manager: ModelManager, say: Say) -> DifferenceCard:
    """Gather, train, judge, write."""
    pools = gather(recipe, manager, say)
    trainer, done, blend = train(recipe, pools, say)
    card = DifferenceCard(
        base_model=recipe.origin.hf_model_id,
        base_package=recipe.origin.package,
        base_sha256=recipe.origin.weights_sha256 or "",
        rank=recipe.settings.rank,
        max_tokens=recipe.window,
        blend=str(blend),
        training={
            **asdict(recipe.settings),
            "groups": asdict(recipe.choices),
            "pools": {pool.name: pool.sha256 for pool in pools},
            "steps_done": done.steps,
            "best_step": done.best_step,
            "kept_step": done.kept_step,
            "ended_by": done.ending,
            "seconds": round(done.seconds),
            "processor": this_machine().processor,
            "dtype": this_machine().cpu_dtype,
            "judged": judge(pools, blend, trainer.logits),
        },
    )
    write_folder(recipe.output, trainer.difference(), card)
    return card


def _kept(
    recipe: Recipe, folder: Path, sha256: str, manager: ModelManager
) -> PoolGroups:
    """A pool's groups, from the work folder where they were made from the same pool."""
    made = hashlib.sha256(f"{sha256} {recipe.choices}".encode()).hexdigest()
    path = recipe.work / f"{folder.name}-{made[:16]}.jsonl"
    facts = path.with_suffix(".json")
    if not facts.is_file():
        groups, asked = pool_groups(folder, recipe.choices, manager)
        write_groups(path, groups)
        facts.write_text(json.dumps({"asked": asked}) + "\n", encoding="utf-8")
    asked = json.loads(facts.read_bytes())["asked"]
    groups = list(read_groups(path))
    return PoolGroups(folder.name, sha256, tuple(groups), asked - len(groups))


def _stated(card: Path) -> dict[str, str]:
    if not card.is_file():
        return {}
    pools = json.loads(card.read_bytes())["pools"]
    return {name: said["sha256"] for name, said in pools.items()}


def _held(pool: PoolGroups) -> bool:
    return pool.name.startswith(HELD)


def _looked_at(pools: Sequence[PoolGroups]) -> list[Group]:
    """Some lists of the first halves, cut to those whose answer stands near the top."""
    held = [pool for pool in pools if _held(pool)]
    return [
        cut
        for pool in held
        for group in _halves(pool)[0][: LOOKED_AT * 3 // 4]
        if (cut := group.first(LOOKED_AT_DEEP)) is not None
    ][:LOOKED_AT]


def _halves(pool: PoolGroups) -> tuple[list[Group], list[Group]]:
    """A held-out pool's groups: to stop and weigh by, and to judge by."""
    halves: tuple[list[Group], list[Group]] = ([], [])
    for group in pool.groups:
        halves[hashlib.sha256(group.query.encode()).digest()[0] % 2].append(group)
    return halves


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it all, and print the figures of the pools held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pools", type=Path)
    parser.add_argument("--work", type=Path, help="for groups (default: beside pools)")
    parser.add_argument("--output", type=Path, default=SHIPPED / RESIDUAL)
    parser.add_argument(
        "--pools",
        nargs="+",
        default=(),
        metavar="NAME",
        dest="names",
        help="take these alone",
    )
    parser.add_argument(
        "--blend", type=BlendConfig.parse, help="write this blend, whatever does best"
    )
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=GroupChoices().queries)
    parser.add_argument(
        "--minutes", type=float, help="end training then, at the latest"
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
    options = parser.parse_args(arguments)
    recipe = Recipe(
        pools=options.pools,
        work=options.work or options.pools.parent / "groups",
        output=options.output,
        settings=replace(SETTINGS, steps=options.steps, seed=options.seed),
        choices=GroupChoices(queries=options.queries, seed=options.seed),
        names=tuple(options.names),
        blend=options.blend,
        seconds=options.minutes * 60 if options.minutes else None,
    )
    try:
        if not options.force:
            check_target(
                recipe.output,
                cure="Name another folder with --output, or replace it with --force.",
            )
        card = run(recipe, ModelManager(offline=True), _say)
    except EmbedderError as error:
        _say(str(error))
        return error.exit_code
    print(json.dumps(card.training["judged"], indent=1))
    print(f"{card.blend}: {recipe.output}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
