"""What of the models is on this machine, what is not, and what fits under a cap.

No weights are loaded. Without the files, sizes and shapes are those of the registry,
and None where it has none either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import GPU_ROWS_A_BATCH, RerankingConfig, SparseModelConfig
from ..encoders.architecture import read_architecture
from ..encoders.hub import Hub, HuggingFaceHub, with_retries
from ..encoders.sources import ModelLocation, files_to_fetch
from ..encoders.weight_files import lacking_weights
from ..errors import ModelError
from ..memory_cost import (
    PLANNING_DTYPE,
    Architecture,
    Head,
    padded_length,
    planned_peak_bytes,
    room_bytes,
    token_budget,
    weight_bytes,
)
from .entries import Entry, FileNeed, Kind
from .facts import read_facts
from .lock import MAIN, read_lock
from .shapes import SHAPES, STORED_BYTES

Place = Literal["folder", "package", "cache", "missing", "none needed"]

USUAL_TOKENS = 512
"""The length for which a batch is told: chunks are cut to it unless told otherwise."""

_HEADS: dict[Kind, Head] = {
    "dense": "none",
    "sparse": "masked-lm",
    "rerank": "classifier",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """Under a cap on a GPU: bytes as the planner reckons them, in 16 bits.

    `rows` texts of `tokens` each make a batch, 0: not one. `longest` is the longest
    text that fits alone, no longer than the window; 0: the weights are too large.
    """

    weight_bytes: int
    peak_bytes: int
    tokens: int
    rows: int
    longest: int
    source: Literal["files", "registry"]

    @property
    def fits(self) -> bool:
        """Whether a text of the usual length fits."""
        return self.rows > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One model as it stands. `commit` is None where it is not of the hub, or unknown.

    `fetch_bytes`: what a fetch takes over the network, None: unknown; `exact` tells the
    hub's own figure from the registry's. `refused` says why the model cannot be used.
    """

    entry: Entry
    place: Place
    path: Path | None
    commit: str | None
    pinned: bool
    bytes_here: int
    fetch_bytes: int | None
    exact: bool
    fit: MemoryFit | None
    refused: str | None = None

    @property
    def ready(self) -> bool:
        """Whether a run without a connection can load it."""
        return self.place != "missing" and self.refused is None


def state_of(
    entry: Entry,
    *,
    cap_bytes: int,
    ask_hub: bool = False,
    hub: Hub | None = None,
) -> ModelState:
    """Return what is here of a model; a connection is opened only to `ask_hub`.

    Raises:
        UsageError: the lock of models cannot be read.
    """
    hub = hub or HuggingFaceHub()
    refused = _refused(entry)
    location = None
    if entry.files is not None:
        try:
            location = entry.files.locate(offline=True, hub=hub)
        except ModelError as error:
            here = _partly_here(entry.files, hub)
            refused = refused or (str(error) if here else None)
    fetch_bytes, exact = _fetch_bytes(entry, location, hub if ask_hub else None)
    commit, pinned = _commit(entry, location, hub)
    return ModelState(
        entry=entry,
        place=_place(entry, location),
        path=location.path if location else None,
        commit=commit,
        pinned=pinned,
        bytes_here=folder_bytes(location.path) if location else 0,
        fetch_bytes=fetch_bytes,
        exact=exact,
        fit=_fit(entry, location, cap_bytes),
        refused=refused,
    )


def folder_bytes(folder: Path) -> int:
    """Return what the files in a folder take, links followed."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _refused(entry: Entry) -> str | None:
    if isinstance(entry.config, RerankingConfig) and entry.config.listwise:
        return "It ranks whole lists with code of its own, which is not run."
    return None


def _place(entry: Entry, location: ModelLocation | None) -> Place:
    if entry.files is None:
        return "none needed"
    if location is None:
        return "missing"
    return "cache" if location.origin == "hub" else location.origin


def _commit(
    entry: Entry, location: ModelLocation | None, hub: Hub
) -> tuple[str | None, bool]:
    """Return the commit in use or the one that a fetch would take, if that is known."""
    if entry.files is None:
        return None, True
    if location is not None:
        of_hub = location.origin in ("cache", "hub")
        return (location.revision if of_hub else None), location.pinned
    lock = read_lock(hub.lock_path)
    commit = lock.pinned(entry.files.model, entry.files.revision)
    return commit, commit is not None


def _partly_here(need: FileNeed, hub: Hub) -> bool:
    """Say whether the weights are here, so that something else is wrong."""
    if Path(need.model).is_dir():
        return True
    lock = read_lock(hub.lock_path)
    at = lock.pinned(need.model, need.revision) or need.revision or MAIN
    found = hub.cached(need.model, at)
    return found is not None and not lacking_weights(found, need.backend)


def _fetch_bytes(
    entry: Entry, location: ModelLocation | None, hub: Hub | None
) -> tuple[int | None, bool]:
    """Return the bytes to fetch, None if not known, and whether that is exact."""
    need = entry.files
    if need is None or location is not None:
        return 0, True
    if hub is not None:
        lock = read_lock(hub.lock_path)
        at = lock.pinned(need.model, need.revision) or need.revision or MAIN
        listing = with_retries(lambda: hub.listing(need.model, at))
        small, weights = files_to_fetch(listing, need.model, backend=need.backend)
        sizes = [listing.sizes[name] for name in (*small, *weights)]
        known = [size for size in sizes if size is not None]
        return (sum(known), True) if len(known) == len(sizes) else (None, False)
    shape = _published_shape(entry)
    dtype = entry.config.published_dtype if entry.config else None
    if shape is None or dtype is None:
        return None, False
    return shape.parameters * STORED_BYTES[dtype], False


def _published_shape(entry: Entry) -> Architecture | None:
    config = entry.config
    if config is None or entry.files is None:
        return None
    key = config.dense_key if isinstance(config, SparseModelConfig) else None
    return SHAPES.get(key or config.name)


def _fit(
    entry: Entry, location: ModelLocation | None, cap_bytes: int
) -> MemoryFit | None:
    """Return how a model fits, by its files or else by the registry."""
    if entry.files is not None and entry.files.backend == "onnx":
        return None  # it runs on the CPU alone
    source: Literal["files", "registry"] = "files"
    shape = _shape_of_files(entry, location)
    if shape is None:
        source, shape = "registry", _published_shape(entry)
    if shape is None:
        return None
    window = entry.window or _stated_window(location) or USUAL_TOKENS
    tokens = min(USUAL_TOKENS, window)
    room = room_bytes(cap_bytes)

    def budget(length: int) -> int:
        return token_budget(shape, PLANNING_DTYPE, room_bytes=room, longest=length)

    rows = min(GPU_ROWS_A_BATCH, budget(tokens) // tokens)
    return MemoryFit(
        weight_bytes=weight_bytes(shape, PLANNING_DTYPE),
        peak_bytes=planned_peak_bytes(
            shape, PLANNING_DTYPE, rows=max(1, rows), length=tokens
        ),
        tokens=tokens,
        rows=rows,
        longest=_longest(window, budget),
        source=source,
    )


def _shape_of_files(
    entry: Entry, location: ModelLocation | None
) -> Architecture | None:
    """Return the shape that files state, None where there are none."""
    if location is None:
        return None
    config = entry.config
    shares = isinstance(config, SparseModelConfig) and config.kind == "attention"
    head = "none" if shares else _HEADS.get(entry.kind) if entry.kind else None
    try:
        return read_architecture(location.path, head)
    except ModelError:
        return None  # told as unknown: a family whose files name things otherwise


def _stated_window(location: ModelLocation | None) -> int | None:
    return read_facts(location.path).window if location else None


def _longest(window: int, budget: Callable[[int], int]) -> int:
    """Return the longest text that fits alone, by halving: a longer one takes more."""
    low, high = 0, window
    while low < high:
        middle = (low + high + 1) // 2
        padded = padded_length(middle, window)
        if budget(padded) >= padded:
            low = middle
        else:
            high = middle - 1
    return low
