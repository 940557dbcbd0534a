"""Token lengths to batches: pure, and a function of content and settings alone.

What is already done has no part in a plan. Resuming, several workers and retries all
come down to doing the batches of the same plan that nobody has done.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .config import ROWS_A_BATCH
from .records import Int64Array

TOKENS_A_BATCH = 8192
"""With `config.ROWS_A_BATCH` the bounds of one unit of work: small enough that a kill
loses under a second or two of a CPU's work, large enough that marking it done costs
nothing beside it."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Rows in batches: batch b is `rows[bounds[b]:bounds[b + 1]]`, longest first.

    Shapes: `rows` int64 [texts]; `bounds` int64 [batches + 1].
    """

    rows: Int64Array
    bounds: Int64Array

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def batch(self, number: int) -> Int64Array:
        """Return the rows of one batch."""
        return self.rows[self.bounds[number] : self.bounds[number + 1]]

    @property
    def digest(self) -> str:
        """Hash of the whole plan, hex."""
        return hashlib.sha256(
            self.rows.astype("<i8").tobytes() + self.bounds.astype("<i8").tobytes()
        ).hexdigest()


def plan_batches(
    lengths: Int64Array,
    rows: Int64Array,
    *,
    budget_tokens: int = TOKENS_A_BATCH,
    max_rows: int = ROWS_A_BATCH,
) -> BatchPlan:
    """Cut `rows` into batches of similar length.

    Rows are sorted by falling length (ties by row), so that a text which does not fit
    the device shows at once and the last batches, which workers share out, are short.
    A batch's cost is rows x longest row; a row over the budget is a batch of its own.

    Args:
        lengths: tokens of each of `rows`, int64 [texts].
        rows: the rows to embed, one for each distinct text, int64 [texts].
        budget_tokens: most token positions in a batch.
        max_rows: most rows in a batch.
    """
    order = np.lexsort((rows, -lengths))
    bounds = [0]
    while bounds[-1] < len(order):
        longest = int(lengths[order[bounds[-1]]])
        size = max(1, min(max_rows, budget_tokens // max(1, longest)))
        bounds.append(min(len(order), bounds[-1] + size))
    return BatchPlan(
        rows=np.ascontiguousarray(rows[order], dtype=np.int64),
        bounds=np.array(bounds, dtype=np.int64),
    )
