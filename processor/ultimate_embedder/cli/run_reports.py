"""The reports of a run, written after its bundles are in their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..report import report_path, write_report
from ..telemetry.events import Emit, Warned

if TYPE_CHECKING:
    from ..run.parts import CollectionOutcome


def write_reports(collections: Sequence[CollectionOutcome], emit: Emit) -> list[Path]:
    """Write the report of every bundle that a run made or found good; return them.

    One that cannot be written is told in one warning: the bundle is whole without it.
    """
    written = []
    for collection in collections:
        if collection.bundle is None or collection.manifest is None:
            continue
        try:
            written.append(write_report(collection.bundle, collection.manifest))
        except Exception as error:  # noqa: BLE001 - a page must not undo the work
            told = getattr(error, "strerror", None) or str(error) or repr(error)
            emit(
                Warned(
                    collection=collection.name,
                    message=f"{report_path(collection.bundle).name} was not written: "
                    f"{told}. The bundle is whole; 'ultimate-embedder report' makes "
                    "the page from it.",
                )
            )
    return written
