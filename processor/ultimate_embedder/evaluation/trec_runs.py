"""Rankings as TREC run files: query, Q0, document, rank, score, tag.

trec_eval goes by the scores, as 32-bit floats, and puts equal ones in falling order of
the document ids. Scores are therefore written strictly falling: one that is not below
the score before it is lowered to the next smaller float.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..errors import OutputError
from .documents import DocumentRanking

TAG = "ultimate-embedder"


def write_runs(
    folder: Path, label: str, rankings: Mapping[str, Mapping[str, DocumentRanking]]
) -> list[Path]:
    """Write a file `<label>.<stage>.trec` for each stage; return their paths.

    Raises:
        OutputError: writing failed.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stage, lists in rankings.items():
            path = folder / f"{label}.{stage.replace(':', '-')}.trec"
            with path.open("w", encoding="utf-8") as stream:
                for query_id, ranking in lists.items():
                    stream.writelines(_lines(query_id, ranking, stage))
            paths.append(path)
    except OSError as error:
        raise OutputError(
            f"Writing runs to {folder} failed: {error.strerror}.",
            cure="Choose a folder that can be written to (--runs).",
        ) from error
    return paths


def falling(scores: tuple[float, ...]) -> list[np.float32]:
    """Return scores as 32-bit floats, each below the one before it."""
    found: list[np.float32] = []
    for score in np.asarray(scores, dtype=np.float32):
        below = np.nextafter(found[-1], np.float32(-np.inf)) if found else score
        found.append(min(score, below))
    return found


def _lines(query_id: str, ranking: DocumentRanking, stage: str) -> Iterator[str]:
    tag = f"{TAG}-{stage.replace(':', '-')}"
    places = zip(ranking.names, falling(ranking.scores), strict=True)
    for rank, (name, score) in enumerate(places, start=1):
        yield f"{_one_word(query_id)} Q0 {_one_word(name)} {rank} {score!s} {tag}\n"


def _one_word(name: str) -> str:
    """Write blanks as %20 and the like: columns are split at blanks."""
    return re.sub(r"\s", lambda blank: quote(blank[0]), name)
