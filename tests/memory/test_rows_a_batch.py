"""How many texts a batch has: as set, or as suits the device."""

from __future__ import annotations

import pytest

from processor.ultimate_embedder.config import KaggleGPUConfig
from processor.ultimate_embedder.errors import UsageError


def test_a_gpu_gets_more_short_texts_at_once_unless_a_number_is_set() -> None:
    unset, asked = KaggleGPUConfig(), KaggleGPUConfig(base_batch_size=32)
    assert unset.rows_a_batch(on_gpu=False) == 64
    assert unset.rows_a_batch(on_gpu=True) == 256
    assert {asked.rows_a_batch(on_gpu=gpu) for gpu in (False, True)} == {32}


def test_a_batch_without_texts_is_refused() -> None:
    with pytest.raises(UsageError, match=r"base_batch_size must be at least 1.* not 0"):
        KaggleGPUConfig(base_batch_size=0)
