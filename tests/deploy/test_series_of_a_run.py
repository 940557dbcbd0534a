"""A run over many collections and models has few series, and none by a file's name."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from deploy_parts import FIRST, parts_on_a_card, watched_config
from prometheus_client.parser import text_string_to_metric_families

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.config import GIB
from processor.ultimate_embedder.telemetry import names
from processor.ultimate_embedder.telemetry.prometheus import PrometheusListener

MOST_SERIES = 200
MODELS = 16
COLLECTIONS = 2
SUBDIRS = 8


@pytest.mark.slow
def test_many_collections_models_and_folders_stay_below_the_limit(
    tmp_path: Path,
) -> None:
    config = watched_config(tmp_path)
    for number in range(COLLECTIONS):
        for place in range(SUBDIRS):
            folder = config.chunked_dir / f"collection{number}" / f"folder{place}"
            folder.mkdir(parents=True)
            chunks = [{"text": f"Folder {place} of {number}."}, {"text": " "}]
            (folder / "a_chunks.json").write_text(json.dumps(chunks))
    models = tuple(replace(FIRST, name=f"model{n}") for n in range(MODELS))
    sizes = dict.fromkeys((model.name for model in models), GIB)
    listener = PrometheusListener(tmp_path / "rag.prom")
    parts = parts_on_a_card(tmp_path, sizes=sizes)
    chosen = tuple(f"collection{number}" for number in range(COLLECTIONS))
    config = replace(config, dense=models, collections=chosen, queries=None)
    runner = BatchRunner(config, listener, "run", parts)
    outcome = runner.run()
    assert [found.error for found in outcome.collections] == [None] * COLLECTIONS
    listener.close()

    values: defaultdict[str, set[str]] = defaultdict(set)
    count = 0
    for family in text_string_to_metric_families((tmp_path / "rag.prom").read_text()):
        count += len(family.samples)
        for sample in family.samples:
            for label, value in sample.labels.items():
                values[label].add(value)
    assert count <= MOST_SERIES
    allowed = {label for labels in names.METRIC_LABELS.values() for label in labels}
    assert values.keys() <= allowed | {"le"}
    told = {value for found in values.values() for value in found}
    assert not [value for value in told if "collection" in value or "folder" in value]
    assert {"model0", "other"} <= values["model"]
    assert len(values["model"]) < MODELS
