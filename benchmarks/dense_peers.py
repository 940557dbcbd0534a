"""Encoders to be compared: ours through its worker processes, and other libraries'.

Each is a function without arguments that gives float32 [texts, width] in the order of
the texts. Ours tokenises in each turn, as the others do; its workers stay open.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.onnx._internal.torchscript_exporter import onnx_proto_utils
from transformers import AutoModel

from processor.ultimate_embedder.config import KaggleGPUConfig, ModelConfig
from processor.ultimate_embedder.encoders.architecture import read_architecture
from processor.ultimate_embedder.encoders.attention_sparse import (
    AttentionSparseEncoder,
)
from processor.ultimate_embedder.encoders.tokenizer import HubTokenizer
from processor.ultimate_embedder.intake.measure import gpu_lengths
from processor.ultimate_embedder.intake.pieces import Pieces
from processor.ultimate_embedder.intake.token_table import TokenTable
from processor.ultimate_embedder.memory_plan import batch_budget
from processor.ultimate_embedder.models.manager import ModelManager
from processor.ultimate_embedder.planning import (
    TOKENS_A_BATCH,
    BatchPlan,
    plan_batches,
)
from processor.ultimate_embedder.records import Float32Array, Int64Array, UInt32Array
from processor.ultimate_embedder.workers.batch_encoder import (
    create_attention,
    create_vectors,
    save_plan,
)
from processor.ultimate_embedder.workers.jobs import BatchRequest, EncodeJob, Output
from processor.ultimate_embedder.workers.pool import WorkerPool

Encode = Callable[[], Float32Array]
GRAPH = "model.onnx"
ROWS = 4  # of a batch for a graph: few, of nearly one length
MULTIPLE = 16
_INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
_OUTPUT = "last_hidden_state"
_SPARSE_TEXTS = 256  # at once, as in a run


class _Texts:
    """As much of a chunk store as tokenising needs."""

    collection = "benchmark"
    text_digest = "texts"

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, row: int) -> str:
        return self._texts[row]


@dataclass(frozen=True, slots=True)
class Ours:
    """A dense pass over texts with workers that stay open."""

    texts: list[str]
    tokenizer: HubTokenizer
    tokens: TokenTable
    plan: BatchPlan
    job: EncodeJob
    pool: WorkerPool
    sparse: Callable[[], AttentionSparseEncoder]
    """Makes it when it is first asked for: not every tokenizer allows one."""

    def dense(self) -> Float32Array:
        """Tokenise, then do all batches."""
        return self._run(("dense",))

    def dense_and_sparse(self) -> Float32Array:
        """Do the same with the attention, and make sparse vectors of it."""
        vectors = self._run(("dense", "attention"))
        assert self.job.attention is not None
        weights = np.fromfile(self.job.attention, dtype=np.float32)
        offsets, sparse = self.tokens.offsets, self.sparse()
        texts = [
            (self.tokens.row(row), weights[offsets[row] : offsets[row + 1]])
            for row in range(len(self.tokens))
        ]
        for first in range(0, len(texts), _SPARSE_TEXTS):
            sparse.encode_rows(texts[first : first + _SPARSE_TEXTS])
        return vectors

    def _run(self, outputs: tuple[Output, ...]) -> Float32Array:
        self.tokenizer.encode(self.texts, "document")
        requests = [BatchRequest(i, outputs) for i in range(len(self.plan))]
        for _ in self.pool.run(requests):
            pass
        return np.load(self.job.vectors)


@contextmanager
def ours(
    texts: list[str],
    model: ModelConfig,
    folder: Path,
    *,
    workers: int,
    device: str = "cpu",
    dtype: str | None = None,
) -> Iterator[Ours]:
    """Open workers over `texts`; `folder` takes their files."""
    manager = ModelManager(offline=True)
    tokenizer = manager.tokenizer(model)
    folder.mkdir()
    tokens = TokenTable.build(_Texts(texts), tokenizer, folder / "tokens")  # type: ignore[arg-type]
    rows = np.arange(len(texts))
    pieces = Pieces.of(tokens, rows, model.max_tokens)
    if pieces.windows:
        raise SystemExit("A chunk is longer than the window.")
    location = manager.locate(model).path
    plan = _planned(tokens.lengths, model, location, on_gpu=device != "cpu")
    save_plan(folder / "plan.npz", plan)
    pieces.save(folder / "pieces.npz")
    create_vectors(folder / "vectors.npy", len(texts), model.vector_dim)
    create_attention(folder / "attention.f32", int(tokens.offsets[-1]))
    job = EncodeJob(
        model=model,
        location=location,
        tokens=folder / "tokens",
        plan=folder / "plan.npz",
        pieces=folder / "pieces.npz",
        vectors=folder / "vectors.npy",
        attention=folder / "attention.f32",
        device=device,
        dtype=dtype or manager.dtype(device),
    )
    sparse = cache(lambda: AttentionSparseEncoder(tokenizer.backend, name="attention"))
    with WorkerPool([job] * workers) as pool:
        yield Ours(texts, tokenizer, tokens, plan, job, pool, sparse)


def _planned(
    lengths: Int64Array, model: ModelConfig, location: Path, *, on_gpu: bool
) -> BatchPlan:
    """Return the batches that a run has on a CPU, or on a GPU under its cap."""
    gpu, rows = KaggleGPUConfig(), np.arange(len(lengths))
    budget = TOKENS_A_BATCH
    if on_gpu:
        lengths = gpu_lengths(lengths, model.max_tokens)
        shape = read_architecture(location, "none")
        budget = batch_budget(shape, gpu.memory_cap_bytes, int(lengths.max()))
    most = gpu.rows_a_batch(on_gpu=on_gpu)
    return plan_batches(lengths, rows, budget_tokens=budget, max_rows=most)


class _States(torch.nn.Module):
    """An encoder with the inputs and the output of a published graph."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, mask: Any, kinds: Any) -> Any:
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds)[0]


def export_graph(source: Path, folder: Path) -> None:
    """Write the model of a folder as a graph in float32, its tokenizer beside it."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModel.from_pretrained(
        source, attn_implementation="eager", dtype=torch.float32
    ).eval()
    ids = torch.ones((2, 8), dtype=torch.int64)
    # It looks for functions of onnxscript in the finished bytes; there are none.
    unchanged = patch.object(
        onnx_proto_utils, "_add_onnxscript_fn", lambda proto, _: proto
    )
    with unchanged, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _States(model),
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            str(folder / GRAPH),
            dynamo=False,
            input_names=_INPUTS,
            output_names=[_OUTPUT],
            dynamic_axes={
                name: {0: "rows", 1: "length"} for name in (*_INPUTS, _OUTPUT)
            },
            opset_version=17,
        )


def with_fastembed(folder: Path, texts: list[str], width: int) -> Encode:
    """Return fastembed with its own batching, over the graph in `folder`."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "benchmark/minilm"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=width,
        model_file=GRAPH,
    )
    model = TextEmbedding(name, specific_model_path=str(folder))
    return lambda: np.stack(list(model.embed(texts))).astype(np.float32)


def with_onnxruntime(folder: Path, texts: list[str], tokenizer: HubTokenizer) -> Encode:
    """Return ONNX Runtime with batches of nearly one length."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / GRAPH), providers=["CPUExecutionProvider"]
    )

    def encode() -> Float32Array:
        ids = tokenizer.encode(texts, "document").ids
        found: list[Any] = [None] * len(texts)
        for group in _groups(ids):
            inputs = _padded([ids[i] for i in group])
            (states,) = session.run([_OUTPUT], inputs)
            _put(found, group, states, inputs["attention_mask"])
        return np.stack(found)

    return encode


def with_openvino(folder: Path, texts: list[str], tokenizer: HubTokenizer) -> Encode:
    """Return OpenVINO with the same batches, as many at once as it likes.

    The precision is its own choice: bfloat16 where the processor has it.
    """
    import openvino

    compiled = openvino.Core().compile_model(
        str(folder / GRAPH), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"}
    )

    def encode() -> Float32Array:
        ids = tokenizer.encode(texts, "document").ids
        found: list[Any] = [None] * len(texts)
        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(
            lambda request, kept: _put(
                found, kept[0], request.get_output_tensor(0).data, kept[1]
            )
        )
        for group in _groups(ids):
            inputs = _padded([ids[i] for i in group])
            queue.start_async(inputs, (group, inputs["attention_mask"]))
        queue.wait_all()
        return np.stack(found)

    return encode


def _groups(ids: tuple[UInt32Array, ...]) -> Iterator[list[int]]:
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for start in range(0, len(order), ROWS):
        yield order[start : start + ROWS]


def _padded(ids: list[UInt32Array]) -> dict[str, Any]:
    length = -(-max(map(len, ids)) // MULTIPLE) * MULTIPLE
    inputs = np.zeros((len(ids), length), dtype=np.int64)
    mask = np.zeros_like(inputs)
    for i, row in enumerate(ids):
        inputs[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return dict(zip(_INPUTS, (inputs, mask, np.zeros_like(inputs)), strict=True))


def _put(found: list[Any], group: list[int], states: Any, mask: Any) -> None:
    """Pool states [rows, length, width] and keep unit vectors at their places."""
    weights = mask[..., None].astype(np.float32)
    means = (states * weights).sum(1) / weights.sum(1)
    for place, vector in zip(group, means, strict=True):
        found[place] = vector / np.linalg.norm(vector)
