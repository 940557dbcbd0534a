"""What the benchmarks share: turns in alternation, medians, ratios, one form of result.

A benchmark makes tables and ends with `report`, which prints them, and with `--json
FILE` writes them as a list of objects of the form

    {"benchmark", "machine", "date", "rows": [{"name", "median_seconds", "per_second",
    "ratio"}], "title", "unit", "reference", "aims", "remark"}

where a ratio says how many times as fast as the reference a row is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from processor.ultimate_embedder.hardware import this_machine

Contender = Callable[[], object]
Clock = Callable[[], float]

_LIBRARIES = ("numpy", "torch", "tokenizers", "transformers", "sentence-transformers")


@dataclass(frozen=True, slots=True)
class Row:
    """One contender. `per_second` counts items, `ratio` is against the reference."""

    name: str
    median_seconds: float
    per_second: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure to hold: `row` at least so many times as fast as `than`, or a median
    of `at_most_seconds`, or a time an item at most `spread` over that of `than`.
    """

    row: str
    than: str | None = None
    at_least: float | None = None
    at_most_seconds: float | None = None
    spread: float | None = None

    def measured(self, rows: Mapping[str, Row]) -> tuple[str, bool] | None:
        """Return what was found in words and whether it holds, None if not run."""
        mine, other = rows.get(self.row), rows.get(self.than or self.row)
        if mine is None or other is None:
            return None
        if self.at_most_seconds is not None:
            found, most = mine.median_seconds * 1e3, self.at_most_seconds * 1e3
            return f"{found:,.4g} ms, at most {most:,.4g} ms", found <= most
        ratio = other.median_seconds / mine.median_seconds
        if self.spread is not None:
            ratio = (mine.per_second or 0.0) / (other.per_second or 1.0)
            change = 1 / ratio - 1
            words = f"{change:+.1%} time an item, at most {self.spread:+.0%}"
            return words, change <= self.spread
        wanted = self.at_least or 0.0
        return f"{ratio:.2f} x {self.than}, at least {wanted:g} x", ratio >= wanted


@dataclass(frozen=True, slots=True)
class Table:
    """One comparison: what was done, `unit` of `per_second`, and rows."""

    benchmark: str
    title: str
    unit: str
    rows: tuple[Row, ...]
    reference: str | None = None
    aims: tuple[Aim, ...] = ()
    remark: str = ""


def take_turns(
    contenders: Mapping[str, Contender],
    turns: int,
    *,
    clock: Clock = time.perf_counter,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Return the seconds of each contender over `turns` turns taken in alternation.

    So what else the machine does meets all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-int(warm_up), turns):
        for name, contender in contenders.items():
            begun = clock()
            contender()
            if turn >= 0:
                seconds[name].append(clock() - begun)
    return seconds


def rows_of(
    seconds: Mapping[str, Sequence[float]],
    items: float,
    reference: str | None = None,
) -> tuple[Row, ...]:
    """Return a row of medians for each contender that did `items` in a turn."""
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    base = medians.get(reference or "")
    return tuple(
        Row(name, median, items / median, base / median if base else None)
        for name, median in medians.items()
    )


def machine() -> dict[str, Any]:
    """Return what figures depend on beside the code."""
    here = this_machine()
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": here.processor,
        "cores": here.cores,
        "instruction_sets": list(here.instruction_sets),
        "memory_gib": round((here.memory_bytes or 0) / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
        "load_average": round(os.getloadavg()[0], 2),
    }


def record(table: Table) -> dict[str, Any]:
    """Return a table as it is stored."""
    return {
        **asdict(table),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def table_of(stored: Mapping[str, Any]) -> Table:
    """Return a stored table; what a foreign benchmark left out is filled in."""
    return Table(
        benchmark=stored["benchmark"],
        title=stored.get("title", stored["benchmark"]),
        unit=stored.get("unit", ""),
        rows=tuple(
            Row(r["name"], r["median_seconds"], r.get("per_second"), r.get("ratio"))
            for r in stored["rows"]
        ),
        reference=stored.get("reference"),
        aims=tuple(Aim(**aim) for aim in stored.get("aims", ())),
        remark=stored.get("remark", ""),
    )


def outcomes(table: Table) -> list[tuple[Aim, str, bool]]:
    """Return each aim of a table that was measured, in words, and whether it holds."""
    rows = {row.name: row for row in table.rows}
    found = ((aim, aim.measured(rows)) for aim in table.aims)
    return [(aim, *result) for aim, result in found if result is not None]


def markdown(table: Table) -> str:
    """Return a table and its aims as Markdown."""
    rate = f"{table.unit} a second"
    lines = [f"### {table.title}", ""]
    if table.remark:
        lines += [table.remark, ""]
    lines += [f"| | median | {rate} | ratio |", "|---|---:|---:|---:|"]
    lines += [
        f"| {row.name} | {_duration(row.median_seconds)} | {_number(row.per_second)} | "
        f"{_number(row.ratio)} |"
        for row in table.rows
    ]
    held = [
        f"- {aim.row}: {words}: {'held' if holds else '**missed**'}"
        for aim, words, holds in outcomes(table)
    ]
    return "\n".join([*lines, *([""] if held else []), *held, ""])


def parser(
    doc: str, *, turns: int, reads_texts: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with the options that benchmarks share."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--turns", type=int, default=turns)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the tables")
    if reads_texts:
        made.add_argument(
            "--data",
            type=Path,
            metavar="FOLDER",
            help="texts of this folder instead of installed packages",
        )
    return made


def report(tables: Sequence[Table], file: Path | None) -> int:
    """Print the tables, write them to `file`; return 0."""
    for table in tables:
        print(markdown(table), flush=True)
    if file is not None:
        stored = json.dumps([record(table) for table in tables], indent=1)
        file.write_text(stored + "\n", encoding="utf-8")
    return 0


def _duration(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.3g} ms"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"
