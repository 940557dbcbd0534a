"""A process that holds a card until it is told to end or is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from processor.ultimate_embedder.gpu_lease import Leases
from processor.ultimate_embedder.telemetry.events import silent
from processor.ultimate_embedder.testing import FakeDeviceProbe

folder, *devices = sys.argv[1:]
leases = Leases(probe=FakeDeviceProbe(), lock_dir=Path(folder))
with leases.hold("the-other-model", devices, stage="dense", emit=silent):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""


@contextmanager
def another_process_holds(
    folder: Path, *devices: str
) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the devices; it ends with the block at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *devices],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
