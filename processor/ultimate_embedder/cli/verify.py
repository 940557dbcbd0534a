"""`verify`: prove that a bundle is whole and undamaged, or say where it is not."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ..errors import UsageError
from ..export.folders import bundles_in, no_bundle
from ..export.manifest import Manifest, read_manifest_bytes
from ..intake.chunks import find_collections
from ..models.manager import ModelManager
from ..telemetry.printable import printable
from ..verify import VerificationReport, check_statistics, verify_bundle
from .deep import ModelsOf
from .output import show_sheet, stdout_format
from .statistics import StatisticsCheck, token_counter

DAMAGED = 1


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, or of several.")],
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

    Chunk ids are checked for form, order, number and repetition. Of a folder that holds
    bundles, each is checked and has one line.

    Each fault is one line: file, place, problem. What needs a damaged file is not
    checked, and said. Exit code 0: whole; 1: damaged, or made by a newer version; 2: no
    such folder, or no bundle in it.
    """
    if not bundle.is_dir():
        raise no_bundle(bundle)
    source_root = chunked_dir if chunked_dir is None else _folder(chunked_dir)
    counting = statistics or source_root is not None
    found = bundles_in(bundle)
    if not found:
        raise no_bundle(bundle)
    if found == [bundle]:
        results = [_verify_one(bundle, deep, counting, source_root)]
        document = results[0].document
        if not as_json:
            _print_report(results[0])
    else:
        results = []
        for path in found:
            results.append(_verify_one(path, deep, counting, source_root))
            if not as_json:
                _print_line(results[-1])
        document = {
            "whole": all(result.whole for result in results),
            "bundles": [result.document for result in results],
        }
    if as_json:
        content = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        sys.stdout.buffer.write(content)
    if not all(result.whole for result in results):
        raise typer.Exit(DAMAGED)


@dataclass(frozen=True, slots=True)
class _Result:
    """What was found in one bundle."""

    report: VerificationReport
    counted: StatisticsCheck | None

    @property
    def errors(self) -> tuple[str, ...]:
        """What the statistics contradict."""
        return (
            tuple(str(error) for error in self.counted.errors) if self.counted else ()
        )

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.report.whole and not self.errors

    @property
    def document(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        document = self.report.as_dict() | {"whole": self.whole}
        if self.counted is not None:
            document["statistics"] = self.counted.document
        return document


def _verify_one(
    bundle: Path, deep: bool, counting: bool, source_root: Path | None
) -> _Result:
    models = ModelsOf(bundle) if deep else None
    report = verify_bundle(
        bundle,
        deep,
        models.embed if models else None,
        models.embed_sparse if models else None,
    )
    counted = None
    if report.whole and counting:
        counted = _count_again(bundle, source_root)
    return _Result(report, counted)


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
        if not found:
            raise UsageError(
                f"{chunked_dir} holds no chunk files (--chunked-dir).",
                cure="Name the output folder of chunk_docs_v5.py.",
            )
        if manifest.collection not in found:
            raise UsageError(
                f"No collection is called {manifest.collection} in {chunked_dir}.",
                cure=f"Found: {', '.join(found) or 'none'}.",
            )
        source = found[manifest.collection]
    count_tokens = token_counter(manifest, ModelManager(offline=True))
    counted = check_statistics(bundle, count_tokens=count_tokens, source=source)
    return StatisticsCheck((counted,), (bundle,))


def _print_report(result: _Result) -> None:
    report = result.report
    for sheet in result.counted.sheets if result.counted else ():
        show_sheet(sheet, style=stdout_format("plain"))
    lines = [f"checked: {check}" for check in report.checks]
    lines += [f"not checked: {skipped}" for skipped in report.skipped]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"damaged: {finding}" for finding in report.findings]
    if report.further_findings:
        lines.append(f"damaged: {report.further_findings} further findings")
    lines += [f"damaged: {fault}" for fault in result.errors]
    lines.append(f"{report.bundle}: {_verdict(result)}")
    for line in lines:
        sys.stdout.write(printable(line, limit=1000) + "\n")


def _print_line(result: _Result) -> None:
    """Print one line for one bundle of several."""
    faults = [*(str(found) for found in result.report.findings), *result.errors]
    told = ""
    if faults:
        number = len(faults) + result.report.further_findings
        told = f", {number} findings, the first: {faults[0]}"
    elif result.whole and result.report.notes:
        told = f" (note: {'; '.join(result.report.notes)})"
    line = f"{result.report.bundle}: {_verdict(result)}{told}"
    sys.stdout.write(printable(line, limit=1000) + "\n")


def _verdict(result: _Result) -> str:
    if result.report.unchecked:
        return result.report.unchecked
    return "whole" if result.whole else "DAMAGED"
