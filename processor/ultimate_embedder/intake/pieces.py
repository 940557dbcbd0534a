"""What goes through a model: texts that fit its window, and windows of the others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..encoders.protocols import Frame
from ..encoders.windows import share_out, window_ids
from ..records import Int64Array, UInt32Array
from .token_table import TokenTable


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces by number: below `rows` the row itself, from there on the windows.

    Window w is piece `rows + w`: tokens `starts[w]` to `stops[w]` of the row
    `window_rows[w]`, within that row's frame. Rows ascend, and so do the windows of a
    row. Shapes: all int64 [windows].
    """

    rows: int
    window_rows: Int64Array
    starts: Int64Array
    stops: Int64Array

    @classmethod
    def of(cls, tokens: TokenTable, distinct: Int64Array, max_tokens: int) -> Pieces:
        """Cut those of the `distinct` rows that are longer than `max_tokens`."""
        texts, starts, stops = share_out(
            tokens.lengths_of(distinct), tokens.frame, max_tokens
        )
        return cls(len(tokens), distinct[texts], starts, stops)

    @property
    def windows(self) -> int:
        """How many windows there are, of all long rows together."""
        return len(self.window_rows)

    @property
    def long_rows(self) -> Int64Array:
        """Return the rows that were cut, ascending, int64 [long rows]."""
        return np.unique(self.window_rows)

    @property
    def digest(self) -> str:
        """Hash of every window's place, hex."""
        places = np.stack((self.window_rows, self.starts, self.stops))
        return hashlib.sha256(places.astype("<i8").tobytes()).hexdigest()

    def numbers(self, distinct: Int64Array) -> Int64Array:
        """Return the pieces that the `distinct` rows come to, ascending."""
        whole = np.setdiff1d(distinct, self.window_rows)
        return np.concatenate((whole, self.rows + np.arange(self.windows)))

    def lengths(self, tokens: TokenTable, pieces: Int64Array) -> Int64Array:
        """Return tokens of each piece as the model gets it, frame included."""
        is_window = pieces >= self.rows
        found = np.empty(len(pieces), dtype=np.int64)
        found[~is_window] = tokens.lengths_of(pieces[~is_window])
        windows = pieces[is_window] - self.rows
        own = self.stops[windows] - self.starts[windows]
        found[is_window] = own + tokens.frame.size
        return found

    def ids(self, tokens: TokenTable, piece: int) -> UInt32Array:
        """Return the ids of a piece as the model gets them, uint32 [length]."""
        if piece < self.rows:
            return tokens.row(piece)
        window = piece - self.rows
        return window_ids(
            tokens.row(int(self.window_rows[window])),
            int(self.starts[window]),
            int(self.stops[window]),
            tokens.frame,
        )

    def texts(self, pieces: Int64Array, frame: Frame) -> int:
        """Return how many texts begin in these pieces: a sum over batches counts each
        text once."""
        windows = pieces[pieces >= self.rows] - self.rows
        begins = int(np.count_nonzero(self.starts[windows] == frame.head))
        return len(pieces) - len(windows) + begins

    def save(self, path: Path) -> None:
        """Write them for workers to read."""
        with path.open("wb") as stream:
            np.savez(
                stream,
                rows=self.rows,
                window_rows=self.window_rows,
                starts=self.starts,
                stops=self.stops,
            )

    @classmethod
    def open(cls, path: Path) -> Pieces:
        """Read what `save` wrote."""
        # By a stream: what numpy opens itself it leaves open where it is no zip.
        with path.open("rb") as stream, np.load(stream) as stored:
            return cls(
                int(stored["rows"]),
                stored["window_rows"],
                stored["starts"],
                stored["stops"],
            )
