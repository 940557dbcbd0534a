"""Every benchmark in turn: ratios on the screen, a page and a picture in docs/.

A benchmark that fails is named at the end, and its table is missing; so is one that
takes longer than its share of a quarter of an hour. `make bench` runs this.

    python -m benchmarks.run_all [--data FOLDER] [--only NAME ...] [--docs FOLDER]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.chart import svg
from processor.ultimate_embedder.encoders.cuda_cards import usable

HERE = Path(__file__).resolve().parent
SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "dense_speed": (),
    "rerank_speed": ("--turns", "3", "--candidates", "50"),
    "bm25_speed": (),
    "chunker_speed": (),
    "points_speed": (),
    "search_speed": (),
    "start_up": (),
    "run_profile": (),
    "linear_cost": ("--sizes", "5000", "50000"),
}
ON_A_GPU = "gpu_speed"  # beside those, where there is one
SECONDS = 800.0
TAKES_DATA = frozenset(SCRIPTS) - {"linear_cost"}


def run(name: str, data: Path | None, seconds: float) -> list[dict[str, Any]]:
    """Return the tables that a benchmark wrote.

    Raises:
        subprocess.SubprocessError: it failed, or took longer than `seconds`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tables.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *SCRIPTS.get(name, ())]
        command += ["--json", str(file)]
        if data is not None and name in TAKES_DATA:
            command += ["--data", str(data)]
        subprocess.run(command, check=True, cwd=HERE.parent, timeout=seconds)
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, list) else [found]


def page(stored: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """Return the page of docs."""
    machine = stored[0]["machine"] if stored else harness.machine()
    if isinstance(machine, Mapping):
        machine = _machine_words(machine)
    date = stored[0]["date"] if stored else ""
    tables = "\n".join(harness.markdown(harness.table_of(one)) for one in stored)
    return f"""# Benchmarks

Written by `make bench` on {date}, which took {seconds / 60:.0f} minutes.
{machine} Contenders took turns on the same input; the medians are compared.
A ratio says how many times as fast as the reference. `BENCH_DATA=FOLDER make bench`
takes the texts of a folder. [Measurements](measurements.md) tells more, and what did
not help.

![Ratios by benchmark](benchmarks.svg)

{tables}"""


def _machine_words(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items())
    sets = ", ".join(machine.get("instruction_sets", ()))
    return (
        f"Machine: {machine['cores']} cores of {machine['processor']} ({sets}), "
        f"{machine['memory_gib']:.0f} GiB;\nPython {machine['python']}, {versions}; "
        f"load average at the first table {machine['load_average']}."
    )


def main() -> int:
    """Run what was asked for; 1 when a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path)
    known = [*SCRIPTS, ON_A_GPU]
    here = known if usable() else [*SCRIPTS]
    parser.add_argument("--only", nargs="+", choices=known, default=here)
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    asked = parser.parse_args()
    begun = time.perf_counter()
    stored: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in asked.only:
        left = SECONDS - (time.perf_counter() - begun)
        try:
            stored += run(name, asked.data, left)
        except (subprocess.SubprocessError, OSError) as error:
            failed.append(f"{name}: {error}")
    write(asked.docs, stored, time.perf_counter() - begun)
    for line in failed:
        print(f"No figures of {line}", file=sys.stderr)
    return int(bool(failed))


def write(docs: Path, stored: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Write the page, the picture and the figures."""
    text = json.dumps(stored, indent=1) + "\n"
    tables = [harness.table_of(one) for one in stored]
    (docs / "benchmarks.json").write_text(text, encoding="utf-8")
    (docs / "benchmarks.svg").write_text(svg(tables), encoding="utf-8")
    (docs / "benchmarks.md").write_text(page(stored, seconds), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
