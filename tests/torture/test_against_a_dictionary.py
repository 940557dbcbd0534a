"""Edits, switches, crashes and runs in any order: the bundle is what a dictionary says.

Hypothesis makes up the orders, and shortens one that fails to the steps that matter.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import Faults, in_child
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from promises import Promise
from torture_parts import COLLECTION, config_of, run_once, write_pages

from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.verify import verify_bundle

PRIMARY = dense_model("all-miniLM-l6")
# The same tokenizer files under another name and width: a second pass of its own.
COMPANION = replace(PRIMARY, name="companion", vector_dim=96)
STARTED: list[int] = []

names = st.sampled_from(["a", "b", "c", "d"])
texts = st.lists(
    st.sampled_from(["shard", "replica set", "vector", "index " * 300, "a\n b", "ß🦀"]),
    min_size=1,
    max_size=3,
)


class Collection(RuleBasedStateMachine):
    """A collection on disk beside a dictionary of what it holds."""

    def __init__(self) -> None:
        super().__init__()
        STARTED.append(1)
        self.root = Path(tempfile.mkdtemp())
        self.pages: dict[str, list[str]] = {}
        self.changes: dict[str, Any] = {}
        self.vectors: dict[tuple[str, str], bytes] = {}

    @initialize(page=texts)
    def begin(self, page: list[str]) -> None:
        self.pages["a"] = page

    @rule(name=names, page=texts)
    def write(self, name: str, page: list[str]) -> None:
        self.pages[name] = page

    @rule(name=names, text=texts)
    def edit(self, name: str, text: list[str]) -> None:
        if name in self.pages:
            self.pages[name] = text[:1] + self.pages[name][1:] + text[1:]

    @rule(name=names)
    def delete(self, name: str) -> None:
        if len(self.pages) > 1:
            self.pages.pop(name, None)

    @rule(key=st.sampled_from(["enable_sparse", "enable_rerank"]), on=st.booleans())
    def toggle(self, key: str, on: bool) -> None:
        self.changes[key] = on

    @rule(many=st.booleans())
    def switch_models(self, many: bool) -> None:
        self.changes["dense"] = (PRIMARY, COMPANION) if many else (PRIMARY,)

    @rule(at=st.integers(1, 250), power=st.booleans())
    def crash(self, at: int, power: bool) -> None:
        write_pages(self.root / "chunked", self.pages)
        fault = Faults("power cut" if power else "kill", at, self.root, seed=at)
        config = config_of(self.root, **self.changes)
        assert in_child(lambda: run_once(config), fault)[0] in (0, -9)

    @rule()
    def run(self) -> None:
        write_pages(self.root / "chunked", self.pages)
        assert run_once(config_of(self.root, **self.changes)) == 0
        bundle = self.root / "out" / COLLECTION
        points = [
            json.loads(line)
            for line in (bundle / f"{COLLECTION}_qdrant.jsonl")
            .read_bytes()
            .splitlines()
        ]
        held = {one["payload"]["chunk_id"]: one["payload"]["text"] for one in points}
        assert held == self.expected()
        assert len(points) == len(held)
        assert bool(list(bundle.glob("*_sparse.jsonl"))) == self.is_on("enable_sparse")
        assert verify_bundle(bundle).whole
        self.same_vectors(bundle, [one["payload"]["text"] for one in points])

    def expected(self) -> dict[str, str]:
        return {
            f"{COLLECTION}:guide:{name}.md:chunk:{index}": text
            for name, page in self.pages.items()
            for index, text in enumerate(page)
        }

    def is_on(self, key: str) -> bool:
        return bool(self.changes.get(key, True))

    def same_vectors(self, bundle: Path, held: list[str]) -> None:
        """A text's vector of a model is the same bytes in every run."""
        models = [model.name for model in self.changes.get("dense", (PRIMARY,))]
        files = sorted(bundle.glob("*_embeddings.npy"))
        assert len(files) == len(models)
        for model in models:
            rows = np.load(bundle / f"{COLLECTION}_{model}_embeddings.npy")
            assert len(rows) == len(held)
            for text, row in zip(held, rows, strict=True):
                digest = hashlib.sha256(row.tobytes()).digest()
                assert self.vectors.setdefault((model, text), digest) == digest

    def teardown(self) -> None:
        try:
            self.run()
        finally:
            shutil.rmtree(self.root)


@pytest.mark.parametrize("rounds", [3, pytest.param(150, marks=pytest.mark.torture)])
def test_a_bundle_holds_what_a_dictionary_holds(rounds: int, promise: Promise) -> None:
    promise.holds(
        "Files added, edited and deleted, models and stages switched, kills and power "
        "cuts, in orders made up by Hypothesis: ids and texts are those of a "
        "dictionary, and no switch or crash changes a vector's bytes"
    )
    STARTED.clear()
    machine = Collection.TestCase
    machine.settings = settings(
        max_examples=rounds,
        stateful_step_count=8,
        deadline=None,
        derandomize=rounds < 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    machine("runTest").runTest()
    promise.done = len(STARTED)
