"""A worker process as the real one, but for an encoder that needs no weights.

torch is not loaded: what sets its threads is replaced too.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

# A program of its own: the folder of the tests is on the path, the package may not be.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from light_command import LOG, PAUSE, TellingEncoder  # noqa: E402

from processor.ultimate_embedder.config import ModelConfig  # noqa: E402
from processor.ultimate_embedder.encoders import dense  # noqa: E402
from processor.ultimate_embedder.workers.process import main  # noqa: E402


def open_telling(
    folder: Path, config: ModelConfig, *, device: str, dtype: str
) -> TellingEncoder:
    """Return the encoder that the environment describes."""
    pause = float(os.environ.get(PAUSE, "0"))
    return TellingEncoder(config.vector_dim, Path(os.environ[LOG]), pause)


if __name__ == "__main__":
    dense.open_dense = open_telling
    without_torch = ModuleType("dense_torch")
    without_torch.__dict__["one_thread"] = nullcontext
    sys.modules["processor.ultimate_embedder.encoders.dense_torch"] = without_torch
    main()
