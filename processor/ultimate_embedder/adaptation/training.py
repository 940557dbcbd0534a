"""Training of the residual: logits that correct a fused list rather than replace it.

Over the candidates of one query, with fused z-scores z, logits r and the answer first:

    list   cross-entropy of  tau z + bound tanh(r / bound)
    alone  cross-entropy of  r  against the answer, and against softmax(1.5 z) at first
    loss   list + 0.5 alone

tau is learnt with the rest; its inverse is the weight that logits then deserve in a
blend of the same bound. Shards of a step are computed by threads of one core each and
added up in their order: the number of threads changes no bit of the outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..encoders.dense_torch import one_thread
from ..errors import ModelError, UsageError
from ..hardware import this_machine
from ..records import Float32Array
from .groups import Group, sample
from .low_rank import LowRankBert, Snapshot
from .pairs import PairEncoder
from .settings import TrainingConfig
from .watch import Losses, Report, Trained, Watch

_LEAST_TAU = 1e-3


class Trainer:
    """Moves a model on groups, looking at others to know when to stop."""

    def __init__(
        self,
        model: LowRankBert,
        encoder: PairEncoder,
        config: TrainingConfig,
        *,
        threads: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the parts. No `threads` means one a core; on a GPU there is one."""
        self.config = config
        self._model, self._encoder, self._clock = model, encoder, clock
        on_cpu = model.device.type == "cpu"
        self._threads = (threads or this_machine().cores) if on_cpu else 1
        self._tau = torch.tensor(config.scale, device=model.device, requires_grad=True)
        self._moved = [*model.parameters(), self._tau]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": self._moved[:-1], "weight_decay": config.weight_decay},
                {"params": [self._tau], "weight_decay": 0.0},
            ],
            betas=config.betas,
        )

    @property
    def weight(self) -> float:
        """What logits deserve in a blend: 1 / tau."""
        return 1 / max(self._tau.item(), _LEAST_TAU)

    def train(
        self,
        groups: Sequence[Group],
        held_out: Sequence[Group] = (),
        *,
        report: Report | None = None,
        seconds: float | None = None,
    ) -> Trained:
        """Train until the last step, the last gain, or the end of the time given.

        Where groups are held out and the settings keep the best, the weights that did
        best on them are kept, be it those from before the first step.

        Raises:
            UsageError: there is no group.
            ModelError: the loss is no number any more.
        """
        if not groups:
            raise UsageError("There is no group to train on.")
        with one_thread(), self._pool() as pool:
            watch = Watch(self.config, self._clock, report, seconds)
            watch.looked(0, self._look(held_out, pool), self._snapshot)
            for step, batch in enumerate(_batches(groups, self.config), start=1):
                watch.stepped(step, self._step(step - 1, batch, pool))
                if step % self.config.check_every == 0 or step == self.config.steps:
                    watch.looked(step, self._look(held_out, pool), self._snapshot)
                if ending := watch.ending(step):
                    break
            if watch.unseen(step):
                watch.looked(step, self._look(held_out, pool), self._snapshot)
        if watch.best is not None and self.config.keeps == "best":
            self._restore(watch.best)
        return watch.trained(step, ending or "steps", self.weight)

    def difference(self) -> dict[str, npt.NDArray[Any]]:
        """Return the tensors of a difference file."""
        return self._model.difference()

    def logits(self, groups: Sequence[Group]) -> list[Float32Array]:
        """Return each group's logits, [documents]."""
        with one_thread(), self._pool() as pool:
            found = list(pool.map(self._scored, groups))
        return [logits.cpu().numpy() for logits in found]

    def _pool(self) -> ThreadPoolExecutor:
        workers = min(self._threads, self.config.shards)
        return ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(1,)
        )

    def _step(
        self, number: int, groups: Sequence[Group], pool: ThreadPoolExecutor
    ) -> Losses:
        """Move once; return the mean losses before."""
        size = self.config.queries
        shards = [groups[at : at + size] for at in range(0, len(groups), size)]
        parts = list(pool.map(lambda shard: self._part(shard, number), shards))
        for place, tensor in enumerate(self._moved):
            tensor.grad = torch.stack([part.gradients[place] for part in parts]).mean(0)
        losses = Losses(*np.mean([part.losses for part in parts], axis=0).tolist())
        if not np.isfinite(losses.listed):
            raise ModelError(
                f"Training diverged at step {number + 1}.",
                cure="Train again with a smaller learning rate.",
            )
        torch.nn.utils.clip_grad_norm_(self._moved[:-1], self.config.clip)
        rates = (self.config.learning_rate, self.config.scale_rate)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self.config.rate(number)
        self._optimizer.step()
        return losses

    def _part(self, groups: Sequence[Group], number: int) -> _Part:
        pairs = [pair for group in groups for pair in group.pairs]
        logits = self._model.logits(self._encoder.batches(pairs))
        logits = logits.view(len(groups), -1)
        fused = self._fused(groups)
        imitated = torch.softmax(self.config.imitation * fused, dim=1)
        share = self.config.imitation_share(number)
        imitation = functional.cross_entropy(logits, imitated)
        alone = (1 - share) * _answer_loss(logits) + share * imitation
        listed = self._list_loss(logits, fused)
        loss = listed + self.config.alone * alone
        gradients = torch.autograd.grad(loss, self._moved)
        with torch.no_grad():
            before = _answer_loss(self._tau * fused)
        return _Part(gradients, (listed.item(), before.item()))

    def _look(self, groups: Sequence[Group], pool: ThreadPoolExecutor) -> float | None:
        """Return the mean loss of lists on groups held out, None: there are none."""

        def loss(group: Group) -> float:
            with torch.no_grad():
                logits = self._scored(group)[None]
                return self._list_loss(logits, self._fused([group])).item()

        return float(np.mean(list(pool.map(loss, groups)))) if groups else None

    def _scored(self, group: Group) -> Tensor:
        with torch.no_grad():
            return self._model.logits(self._encoder.batches(group.pairs))

    def _fused(self, groups: Sequence[Group]) -> Tensor:
        """Return float32 [groups, documents]."""
        z = np.array([group.fused_z for group in groups], dtype=np.float32)
        return torch.from_numpy(z).to(self._model.device)

    def _list_loss(self, logits: Tensor, fused: Tensor) -> Tensor:
        bound = self.config.bound
        return _answer_loss(self._tau * fused + bound * torch.tanh(logits / bound))

    def _snapshot(self) -> Snapshot:
        return [*self._model.snapshot(), self._tau.detach().clone()]

    def _restore(self, snapshot: Snapshot) -> None:
        self._model.restore(snapshot[:-1])
        with torch.no_grad():
            self._tau.copy_(snapshot[-1])


@dataclass(frozen=True, slots=True)
class _Part:
    """What one shard gives: gradients, and the losses with and without logits."""

    gradients: tuple[Tensor, ...]
    losses: tuple[float, float]


def _batches(groups: Sequence[Group], config: TrainingConfig) -> Iterator[list[Group]]:
    """Yield the groups of each step: all once in a drawn order, then all again."""
    rng = np.random.Generator(np.random.PCG64(config.seed))
    waiting: list[int] = []
    for _ in range(config.steps):
        taken: list[Group] = []
        while len(taken) < config.groups_a_step:
            if not waiting:
                waiting = rng.permutation(len(groups)).tolist()
            group = groups[waiting.pop()]
            taken.append(
                sample(group, config.negatives, config.hard, config.hard_taken, rng)
            )
        yield taken


def _answer_loss(scores: Tensor) -> Tensor:
    """Return the cross-entropy of the answers, which stand first: a scalar."""
    answers = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return functional.cross_entropy(scores, answers)
