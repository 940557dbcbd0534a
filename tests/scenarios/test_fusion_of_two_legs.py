"""Which leg is named first is of no consequence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.ultimate_embedder.records import RankedList
from processor.ultimate_embedder.retrieval.fusion import FusionConfig, fuse
from processor.ultimate_embedder.retrieval.ranking import ranked

LEGS = st.dictionaries(
    st.integers(0, 30), st.floats(-5, 5, allow_nan=False, width=32), max_size=20
)


def leg(scores: dict[int, float]) -> RankedList:
    rows = np.array(list(scores), dtype=np.int64)
    return ranked(rows, np.array(list(scores.values()), dtype=np.float64))


@pytest.mark.parametrize("method", ["rrf", "qdrant-rrf", "dbsf", "sum"])
@given(one=LEGS, other=LEGS)
@settings(max_examples=60, deadline=None)
def test_two_legs_in_either_order_give_the_same_ranking(
    method: str, one: dict[int, float], other: dict[int, float]
) -> None:
    config = FusionConfig(method=method)  # type: ignore[arg-type]
    there = fuse([leg(one), leg(other)], config)
    back = fuse([leg(other), leg(one)], config)
    assert there.rows.tolist() == back.rows.tolist()
    assert there.scores.tolist() == back.scores.tolist()
