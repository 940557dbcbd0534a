"""Requests made from the service's own description find nothing that breaks it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, settings
from search_parts import FakeEncoders, write_bundle
from serving_parts import RAN

from processor.ultimate_embedder.search import open_bundle
from processor.ultimate_embedder.serving.app import create_app
from processor.ultimate_embedder.serving.service import SearchService

_FOLDER = tempfile.TemporaryDirectory()
_BUNDLE = write_bundle(Path(_FOLDER.name), rerank=RAN)
_SERVICE = SearchService({"docs": open_bundle(_BUNDLE, FakeEncoders())})
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", create_app(_SERVICE))


@SCHEMA.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate()
