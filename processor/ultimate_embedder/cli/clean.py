"""`clean`: remove what runs keep beside the bundles for later runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ..errors import UsageError
from ..export.folders import bundles_in
from ..run.kept_work import WORK_FOLDER, KeptPart, kept_parts, remove_kept
from ..telemetry.printable import printable

_KIB, _MIB = 2**10, 2**20


def clean(
    output_dir: Annotated[
        Path, typer.Argument(help="Folder of bundles: the --output-dir of embed.")
    ],
    collections: Annotated[
        list[str] | None,
        typer.Option(
            "--collections",
            metavar="NAME",
            help="Clean for this collection alone; may be given again.",
            show_default="all",
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Remove what the bundles' models left as well, and the rest of what "
            "an unfinished run did.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is kept; remove nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
) -> None:
    """Remove kept token ids and vectors of models that no bundle here uses any more.

    The embed command keeps token ids, vectors and a ledger in the folder .work of its
    output folder, so that later runs compute only what changed. Bundles do not need it:
    the whole folder may be removed whenever no run works there. What a later run misses
    it computes anew, with the same bytes.

    Exit code 0: done; 2: bad usage; 3: a run works there, or removing failed.
    """
    if not output_dir.is_dir():
        raise UsageError(
            f"There is no folder {output_dir}.", cure="Name the --output-dir of a run."
        )
    _require_output_dir(output_dir)
    names = tuple(collections or ())
    if dry_run:
        parts = kept_parts(output_dir, names)
    else:
        parts = remove_kept(output_dir, names, everything=everything)
    if as_json:
        document = {"removed": not dry_run, "parts": [_as_dict(part) for part in parts]}
        content = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        sys.stdout.buffer.write(content)
        return
    _print(parts, output_dir, dry_run=dry_run)


def _require_output_dir(folder: Path) -> None:
    """Return when a run keeps its work there, or has left bundles there.

    Raises:
        UsageError: neither.
    """
    if not (folder / WORK_FOLDER).is_dir() and bundles_in(folder) in ([], [folder]):
        raise UsageError(
            f"{folder} has no folder {WORK_FOLDER}: it is not the --output-dir of a "
            "run.",
            cure="Name that.",
        )


def _as_dict(part: KeptPart) -> dict[str, object]:
    return {
        "collection": part.collection,
        "path": str(part.path),
        "bytes": part.bytes,
        "used": part.used,
    }


def _print(parts: Sequence[KeptPart], output_dir: Path, *, dry_run: bool) -> None:
    for part in parts:
        what = ("used" if part.used else "not used") if dry_run else "removed"
        line = f"{what}: {part.path.relative_to(output_dir)}, {_size(part.bytes)}"
        sys.stdout.write(printable(line, limit=1000) + "\n")
    total = _size(sum(part.bytes for part in parts))
    sys.stdout.write(f"{'kept' if dry_run else 'freed'}: {total}\n")


def _size(size_bytes: int) -> str:
    if 0 < size_bytes < _MIB:
        return f"{size_bytes / _KIB:,.1f} KiB"
    return f"{size_bytes / _MIB:,.1f} MiB"
