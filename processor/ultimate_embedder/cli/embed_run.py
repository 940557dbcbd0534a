"""One run of the main job between its header and its closing tables."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from ..config import PipelineConfig
from ..disk_space import require_writable
from ..errors import UsageError
from ..settings import ReportingConfig, Settings
from ..telemetry.events import Emit, Warned
from .closing import closing_sheets
from .errors_out import EXIT_FAILED, EXIT_STOPPED, RESUME, say, say_json
from .header import header_sheet
from .listeners import listening
from .output import Format, Sheet, show_sheet
from .plan_sheet import on_top_of_passes, plan_document, plan_sheets
from .run_reports import write_reports
from .versions import installed_versions, version_warnings

if TYPE_CHECKING:
    from ..batch_runner import RunOutcome
    from ..run.plan import RunPlan


class Runner(Protocol):
    """What a run needs of the batch runner."""

    def run(self) -> RunOutcome:
        """Do the work."""

    def plan(self) -> RunPlan:
        """Say what there is to do."""


class Check(Protocol):
    """What was looked at after a run."""

    @property
    def sheets(self) -> Sequence[Sheet]:
        """What to show a person."""

    @property
    def document(self) -> dict[str, Any]:
        """The same as JSON-ready data."""

    @property
    def errors(self) -> Sequence[str]:
        """A line with its cure for each thing that is wrong: exit code 1."""


MakeRunner = Callable[[PipelineConfig, Emit, str], Runner]
CheckAfter = Callable[[PipelineConfig, "RunOutcome"], Check]


def run_embedding(
    settings: Settings,
    *,
    style: Format,
    dry_run: bool,
    resume: str,
    make_runner: MakeRunner | None = None,
    check_after: CheckAfter | None = None,
) -> int:
    """Show the header, do the work or plan it, show the result; return the exit code.

    `check_after` looks at the bundles that were made, and is shown with the result.

    Raises:
        EmbedderError: nothing could be started, or the run stopped before its end.
    """
    config = settings.pipeline
    require_inputs(config)
    if not dry_run:
        require_writable(config.output_dir)
    versions = installed_versions()
    show_sheet(header_sheet(config, versions), style=style)
    reporting = _quiet(settings.reporting) if dry_run else settings.reporting
    run_id = new_run_id()
    with listening(reporting, style) as emit:
        for note in (*settings.notes, *version_warnings(versions)):
            emit(Warned(message=note))
        runner = (make_runner or _batch_runner)(config, emit, run_id)
        if dry_run:
            return _tell_plan(runner.plan(), config, style)
        outcome = runner.run()
        reports = write_reports(outcome.collections, emit)
    check = check_after(config, outcome) if check_after else None
    code = outcome.exit_code or (EXIT_FAILED if check and check.errors else 0)
    _tell_outcome(outcome, check, run_id, style=style, code=code)
    for report in reports if style != "json" else ():
        say("report", str(report))
    if style != "json" and code == EXIT_STOPPED:
        say(RESUME, resume)
    return code


def require_inputs(config: PipelineConfig) -> None:
    """Return when every path that must exist does.

    Raises:
        UsageError: naming the first that does not.
    """
    for path, option, is_there in (
        (config.chunked_dir, "--chunked-dir", config.chunked_dir.is_dir()),
        (
            config.queries,
            "--queries",
            config.queries is None or config.queries.is_file(),
        ),
        (
            config.baseline,
            "--baseline",
            config.baseline is None or config.baseline.is_dir(),
        ),
    ):
        if not is_there:
            kind = "file" if option == "--queries" else "folder"
            raise UsageError(
                f"There is no {kind} {path} ({option}).",
                cure="Chunk files are made by 'ultimate-embedder chunk'."
                if option == "--chunked-dir"
                else None,
            )


def new_run_id() -> str:
    """Return an id that sorts by time: `20250131T235959Z-1a2b3c`."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _batch_runner(config: PipelineConfig, emit: Emit, run_id: str) -> Runner:
    from ..batch_runner import BatchRunner

    return BatchRunner(config, emit, run_id, leave_up_to_date=True)


def _quiet(reporting: ReportingConfig) -> ReportingConfig:
    return ReportingConfig(
        log_format=reporting.log_format, log_level=reporting.log_level
    )


def _tell_plan(plan: RunPlan, config: PipelineConfig, style: Format) -> int:
    for sheet in plan_sheets(plan, on_top_of_passes(config)):
        show_sheet(sheet, style=style)
    if style == "json":
        _print_json(plan_document(plan))
        return plan.exit_code
    for failed in plan.failed:
        say("error", f"{failed.name}: {failed.error}")
    return plan.exit_code


def _tell_outcome(
    outcome: RunOutcome, check: Check | None, run_id: str, *, style: Format, code: int
) -> None:
    errors = check.errors if check else ()
    if style == "json":
        checked = {"checks": check.document} if check else {}
        document = _outcome_document(outcome, run_id) | {"exit_code": code} | checked
        _print_json(document)
        for message in errors:
            say_json(message, code)
        return
    found = outcome.collections
    manifests = [collection.manifest for collection in found if collection.manifest]
    stood = {collection.name for collection in found if collection.up_to_date}
    sheets = closing_sheets(manifests, stood)
    for sheet in (*sheets, *(check.sheets if check else ())):
        show_sheet(sheet, style=style)
    for collection in found:
        if collection.bundle is not None:
            sys.stdout.write(f"{collection.name}: {collection.bundle}\n")
        # The log has told of it; where tables came between, it is told once more.
        if collection.error is not None and sheets:
            say("error", f"{collection.name}: {collection.error}")
    for message in errors:
        say("error", message)


def _outcome_document(outcome: RunOutcome, run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "collections": [
            {
                "name": collection.name,
                "bundle": str(collection.bundle) if collection.bundle else None,
                "chunks": collection.manifest.chunk_count
                if collection.manifest
                else None,
                "error": str(collection.error) if collection.error else None,
            }
            for collection in outcome.collections
        ],
    }


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(document).decode() + "\n")
    sys.stdout.flush()
