"""What the passes of one model may take of a card, and what does not fit it at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .config import GIB, GPU_MARGIN_BYTES
from .errors import DeviceOutOfMemory
from .memory_cost import Architecture, planned_peak_bytes, room_bytes, weight_bytes
from .memory_plan import Calibration, ModelKind, PassProbe, calibrate, pass_budget
from .planning import TOKENS_A_BATCH

_CURES: Mapping[ModelKind, str] = {
    "dense": "leave the model out, or choose --device cpu.",
    "sparse": "leave the model out, or choose --sparse-device cpu.",
    "rerank": "name a smaller model with --rerank-fallback, use --disable-rerank, or "
    "choose --device cpu.",
}
"""What helps beside a higher cap and shorter chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRoom:
    """What the passes of one model may take of a card, as planned for its cap.

    Without an architecture, where the model's files say none, nothing is refused, and
    passes have the positions of a CPU's batches. `factor` is what a calibration found.
    """

    model: str
    kind: ModelKind
    architecture: Architecture | None
    dtype: str
    cap_bytes: int
    factor: float = 1.0

    def positions(self, longest: int) -> int:
        """Return the most positions of a pass over texts of up to `longest`.

        Less than that: one text as long does not fit.
        """
        if self.architecture is None:
            return max(longest, TOKENS_A_BATCH)
        return pass_budget(
            self.architecture, self.dtype, self.cap_bytes, longest, self.factor
        )

    def holds(self, length: int) -> bool:
        """Say whether one text of so many positions fits."""
        return self.positions(length) >= length

    def refusal(
        self,
        tokens: int,
        *,
        row: int | None = None,
        chunk_id: str | None = None,
        beforehand: bool = True,
    ) -> DeviceOutOfMemory:
        """Return the error for a text, or a pair, that is not held.

        `beforehand`: the run has not begun to compute.

        Raises:
            ValueError: there is no architecture, so nothing can be refused.
        """
        if self.architecture is None:
            raise ValueError(f"{self.model} has no architecture to reckon with")
        needed = GPU_MARGIN_BYTES + planned_peak_bytes(
            self.architecture, self.dtype, rows=1, length=tokens, factor=self.factor
        )
        weights = weight_bytes(self.architecture, self.dtype)
        what = "pair" if self.kind == "rerank" else "text"
        chunk = f", chunk {chunk_id}," if chunk_id else ""
        nothing = " Nothing was started." if beforehand else ""
        enough = math.ceil(100 * needed / GIB) / 100
        too_large = weights >= room_bytes(self.cap_bytes)
        shorter = "" if too_large else "chunk with a smaller --max-tokens, "
        return DeviceOutOfMemory(
            f"Model {self.model} with one {what} of {tokens} tokens{chunk} needs "
            f"{needed / GIB:.2f} GiB ({needed} bytes), {weights / GIB:.2f} GiB of it "
            f"weights in {self.dtype}; the cap is {self.cap_bytes / GIB:.2f} GiB "
            f"({self.cap_bytes} bytes).{nothing}",
            cure=f"Raise --gpu-memory-cap to {enough:.2f}, {shorter}"
            f"{_CURES[self.kind]}",
            row=row,
        )

    def calibrated(
        self, probe: PassProbe, longest: int
    ) -> tuple[PlannedRoom, Calibration | None]:
        """Return the room corrected by one measured text, and what was measured.

        Without an architecture, and where that text does not fit, it stays.
        """
        if self.architecture is None or not self.holds(longest):
            return self, None
        try:
            found = calibrate(self.architecture, self.dtype, probe, longest=longest)
        except DeviceOutOfMemory:
            return self, None  # left to the text's own pass, which names it
        return replace(self, factor=found.factor), found
