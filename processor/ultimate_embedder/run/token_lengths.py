"""How long the texts of a collection are, as a histogram of few figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..export.manifest_sections import TokenLengths

PLACES = 24
_STEP = 8  # places are a multiple of it wide, to be read easily


def token_lengths(
    lengths: npt.NDArray[np.integer], *, window: int
) -> TokenLengths | None:
    """Return the histogram of whole lengths, or None where there is no text.

    `PLACES` reach to the longest text or to twice the window, whichever is less.
    Shape: `lengths` [texts].
    """
    if not len(lengths):
        return None
    longest = int(lengths.max())
    width = -(-min(longest, 2 * window) // (PLACES * _STEP)) * _STEP
    width = max(width, _STEP)
    place = np.clip((np.asarray(lengths) - 1) // width, 0, PLACES - 1)
    return TokenLengths(
        width=width,
        counts=tuple(np.bincount(place).tolist()),
        median=int(np.median(lengths)),
        longest=longest,
    )
