"""`verify`: prove that a bundle is whole and undamaged, or say where it is not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import orjson
import typer

from ..catalogue import dense_model
from ..encoders.texts import TextEncoder
from ..errors import BundleError, UsageError
from ..export.manifest import Manifest, read_manifest_bytes
from ..export.manifest_sections import DenseRun
from ..intake.chunks import find_collections
from ..model_manager import ModelManager
from ..records import Float32Array
from ..telemetry.printable import printable
from ..verify import Embed, VerificationReport, check_statistics, verify_bundle
from .output import show_sheet, stdout_format
from .statistics import StatisticsCheck, token_counter

DAMAGED = 1


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of one collection's bundle.")],
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also embed a sample again, offline, on the CPU, and compare.",
        ),
    ] = False,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="Also count the chunks and tokens of each source subdirectory again, "
            "offline, and compare them with the manifest.",
        ),
    ] = False,
    chunked_dir: Annotated[
        Path | None,
        typer.Option(
            "--chunked-dir",
            metavar="DIR",
            help="The same, and compare with the chunk files of this collection there.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
) -> None:
    """Check a bundle: sums, counts, ids, vectors, indexes, sparse vectors, stray files.

    Chunk ids are checked for form, order, number and repetition.

    Each fault is one line: file, place, problem. Exit code 0: whole; 1: damaged, or not
    a bundle; 2: no such folder.
    """
    if not bundle.is_dir():
        raise UsageError(
            f"There is no folder {bundle}.", cure="Name the folder of a bundle."
        )
    source_root = chunked_dir if chunked_dir is None else _folder(chunked_dir)
    report = verify_bundle(bundle, deep, _embedder(bundle) if deep else None)
    counted = None
    if report.whole and (statistics or source_root is not None):
        counted = _count_again(bundle, source_root)
    whole = report.whole and not (counted and counted.errors)
    if as_json:
        document = report.as_dict() | {"whole": whole}
        if counted is not None:
            document["statistics"] = counted.document
        content = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        sys.stdout.buffer.write(content)
    else:
        _print_report(report, counted)
    if not whole:
        raise typer.Exit(DAMAGED)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(
            f"There is no folder {path} (--chunked-dir).",
            cure="Name the folder whose folders are collections of chunk files.",
        )
    return path


def _count_again(bundle: Path, chunked_dir: Path | None) -> StatisticsCheck:
    manifest = Manifest.parse(read_manifest_bytes(bundle))
    source = None
    if chunked_dir is not None:
        found = {folder.name: folder for folder in find_collections(chunked_dir)}
        if manifest.collection not in found:
            raise UsageError(
                f"No collection is called {manifest.collection} in {chunked_dir}.",
                cure=f"Found: {', '.join(found) or 'none'}.",
            )
        source = found[manifest.collection]
    count_tokens = token_counter(manifest, ModelManager(offline=True))
    counted = check_statistics(bundle, count_tokens=count_tokens, source=source)
    return StatisticsCheck((counted,), (bundle,))


def _print_report(report: VerificationReport, counted: StatisticsCheck | None) -> None:
    for sheet in counted.sheets if counted else ():
        show_sheet(sheet, style=stdout_format("plain"))
    lines = [f"checked: {check}" for check in report.checks]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"damaged: {finding}" for finding in report.findings]
    if report.further_findings:
        lines.append(f"damaged: {report.further_findings} further findings")
    lines += [f"damaged: {fault}" for fault in (counted.errors if counted else ())]
    sound = report.whole and not (counted and counted.errors)
    verdict = "whole" if sound else "DAMAGED"
    lines.append(f"{report.bundle}: {verdict}")
    for line in lines:
        sys.stdout.write(printable(line, limit=1000) + "\n")


def _embedder(bundle: Path) -> Embed:
    """Return a function that embeds documents as the bundle's manifest says."""
    manager = ModelManager(offline=True)

    def embed(texts: Sequence[str], key: str) -> Float32Array:
        run = _run(bundle, key)
        config = replace(
            dense_model(key),
            max_tokens=run.max_tokens,
            document_prefix=run.document_prefix,
        )
        tokenizer = manager.tokenizer(config)
        dtype = run.dtype if run.device == "cpu" else None
        with manager.resident(config, device="cpu", dtype=dtype) as encoder:
            encode = TextEncoder(encoder, tokenizer, config.max_tokens, run.long_texts)
            return encode.vectors(texts, "document")

    return embed


def _run(bundle: Path, key: str) -> DenseRun:
    """Return what the manifest says of a model; its own sum was looked at before."""
    runs = Manifest.parse(read_manifest_bytes(bundle)).dense_run or ()
    found = next((run for run in runs if run.model == key), None)
    if found is None:
        raise BundleError(
            f"The manifest says nothing of the model '{key}'.",
            cure="Verify without --deep.",
        )
    return found
