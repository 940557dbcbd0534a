"""A dense pass over some texts, without a collection around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np

from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.intake.pieces import Pieces
from processor.ultimate_embedder.intake.token_table import TokenTable
from processor.ultimate_embedder.ledger import Ledger
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.planning import plan_batches
from processor.ultimate_embedder.stages.dense import DenseStage, OpenExecutor
from processor.ultimate_embedder.stages.dense_records import DenseBlock, DenseTask
from processor.ultimate_embedder.testing import HashingEncoder, RecordingListener
from processor.ultimate_embedder.workers.jobs import EncodeJob

WORDS = ("river", "vector", "table", "index", "cluster", "search", "filter")


def long_text(words: int) -> str:
    """Return a text of so many words, each a token of its own."""
    return " ".join(WORDS[(i * i + i // 5) % len(WORDS)] for i in range(words))


class Texts:
    """As much of a chunk store as tokenising needs."""

    collection = "c"
    text_digest = "texts"

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, row: int) -> str:
        return self._texts[row]


class Pass:
    """One dense pass over the session's texts, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        texts: list[str],
        manager: ModelManager,
        model: ModelConfig,
        tokenizer: HubTokenizer,
        *,
        cut_at: int | None = None,
        rows_a_batch: int = 4,
    ) -> None:
        self.folder = folder
        self.heard = RecordingListener()
        self.tokens = TokenTable.build(
            Texts(texts), tokenizer, folder / "tokens", cut_at=cut_at
        )
        _, first, which = np.unique(texts, return_index=True, return_inverse=True)
        self.first = first[which]
        distinct = np.unique(self.first)
        self.pieces = Pieces.of(self.tokens, distinct, model.max_tokens)
        numbers = self.pieces.numbers(distinct)
        lengths = self.pieces.lengths(self.tokens, numbers)
        self.plan = plan_batches(lengths, numbers, max_rows=rows_a_batch)
        self.task = DenseTask(
            collection="c",
            model=model,
            location=manager.locate(model),
            tokens_dir=folder / "tokens",
            text_hashes=np.frombuffer(
                b"".join(sha256(text.encode()).digest() for text in texts), np.uint8
            ).reshape(-1, 32),
            tokenizer_fingerprint="f",
            dtype=manager.dtype("cpu"),
            device="cpu",
            outputs=("dense", "attention"),
        )

    def run(self, open_executor: OpenExecutor) -> tuple[bytes, bytes]:
        """Return the bytes of vectors and attention."""
        block = self.block(open_executor)
        assert block.vectors is not None
        assert block.attention is not None
        return block.vectors.tobytes(), block.attention.weights.tobytes()

    def block(self, open_executor: OpenExecutor) -> DenseBlock:
        with Ledger(self.folder / "ledger.sqlite") as ledger:
            stage = DenseStage(self.folder, ledger, open_executor, self.heard)
            return stage.run(self.task, self.tokens, self.pieces, self.plan, self.first)


@contextmanager
def hashing(job: EncodeJob) -> Iterator[HashingEncoder]:
    yield HashingEncoder(job.model.vector_dim)
