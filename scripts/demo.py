"""From installed packages to a searchable collection: every stage, timed.

Each step is a command of this project, run as one would type it. --full takes every
source file of the packages instead of a few thousand chunks.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
COLLECTION = "qdrant_ecosystem"
SEARCHES = (
    ("How do I create a collection with named vectors?", "--stage", "all"),
    ("reciprocal rank fusion of dense and sparse results", "--stage", "fused"),
    (
        "stop words and stemming",
        "--stage",
        "fused",
        "--filter",
        "source_subdir=fastembed",
    ),
)

Step = tuple[str, str, tuple[str, ...]]


def steps(work: Path, *, full: bool) -> list[Step]:
    """Return what is done, in order: a title, a script and its arguments."""
    raw, chunked, bundles = work / "raw", work / "chunked", work / "bundles"
    bundle = str(bundles / COLLECTION)
    corpus = ("--output-dir", str(raw), *(("--full",) if full else ()))
    embed = ("--chunked-dir", str(chunked), "--output-dir", str(bundles))
    return [
        ("Input: installed packages", "demo_corpus.py", corpus),
        (
            "Files to chunks",
            "chunk_docs_v5.py",
            ("--input-dir", str(raw), "--output-dir", str(chunked)),
        ),
        (
            "Chunks to a bundle",
            "embed_collections_v6.py",
            (*embed, "--collections", COLLECTION, "--profile", "embedded", "--offline"),
        ),
        ("Is the bundle whole?", "verify_bundle.py", (bundle, "--deep")),
        (
            "Into Qdrant, local mode",
            "upload_to_qdrant.py",
            (bundle, "--path", str(work / "qdrant"), "--recreate"),
        ),
        (
            "Into Qdrant Edge, embedded",
            "upload_to_qdrant.py",
            (bundle, "--edge", str(work / "edge"), "--recreate"),
        ),
        *(
            ("Search", "search_bundle.py", (bundle, *search, "--top-k", "3"))
            for search in SEARCHES
        ),
    ]


def interpreter() -> str:
    """Return how this Python is called from here, with no environment activated."""
    path, here = Path(sys.executable), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(str(shown))


def own_search(work: Path) -> str:
    """Return the command by which a person searches what the demo made."""
    bundle = shlex.quote(str(work / "bundles" / COLLECTION))
    return f'{interpreter()} scripts/search_bundle.py {bundle} "your words"'


def run(step: Step) -> tuple[int, float]:
    """Run one step as a command of its own; return its exit code and its seconds."""
    title, script, arguments = step
    path = SCRIPTS / script
    shown = shlex.join([f"scripts/{script}", *arguments])
    print(f"\n== {title}\n$ {interpreter()} {shown}", flush=True)
    started = time.monotonic()
    code = subprocess.run(
        [sys.executable, str(path), *arguments], check=False
    ).returncode
    return code, time.monotonic() - started


def main() -> int:
    """Run the steps; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("demo"), metavar="DIR")
    parser.add_argument("--full", action="store_true", help="take every source file")
    arguments = parser.parse_args()
    work = arguments.work_dir / ("full" if arguments.full else "small")
    timed: list[tuple[str, float]] = []
    for step in steps(work, full=arguments.full):
        code, seconds = run(step)
        timed.append((step[0], seconds))
        if code != 0:
            print(f"\n{step[1]} ended with exit code {code}.", file=sys.stderr)
            return code
    print("\n== Time")
    for title, seconds in [*timed, ("In all", sum(seconds for _, seconds in timed))]:
        print(f"{seconds:8.1f} s  {title}")
    print(f"\nThe bundle is in {work / 'bundles' / COLLECTION}; search it yourself:")
    print(f"  {own_search(work)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
