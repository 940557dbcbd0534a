"""Bundles into qdrant-client's local mode and into Qdrant Edge, and asked there.

    python benchmarks/qdrant_delivery.py BUNDLE... [--queries 40] [--engines local edge]

Says for each bundle and engine: points there, seconds, whether a second upload changed
anything, how many questions had the same ten chunks as search in the bundle when full
vectors are compared with every point, and recall@10 against it as the default preset
searches. Questions are the first words of chunks at even distances. With a fusion of
ranks instead of scores, equal scores make lists differ that are equally right.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

from processor.ultimate_embedder.delivery.bundle_points import UploadPlan, plan_upload
from processor.ultimate_embedder.delivery.opening import choose_target
from processor.ultimate_embedder.delivery.store import Store
from processor.ultimate_embedder.delivery.upload import send_bundle
from processor.ultimate_embedder.retrieval.fusion import FusionConfig
from processor.ultimate_embedder.search import Embedded, Hit, open_bundle, open_qdrant
from processor.ultimate_embedder.search.loading import ManifestEncoders

WORDS = 9
TOP = 10
TINY = 1e-5


class Remembering:
    """The bundle's models, each question encoded once."""

    def __init__(self, inner: ManifestEncoders) -> None:
        self.dense = cache(inner.dense)
        self.sparse = cache(inner.sparse)
        self.rerank = inner.rerank

    def close(self) -> None:
        """The models are used again."""


def everything(store: Store, plan: UploadPlan) -> dict[str, object]:
    """Return all points of a store by id."""
    ids = [identity for page in store.ids() for identity in page]
    assert len(ids) == plan.points
    found: dict[str, object] = {}
    for start in range(0, len(ids), 1000):
        found |= store.fetch(ids[start : start + 1000])
    return found


def upload_twice(plan: UploadPlan, target: Path, edge: bool) -> str:
    """Return what two uploads did, in words."""
    path, folder = (None, target) if edge else (target, None)
    opened = choose_target(None, path, folder).open
    with closing(opened(plan.collection)) as store:
        first = send_bundle(plan, store)
    with closing(opened(plan.collection)) as store:
        before = everything(store, plan)
        send_bundle(plan, store)
    with closing(opened(plan.collection)) as store:
        same = everything(store, plan) == before
    return (
        f"{first.points_after} points in {first.seconds:.1f} s, "
        f"{first.compared} compared; again: {'the same' if same else 'CHANGED'}"
    )


def scores_of(hits: Sequence[Hit]) -> dict[str | None, float]:
    """Return scores by text: a corpus may repeat one hundreds of times, and which of
    the equal chunks an engine lists is its own choice."""
    return {hit.text: hit.score for hit in hits}


def same_but_for_ties(ours: Sequence[Hit], theirs: Sequence[Hit]) -> bool:
    """Compare ten places of a list with a longer one of ours."""
    score = scores_of(ours)
    pairs = zip(ours[:TOP], theirs, strict=False)
    return len(theirs) == min(TOP, len(ours)) and all(
        abs(score.get(there.text, -1e9) - here.score) < TINY for here, there in pairs
    )


def hits_in(ours: Sequence[Hit], theirs: Sequence[Hit]) -> int:
    """Return how many of theirs score as our tenth or better: equal ones are equal."""
    last = ours[:TOP][-1].score if ours else 0.0
    score = scores_of(ours)
    return sum(score.get(hit.text, -1e9) > last - TINY for hit in theirs)


def ask(
    bundle: Path, target: Path, edge: bool, count: int, fusion: FusionConfig
) -> str:
    """Return how the answers agree, in words."""
    place = Embedded(target) if edge else target
    with open_bundle(bundle, offline=True) as own:
        step = max(1, len(own) // count)
        texts = [own.chunk(row)[1] or "" for row in range(0, len(own), step)]
        questions = [" ".join(text.split()[:WORDS]) for text in texts if text.strip()]
        models = Remembering(ManifestEncoders(own.manifest, offline=True))
    with open_bundle(bundle, models, fusion=fusion) as own:
        ours = [own.search(question, top_k=100) for question in questions]
    with open_qdrant(bundle, place, models, fusion=fusion, exact=True) as exact:
        found = [exact.search(question) for question in questions]
    same = sum(map(same_but_for_ties, ours, found))
    with open_qdrant(bundle, place, models, fusion=fusion) as indexed:
        quick, times = [], []
        for question in questions:
            started = time.perf_counter()
            quick.append(indexed.search(question))
            times.append(time.perf_counter() - started)
    found_again = sum(map(hits_in, ours, quick))
    recall = found_again / sum(min(TOP, len(one)) for one in ours)
    middle = 1000 * sorted(times)[len(times) // 2]
    return (
        f"{same} of {len(questions)} questions equal (exact), "
        f"recall@10 {recall:.4f} (default preset), p50 {middle:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--engines", nargs="+", default=["local", "edge"])
    parser.add_argument("--fusion", default="sum(scale=raw, weights=1:0.016)")
    arguments = parser.parse_args()
    fusion = FusionConfig.parse(arguments.fusion)
    for bundle in arguments.bundles:
        plan = plan_upload(bundle)
        for name in arguments.engines:
            edge = name == "edge"
            with tempfile.TemporaryDirectory() as target:
                said = upload_twice(plan, Path(target), edge)
                print(f"{plan.collection} {name}: {said}", flush=True)
                agree = ask(bundle, Path(target), edge, arguments.queries, fusion)
                print(f"{plan.collection} {name}: {agree}", flush=True)


if __name__ == "__main__":
    main()
