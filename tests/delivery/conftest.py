"""The bundle most tests send."""

from __future__ import annotations

from pathlib import Path

import pytest
from delivery_bundle import Content, make_content, write_bundle


@pytest.fixture
def content() -> Content:
    """Sixty rows."""
    return make_content(60)


@pytest.fixture
def bundle(tmp_path: Path, content: Content) -> Path:
    """The bundle of `content`."""
    return write_bundle(tmp_path / "bundle", content)
