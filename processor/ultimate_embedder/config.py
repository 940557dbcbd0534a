"""Settings as values: frozen, checked when made, replaced rather than changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .errors import UsageError
from .retrieval.blend import BlendConfig
from .retrieval.fusion import DEFAULT_FUSION, FusionConfig

GIB = 2**30

DEFAULT_GPU_MEMORY_CAP_BYTES = 12 * GIB
"""The cap per GPU. Docs, specs and alerts refer to this line."""
GPU_CONTEXT_BYTES = 512 * 2**20
"""What a plan reckons for a CUDA context and the work space of its libraries. A run
measures its own and holds its allocator to the rest."""
GPU_MARGIN_BYTES = 256 * 2**20
"""Kept free below the cap: a context grows when kernels are loaded for the first time.
A reserve, not a measurement."""

ROWS_A_BATCH, GPU_ROWS_A_BATCH = 64, 256
"""The most texts of a batch on a CPU and on a GPU, unless another number is set."""
RERANK_CANDIDATES = 100
RERANK_TOP_K = 20

JsonlLayout = Literal["qdrant", "simple"]
Pooling = Literal["mean", "cls", "last"]
SparseKind = Literal["bm25", "attention", "splade"]
LongTexts = Literal["windows", "cut"]
"""A text longer than a model's window: embedded in windows, or cut off at its end."""

Export = Literal["npy", "jsonl", "faiss"]
ALL_EXPORTS: tuple[Export, ...] = ("npy", "jsonl", "faiss")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One dense model: where it comes from and what it must turn out to be.

    `max_tokens` counts special tokens and the prompt. The first eight fields are the
    arguments of the earlier design; the rest have defaults that follow from them.
    `revision` is a commit, or a reference such as `refs/pr/1` that a lock pins to one.
    `fusion` says how its scores are best joined with BM25's, where that was measured.
    """

    name: str
    hf_model_id: str
    vector_dim: int
    max_tokens: int
    query_prefix: str = ""
    recommended_batch_size: int = 32
    memory_efficient: bool = True
    backend: str = "pytorch"
    document_prefix: str = ""
    pooling: Pooling = "mean"
    revision: str | None = None
    licence: str = "unknown"
    package: str | None = None  # a Python package that carries the weights
    weights_sha256: str | None = None  # of model.safetensors, checked when given
    fusion: FusionConfig | None = None
    published_dtype: str | None = None  # what its files hold; it runs in the device's
    trust_remote_code: bool = False  # its own code may run: asked for by name

    def __post_init__(self) -> None:
        if self.vector_dim < 1 or self.max_tokens < 1:
            raise UsageError(
                f"Model {self.name}: vector_dim and max_tokens must be positive, "
                f"not {self.vector_dim} and {self.max_tokens}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseModelConfig:
    """One sparse model; `dense_key` names the dense model whose pass it shares."""

    name: str
    kind: SparseKind
    hf_model_id: str
    dense_key: str | None = None
    max_tokens: int = 512
    revision: str | None = None
    licence: str = "unknown"
    published_dtype: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankingConfig:
    """One CrossEncoder and how many candidates it sees.

    `batch_cap` bounds the pairs in one forward pass. `blend` says how its logits join
    the fused scores; without one they alone order the candidates. `difference` is a
    folder with what its weights differ by from those of `hf_model_id`: a path, or the
    name of one that this package ships. A `listwise` one ranks whole lists by code of
    its own, which pairs cannot stand in for.
    """

    name: str
    hf_model_id: str
    max_tokens: int = 512
    candidates: int = RERANK_CANDIDATES
    top_k: int = RERANK_TOP_K
    batch_cap: int = 32
    revision: str | None = None
    licence: str = "unknown"
    blend: BlendConfig | None = None
    package: str | None = None  # a Python package that carries the weights
    weights_sha256: str | None = None  # of model.safetensors, checked when given
    difference: str | None = None
    fallback: str | None = None  # key of a smaller one, for a device without room
    listwise: bool = False
    published_dtype: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.candidates:
            raise UsageError(
                f"Rerank top_k must lie in 1..{self.candidates}, not {self.top_k}."
            )
        if self.batch_cap < 1:
            raise UsageError(
                f"The rerank batch cap must be at least 1, not {self.batch_cap}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KaggleGPUConfig:
    """Devices and their limits; the name is that of the earlier design.

    `base_batch_size` is the most texts in one batch of the plan; fewer when long. None:
    64 on a CPU, 256 on a GPU, which a few short texts would leave idle.
    `wait_seconds` is how long a run waits for a GPU that another holds.
    """

    backend: str = "auto"
    devices: tuple[str, ...] = ()  # empty: every device of the backend
    memory_cap_bytes: int = DEFAULT_GPU_MEMORY_CAP_BYTES
    base_batch_size: int | None = None
    workers: int = 0  # CPU worker processes, 0: one per core
    wait_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.memory_cap_bytes <= 0:
            raise UsageError(
                f"The GPU memory cap must be above zero, not {self.memory_cap_bytes} "
                "bytes."
            )
        rows = 1 if self.base_batch_size is None else self.base_batch_size
        if rows < 1 or self.workers < 0:
            raise UsageError(
                "base_batch_size must be at least 1 and workers at least 0, not "
                f"{rows} and {self.workers}."
            )

    def rows_a_batch(self, *, on_gpu: bool) -> int:
        """Return the most texts in one batch of a plan for a CPU or for GPUs."""
        if self.base_batch_size is not None:
            return self.base_batch_size
        return GPU_ROWS_A_BATCH if on_gpu else ROWS_A_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Which layer decided a setting: default, config file, .env, environment, CLI."""

    key: str
    value: str
    source: str
    layer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """Everything a run needs to know, with where each toggle came from."""

    chunked_dir: Path
    output_dir: Path
    collections: tuple[str, ...] = ()  # empty: all that are found
    profile: str = "embedded"
    dense: tuple[ModelConfig, ...]
    sparse: tuple[SparseModelConfig, ...] = ()
    rerank: RerankingConfig | None = None
    enable_sparse: bool = True
    enable_rerank: bool = True
    queries: Path | None = None
    probes: bool = True
    gpu: KaggleGPUConfig = field(default_factory=KaggleGPUConfig)
    jsonl_layout: JsonlLayout = "qdrant"
    exports: tuple[Export, ...] = ALL_EXPORTS
    resume: bool = True
    offline: bool = False
    redact_queries: bool = False
    sparse_device: str = "cpu"
    rerank_timeout_seconds: float | None = None
    skip_failed_models: bool = False
    bm25_profile: str = "qdrant-word"
    long_texts: LongTexts = "windows"
    fusion: FusionConfig | None = None  # None: what suits the primary model
    baseline: Path | None = None
    seed: int = 0
    provenance: tuple[Provenance, ...] = ()

    def __post_init__(self) -> None:
        if not self.dense:
            raise UsageError("At least one dense model is needed; none was given.")
        names = [model.name for model in self.dense]
        names += [model.name for model in self.sparse]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise UsageError(f"Models named twice: {', '.join(repeated)}.")

    @property
    def primary(self) -> ModelConfig:
        """The first dense model: it stands in the simple layout and in fusion."""
        return self.dense[0]

    @property
    def active_fusion(self) -> FusionConfig:
        """How the primary model's ranking is joined with BM25's."""
        return self.fusion or self.primary.fusion or DEFAULT_FUSION

    @property
    def active_sparse(self) -> tuple[SparseModelConfig, ...]:
        """The sparse models that run: none when sparse is off."""
        return self.sparse if self.enable_sparse else ()

    @property
    def active_rerank(self) -> RerankingConfig | None:
        """The reranker that is asked for: none when rerank is off."""
        return self.rerank if self.enable_rerank else None
