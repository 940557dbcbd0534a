"""Plans are a function of lengths alone; the ledger knows what is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processor.ultimate_embedder.ledger import BatchRecord, Ledger
from processor.ultimate_embedder.planning import plan_batches

lengths = st.lists(st.integers(1, 600), min_size=1, max_size=200)


@given(lengths, st.integers(1, 2000), st.integers(1, 70))
def test_a_plan_holds_every_row_once_within_budget_and_sorted(
    tokens: list[int], budget: int, max_rows: int
) -> None:
    counts = np.array(tokens, dtype=np.int64)
    rows = np.arange(len(tokens), dtype=np.int64) * 3
    plan = plan_batches(counts, rows, budget_tokens=budget, max_rows=max_rows)
    assert sorted(plan.rows.tolist()) == rows.tolist()
    planned = [counts[plan.batch(number) // 3] for number in range(len(plan))]
    for batch in planned:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * batch.max() <= budget
    flat = np.concatenate(planned)
    assert (np.diff(flat) <= 0).all()


@given(lengths)
def test_equal_lengths_give_equal_plans(tokens: list[int]) -> None:
    counts, rows = np.array(tokens), np.arange(len(tokens))
    assert plan_batches(counts, rows).digest == plan_batches(counts, rows).digest
    longer = counts.copy()
    longer[0] += 1000
    changed = plan_batches(longer, rows)
    assert changed.rows[0] == 0


def test_marks_survive_closing_and_a_new_fingerprint_starts_over(
    tmp_path: Path,
) -> None:
    record = BatchRecord(batch=3, rows=4, tokens=50, padded_tokens=64, seconds=0.5)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert not ledger.open_pass("dense:m", "one")
        ledger.mark("dense:m", record)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.open_pass("dense:m", "one")
        assert ledger.finished("dense:m") == [record]
        assert not ledger.open_pass("dense:other", "one")
        assert not ledger.open_pass("dense:m", "two")
        assert ledger.finished("dense:m") == []
