"""Bundles to search in."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from search_parts import MakeBundle, write_bundle


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Return a function that writes a bundle and returns its folder."""
    return partial(write_bundle, tmp_path / "out")
