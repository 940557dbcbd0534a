"""A pass at the longest length is measured first, and corrects the budget."""

from __future__ import annotations

import numpy as np

from ..encoders.architecture import read_architecture
from ..errors import DeviceOutOfMemory, ModelError
from ..intake.pieces import Pieces
from ..intake.token_table import TokenTable
from ..memory_cost import padded_length
from ..memory_plan import Calibration, PassProbe, calibrate, pass_budget
from ..planning import BatchPlan
from .jobs import EncodeJob


def calibrated_budget(
    job: EncodeJob,
    plan: BatchPlan,
    pieces: Pieces,
    tokens: TokenTable,
    probe: PassProbe | None,
) -> tuple[int | None, Calibration | None]:
    """Return the most positions of a pass, and what was measured to say so.

    It is the job's own, or less where a pass took more than was reckoned. Nothing is
    measured where no probe can, or no budget was planned.
    A text that does not fit alone is left to its own batch, which names it.
    """
    if probe is None or job.budget_tokens is None or not len(plan.rows):
        return job.budget_tokens, None
    longest = padded_length(
        int(pieces.lengths(tokens, np.asarray(plan.rows[:1]))[0]), job.model.max_tokens
    )
    try:
        shape = read_architecture(job.location, "none")
        found = calibrate(shape, job.dtype, probe, longest=longest)
    except (DeviceOutOfMemory, ModelError):
        return job.budget_tokens, None
    budget = pass_budget(
        shape, job.dtype, job.memory_cap_bytes, longest, factor=found.factor
    )
    return max(1, min(job.budget_tokens, budget)), found
