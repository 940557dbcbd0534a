"""A bundle that the job itself makes of the standard library's docstrings.

The embedded models compute its vectors and those of the questions.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.delivery.layout import FoundPoint
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.search.loading import ManifestEncoders
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import hashing_parts
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process

MODULES = "bisect heapq json os.path random shutil statistics string textwrap zipfile"
QUERIES = (
    "insert an item into a sorted list",
    "smallest elements of an iterable",
    "parse a JSON document from a string",
    "the file name without its directory",
    "does this path exist?",
    "pick an element at random",
    "shuffle a list in place",
    "copy a whole directory tree",
    "how much free disk space is left",
    "find an executable on the PATH",
    "median of data",
    "standard deviation of a sample",
    "capitalize the words of a text",
    "wrap a paragraph to a width",
    "remove common leading whitespace",
    "read a member of a zip archive",
    "return a list of archive members",
    "what is it?",
    "normal distribution with mean and sigma",
    "a question about walruses and turbines",
)


def docstrings() -> list[str]:
    """Return different docstrings of the modules' functions, classes and methods."""
    found: dict[str, None] = {}
    for name in MODULES.split():
        module = import_module(name)
        for _, one in inspect.getmembers(module):
            if inspect.isfunction(one) or inspect.isclass(one):
                found[inspect.getdoc(one) or ""] = None
            if inspect.isclass(one):
                for _, method in inspect.getmembers(one, inspect.isfunction):
                    found[inspect.getdoc(method) or ""] = None
    return [text[:600] for text in found if len(text) > 40]


def one_process() -> Parts:
    """The real model without worker processes, which take seconds to start."""
    manager = ModelManager(offline=True)

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        with manager.resident(job.model) as encoder:
            yield encoder

    return replace(
        hashing_parts(), models=manager, open_executor=in_process(open_encoder)
    )


def make_bundle(root: Path) -> Path:
    """Return the folder of the bundle, somewhere below `root`."""
    chunks = root / "chunked" / "docs" / "library"
    chunks.mkdir(parents=True)
    entries = [{"text": text} for text in docstrings()]
    assert len(entries) > 130  # more than a list is deep
    (chunks / "library_chunks.json").write_text(json.dumps(entries), encoding="utf-8")
    config = PipelineConfig(
        chunked_dir=root / "chunked",
        output_dir=root / "out",
        dense=(dense_model("all-miniLM-l6"),),
        sparse=(sparse_model("qdrant-bm25"),),
        enable_rerank=False,
        probes=False,
        offline=True,
    )
    (outcome,) = BatchRunner(config, silent, "run-1", one_process()).run().collections
    assert outcome.bundle is not None
    return outcome.bundle


class Remembering:
    """The bundle's own models, each question encoded once."""

    def __init__(self, inner: ManifestEncoders) -> None:
        self.dense = cache(inner.dense)
        self.sparse = cache(inner.sparse)
        self.rerank = inner.rerank
        self.close = inner.close


def same_but_for_ties(
    ours: Sequence[FoundPoint], theirs: Sequence[FoundPoint], scores_too: bool = True
) -> None:
    """Compare the first ten places: one may go to an equal score only."""
    assert len(theirs) == min(10, len(ours))
    score = {point.id: point.score for point in ours}
    assert len({point.id for point in theirs}) == len(theirs)
    for here, there in zip(ours, theirs, strict=False):
        assert score[there.id] == pytest.approx(here.score, rel=1e-5, abs=2e-6)
        if scores_too:
            assert there.score == pytest.approx(here.score, rel=1e-4, abs=2e-5)
