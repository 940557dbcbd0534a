"""A run over a small collection, without model weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipeline_parts import Run, config_for, write_collection

from processor.ultimate_embedder.batch_runner import BatchRunner, RunOutcome
from processor.ultimate_embedder.testing import RecordingListener, hashing_parts


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_collection(tmp_path / "chunked", "docs")

    def go(**changes: Any) -> tuple[RunOutcome, RecordingListener]:
        heard = RecordingListener()
        runner = BatchRunner(
            config_for(tmp_path, **changes), heard, "run-1", hashing_parts()
        )
        return runner.run(), heard

    return go
