"""Statistics of bundles counted again, as tables, as JSON and as one line a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..export.manifest import Manifest
from ..models.catalogue import KAGGLE_OPTIMIZED_MODELS
from ..models.choice import choose_dense
from ..models.manager import ModelManager
from ..verify import CountTokens, IdFigures, Statistics, SubdirFigures
from .output import Sheet, count

CURE = "Build the bundle anew: --fresh."
_ID_FIGURES = ("manifest", "ids", "points", "rows of vectors")
_SUBDIR_FIGURES = ("chunks", "counted", "tokens", "tokens counted", "in chunk files")


def token_counter(manifest: Manifest, models: ModelManager) -> CountTokens | None:
    """Return what counts tokens as the run did; None where the manifest names no model.

    Raises:
        EmbedderError: the primary model's tokenizer cannot be had.
    """
    if not manifest.dense_run:
        return None
    run = manifest.dense_run[0]
    known = KAGGLE_OPTIMIZED_MODELS.get(run.model) or choose_dense(run.hf_model_id)
    tokenizer = models.tokenizer(
        replace(known, max_tokens=run.max_tokens, document_prefix=run.document_prefix)
    )
    limit = run.max_tokens if run.long_texts == "cut" else None

    def tokens(texts: Sequence[str]) -> list[int]:
        lengths = [len(ids) for ids in tokenizer.encode(texts, "document").ids]
        return lengths if limit is None else [min(one, limit) for one in lengths]

    return tokens


@dataclass(frozen=True, slots=True)
class StatisticsCheck:
    """The statistics of bundles, shown; `bundles` are their folders, in this order."""

    statistics: tuple[Statistics, ...]
    bundles: tuple[Path, ...]

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """A table of the chunk ids, and one of the source subdirectories."""
        return (ids_sheet(self.statistics), subdirs_sheet(self.statistics))

    @property
    def document(self) -> dict[str, Any]:
        """The same as JSON-ready data, by collection."""
        return {
            one.collection: {"sound": one.sound, **asdict(one)}
            for one in self.statistics
        }

    @property
    def errors(self) -> list[str]:
        """A line with its cure for each thing that is wrong."""
        return [
            f"{bundle}: {fault}. {CURE}"
            for one, bundle in zip(self.statistics, self.bundles, strict=True)
            for fault in faults(one)
        ]


def faults(statistics: Statistics) -> Iterator[str]:
    """Yield what is wrong, a phrase each."""
    if not statistics.ids.sound:
        yield f"chunk ids: {_id_fault(statistics.ids)}"
    for subdir in statistics.subdirs:
        if not subdir.sound:
            yield f"source_subdir '{subdir.name}': {_subdir_fault(subdir)}"


def ids_sheet(statistics: Sequence[Statistics]) -> Sheet:
    """Return the table of the chunk ids, a row for each bundle."""
    return Sheet(
        title="Chunk ids",
        columns=("collection", *_ID_FIGURES, "verdict"),
        rows=tuple(
            (
                one.collection,
                count(one.ids.stated),
                count(one.ids.ids),
                _counted(one.ids.points),
                ", ".join(sorted({count(n) for n in one.ids.vectors.values()})) or "-",
                "sound" if one.ids.sound else _id_fault(one.ids),
            )
            for one in statistics
        ),
        numbers=_ID_FIGURES,
    )


def subdirs_sheet(statistics: Sequence[Statistics]) -> Sheet:
    """Return the table of the source subdirectories: stated, and counted again."""
    return Sheet(
        title="Source subdirectories",
        columns=("collection", "source_subdir", *_SUBDIR_FIGURES, "verdict"),
        rows=tuple(
            (
                one.collection,
                subdir.name,
                count(subdir.stated_chunks),
                _counted(subdir.chunks),
                count(subdir.stated_tokens),
                _counted(subdir.tokens),
                _counted(subdir.read),
                "sound" if subdir.sound else _subdir_fault(subdir),
            )
            for one in statistics
            for subdir in one.subdirs
        ),
        numbers=_SUBDIR_FIGURES,
    )


def _counted(figure: int | None) -> str:
    return "-" if figure is None else count(figure)


def _id_fault(ids: IdFigures) -> str:
    counts = {"ids": ids.ids, **{f"rows of {k}": n for k, n in ids.vectors.items()}}
    if ids.points is not None:
        counts["points"] = ids.points
    found = [
        f"{count(n)} {name} for {count(ids.stated)} chunks"
        for name, n in counts.items()
        if n != ids.stated
    ]
    wrong = {
        "of another form": ids.malformed,
        "repeated": ids.repeated,
        "out of order": ids.out_of_order,
        "other than in the points": ids.differing,
    }
    return ", ".join(found + [f"{count(n)} {word}" for word, n in wrong.items() if n])


def _subdir_fault(subdir: SubdirFigures) -> str:
    stated = f"the manifest says {count(subdir.stated_chunks)} chunks"
    found = []
    if subdir.chunks not in (None, subdir.stated_chunks):
        found.append(f"{stated}, the points hold {_counted(subdir.chunks)}")
    if subdir.read not in (None, subdir.stated_chunks):
        found.append(f"{stated}, the chunk files hold {_counted(subdir.read)}")
    if subdir.tokens not in (None, subdir.stated_tokens):
        found.append(
            f"the manifest says {count(subdir.stated_tokens)} tokens, the points hold "
            f"{_counted(subdir.tokens)}"
        )
    return ", ".join(found)
