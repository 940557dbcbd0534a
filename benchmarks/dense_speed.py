"""Dense vectors on a CPU: ours against other libraries, in one run.

Ours goes through its worker processes, one thread each, with files and syncs as in a
run; the others get all cores. Each starts from texts. Every chunk's vector is compared
with the float32 vector of sentence-transformers.

    python -m benchmarks.dense_speed [--turns N] [--chunks N] [--data FOLDER]
        [--processor-time] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import torch
from sentence_transformers import SentenceTransformer

from benchmarks import corpus, dense_peers, harness
from benchmarks.dense_peers import Encode
from benchmarks.harness import Aim, Clock, Table
from processor.ultimate_embedder.config import ModelConfig
from processor.ultimate_embedder.hardware import this_machine
from processor.ultimate_embedder.models.catalogue import dense_model
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.records import Float32Array

REFERENCE = "sentence-transformers, float32"
PEER_BFLOAT16 = "sentence-transformers, bfloat16"
FASTEMBED = "fastembed, float32"
OURS, SPARSE = "ours", "ours, with attention sparse vectors"
AIMS = (
    Aim(OURS, REFERENCE, at_least=5.0),
    Aim(OURS, PEER_BFLOAT16, at_least=1.7),
    Aim(OURS, FASTEMBED, at_least=3.0),
    Aim(SPARSE, OURS, at_least=1 / 1.25),
)


def contenders(
    texts: list[str], scratch: Path, stack: ExitStack, only: list[str]
) -> Iterator[tuple[str, Encode]]:
    """Yield those encoders that `only` names, or all; `stack` closes them."""
    model = dense_model("all-miniLM-l6")
    manager = ModelManager(offline=True)
    path = manager.locate(model).path

    def wanted(name: str) -> bool:
        return not only or name in only

    for name, dtype in ((REFERENCE, None), (PEER_BFLOAT16, torch.bfloat16)):
        if wanted(name):
            yield name, with_sentence_transformers(path, texts, dtype)
    if wanted(OURS) or wanted(SPARSE):
        yield from _ours(texts, model, scratch, stack)
    if wanted(FASTEMBED) or wanted("ONNX Runtime") or wanted("OpenVINO"):
        graph = scratch / "graph"
        dense_peers.export_graph(path, graph)
        tokenizer = manager.tokenizer(model)
        if find_spec("fastembed"):
            yield (
                FASTEMBED,
                dense_peers.with_fastembed(graph, texts, model.vector_dim),
            )
        if find_spec("onnxruntime"):
            yield (
                "ONNX Runtime, float32, batches of 4",
                dense_peers.with_onnxruntime(graph, texts, tokenizer),
            )
        if find_spec("openvino"):
            yield (
                "OpenVINO, batches of 4",
                dense_peers.with_openvino(graph, texts, tokenizer),
            )


def _ours(
    texts: list[str], model: ModelConfig, scratch: Path, stack: ExitStack
) -> Iterator[tuple[str, Encode]]:
    opened = stack.enter_context(
        dense_peers.ours(texts, model, scratch / "ours", workers=this_machine().cores)
    )
    yield OURS, opened.dense
    yield SPARSE, opened.dense_and_sparse


def with_sentence_transformers(
    path: Path, texts: list[str], dtype: torch.dtype | None
) -> Encode:
    """Return `encode` as it comes, or with weights of another precision."""
    model = SentenceTransformer(
        str(path),
        device="cpu",
        local_files_only=True,
        model_kwargs={} if dtype is None else {"dtype": dtype},
    )
    return partial(
        model.encode, texts, normalize_embeddings=True, show_progress_bar=False
    )


def processor_seconds() -> float:
    """Return the processor time of this process and its children so far."""
    me = psutil.Process()
    times = (one.cpu_times() for one in (me, *me.children(recursive=True)))
    return sum(one.user + one.system for one in times)


def run(
    folder: Path | None, turns: int, count: int, clock: Clock, only: list[str]
) -> Table:
    """Return medians of embedding `count` chunks."""
    texts = corpus.chunks(folder, count)
    counted = corpus.minilm_tokenizer().encode(texts, "document").ids
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        encoders = dict(contenders(texts, Path(scratch), stack, only))
        vectors = {name: np.array(encode()) for name, encode in encoders.items()}
        seconds = harness.take_turns(encoders, turns, clock=clock, warm_up=False)
    return Table(
        "dense",
        "Dense vectors of all-MiniLM-L6-v2 on this CPU",
        "chunks",
        harness.rows_of(seconds, len(texts), REFERENCE),
        reference=REFERENCE,
        aims=AIMS,
        remark=f"{len(texts)} chunks of {np.mean([len(one) for one in counted]):.0f} "
        f"tokens on average. {_clock_words(clock)} {agreement(vectors)}",
    )


def _clock_words(clock: Clock) -> str:
    if clock is time.perf_counter:
        return "Seconds on the clock."
    return "Processor time of all processes, since other work ran beside."


def agreement(vectors: Mapping[str, Float32Array]) -> str:
    """Say the lowest cosine of any chunk to the reference, for each encoder."""
    expected = vectors.get(REFERENCE)
    if expected is None:
        return ""
    lowest = {
        name: float((found.astype(np.float32) * expected).sum(axis=1).min())
        for name, found in vectors.items()
        if name != REFERENCE
    }
    found = ", ".join(f"{name} {value:.5f}" for name, value in lowest.items())
    return f"Lowest cosine of a chunk to {REFERENCE}: {found}."


def main(argv: list[str] | None = None) -> int:
    parser: argparse.ArgumentParser = harness.parser(__doc__ or "", turns=3)
    parser.add_argument("--chunks", type=int, default=256)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    asked = parser.parse_args(argv)
    clock = processor_seconds if asked.processor_time else time.perf_counter
    table = run(asked.data, asked.turns, asked.chunks, clock, asked.only)
    return harness.report([table], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
