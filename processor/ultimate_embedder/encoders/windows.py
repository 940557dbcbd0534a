"""Texts longer than a model's window: shared out to windows, and put together again.

A long text's tokens go to windows in order and without overlap: each token is in one
window, every window but the last is full. Every window repeats the text's frame, its
special tokens and its prompt. Pure functions of lengths and vectors; measured against
overlaps, equal windows and other poolings in docs/measurements.md.
"""

from __future__ import annotations

import numpy as np

from ..records import Float32Array, Int64Array, UInt32Array
from .protocols import Frame

WINDOW_POOLING = "mean by tokens, the first window twice"
"""How the vectors of a text's windows become one; the manifest states it."""

FIRST_WINDOW_WEIGHT = 2
"""What a text is about stands at its beginning more often than elsewhere."""

_VECTORS_AT_ONCE = 1024


def share_out(
    lengths: Int64Array, frame: Frame, max_tokens: int
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return each window's text (its place in `lengths`), start and stop.

    Starts and stops delimit the window's own tokens, frame not counted, within the
    text's ids. Texts that fit have no windows. All int64 [windows], in text order.

    Args:
        lengths: tokens of each text, frame included, int64 [texts].
        frame: what every window repeats.
        max_tokens: most tokens in a window, frame included.
    """
    long = np.flatnonzero(lengths > max_tokens)
    room = max_tokens - frame.size
    windows = -(-(lengths[long] - frame.size) // room)
    texts = np.repeat(long, windows)
    number = np.arange(len(texts)) - np.repeat(np.cumsum(windows) - windows, windows)
    starts = frame.head + number * room
    stops = np.minimum(starts + room, lengths[texts] - frame.tail)
    return texts.astype(np.int64), starts, stops


def window_ids(ids: UInt32Array, start: int, stop: int, frame: Frame) -> UInt32Array:
    """Return the ids of one window of a text: its own tokens within the frame."""
    tail = len(ids) - frame.tail
    return np.concatenate((ids[: frame.head], ids[start:stop], ids[tail:]))


def cut_ids(ids: UInt32Array, frame: Frame, max_tokens: int) -> UInt32Array:
    """Return the beginning of a text that fills one window; the rest is lost."""
    if len(ids) <= max_tokens:
        return ids
    return window_ids(ids, frame.head, max_tokens - frame.tail, frame)


def pool_windows(vectors: Float32Array, tokens: Int64Array) -> Float32Array:
    """Return the vector of a text from those of its windows, of unit L2 norm.

    The windows' vectors are added up, each weighted by its own tokens and the first
    twice, and the sum is normalised. Added in float64 in order, so equal windows give
    equal bytes.

    Args:
        vectors: float32 [windows, dimension], each of unit L2 norm.
        tokens: own tokens of each window, int64 [windows].
    """
    weights = tokens.astype(np.float64)
    weights[0] *= FIRST_WINDOW_WEIGHT
    total = np.zeros(vectors.shape[1])
    for start in range(0, len(vectors), _VECTORS_AT_ONCE):
        some = vectors[start : start + _VECTORS_AT_ONCE].astype(np.float64)
        for vector, weight in zip(some, weights[start:], strict=False):
            total += vector * weight
    with np.errstate(invalid="ignore"):  # no vector at all is for the caller to judge
        pooled: Float32Array = (total / np.linalg.norm(total)).astype(np.float32)
    return pooled


def own_attention(
    attention: Float32Array, start: int, stop: int, length: int, frame: Frame
) -> tuple[int, Float32Array]:
    """Return the part of a window's attention that is kept, and where in the text.

    A window's attention sums to one. It is multiplied by the window's share of the
    text's own tokens, so that over all windows it would again. Of the frame, which
    stands in each window, the first one's head and the last one's tail are kept.

    Args:
        attention: float32 [window length], frame included.
        start: first of the window's own tokens in the text.
        stop: end of them.
        length: tokens of the text, frame included.
        frame: what the window repeats.
    """
    first = 0 if start == frame.head else start
    end = length if stop == length - frame.tail else stop
    shift = frame.head - start
    share = np.float32((stop - start) / (length - frame.size))
    return first, attention[first + shift : end + shift] * share
