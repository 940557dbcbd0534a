"""Models that are loaded and used by several threads of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from family_parts import save_family
from transformers import AutoModel

from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.models.manager import ModelManager


@pytest.fixture
def another_default() -> Iterator[None]:
    """What transformers sets while it builds a model, in any thread."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_pass_does_not_follow_torchs_default_precision(
    encoder: AttentionEncoder,
    tokenizer: HubTokenizer,
    texts: list[str],
    request: pytest.FixtureRequest,
) -> None:
    ids = tokenizer.encode(texts[:3], "document").ids
    expected = encoder.encode(ids)
    request.getfixturevalue("another_default")
    assert encoder.encode(ids).tobytes() == expected.tobytes()


def test_two_models_are_never_built_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = save_family(tmp_path, "modernbert")
    real, inside, most = AutoModel.from_pretrained, 0, 0
    counting = threading.Lock()

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        time.sleep(0.05)
        try:
            return real(*arguments, **options)
        finally:
            with counting:
                inside -= 1

    monkeypatch.setattr(AutoModel, "from_pretrained", counted)

    def load() -> None:
        with ModelManager(offline=True).resident(config, dtype="bfloat16"):
            pass

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert torch.get_default_dtype() == torch.float32
