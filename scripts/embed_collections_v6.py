"""Chunk JSON -> bundles: `ultimate-embedder embed` as a script."""

import sys

from processor.ultimate_embedder.cli.embed import embed
from processor.ultimate_embedder.cli.entry import run_function

if __name__ == "__main__":
    sys.exit(run_function(embed))
