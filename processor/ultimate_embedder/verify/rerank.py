"""The rerank file: known candidates, one score each, one line a query.

Where logits were blended with fused scores, the sum is checked as well. The scaling of
the fused scores is not in the file (it is that of all candidates, and the best ones are
kept), but it is the same for all: two candidates give it, the others must agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ..errors import UsageError
from ..export.manifest_sections import RerankRan
from ..records import CrossEncoderRerankRun
from ..retrieval.blend import BlendConfig
from .opened import OpenBundle
from .report import Findings
from .rows import SeenIds, parsed_lines

_COMPLETE = ("scores", "cross_scores")  # hold a number for each candidate
_SCORE_LISTS = (*_COMPLETE, "fused_scores", "dense_scores", "sparse_scores")
_TOLERANCE = 1e-6
_ROUNDING = 1e-12
_ALONE = "logits alone"


def check_rerank(bundle: OpenBundle, seen: SeenIds, findings: Findings) -> None:
    """Check every line; a score list may hold nulls where a leg had no score."""
    name = bundle.names.rerank
    path = bundle.file(name)
    if path is None:
        return
    rerank = bundle.manifest.rerank_run
    headers = rerank.runs if isinstance(rerank, RerankRan) else ()
    expressions = _expressions(rerank) if isinstance(rerank, RerankRan) else ()
    known: SeenIds | None = seen
    if findings.skip(f"candidates in {name}", bundle.names.ids):
        known = None
    queries = 0
    for line, record in parsed_lines(path, name, _parse, findings):
        queries += 1
        if record is None:
            continue
        place = f"line {line.number}, byte {line.offset}"
        for problem in _faults(record, known) or _contradictions(record, expressions):
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
    lists = {key: record[key] for key in _SCORE_LISTS if key in record}
    return {
        "query_id": record["query_id"],
        "scores": record["scores"],
        "candidate_ids": [candidate + "" for candidate in record["candidate_ids"]],
        **{
            key: list(scores)
            for key, scores in lists.items()
            if scores is not None or key in _COMPLETE  # null: a leg that is off
        },
    }


def _faults(record: dict[str, Any], known: SeenIds | None) -> list[str]:
    """Return what is wrong; None `known`: no id can be told to be unknown."""
    candidates = record["candidate_ids"]
    unknown = [one for one in candidates if known is not None and one not in known]
    faults = [f"candidate {candidate[:100]!r} is unknown" for candidate in unknown[:3]]
    if len(set(candidates)) != len(candidates):
        faults.append("a candidate stands twice")
    for key in _SCORE_LISTS:
        scores = record.get(key)
        if scores is None:
            continue
        if len(scores) != len(candidates):
            faults.append(f"{len(scores)} {key} for {len(candidates)} candidates")
        allowed = [score for score in scores if score is not None or key in _COMPLETE]
        if not all(_is_number(score) for score in allowed):
            faults.append(f"{key} holds something that is not a number")
    return faults


def _contradictions(record: dict[str, Any], expressions: Sequence[str]) -> list[str]:
    """Return what is wrong among lists that are each right by themselves."""
    scores = np.array(record["scores"], dtype=np.float64)
    faults = []
    if (np.diff(scores) > 0).any():
        faults.append("the scores rise")
    unlike = [_unlike(record, scores, expression) for expression in expressions]
    if unlike and all(unlike):
        faults.append(unlike[0])
    return faults


def _unlike(
    record: dict[str, Any], scores: npt.NDArray[np.float64], expression: str
) -> str:
    """Return what is wrong with scores that came about as told; empty: nothing."""
    if expression == _ALONE:
        alone = record.get("cross_scores") == record["scores"]
        return "" if alone else "the scores are not the cross_scores"
    try:
        config = BlendConfig.parse(expression)
    except UsageError:
        return ""  # another version's
    if _is_blended(record, scores, config):
        return ""
    return f"the scores are not {config} of cross_scores and fused_scores"


def _is_blended(
    record: dict[str, Any], scores: npt.NDArray[np.float64], config: BlendConfig
) -> bool:
    """Say whether what logits leave of the scores is a rising line over the fused."""
    lists = [record.get("cross_scores"), record.get("fused_scores")]
    if any(found is None or None in found for found in lists):
        return False
    cross, fused = (np.array(found, dtype=np.float64) for found in lists)
    left = scores - config.term(cross)
    span = np.ptp(fused) if len(fused) else 0.0
    level = bool(np.allclose(left, left[:1], atol=_TOLERANCE))
    if level and span <= _ROUNDING * np.abs(fused).max(initial=0.0):
        return True  # equal but for their last bits, which the logits can round away
    if span == 0:
        return False
    low, high = int(fused.argmin()), int(fused.argmax())
    slope = (left[high] - left[low]) / (fused[high] - fused[low])
    line = left[low] + slope * (fused - fused[low])
    return bool(slope > 0 and np.allclose(left, line, atol=_TOLERANCE))


def _expressions(run: RerankRan) -> tuple[str, ...]:
    """Return how scores came about, one for each model; none: the run does not say.

    A smaller model that stepped in has a blend of its own; no line tells whose it is.
    """
    if "blend" not in run.statistics:
        return ()
    stated = run.statistics.get("blends")
    several = tuple(stated.values()) if isinstance(stated, dict) else ()
    return tuple(str(one or _ALONE) for one in several or (run.statistics["blend"],))


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)
