"""Values of labels, of which there are never more than so many."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

OTHER: Final = "other"


@dataclass(slots=True)
class BoundedLabels:
    """Lets the first values of a label through and calls the rest `other`.

    Sums over a label stay right; a server that stores a series for each value is not
    flooded by a run with a thousand models or reasons.
    """

    _seen: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def value(self, label: str, value: str, most: int) -> str:
        """Return `value`, or `other` where `most` others came before it."""
        seen = self._seen[label]
        if value not in seen and len(seen) >= most:
            return OTHER
        seen.add(value)
        return value
