"""Which rows meet a search's conditions, kept for the searches that follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UnknownFilter, UsageError
from .filters import SUBDIR, BoolArray, metadata_mask, subdir_mask
from .parts import Parts

_HELD = 64


class RowMasks:
    """Masks over a bundle's rows. Threads may ask at the same time.

    `metadata` gives the metadata of a row.
    """

    def __init__(self, parts: Parts, metadata: Callable[[int], dict[str, Any]]) -> None:
        self._parts = parts
        self._metadata = metadata
        self._held: dict[tuple[str, str], BoolArray] = {}
        self._lock = threading.Lock()

    def of(self, filters: Mapping[str, object]) -> BoolArray | None:
        """Return bool [rows] of the rows that meet every condition; None: all do.

        Raises:
            UnknownFilter: no chunk can meet a condition on source_subdir, or has a key.
            UsageError: the bundle holds no metadata to look at.
        """
        whole: BoolArray | None = None
        for key, wanted in filters.items():
            one = self._mask(key, wanted)
            whole = one if whole is None else whole & one
        return whole

    def _mask(self, key: str, wanted: object) -> BoolArray:
        name = (key, f"{type(wanted).__name__} {wanted!r}")
        with self._lock:
            held = self._held.get(name)
        if held is None:
            held = self._new_mask(key, wanted)
            held.setflags(write=False)
            with self._lock:
                if len(self._held) >= _HELD:
                    self._held.clear()
                self._held[name] = held
        return held

    def _new_mask(self, key: str, wanted: object) -> BoolArray:
        manifest = self._parts.manifest
        rows = manifest.chunk_count
        subdirs = list(manifest.source_subdirs)
        if key == SUBDIR and subdirs:
            if wanted not in subdirs:
                raise UnknownFilter(
                    f"No source_subdir is called '{wanted}'.",
                    cure=f"There are: {', '.join(sorted(subdirs))}.",
                )
            ids = (self._parts.ids.text(row, "chunk_id") for row in range(rows))
            mask = subdir_mask(ids, rows, manifest.collection, str(wanted), subdirs)
            if mask is not None:
                return mask
        if self._parts.points is None:
            raise UsageError(
                f"A filter on '{key}' reads metadata; this bundle holds none.",
                cure="Build it with jsonl among the exports.",
            )
        return metadata_mask(map(self._metadata, range(rows)), rows, key, wanted)
