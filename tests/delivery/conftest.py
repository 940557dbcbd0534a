"""The bundle most tests send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from delivery_bundle import Content, make_content, write_bundle
from docstring_bundle import Remembering, make_bundle

from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.search.loading import ManifestEncoders


@pytest.fixture
def content() -> Content:
    """Sixty rows."""
    return make_content(60)


@pytest.fixture
def bundle(tmp_path: Path, content: Content) -> Path:
    """The bundle of `content`."""
    return write_bundle(tmp_path / "bundle", content)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle made by the job itself."""
    return make_bundle(tmp_path_factory.mktemp("docstrings"))


@pytest.fixture(scope="session")
def encoders(folder: Path) -> Iterator[Remembering]:
    inner = ManifestEncoders(open_bundle(folder).manifest, offline=True)
    with closing(Remembering(inner)) as held:
        yield held
