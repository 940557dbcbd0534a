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
from ..model_manager import ModelManager
from ..records import Float32Array
from ..telemetry.printable import printable
from ..verify import Embed, VerificationReport, verify_bundle

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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, nothing else.")
    ] = False,
) -> None:
    """Check a bundle: sums, counts, ids, vectors, indexes, sparse vectors, stray files.

    Each fault is one line: file, place, problem. Exit code 0: whole; 1: damaged, or not
    a bundle; 2: no such folder.
    """
    if not bundle.is_dir():
        raise UsageError(
            f"There is no folder {bundle}.", cure="Name the folder of a bundle."
        )
    report = verify_bundle(bundle, deep, _embedder(bundle) if deep else None)
    if as_json:
        content = orjson.dumps(report.as_dict(), option=orjson.OPT_APPEND_NEWLINE)
        sys.stdout.buffer.write(content)
    else:
        _print_report(report)
    if not report.whole:
        raise typer.Exit(DAMAGED)


def _print_report(report: VerificationReport) -> None:
    lines = [f"checked: {check}" for check in report.checks]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"damaged: {finding}" for finding in report.findings]
    if report.further_findings:
        lines.append(f"damaged: {report.further_findings} further findings")
    verdict = "whole" if report.whole else "DAMAGED"
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
