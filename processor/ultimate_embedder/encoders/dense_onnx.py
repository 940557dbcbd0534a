"""Dense vectors with ONNX Runtime: a graph on the CPU, in float32 and one thread.

Each text is a pass of its own, without padding, so the bytes of its vector depend on
its ids alone.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..errors import MissingExtra, ModelError, ModelMismatch, UsageError
from ..records import Float32Array, UInt32Array
from .out_of_memory import out_of_memory_named
from .weight_files import ONNX_GRAPHS, graph_file

_STATES = ("last_hidden_state", "token_embeddings")
_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})


class OnnxDenseEncoder:
    """An exported encoder with pooling and L2 normalisation.

    Satisfies `protocols.DenseEncoder`; it gives no attention.
    """

    dtype = "float32"
    device = "cpu"

    def __init__(self, session: Any, config: ModelConfig, output: str) -> None:
        """Hold a session; `output` names its hidden states."""
        self.config = config
        self.dimension = config.vector_dim
        self._session = session
        self._output = output
        self._inputs = frozenset(port.name for port in session.get_inputs())

    @classmethod
    def load(
        cls, path: Path, config: ModelConfig, *, device: str, dtype: str
    ) -> OnnxDenseEncoder:
        """Open the graph in `path` and check it against `config`.

        `dtype` is that of a torch model on the device: the graph has its own.

        Raises:
            MissingExtra: ONNX Runtime is not installed.
            UsageError: another device than the CPU was asked for.
            ModelError: there is no graph, or it cannot be opened.
            ModelMismatch: its width, window or inputs are not those of an encoder that
                `config` describes.
        """
        del dtype
        if device != "cpu":
            raise UsageError(
                f"Model {config.name} runs on the CPU alone, not on {device}.",
                cure="Choose --device cpu, or the model's torch version.",
            )
        session = _session(_graph(path, config), config)
        output = _checked_output(session, config)
        _check_window(path, config)
        return cls(session, config, output)

    def close(self) -> None:
        """Let go of the graph, whoever still refers to this encoder."""
        self._session = None

    def padded_length(self, tokens: int) -> int:
        """Return `tokens`: nothing is padded."""
        return tokens

    def encode(self, ids: Sequence[UInt32Array]) -> Float32Array:
        """Return float32 [texts, dimension], each row of unit L2 norm.

        Raises:
            DeviceOutOfMemory: memory did not suffice.
            ModelMismatch: the graph gives vectors of another width than stated.
        """
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        for i, row in enumerate(ids):
            vectors[i] = self._vector(row)
        return vectors

    def encode_with_attention(
        self, ids: Sequence[UInt32Array]
    ) -> tuple[Float32Array, list[Float32Array]]:
        """Refuse: a graph gives what it was exported with.

        Raises:
            ModelError: always.
        """
        del ids
        raise ModelError(
            f"Model {self.config.name} gives no attention for sparse vectors.",
            cure="Leave that sparse model out, or disable sparse.",
        )

    def _vector(self, ids: UInt32Array) -> Float32Array:
        if len(ids) > self.config.max_tokens:
            raise ValueError(
                f"a row of {len(ids)} tokens for a window of {self.config.max_tokens}"
            )
        inputs = ids.astype(np.int64)[None]
        feed = {
            "input_ids": inputs,
            "attention_mask": np.ones_like(inputs),
            "token_type_ids": np.zeros_like(inputs),
        }
        with out_of_memory_named(self.config.name, self.device):
            try:
                (hidden,) = self._session.run(
                    [self._output], {name: feed[name] for name in self._inputs}
                )
            except _failures() as error:
                raise RuntimeError(str(error)) from error
        states = hidden[0].astype(np.float32)
        if states.shape[-1] != self.dimension:
            raise _other_width(self.config, states.shape[-1])
        return _pooled(states, self.config.pooling)


def _pooled(states: Float32Array, pooling: str) -> Float32Array:
    """Return the vector of unit norm from states [length, width] of one text."""
    if pooling == "cls":
        vector = states[0]
    elif pooling == "last":
        vector = states[-1]
    else:
        vector = states.mean(axis=0)
    unit: Float32Array = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


def _graph(path: Path, config: ModelConfig) -> Path:
    found = graph_file(path)
    if found is None:
        raise ModelError(
            f"Model {config.name} has no {ONNX_GRAPHS[0]} among its files in {path}.",
            cure="Fetch it again, or choose the model's torch version.",
        )
    return found


def _session(graph: Path, config: ModelConfig) -> Any:
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        raise MissingExtra(f"Model {config.name}", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # with more, sums are split by load
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
    except _failures() as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise ModelError(
            f"Model {config.name} cannot be loaded: {said[0][:200]}",
            cure=f"Fetch or export {graph.name} again.",
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """Return the library's errors, which share no base but Exception."""
    state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def _checked_output(session: Any, config: ModelConfig) -> str:
    """Return the name of the output with hidden states [rows, length, width]."""
    unknown = {port.name for port in session.get_inputs()} - _INPUTS
    if unknown:
        raise ModelMismatch(
            f"Model {config.name} wants inputs that an encoder has not: "
            f"{', '.join(sorted(unknown))}."
        )
    ports = {port.name: port for port in session.get_outputs()}
    named = [name for name in _STATES if name in ports]
    output = ports[named[0] if named else next(iter(ports))]
    if len(output.shape) != 3:
        raise ModelMismatch(
            f"Model {config.name} gives no hidden states: its first output has "
            f"{len(output.shape)} axes, not 3."
        )
    width = output.shape[-1]
    if isinstance(width, int) and width != config.vector_dim:
        raise _other_width(config, width)
    return str(output.name)


def _check_window(path: Path, config: ModelConfig) -> None:
    file = path / "config.json"
    if not file.is_file():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    width = settings.get("hidden_size")
    if width is not None and width != config.vector_dim:
        raise _other_width(config, width)
    positions = settings.get("max_position_embeddings")
    if positions is not None and config.max_tokens > positions:
        raise ModelMismatch(
            f"Model {config.name} has {positions} positions; the registry's window "
            f"is {config.max_tokens}."
        )


def _other_width(config: ModelConfig, width: int) -> ModelMismatch:
    return ModelMismatch(
        f"Model {config.name} gives {width}-d vectors; the registry says "
        f"{config.vector_dim}."
    )
