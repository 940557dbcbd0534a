"""What a killed run costs: kill -9 at shares of its time, then the same command.

A whole run is timed first, then each share of its time is killed in a folder of its
own and the command repeated. The bundles must hold the same bytes but for the
manifest and its line in the sums.

    python -m benchmarks.resume_cost CHUNKED_DIR [--collection NAME]
        [--shares 0.5 0.9 0.99] [--json FILE]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Aim, Row, Table

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "embed_collections_v6.py"
WHOLE = "a whole run"
OF_THE_RUN = frozenset({"processing_summary.json", "SHA256SUMS", "manifest.json"})


def timed(command: Sequence[str]) -> float:
    """Return the seconds of a command that ends with 0."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def killed(command: Sequence[str], seconds: float) -> None:
    """Run a command and kill it, with its workers, after some seconds."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)


def stored(bundles: Path) -> dict[str, bytes]:
    """Return every file of the bundles but those that tell of the run."""
    return {
        str(path.relative_to(bundles)): path.read_bytes()
        for path in sorted(bundles.rglob("*"))
        if path.is_file() and ".work" not in path.parts and _of_bundle(path)
    }


def _of_bundle(path: Path) -> bool:
    return path.name not in OF_THE_RUN and not path.name.endswith("_report.html")


def measure(command: Sequence[str], root: Path, shares: Sequence[float]) -> Table:
    """Return the seconds of a whole run and of each resumed one."""

    def into(name: str) -> list[str]:
        return [*command, "--output-dir", str(root / name)]

    whole = timed(into("whole"))
    wanted = stored(root / "whole")
    rows = [Row(WHOLE, whole)]
    for share in shares:
        name = f"resumed after kill -9 at {share:.0%} of its time"
        killed(into(str(share)), share * whole)
        rows.append(Row(name, timed(into(str(share)))))
        if stored(root / str(share)) != wanted:
            raise SystemExit(f"{name}: other bytes than those of a whole run")
    last = max(shares)
    return Table(
        "resume-cost",
        "A run that was killed, and the same command again",
        "runs",
        tuple(rows),
        aims=(Aim(rows[-1].name, at_most_seconds=10.0 + (1 - last) * whole),),
        remark="Program start included. Bytes as in a whole run, each time.",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("chunked_dir", type=Path)
    parser.add_argument("--collection")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.9, 0.99])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    command = [sys.executable, str(SCRIPT), "--chunked-dir", str(asked.chunked_dir)]
    if asked.collection:
        command += ["--collections", asked.collection]
    with tempfile.TemporaryDirectory() as scratch:
        table = measure([*command, "--offline"], Path(scratch), sorted(asked.shares))
    return harness.report([table], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
