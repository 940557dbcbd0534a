"""nDCG, MRR, Recall and the judged share of one ranked list, as trec_eval has them.

With gain g(i) of the document at rank i (its judged relevance; 0 without a judgement
or below 0), R relevant documents and the ideal order of all judged ones:

    nDCG@k   = sum over i <= k of g(i) / log2(1 + i), divided by the same sum of the
               ideal order (Järvelin and Kekäläinen, TOIS 2002, linear gain)
    MRR@k    = 1 / rank of the first relevant document, 0 where it is beyond k
    Recall@k = relevant documents among the first k, divided by R
    judged@k = documents with any judgement among the first k, divided by how many of
               these there are

A list is taken as it stands: equal scores have been put in order before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

MEASURES = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100", "judged@10")
PRIMARY = "nDCG@10"
DEPTH = 100
"""How many documents the deepest measure looks at."""


def measure(ranking: Sequence[str], judged: Mapping[str, int]) -> Float64Array:
    """Return one list's figures in the order of `MEASURES`: float64 [measures].

    `ranking` holds document ids, best first, each once; `judged` maps an id to its
    relevance, relevant above 0.
    """
    gains = np.array([max(0, judged.get(name, 0)) for name in ranking[:DEPTH]], float)
    ideal = np.sort(np.array([max(0, gain) for gain in judged.values()], float))[::-1]
    known = np.array([name in judged for name in ranking[:10]], float)
    relevant = _count(ideal)
    return np.array(
        [
            _share(_discounted(gains[:10]), _discounted(ideal[:10])),
            _reciprocal_rank(gains[:10]),
            _share(_count(gains[:10]), relevant),
            _share(_count(gains), relevant),
            _share(_count(known), len(known)),
        ]
    )


def _discounted(gains: Float64Array) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _reciprocal_rank(gains: Float64Array) -> float:
    places = np.flatnonzero(gains)
    return 1.0 / (int(places[0]) + 1) if len(places) else 0.0


def _count(values: Float64Array) -> int:
    return int(np.count_nonzero(values))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
