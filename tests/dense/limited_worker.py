"""A real worker that gets so many bytes of memory more once its model is loaded.

`python limited_worker.py ROOT BYTES`, then the protocol of `workers.process`.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, sys.argv[1])

from processor.ultimate_embedder.workers import process
from processor.ultimate_embedder.workers.jobs import Answer, Ready

answer = process._answer


def limit_and_answer(answers: BinaryIO, what: Answer) -> None:
    if isinstance(what, Ready):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    answer(answers, what)


process._answer = limit_and_answer
process.main()
