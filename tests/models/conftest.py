"""A hub of one's own, and an empty cache of models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_parts import Site, running_site
from huggingface_hub import close_session, constants

from processor.ultimate_embedder.encoders import hub as hub_module
from processor.ultimate_embedder.encoders.hub import HuggingFaceHub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of models that the library uses, empty."""
    place = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    return place


@pytest.fixture
def site(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub that the library asks instead of the real one, which stays forbidden."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with running_site() as site:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        own = template.replace(constants.ENDPOINT, site.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", own)
        monkeypatch.setattr(constants, "ENDPOINT", site.endpoint)
        close_session()  # a connection to another test's hub
        yield site
        close_session()


@pytest.fixture
def hub(cache: Path) -> HuggingFaceHub:
    return HuggingFaceHub()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made: none takes time."""
    made: list[float] = []
    monkeypatch.setattr(hub_module.time, "sleep", made.append)
    return made
