"""What a command costs before it works: the first batch of a run, and one search.

Each turn is a new process with files warm. A run's time ends when the log tells that
the dense stage is done, over a collection of one batch; a search's when it is answered.

    python -m benchmarks.start_up [--turns N] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import corpus, harness
from benchmarks.harness import Aim, Row, Table

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
FIRST, SEARCH = "a run, to its first dense batch", "a search, dense + sparse + fused"


def embed_command(root: Path) -> list[str]:
    return [
        *(sys.executable, str(SCRIPTS / "embed_collections_v6.py")),
        *("--chunked-dir", str(root / "chunks"), "--output-dir", str(root / "out")),
        *("--log-format", "json", "--fresh"),
    ]


def to_first_batch(command: Sequence[str]) -> float:
    """Return the seconds until the log tells of the dense stage's end."""
    begun = time.perf_counter()
    first = None
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if first is None and line.startswith("{") and _is_dense(json.loads(line)):
                first = time.perf_counter() - begun
    if process.returncode or first is None:
        raise RuntimeError(f"the run ended with {process.returncode}")
    return first


def _is_dense(entry: dict[str, object]) -> bool:
    return entry.get("event") == "stage_finished" and entry.get("stage") == "dense"


def whole(command: Sequence[str]) -> float:
    """Return the seconds of a process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def measure(texts: list[str], turns: int) -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder = root / "chunks" / "bench"
        folder.mkdir(parents=True)
        entries = json.dumps([{"text": text} for text in texts])
        (folder / "all_chunks.json").write_text(entries, encoding="utf-8")
        embed = embed_command(root)
        search = [
            *(sys.executable, str(SCRIPTS / "search_bundle.py")),
            *(str(root / "out" / "bench"), "how are tokens counted?"),
        ]
        seconds: dict[str, list[float]] = {
            FIRST: [],
            SEARCH: [],
            "the same, reranked": [],
        }
        for turn in range(-1, turns):
            took = (
                to_first_batch(embed),
                whole([*search, "--stage", "fused"]),
                whole([*search, "--stage", "reranked"]),
            )
            for name, one in zip(seconds, took, strict=True):
                seconds[name] += [one] if turn >= 0 else []
    rows = tuple(Row(name, statistics.median(one)) for name, one in seconds.items())
    return Table(
        "start-up",
        "From the command line, program start included",
        "commands",
        rows,
        aims=(Aim(FIRST, at_most_seconds=6.0),),
        remark=f"A collection of {len(texts)} chunks, files warm.",
    )


def main() -> int:
    asked = harness.parser(__doc__ or "", turns=3).parse_args()
    texts = corpus.chunks(asked.data, 8)
    return harness.report([measure(texts, asked.turns)], asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
