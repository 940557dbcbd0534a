"""What lies in deploy/, and a run that is watched as it would be in earnest."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from processor.ultimate_embedder.config import GIB, PipelineConfig
from processor.ultimate_embedder.models.catalogue import (
    dense_model,
    rerank_model,
    sparse_model,
)
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.testing import FakeDeviceProbe, hashing_parts_on

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "alerts.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
FIRST = dense_model("all-miniLM-l6")
SECOND = replace(FIRST, name="second")
RERANKER = rerank_model("ms-marco-minilm-l6")
THIRD = replace(FIRST, name="third")
NO_SIZES: Mapping[str, int] = MappingProxyType({})
SIZES = {FIRST.name: GIB, SECOND.name: 5 * GIB, THIRD.name: GIB, RERANKER.name: GIB}


@dataclass(frozen=True, slots=True)
class Expression:
    """A PromQL expression and where it stands."""

    place: str
    promql: str


def dashboard(path: Path) -> dict[str, Any]:
    """Return a dashboard's JSON."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def panels(path: Path) -> list[dict[str, Any]]:
    """Return a dashboard's panels."""
    found: list[dict[str, Any]] = dashboard(path)["panels"]
    return found


def dashboard_expressions(*, window: str = "5m") -> Iterator[Expression]:
    """Yield the expressions of all panels, variables filled in as Grafana would."""
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield Expression(
                    f"{path.stem}: {panel['title']}", filled_in(target["expr"], window)
                )


def filled_in(promql: str, window: str) -> str:
    """Return an expression with every job and instance chosen."""
    return (
        promql.replace("$__rate_interval", window)
        .replace("$job", ".+")
        .replace("$instance", ".+")
    )


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rule_expressions() -> Iterator[Expression]:
    """Yield the expressions of all rules."""
    for rule in rules():
        yield Expression(rule["alert"], rule["expr"])


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric as an expression asks for it; matchers are label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


_SELECTOR = re.compile(r"\b((?:rag_|up\b)\w*)\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)")


def selectors(promql: str) -> list[Selector]:
    """Return the metrics that an expression asks for."""
    return [
        Selector(found[1], tuple(_MATCHER.findall(found[2] or "")))
        for found in _SELECTOR.finditer(promql)
    ]


def grouped_labels(promql: str) -> set[str]:
    """Return the labels that an expression groups or joins by."""
    return {
        label.strip()
        for listed in _GROUPING.findall(promql)
        for label in listed.split(",")
        if label.strip()
    }


def foreign_words(promql: str) -> set[str]:
    """Return identifiers that are no selector, label, function or keyword of ours."""
    rest = _GROUPING.sub(" ", _SELECTOR.sub(" ", promql))
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    return set(re.findall(r"[a-zA-Z_]\w*", rest)) - {
        *("sum", "max", "by", "rate", "increase", "histogram_quantile", "time"),
        *("unless", "or"),
    }


def write_corpus(folder: Path) -> None:
    """Write chunk files: good ones, texts without words and too long, a torn file."""
    place = folder / "docs" / "guide"
    place.mkdir(parents=True)
    for page in range(6):
        chunks = [
            {"text": f"## What is part {part} of page {page}?\n\nIt is number {part}."}
            for part in range(5)
        ]
        (place / f"page{page}_chunks.json").write_text(json.dumps(chunks))
    odd = [{"text": "- - - - -"}, {"text": "many words " * 400}, {"text": "  "}]
    (place / "odd_chunks.json").write_text(json.dumps(odd))
    (place / "torn_chunks.json").write_text('[{"text": "the end is mis')


def watched_config(folder: Path) -> PipelineConfig:
    """Return a small run that has something to tell in every signal."""
    write_corpus(folder / "chunked")
    queries = folder / "queries.jsonl"
    queries.write_text('{"_id": "q", "text": "What is part 2 of page 3?"}\n')
    config = PipelineConfig(
        queries=queries,
        probes=False,
        chunked_dir=folder / "chunked",
        output_dir=folder / "out",
        dense=(FIRST, SECOND, THIRD),
        sparse=(sparse_model("qdrant-bm25"),),
        rerank=replace(RERANKER, candidates=5, top_k=3),
        long_texts="cut",
        offline=True,
    )
    return replace(config, gpu=replace(config.gpu, base_batch_size=4))


def parts_on_a_card(
    folder: Path, *, cap_bytes: int = 12 * GIB, sizes: Mapping[str, int] = NO_SIZES
) -> Parts:
    """Return parts that pretend to run on one GPU; `sizes` are of further models."""
    return hashing_parts_on(
        ("cuda:0",),
        FakeDeviceProbe(),
        folder / "locks",
        model_bytes=SIZES | dict(sizes),
        cap_bytes=cap_bytes,
    )


def program(name: str) -> str:
    """Return the path of one of Prometheus' programs; without it, skip the test.

    `make test` unpacks Debian's package into the environment where none is installed.
    """
    unpacked = str(Path(sys.prefix) / "prometheus" / "usr" / "bin")
    places = os.pathsep.join((os.environ.get("PATH", ""), unpacked))
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is not installed and 'make test' could not get it")
    return found


def free_port() -> int:
    """Return a port of the loopback address that nobody has now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
