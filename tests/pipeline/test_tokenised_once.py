"""Token ids made while a collection is measured serve every stage, and later runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_parts import Run

from processor.ultimate_embedder.encoders.protocols import Role, Tokenised
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.models.catalogue import dense_model, sparse_model


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each document was made into ids, as it goes on."""
    found: Counter[str] = Counter()
    encode = HubTokenizer.encode

    def counting(self: HubTokenizer, texts: Sequence[str], role: Role) -> Tokenised:
        if role == "document":
            found.update(texts)
        return encode(self, texts, role)

    monkeypatch.setattr(HubTokenizer, "encode", counting)
    return found


def test_nothing_is_tokenised_twice_for_one_tokenizer(
    run: Run, tokenised: Counter[str], tmp_path: Path
) -> None:
    model = dense_model("all-miniLM-l6")
    again = replace(model, name="same-tokenizer")
    outcome, _ = run(dense=(model, again), probes=False)
    assert outcome.exit_code == 0
    texts = Counter(
        entry["text"]
        for path in tmp_path.glob("chunked/**/*_chunks.json")
        for entry in json.loads(path.read_text())
    )
    assert tokenised == texts
    outcome, _ = run(sparse=(sparse_model("qdrant-bm25"),), probes=False)
    assert outcome.exit_code == 0
    assert tokenised == texts
