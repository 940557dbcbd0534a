"""`models fetch`: the cache primed for runs without a connection."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ..config import GIB
from ..encoders.hub import HuggingFaceHub
from ..errors import ModelError
from ..models.entries import entries
from ..models.fetch import Fetched, fetch_model
from ..settings import decide
from .errors_out import EXIT_FAILED, say, say_json
from .models_check import KeysArgument, ProfileOption
from .output import is_terminal


def fetch_models(
    keys: KeysArgument = None,
    profile: ProfileOption = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Take what branches are at now, not the commits locked."
        ),
    ] = False,
    models_lock: Annotated[
        Path | None,
        typer.Option(
            "--models-lock",
            metavar="FILE",
            help="Where the commits are kept. Variable: EMBEDDER_MODELS_LOCK.",
            show_default="a file in the cache of models",
        ),
    ] = None,
    trust_remote_code: Annotated[
        list[str] | None,
        typer.Option(
            "--trust-remote-code",
            metavar="KEY",
            help="A model whose own code is fetched too; read it first. Repeatable.",
            show_default="none",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Fetch models into the cache, so that runs with --offline find them.

    The commit that was taken is kept in a lock, and later runs take the same. Weights
    are fetched as safetensors, or as one ONNX graph. Tries again where the connection
    breaks, and goes on where it stopped.

    Exit codes: 0 all are here; 1 one could not be had, the others are here; 2 bad
    usage; 3 the disk is full or not writable.
    """
    asked = entries(keys or (), profile, trust_remote_code or ())
    hub = HuggingFaceHub(progress=not as_json and is_terminal(sys.stderr))
    if models_lock is None:
        models_lock = decide({})[0]["models_lock"].value
    lock_path = models_lock or hub.lock_path
    done: list[Fetched] = []
    failed: dict[str, str] = {}
    for entry in asked:
        try:
            found = fetch_model(entry, hub=hub, lock_path=lock_path, update=update)
        except ModelError as error:
            failed[entry.key] = str(error)
            (say_json if as_json else _complain)(f"{entry.key}: {error}", EXIT_FAILED)
            continue
        done.append(found)
        if not as_json:
            sys.stdout.write(_line(found) + "\n")
            sys.stdout.flush()
    if as_json:
        _print_json(done, failed, lock_path)
    elif any(found.commit for found in done):
        sys.stdout.write(f"commits: {lock_path}\n")
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _complain(message: str, _code: int) -> None:
    say("error", message)


def _line(found: Fetched) -> str:
    if found.origin is None:
        return f"{found.key}: needs no files"
    words = {
        "hub": "fetched",
        "cache": "was in the cache",
        "package": "comes with a package",
        "folder": "is a folder",
    }
    at = f" at {found.commit}" if found.commit else ""
    return (
        f"{found.key}: {words[found.origin]}{at}, {found.bytes / GIB:.2f} GiB "
        f"({found.bytes} bytes) in {found.path}"
    )


def _print_json(done: list[Fetched], failed: dict[str, str], lock_path: Path) -> None:
    document: dict[str, Any] = {
        "lock": str(lock_path),
        "models": [
            {
                "key": found.key,
                "path": str(found.path) if found.path else None,
                "origin": found.origin,
                "commit": found.commit,
                "bytes": found.bytes,
            }
            for found in done
        ],
        "failed": [{"key": key, "error": error} for key, error in failed.items()],
    }
    sys.stdout.buffer.write(
        orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )
    sys.stdout.flush()
