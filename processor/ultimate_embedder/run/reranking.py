"""A collection's rerankers, one in the place of another, each under a loan."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from ..config import PipelineConfig, RerankingConfig
from ..errors import DeviceOutOfMemory
from ..memory_cost import padded_length
from ..models.choice import choose_rerank
from ..stages.cross_encoder import CrossEncoderBatchExecutor
from ..stages.rerank import RerankPipeline
from ..stages.rerank_fitting import Fallback, OpenFallback, stepped_down_to
from ..telemetry.events import Emit, FallbackUsed
from .beside import Beside, require_weights
from .kept_scores import KeepingScorer, KeptScores, scores_fingerprint
from .leased import DeviceLoans
from .parts import Parts


class Reranking:
    """Makes the rerank stage; the device is held as long as the `with` block lasts.

    No name is kept for what is loaded: the stage has to be able to let it go.
    """

    def __init__(
        self,
        config: PipelineConfig,
        parts: Parts,
        loans: DeviceLoans,
        beside: Beside,
        emit: Emit,
        kept: Path,
    ) -> None:
        """`kept` is a folder where scores of pairs outlive an interruption."""
        self._config = config
        self._parts = parts
        self._loans = loans
        self._beside = beside
        self._emit = emit
        self._kept = kept
        self._held = ExitStack()

    def __enter__(self) -> Reranking:
        """Hold nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Give the device back."""
        return self._held.__exit__(kind, error, trace)

    def pipeline(
        self,
        model: RerankingConfig,
        collection: str,
        run_id: str,
        redact_key: bytes | None,
    ) -> RerankPipeline:
        """Load the reranker, or the smaller one where the device has no room for it.

        Raises:
            ModelError: it is not here or cannot be used.
            DeviceBusy: another run holds the device.
            DeviceOutOfMemory: there is no room, and no smaller one is named.
        """

        def of(
            executor: CrossEncoderBatchExecutor,
            config: RerankingConfig,
            fallback: Fallback,
        ) -> RerankPipeline:
            return RerankPipeline(
                executor,
                config,
                self._emit,
                run_id,
                redact_key,
                timeout_seconds=self._config.rerank_timeout_seconds,
                fallback=fallback,
            )

        smaller = self._fallback(model)
        try:
            return of(self._executor(model), model, Fallback(smaller))
        except DeviceOutOfMemory:
            if smaller is None:
                raise
        step = stepped_down_to(f"model {model.fallback}")
        self._emit(FallbackUsed(stage="rerank", collection=collection, reason=step))
        return of(*smaller(), Fallback(steps=(step,)))

    def _executor(self, model: RerankingConfig) -> CrossEncoderBatchExecutor:
        """Take the device anew, load a model on it and measure a pass.

        Raises:
            DeviceOutOfMemory: it does not fit, as planned or as tried.
        """
        self._held.close()  # a second choice takes the place of the first
        device = self._parts.device
        lease = self._held.enter_context(
            self._loans.hold(model.name, (device,), "rerank", in_process=True)
        )
        room = self._beside.for_rerank(model) if lease is not None else None
        require_weights(room)
        use = self._loans.use(lease, model.name, device, room)
        scorer = self._parts.load_scorer(model)
        use = use.calibrated(scorer, padded_length(model.max_tokens, model.max_tokens))
        keeping = KeepingScorer(scorer, self._scores(model, device))
        return CrossEncoderBatchExecutor(keeping, model.batch_cap, use=use)

    def _scores(self, model: RerankingConfig, device: str) -> KeptScores:
        """Open what earlier runs scored with this model; `_held` closes it."""
        fingerprint = scores_fingerprint(
            model,
            device=device,
            threads=self._config.gpu.workers,
            dtype=self._beside.rerank_dtype,
            card=self._loans.cards.get(device),
        )
        return self._held.enter_context(
            KeptScores(self._kept / quote(model.name, safe=""), fingerprint)
        )

    def _fallback(self, model: RerankingConfig) -> OpenFallback | None:
        """Return what loads the smaller model, over as many candidates."""
        if model.fallback is None:
            return None
        named = choose_rerank(model.fallback, offline=self._config.offline)
        smaller = replace(
            named,
            candidates=model.candidates,
            top_k=model.top_k,
            batch_cap=min(model.batch_cap, named.batch_cap),
        )
        return lambda: (self._executor(smaller), smaller)
