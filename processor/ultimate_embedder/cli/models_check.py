"""`models check`: what is here, what a fetch would take, what fits under the cap."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer

from ..config import GIB
from ..encoders.hub import HubFailure
from ..errors import ModelError, UsageError
from ..models.catalogue import PROFILES
from ..models.entries import Entry, entries
from ..models.inventory import MemoryFit, ModelState, state_of
from ..setting_table import gibibytes
from ..settings import decide
from .errors_out import EXIT_FAILED, say
from .output import Sheet, count, show_sheet, stdout_format

KeysArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY...",
        help="Keys of 'models list', or ORG/NAME of the hub, with @REVISION if it is "
        "not the main one.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", metavar="|".join(PROFILES), help="All models of a roster."
    ),
]


def check_models(
    keys: KeysArgument = None,
    profile: ProfileOption = None,
    gpu_memory_cap: Annotated[
        str | None,
        typer.Option(
            "--gpu-memory-cap",
            metavar="GIB",
            help="Most memory on each GPU, in GiB.",
            show_default="as for embed: that of the profile, 12",
        ),
    ] = None,
    online: Annotated[
        bool,
        typer.Option(
            "--online", help="Ask the hub for sizes; else they are the registry's."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Tell which models are here, what a fetch would take, and what fits a GPU.

    Without names and profile: the profile that embed would use. No weights are loaded,
    and no connection is opened unless --online is given.

    Exit codes: 0 all are here and fit; 1 one is missing, refused or does not fit; 2 bad
    usage.
    """
    named = list(keys or ())
    asked = entries(named, _profile(named, profile))
    cap = _cap(gpu_memory_cap, profile)
    states = [_state(entry, cap, online) for entry in asked]
    if as_json:
        document = {
            "gpu_memory_cap_bytes": cap,
            "models": [_record(state) for state in states],
        }
        sys.stdout.buffer.write(
            orjson.dumps(
                document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            )
        )
        sys.stdout.flush()
    else:
        _show(states, cap)
    if not all(state.ready and _fits(state) for state in states):
        raise typer.Exit(EXIT_FAILED)


def _profile(keys: list[str], asked: str | None) -> str | None:
    if asked is not None or keys:
        return asked
    found: str = decide({})[0]["profile"].value
    return found


def _cap(asked: str | None, profile: str | None) -> int:
    given = {} if profile is None else {"profile": (profile, "--profile")}
    if asked is None:
        found: int = decide(given)[0]["gpu_memory_cap"].value
        return found
    try:
        return gibibytes(asked)
    except ValueError as error:
        raise UsageError(f"--gpu-memory-cap is '{asked}'; {error}.") from None


def _state(entry: Entry, cap: int, online: bool) -> ModelState:
    """Return the state; where the hub does not answer, that of the registry."""
    try:
        return state_of(entry, cap_bytes=cap, ask_hub=online)
    except ModelError as error:
        silence = error.silence if isinstance(error, HubFailure) else None
        told = f"The hub tells no sizes: {silence}." if silence else str(error)
        say("warning", f"{entry.key}: {told} What is known without it is shown.")
        return state_of(entry, cap_bytes=cap)


def _fits(state: ModelState) -> bool:
    return state.fit is None or state.fit.fits


def _show(states: list[ModelState], cap: int) -> None:
    rows = tuple(
        (
            state.entry.key,
            _here(state),
            _to_fetch(state),
            *_memory(state),
        )
        for state in states
    )
    sheet = Sheet(
        title=f"Models on this machine, and under {cap / GIB:g} GiB of each GPU",
        columns=("key", "files", "to fetch", "weights", "peak", "batch", "longest"),
        rows=rows,
        numbers=("to fetch", "weights", "peak", "batch", "longest"),
    )
    show_sheet(sheet, style=stdout_format())
    for state in states:
        for line in _remarks(state, cap):
            sys.stdout.write(f"{state.entry.key}: {line}\n")
    _show_fetch(states)


def _show_fetch(states: list[ModelState]) -> None:
    """Tell what a fetch would take: files that several models share are one."""
    needed = {
        state.entry.files: state.fetch_bytes
        for state in states
        if state.place == "missing" and state.refused is None
    }
    if not needed:
        return
    known = [size for size in needed.values() if size is not None]
    unknown = len(needed) - len(known)
    more = f" and {unknown} of unknown size" if unknown else ""
    size = f"{sum(known) / GIB:.2f} GiB{more}"
    sys.stdout.write(f"{len(needed)} to fetch with 'models fetch': {size}\n")


def _here(state: ModelState) -> str:
    if state.place in ("cache", "missing") and state.commit:
        return f"{state.place} {state.commit[:8]}"
    return state.place


def _to_fetch(state: ModelState) -> str:
    if state.fetch_bytes is None:
        return "unknown"
    if not state.fetch_bytes:
        return "-"
    return f"{'' if state.exact else '~'}{state.fetch_bytes / GIB:.2f} GiB"


def _memory(state: ModelState) -> tuple[str, str, str, str]:
    fit = state.fit
    if fit is None:
        word = "-" if state.entry.files is None or _on_cpu_alone(state) else "unknown"
        return (word,) * 4
    return (
        f"{fit.weight_bytes / GIB:.2f} GiB",
        f"{fit.peak_bytes / GIB:.2f} GiB" if fit.fits else "too large",
        f"{fit.rows} x {fit.tokens}" if fit.fits else "none",
        f"{count(fit.longest)} tokens" if fit.longest else "none",
    )


def _on_cpu_alone(state: ModelState) -> bool:
    return state.entry.files is not None and state.entry.files.backend == "onnx"


def _remarks(state: ModelState, cap: int) -> list[str]:
    said = []
    if state.refused:
        said.append(state.refused)
    if state.fit is not None and not state.fit.fits:
        said.append(
            f"one text of {state.fit.tokens} tokens takes "
            f"{state.fit.peak_bytes / GIB:.2f} GiB in 16 bits, more than the cap of "
            f"{cap / GIB:g} GiB leaves."
        )
    if state.entry.files is not None and not state.pinned:
        said.append("no commit is pinned; 'models fetch' pins the one it takes.")
    if _on_cpu_alone(state):
        said.append("runs on the CPU alone, with the extra 'onnx'.")
    return said


def _record(state: ModelState) -> dict[str, Any]:
    entry = state.entry
    return {
        "key": entry.key,
        "kind": entry.kind,
        "hf_model_id": entry.files.model if entry.files else None,
        "place": state.place,
        "path": str(state.path) if state.path else None,
        "commit": state.commit,
        "pinned": state.pinned,
        "ready": state.ready,
        "refused": state.refused,
        "bytes_here": state.bytes_here,
        "bytes_to_fetch": state.fetch_bytes,
        "bytes_to_fetch_exact": state.exact,
        "memory": _memory_record(state.fit),
    }


def _memory_record(fit: MemoryFit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    return {
        "fits": fit.fits,
        "weight_bytes": fit.weight_bytes,
        "planned_peak_bytes": fit.peak_bytes,
        "tokens": fit.tokens,
        "batch": fit.rows,
        "longest_tokens": fit.longest,
        "from": fit.source,
    }
