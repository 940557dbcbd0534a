"""`models list`, `show`, `export`: the registry, and where its models' files are."""

from __future__ import annotations

import dataclasses
import errno
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ..config import DEFAULT_GPU_MEMORY_CAP_BYTES, ModelConfig
from ..errors import UsageError
from ..models.choice import choose_rerank
from ..models.entries import Entry, Kind, Known, all_entries, described, entries
from ..models.inventory import ModelState, state_of
from .output import Sheet, show_sheet, stdout_format

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.")
]


def list_models(
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="Only models of this kind.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the known models: widths, windows, licences, and where their files are.

    Files come with a package, are in the cache of models, or missing. No connection is
    opened.

    Exit codes: 0 listed; 2 bad usage.
    """
    models = [
        (*described(entry), entry)
        for entry in all_entries()
        if kind in (None, entry.kind)
    ]
    if as_json:
        _print_json([_record(*model) for model in models])
        return
    sheet = Sheet(
        title="Known models",
        columns=("key", "kind", "width", "tokens", "files", "licence", "published as"),
        rows=tuple(
            (
                model.name,
                kind,
                str(model.vector_dim) if isinstance(model, ModelConfig) else "-",
                _plain(entry.window),
                _state(entry).place,
                model.licence,
                model.hf_model_id,
            )
            for kind, model, entry in models
        ),
        numbers=("width", "tokens"),
    )
    show_sheet(sheet, style=stdout_format())


def show_model(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY|ORG/NAME|DIR",
            help="A key of `models list`, or a model of the hub that is in the cache.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show everything that is known of one model, and where its files are.

    Of a model that the registry has not, that is what its own files state.

    Exit codes: 0 shown; 1 not in the registry, and its files are not here or damaged; 2
    bad usage.
    """
    (entry,) = entries([key])
    kind, model = described(entry)
    record = _record(kind, model, entry)
    if as_json:
        _print_json(record)
        return
    rows = tuple((name, _plain(value)) for name, value in record.items())
    sheet = Sheet(title=key, columns=("", "value"), rows=rows)
    show_sheet(sheet, style=stdout_format())


def export_model(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY|DIR", help="A reranker kept as a weight difference."
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")
    ],
) -> None:
    """Write a reranker as a folder that sentence-transformers opens.

    Exit codes: 0 written; 1 the model that it differs from is not here; 2 bad usage, or
    the folder exists; 3 the disk is full or not writable.
    """
    config = choose_rerank(key)
    if config.difference is None:
        raise UsageError(
            f"{config.name} is published as a whole: {config.hf_model_id}.",
            cure="Export a reranker that is kept as a weight difference.",
        )
    from ..encoders.difference_model import export_cross_encoder

    try:
        export_cross_encoder(config, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # told for every command alike
        raise UsageError(
            f"{folder} cannot be written: {error.strerror or error}.",
            cure="Name another folder, or mend its permissions.",
        ) from error
    sys.stdout.write(f"{folder}: open it with sentence_transformers.CrossEncoder\n")


def _state(entry: Entry) -> ModelState:
    return state_of(entry, cap_bytes=DEFAULT_GPU_MEMORY_CAP_BYTES)


def _record(kind: Kind, model: Known, entry: Entry) -> dict[str, object]:
    fields = {
        field.name: getattr(model, field.name) for field in dataclasses.fields(model)
    }
    written = {
        name: str(value) if dataclasses.is_dataclass(value) else value
        for name, value in fields.items()
    }
    state = _state(entry)
    if "kind" in written:
        written["sparse_kind"] = written.pop("kind")
    return {
        "key": written.pop("name"),
        "kind": kind,
        **written,
        "files": state.place,
        "path": str(state.path) if state.path else None,
        "commit": state.commit,
    }


def _plain(value: object) -> str:
    if value is None or value == "":
        return "-"
    return (
        repr(value) if isinstance(value, str) and value != value.strip() else str(value)
    )


def _print_json(document: object) -> None:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    sys.stdout.write(text + "\n")
