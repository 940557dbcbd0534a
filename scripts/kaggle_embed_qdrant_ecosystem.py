"""One dense model, no sparse vectors, no rerank, simple JSON lines.

A preset of `embed_collections_v6.py`: every option of it overrides the preset.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from processor.ultimate_embedder.cli.embed import embed
from processor.ultimate_embedder.cli.embed_options import with_preset
from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.settings import Preset

SINGLE_MODEL = Preset(
    name="single model",
    values={
        "ensemble_models": ("nomic-coderank",),
        "enable_sparse": False,
        "enable_rerank": False,
        "jsonl_layout": "simple",
    },
)

SUMMARY = """Embed collections with one model, nomic-coderank unless told.

Sparse vectors and rerank are off and the JSON lines are simple; the options below
override each of these.

Exit codes: 0 all collections are done; 1 at least one failed; 2 bad usage or settings;
3 stopped before the end, and the same command resumes.
"""

if __name__ == "__main__":
    command = with_preset(embed, SINGLE_MODEL)
    raise SystemExit(run_function(command, preset=SINGLE_MODEL, summary=SUMMARY))
