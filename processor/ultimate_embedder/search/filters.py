"""Metadata conditions as masks over rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import UnknownFilter, UsageError

BoolArray = npt.NDArray[np.bool_]

SUBDIR = "source_subdir"


def metadata_mask(
    metadata: Iterable[Mapping[str, Any]], rows: int, key: str, wanted: object
) -> BoolArray:
    """Return bool [rows]: whose metadata hold exactly this value under this key.

    Raises:
        UnknownFilter: no row has the key; names those there are.
    """
    mask = np.zeros(rows, dtype=bool)
    known = set[str]()
    for row, fields in enumerate(metadata):
        known.update(fields)
        mask[row] = key in fields and _equal(fields[key], wanted)
    if key not in known and rows:
        raise UnknownFilter(
            f"No chunk has the metadata key '{key}'.",
            cure=f"There are: {', '.join(sorted(known)) or 'none'}.",
        )
    return mask


def subdir_mask(
    chunk_ids: Iterable[str],
    rows: int,
    collection: str,
    wanted: str,
    subdirs: Sequence[str],
) -> BoolArray | None:
    """Return bool [rows]: which chunks lie in a subdir, told by their ids alone.

    `subdirs` are all there are. None where an id fits two of them, which takes names
    with colons: then the metadata must decide.
    """
    starts = {name: f"{collection}:{name}:" for name in subdirs}
    mask = np.zeros(rows, dtype=bool)
    if any(
        one != other and starts[other].startswith(starts[one])
        for one in subdirs
        for other in subdirs
    ):
        return None
    for row, chunk_id in enumerate(chunk_ids):
        mask[row] = chunk_id.startswith(starts[wanted])
    return mask


def parse_filters(texts: Sequence[str]) -> dict[str, str]:
    """Return conditions from `key=value` texts.

    Raises:
        UsageError: a text has another form, or two contradict each other.
    """
    filters: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UsageError(
                f"'{text}' is no filter.", cure="Write --filter source_subdir=NAME."
            )
        if filters.setdefault(key.strip(), value) != value:
            raise UsageError(f"Two filters name '{key.strip()}'; nothing fits both.")
    return filters


def _equal(found: object, wanted: object) -> bool:
    """Compare; a text also equals the number, truth value or list that it spells."""
    if isinstance(wanted, str) and found is not None and not isinstance(found, str):
        return orjson.dumps(found).decode() == wanted
    return type(found) is type(wanted) and found == wanted
