"""The rerank file: known candidates, one score each, one line a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson

from ..export.manifest_sections import RerankRan
from ..records import CrossEncoderRerankRun
from .opened import OpenBundle
from .report import Findings
from .rows import SeenIds, parsed_lines

_SCORE_LISTS = ("scores", "fused_scores", "dense_scores", "sparse_scores")


def check_rerank(bundle: OpenBundle, seen: SeenIds, findings: Findings) -> None:
    """Check every line; a score list may hold nulls where a leg had no score."""
    name = bundle.names.rerank
    path = bundle.file(name)
    if path is None:
        return
    rerank = bundle.manifest.rerank_run
    headers = rerank.runs if isinstance(rerank, RerankRan) else ()
    queries = 0
    for line, record in parsed_lines(path, name, _parse, findings):
        queries += 1
        if record is None:
            continue
        place = f"line {line.number}, byte {line.offset}"
        for problem in _faults(record, seen):
            findings.add(name, place, problem)
        if headers and not _has_header(record, headers[queries - 1 : queries]):
            findings.add(name, place, "differs from its header in the manifest")
    if isinstance(rerank, RerankRan) and queries != rerank.queries:
        findings.add(name, f"line {queries}", f"ends there, not at {rerank.queries}")
    findings.checks.append(f"{queries} reranked queries")


def _has_header(
    record: dict[str, Any], header: Sequence[CrossEncoderRerankRun]
) -> bool:
    return bool(header) and header[0].candidate_ids == record["candidate_ids"]


def _parse(content: bytes) -> dict[str, Any]:
    record = orjson.loads(content)
    return {
        "query_id": record["query_id"],
        "candidate_ids": [candidate + "" for candidate in record["candidate_ids"]],
        **{key: list(record[key]) for key in _SCORE_LISTS if key in record},
    }


def _faults(record: dict[str, Any], seen: SeenIds) -> list[str]:
    candidates = record["candidate_ids"]
    unknown = [candidate for candidate in candidates if candidate not in seen]
    faults = [f"candidate {candidate[:100]!r} is unknown" for candidate in unknown[:3]]
    if len(set(candidates)) != len(candidates):
        faults.append("a candidate stands twice")
    for key in _SCORE_LISTS:
        scores = record.get(key)
        if scores is None:
            continue
        if len(scores) != len(candidates):
            faults.append(f"{len(scores)} {key} for {len(candidates)} candidates")
        allowed = [score for score in scores if score is not None or key == "scores"]
        if not all(_is_number(score) for score in allowed):
            faults.append(f"{key} holds something that is not a number")
    return faults


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)
