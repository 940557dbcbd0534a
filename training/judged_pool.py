"""A judged set as a pool: `python -m training.judged_pool BEIR_FOLDER POOL`.

A query gives one line for each document judged relevant, `others` naming the rest of
these. Only sets whose licence allows weights trained on them to be given away should
be made pools of; figures on such a set are none of an unseen one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from processor.ultimate_embedder.errors import EmbedderError
from processor.ultimate_embedder.evaluation.beir import (
    BeirFolder,
    Document,
    find_beir_folders,
)
from training.residual_groups import JUDGED


def write_pool(folder: BeirFolder, pool: Path) -> int:
    """Write corpus.jsonl and queries.jsonl; return how many lines queries have."""
    pool.mkdir(parents=True, exist_ok=True)
    documents = {one.name: _text(one) for one in folder.documents()}
    corpus = ({"_id": name, "text": text} for name, text in documents.items())
    _write(pool / "corpus.jsonl", corpus)
    return _write(pool / "queries.jsonl", judged_pairs(folder, documents))


def judged_pairs(
    folder: BeirFolder, documents: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield a line for each relevant document of each query, in order of ids."""
    judged = folder.judgements()
    with folder.queries.open(encoding="utf-8") as stream:
        texts = {row["_id"]: row["text"] for row in map(json.loads, stream)}
    for query in sorted(judged):
        found = sorted(
            name
            for name, relevance in judged[query].items()
            if relevance > 0 and name in documents
        )
        for place, name in enumerate(found):
            yield {
                "_id": f"{query}-{place}",
                "text": texts[query],
                "source": JUDGED,
                "positive": name,
                "others": [other for other in found if other != name],
            }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pool and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("beir", type=Path)
    parser.add_argument("pool", type=Path)
    options = parser.parse_args(arguments)
    try:
        (folder,) = find_beir_folders(options.beir)
        lines = write_pool(folder, options.pool)
    except EmbedderError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{options.pool}: {lines} pairs")
    return 0


def _text(document: Document) -> str:
    return f"{document.title}\n\n{document.text}".strip()


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


if __name__ == "__main__":
    raise SystemExit(main())
