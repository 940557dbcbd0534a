"""What a worker is told and what it answers: one JSON object a line, each way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from ..config import DEFAULT_GPU_MEMORY_CAP_BYTES, ModelConfig
from ..memory_plan import Calibration

Output = Literal["dense", "attention"]

_PATHS = (
    "location",
    "tokens",
    "plan",
    "pieces",
    "vectors",
    "windows",
    "attention",
)
_TUPLES = {"outputs", "pass_rows"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """One model over one collection: where the input is and where results go.

    `vectors` has a row for each text, `windows` one for each window of those that are
    longer than the model's. `attention` names a flat float32 file with a figure for
    each token of the table. `budget_tokens` is the most positions of one forward pass
    on a GPU, rows times the longest; None: as many as a batch comes to.
    """

    model: ModelConfig
    location: Path
    tokens: Path
    plan: Path
    pieces: Path
    vectors: Path
    windows: Path | None = None
    attention: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"
    memory_cap_bytes: int = DEFAULT_GPU_MEMORY_CAP_BYTES
    budget_tokens: int | None = None

    def to_line(self) -> bytes:
        """Return the job as one line of JSON."""
        return orjson.dumps(asdict(self), default=str) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> EncodeJob:
        """Read what `to_line` wrote."""
        fields: dict[str, Any] = orjson.loads(line)
        fields["model"] = ModelConfig(**fields["model"])
        for key in _PATHS:
            if fields[key] is not None:
                fields[key] = Path(fields[key])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Do one batch of the plan; `outputs` are those not yet on disk.

    `places` are the rows of the batch that an output lacks, where it does not lack all.
    Nothing else of it is written: on a GPU, bytes that were taken over would change.
    """

    batch: int
    outputs: tuple[Output, ...]
    places: Mapping[Output, tuple[int, ...]] = field(default_factory=dict)

    def rows(self, size: int) -> list[int]:
        """Return the rows to compute, of a batch of `size`: what any output lacks."""
        lacking = [self.places.get(output, range(size)) for output in self.outputs]
        return sorted(set().union(*lacking))

    def lacking(self, output: Output, rows: Sequence[int]) -> list[int]:
        """Return which of these rows an output lacks, by their positions."""
        places = set(self.places.get(output, rows))
        return [at for at, row in enumerate(rows) if row in places]

    def to_line(self) -> bytes:
        """Return the request as one line of JSON."""
        return orjson.dumps(asdict(self)) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> BatchRequest:
        """Read what `to_line` wrote."""
        fields = orjson.loads(line)
        places = {output: tuple(rows) for output, rows in fields["places"].items()}
        return cls(fields["batch"], tuple(fields["outputs"]), places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has its model and waits for a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReply:
    """A batch is on disk, synced.

    `peak_bytes` is the worker's largest memory, `device_peak_bytes` that on a GPU.
    `pass_rows` lists, once each, how many rows the forward passes had; where memory
    failed, `oom_retries` counts how often, and `budget_tokens` is what was left.
    `calibration` is the pass that a worker on a GPU measured at first.
    """

    batch: int
    outputs: tuple[Output, ...]
    rows: int
    tokens: int
    padded_tokens: int
    seconds: float
    device: str
    peak_bytes: int
    device_peak_bytes: int | None = None
    pass_rows: tuple[int, ...] = ()
    oom_retries: int = 0
    budget_tokens: int | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A worker gives up: the name of an error class, its message and its cure.

    `row` is that of the text which did not fit the device, where that was why.
    """

    kind: str
    message: str
    cure: str | None
    row: int | None = None


Answer = Ready | BatchReply | Failure
_ANSWERS: dict[str, type[Answer]] = {
    kind.__name__: kind for kind in (Ready, BatchReply, Failure)
}


def answer_to_line(answer: Answer) -> bytes:
    """Return an answer as one line of JSON that names its kind."""
    return orjson.dumps({"answer": type(answer).__name__, **asdict(answer)}) + b"\n"


def answer_from_line(line: bytes) -> Answer:
    """Read what `answer_to_line` wrote."""
    fields: dict[str, Any] = orjson.loads(line)
    kind = _ANSWERS[fields.pop("answer")]
    for key in _TUPLES & fields.keys():
        fields[key] = tuple(fields[key])
    if fields.get("calibration") is not None:
        fields["calibration"] = Calibration(**fields["calibration"])
    return kind(**fields)
