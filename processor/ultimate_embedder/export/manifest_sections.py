"""The sections of a manifest, one model each. Unknown keys are ignored when read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..records import CrossEncoderRerankRun
from ..retrieval.quality import QualityCard

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """What all sections share: they are frozen and hold no NaN."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class Compatibility(Section):
    """Which schema this is, and which older ones a reader of it understands."""

    current: str = "v4.1"
    legacy: tuple[str, ...] = ("v4.0",)


class SettingProvenance(Section):
    """Which layer decided a setting."""

    key: str
    value: str
    source: str
    layer: str


class FeatureToggles(Section):
    """What was switched on; `sources` maps a toggle to the layer that decided it."""

    enable_rerank: bool
    enable_sparse: bool
    sparse_models: tuple[str, ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)
    provenance: tuple[SettingProvenance, ...] = ()


class LeaseEvent(Section):
    """GPUs lent to a model for a pass; bytes by device.

    They are those that the run's processes held, CUDA contexts included: before, at
    most, and after. `returned` tells whether the memory came back.
    """

    model: str
    devices: tuple[str, ...]
    acquired_at: str
    released_at: str
    cap_bytes: Count
    before_bytes: dict[str, Count] = Field(default_factory=dict)
    peak_bytes: dict[str, Count] = Field(default_factory=dict)
    after_bytes: dict[str, Count] = Field(default_factory=dict)
    returned: bool = True


class TokenLengths(Section):
    """How many texts are how long, whole, before windows or a cut.

    `counts[i]` texts have `i * width + 1` to `(i + 1) * width` tokens; the last place
    also counts all longer ones.
    """

    width: int = Field(ge=1)
    counts: tuple[Count, ...] = Field(min_length=1)
    median: Count
    longest: Count


class DenseRun(Section):
    """One dense model over one collection, the `turn`-th of the run's passes.

    `padding_ratio` is computed positions over tokens, 1.0 being none; `peak_bytes` is
    the device's measured peak and None on a CPU. `long_texts` tells what became of
    texts over `max_tokens`, documents and queries; without it they were cut off.
    `windows` are those computed for `chunks_in_windows`, equal texts once.
    `batch_sizes` are in rows, those of split batches too; `oom_retries` counts how
    often the run split one for lack of memory.
    """

    model: str
    turn: int | None = None
    hf_model_id: str
    revision: str | None = None
    dimension: int = Field(ge=1)
    dtype: str
    max_tokens: int = Field(ge=1)
    query_prefix: str = ""
    document_prefix: str = ""
    long_texts: Literal["windows", "cut"] = "cut"
    windows: Count = 0
    chunks_in_windows: Count = 0
    window_pooling: str | None = None
    chunks: Count
    tokens: Count
    token_lengths: TokenLengths | None = None
    padding_ratio: float = Field(default=1.0, ge=0)
    seconds: Seconds
    chunks_per_second: float = Field(default=0.0, ge=0)
    device: str
    batch_sizes: tuple[int, ...] = ()
    oom_retries: Count = 0
    lease_events: tuple[LeaseEvent, ...] = ()
    peak_bytes: Count | None = None
    statistics: dict[str, Any] = Field(default_factory=dict)


class FusionRun(Section):
    """How ranked lists were joined, and what was measured with it.

    `quality` maps a stage (a leg's model, fused, reranked) to measures, e.g. `nDCG@10`;
    `quality_card` holds the same with intervals, and how stages differ.
    """

    method: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    legs: tuple[str, ...] = ()
    queries: Count = 0
    query_source: str | None = None  # "queries" or "probes"
    candidates: Count = 0
    seconds: Seconds = 0.0
    quality: dict[str, dict[str, float]] = Field(default_factory=dict)
    quality_card: QualityCard | None = None
    statistics: dict[str, Any] = Field(default_factory=dict)


class RerankNotRun(Section):
    """Rerank was on and could not run."""

    status: Literal["not_run"] = "not_run"
    reason: str
    cure: str


class RerankRan(Section):
    """Rerank ran; `runs` stand in the order of the rerank file."""

    status: Literal["ran"] = "ran"
    model: str
    queries: Count
    candidates: Count
    top_k: Count
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    seconds: Seconds = 0.0
    device: str | None = None
    fallback_used: bool = False
    fallback_reason: str | None = None
    runs: tuple[CrossEncoderRerankRun, ...] = ()
    lease_events: tuple[LeaseEvent, ...] = ()
    peak_bytes: Count | None = None
    quality: dict[str, dict[str, float]] = Field(default_factory=dict)
    statistics: dict[str, Any] = Field(default_factory=dict)


RerankSection = Annotated[RerankNotRun | RerankRan, Field(discriminator="status")]


class SubdirCounts(Section):
    """One first-level folder; `tokens` in the primary model's unit."""

    chunks: Count
    tokens: Count = 0


class QuarantinedEntry(Section):
    """A chunk or file that was set aside; `index` None means the whole file."""

    file: str
    index: int | None = None
    reason: str
    detail: str = ""


class ConservationCounts(Section):
    """What was read and what became of it."""

    files_read: Count
    chunks_read: Count
    embedded: Count
    quarantined: tuple[QuarantinedEntry, ...] = ()
    truncated_chunks: Count = 0
    truncated_tokens: Count = 0

    @property
    def chunks_aside(self) -> int:
        """Chunks set aside; a file that could not be read counts as none."""
        return sum(entry.index is not None for entry in self.quarantined)

    @property
    def files_aside(self) -> int:
        """Files set aside: how many chunks they hold is not known."""
        return len(self.quarantined) - self.chunks_aside

    @property
    def adds_up(self) -> bool:
        """Whether every chunk read was embedded or set aside."""
        return self.chunks_read == self.embedded + self.chunks_aside


class TimelinePass(Section):
    """What a pass finished over time: `items[i]` in its `i`-th `width` seconds.

    `started` is in seconds after work on the collection began.
    """

    stage: str
    model: str | None = None
    started: Seconds
    width: float = Field(gt=0)
    items: tuple[Count, ...] = ()
    tokens: tuple[Count, ...] = ()


class TelemetrySection(Section):
    """Spans and metrics of the run, as far as they belong to this collection."""

    spans: tuple[dict[str, Any], ...] = ()
    metrics: dict[str, Any] = Field(default_factory=dict)
    timeline: tuple[TimelinePass, ...] = ()


class StagePerformance(Section):
    """What a stage took; `peak_bytes` is of the device, `rss_bytes` of the process."""

    seconds: Seconds
    items: Count = 0
    items_per_second: float | None = None
    tokens_per_second: float | None = None
    peak_bytes: Count | None = None
    rss_bytes: Count | None = None


BaselineStatus = Literal["equal", "different", "not_comparable"]


class ModelBaseline(Section):
    """One model's dense file against an earlier one."""

    model: str
    status: BaselineStatus
    reason: str = ""
    sha256: str
    earlier_sha256: str | None = None


class BaselineComparison(Section):
    """Dense sums against an earlier bundle: `against` says which one."""

    status: BaselineStatus
    reason: str = ""
    against: Literal["none", "replaced", "baseline"] = "none"
    earlier_run_id: str | None = None
    models: tuple[ModelBaseline, ...] = ()


class Environment(Section):
    """What a repetition would need to be like."""

    versions: dict[str, str] = Field(default_factory=dict)
    processor: str = ""
    instruction_set: str = ""
    dtype: str = ""
    threads: int | None = None
    gpus: tuple[dict[str, Any], ...] = ()
    platform: str = ""


class ExportSettings(Section):
    """Which files were asked for, and in which form."""

    exports: tuple[str, ...]
    jsonl_layout: str
    faiss_factory: str


class Artifact(Section):
    """One file of the bundle. `rows` is None where a file has no rows."""

    path: str
    bytes: Count
    sha256: str
    rows: Count | None = None
