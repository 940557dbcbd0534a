"""How long to train on a bundle's probes, and from which scale on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..hardware import this_machine
from .bundle_probes import Split, groups
from .choices import AdaptChoices
from .groups import Group, sample
from .judging import best_scale
from .origin import Origin
from .settings import TrainingConfig
from .training import Trainer

_EPOCHS = 3
_LEAST_STEPS = 60
_LOOKS = 6
_TRIAL_STEPS = 2
_OVERTIME = 1.5  # times the minutes asked for, until a clock ends training


@dataclass(frozen=True, slots=True)
class Schedule:
    """Settings of training, and the seconds after which a clock ends it."""

    config: TrainingConfig
    seconds: float | None


def schedule(origin: Origin, divided: Split, choices: AdaptChoices) -> Schedule:
    """Return the settings for these probes, by steps, minutes or their number."""
    config = _settings(origin, divided, choices)
    limit = None
    if choices.steps is not None:
        steps = choices.steps
    elif choices.minutes is not None:
        seconds = choices.minutes * 60
        limit = seconds * _OVERTIME
        steps = max(1, int(seconds / _seconds_a_step(origin, config, divided)))
    else:
        rounds = len(divided.trained) / config.groups_a_step
        steps = max(_LEAST_STEPS, math.ceil(_EPOCHS * rounds))
    config = replace(
        config,
        steps=steps,
        warm_up=max(1, min(config.warm_up, steps // 5)),
        check_every=max(1, steps // _LOOKS),
    )
    return Schedule(config, limit)


def trainer(origin: Origin, config: TrainingConfig) -> Trainer:
    """Return what trains from the origin on."""
    model = origin.base.model(config, dtype=this_machine().cpu_dtype)
    return Trainer(model, origin.base.encoder(config), config)


def sampled(found: Sequence[Group], config: TrainingConfig) -> list[Group]:
    """Return each group with as many negatives as a step of training takes."""
    rng = np.random.Generator(np.random.PCG64(config.seed))
    return [
        sample(group, config.negatives, config.hard, config.hard_taken, rng)
        for group in found
    ]


def _settings(origin: Origin, divided: Split, choices: AdaptChoices) -> TrainingConfig:
    """Return the settings but for the number of steps.

    Fused scores begin at the scale at which they alone tell the answers best, so that
    logits learn what is missing there. The inverse of a blend's weight is no such
    scale: a small weight, chosen to do no harm elsewhere, would leave a list that
    fusion has wrong out of the logits' reach.
    """
    config = replace(choices.settings or TrainingConfig(), seed=choices.seed)
    scale = best_scale(sampled(groups(divided.trained), config))
    config = replace(config, scale=scale)
    if not origin.base.start.tensors:
        return config
    blend = origin.config.blend
    bound = (blend.bound if blend else None) or config.bound
    return replace(config, imitated=0.1, bound=bound)


def _seconds_a_step(origin: Origin, config: TrainingConfig, divided: Split) -> float:
    """Return what a step takes here, measured on a model that is thrown away."""
    trial = trainer(origin, replace(config, steps=_TRIAL_STEPS))
    begun = time.monotonic()
    trial.train(groups(divided.trained))
    return (time.monotonic() - begun) / _TRIAL_STEPS
