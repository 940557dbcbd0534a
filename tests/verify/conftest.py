"""The verifier is tested on bundles and models that other areas' tests make."""

from __future__ import annotations

import sys
from pathlib import Path

for area in ("export", "sparse"):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / area))
