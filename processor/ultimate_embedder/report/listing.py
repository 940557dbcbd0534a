"""What is listed rather than drawn: folders, entries set aside, settings, versions."""

from __future__ import annotations

from ..export.manifest import Manifest
from . import wording as say
from .charts import Bar, bars, noted
from .markup import Html, folded, remark, section, table

DRAWN = 12
"""Most folders in the picture."""
FOLDERS_LISTED = 500
ASIDE_LISTED = 1000
"""Most entries set aside that are listed; their count is always complete."""


def folders(manifest: Manifest) -> Html:
    """Return chunks and tokens by source subdirectory, the largest first."""
    found = sorted(
        manifest.source_subdirs.items(), key=lambda item: (-item[1].chunks, item[0])
    )
    if not found:
        return Html()
    named = [(name or "(top)", part) for name, part in found]
    rows = [
        Bar(label=name, value=part.chunks, told=say.count(part.chunks))
        for name, part in named[:DRAWN]
    ]
    over = f"The largest {DRAWN} of {len(found)}." if len(found) > DRAWN else None
    picture = noted(bars("folders-chunks", "Chunks by subdirectory", rows), over)
    listed = table(
        ("subdirectory", "chunks", "tokens"),
        [
            (name, say.count(part.chunks), say.count(part.tokens))
            for name, part in named[:FOLDERS_LISTED]
        ],
        caption=_listed(len(found), FOLDERS_LISTED, "subdirectory", "subdirectories"),
        numbers=("chunks", "tokens"),
    )
    return section(
        "folders", "Where chunks came from", picture, folded("As a table", listed)
    )


def _listed(number: int, limit: int, one: str, many: str) -> str:
    told = say.plural(number, one, many)
    return told if number <= limit else f"The first {say.count(limit)} of {told}"


def set_aside(manifest: Manifest) -> Html:
    """Return which entries were not used, where they are, and why."""
    kept = manifest.conservation
    if kept is None:
        told = "This manifest does not tell."
    elif not kept.quarantined:
        told = f"Nothing: {_balance(kept.chunks_read, kept.embedded)}"
    else:
        told = _balance(kept.chunks_read, kept.embedded)
    if kept is None or not kept.quarantined:
        return section("aside", "Set aside", remark(told))
    rows = [
        (
            entry.file,
            "whole file" if entry.index is None else say.count(entry.index),
            entry.reason,
        )
        for entry in kept.quarantined[:ASIDE_LISTED]
    ]
    caption = _listed(len(kept.quarantined), ASIDE_LISTED, "entry", "entries")
    listed = table(("file", "position", "reason"), rows, caption=caption)
    if len(rows) > 20:
        listed = folded(f"All {say.count(len(rows))}", listed)
    return section("aside", "Set aside", _reasons(manifest), remark(told), listed)


def _balance(read: int, embedded: int) -> str:
    return f"{say.plural(read, 'chunk')} read, {say.count(embedded)} embedded."


def _reasons(manifest: Manifest) -> Html:
    counted: dict[str, int] = {}
    for entry in manifest.conservation.quarantined if manifest.conservation else ():
        counted[entry.reason] = counted.get(entry.reason, 0) + 1
    most = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:DRAWN]
    rows = [
        Bar(label=reason, value=number, told=say.count(number), tone=1)
        for reason, number in most
    ]
    return noted(bars("aside-reasons", "Entries by reason", rows))


def settings(manifest: Manifest) -> Html:
    """Return every setting with its value and the layer that decided it."""
    toggles = manifest.feature_toggles
    given = toggles.provenance if toggles else ()
    if not given:
        return section("settings", "Settings", remark("This manifest lists none."))
    rows = [(entry.key, entry.value, entry.source, entry.layer) for entry in given]
    chosen = [row for row in rows if row[3] != "default"]
    columns = ("setting", "value", "source", "layer")
    parts = []
    if chosen:
        caption = f"{say.plural(len(chosen), 'setting')} that somebody chose"
        parts.append(table(columns, chosen, caption=caption))
    every = table(columns, rows, caption=say.plural(len(rows), "setting"))
    return section("settings", "Settings", *parts, folded("All settings", every))


def environment(manifest: Manifest) -> Html:
    """Return what a repetition would need: models, machine, versions."""
    machine = manifest.environment
    rows = [
        (name, value)
        for name, value in (
            ("processor", machine.processor),
            ("platform", machine.platform),
            *(
                (f"GPU {gpu.get('device')}", str(gpu.get("name")))
                for gpu in machine.gpus
            ),
            *machine.versions.items(),
        )
        if value
    ]
    rows += [
        (f"model {run.model}", f"{run.hf_model_id}, revision {run.revision or '?'}")
        for run in manifest.dense_run or ()
    ]
    if manifest.manifest_sha256:
        rows.append(("sum of the manifest", manifest.manifest_sha256))
    if not rows:
        return Html()
    listed = table(("part", "which"), rows, caption="What made this bundle")
    return section("environment", "Environment", folded("Show", listed))
