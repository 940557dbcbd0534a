"""What is done: which batches of which pass are safely on disk. The only SQLite.

A pass is one model's work over one collection. Its fingerprint covers everything its
bytes depend on; a pass found with another fingerprint starts over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import OutputError

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS passes (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    pass TEXT NOT NULL REFERENCES passes(name) ON DELETE CASCADE,
    batch INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    padded_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (pass, batch)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One finished batch: its size, its cost, and its number in the plan.

    `digest` is that of its bytes as they were written.
    """

    batch: int
    rows: int
    tokens: int
    padded_tokens: int
    seconds: float
    digest: str = ""


class Ledger:
    """A context manager over one SQLite file, one for each collection."""

    def __init__(self, path: Path) -> None:
        """Open the file, made when it is not there.

        Raises:
            OutputError: it cannot be read or written; so does every method.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named():
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a mark must not outlive, after a power cut, a mark made before it.
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._make_tables()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def _make_tables(self) -> None:
        """Have the tables; those of another version are dropped with what they say."""
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found != _SCHEMA_VERSION:
            self._connection.executescript(
                "DROP TABLE IF EXISTS batches; DROP TABLE IF EXISTS passes;"
            )
        self._connection.executescript(_SCHEMA)
        self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def open_pass(self, name: str, fingerprint: str) -> bool:
        """Return whether the pass is known with this fingerprint; else start it over.

        The files of a pass that starts over are the caller's to remove.
        """
        found = self._all("SELECT fingerprint FROM passes WHERE name = ?", name)
        if found == [(fingerprint,)]:
            return True
        with self._transaction():
            self._all("DELETE FROM passes WHERE name = ?", name)
            self._all("INSERT INTO passes VALUES (?, ?)", name, fingerprint)
        return False

    def fingerprint(self, name: str) -> str | None:
        """Return the fingerprint that a pass was opened with, None: never."""
        found = self._all("SELECT fingerprint FROM passes WHERE name = ?", name)
        return str(found[0][0]) if found else None

    def forget(self, name: str) -> None:
        """Forget a pass with its batches, before its files are replaced."""
        self._all("DELETE FROM passes WHERE name = ?", name)

    def forget_batches(self, name: str, batches: Iterable[int]) -> None:
        """Forget some finished batches of a pass: their bytes are damaged."""
        for batch in batches:
            self._all("DELETE FROM batches WHERE pass = ? AND batch = ?", name, batch)

    def start_over(self, name: str) -> None:
        """Forget the finished batches of a pass: its files are gone."""
        self._all("DELETE FROM batches WHERE pass = ?", name)

    def mark(self, name: str, record: BatchRecord) -> None:
        """Note that a batch is on disk. Call it after the data was synced."""
        self._all(
            "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
            name,
            record.batch,
            record.rows,
            record.tokens,
            record.padded_tokens,
            record.seconds,
            record.digest,
        )

    def finished(self, name: str) -> list[BatchRecord]:
        """Return the finished batches of a pass, in the order of their numbers."""
        rows = self._all(
            "SELECT batch, rows, tokens, padded_tokens, seconds, digest FROM batches "
            "WHERE pass = ? ORDER BY batch",
            name,
        )
        return [BatchRecord(*row) for row in rows]

    def _all(self, statement: str, *values: str | float) -> list[Any]:
        with self._named():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._all("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._all("COMMIT")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Rename SQLite's errors, here and nowhere else."""
        try:
            yield
        except sqlite3.OperationalError as error:  # no room, not allowed, locked
            raise OutputError(
                f"The ledger {self._path} cannot be used: {error}.",
                cure="Make room or mend its permissions, then run the same command.",
            ) from error
        except sqlite3.DatabaseError as error:
            raise OutputError(
                f"The ledger {self._path} is damaged: {error}.",
                cure="Run again with --fresh: everything is computed anew.",
            ) from error
