"""Judge a bundle or judged corpora by their queries; `--help` tells the rest."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from processor.ultimate_embedder.cli.start import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("evaluate"))
