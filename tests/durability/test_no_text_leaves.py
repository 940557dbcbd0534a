"""Planted words: where the text of documents and queries may stand, and where not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.embed_run import run_embedding
from processor.ultimate_embedder.cli.output import Format
from processor.ultimate_embedder.config import PipelineConfig
from processor.ultimate_embedder.settings import resolve
from processor.ultimate_embedder.telemetry.events import Emit
from processor.ultimate_embedder.testing import hashing_parts

IN_TEXT, IN_HEADING, IN_QUERY = "zanzibarite", "quuxonium", "flibberwort"
IN_METADATA, IN_DAMAGED = "grobnitz", "vexatrope"
PLANTED = (IN_TEXT, IN_HEADING, IN_QUERY, IN_METADATA, IN_DAMAGED)


def write_input(root: Path) -> None:
    folder = root / "chunked" / "docs"
    folder.mkdir(parents=True)
    entries = [
        {
            "text": f"## About {IN_HEADING} and part {n}\n\nThe {IN_TEXT} is {n}. "
            + "More of it. " * (150 if n == 3 else 2),
            "metadata": {"filename": f"{n}.md", "author": IN_METADATA},
        }
        for n in range(6)
    ]
    damaged = [{"texts": IN_DAMAGED}, IN_DAMAGED, {"text": f"{IN_DAMAGED} \ud800"}]
    content = json.dumps([*entries, *damaged])
    (folder / "a_chunks.json").write_text(content)
    (folder / "b_chunks.json").write_text(content[:-40])
    (root / "queries.jsonl").write_text(
        json.dumps({"_id": "q", "text": f"where is {IN_QUERY} in the {IN_TEXT}"}) + "\n"
    )


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Serve an OTLP endpoint; yield its address and what it is sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def told(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    style: Format,
    redact: bool,
    given: bool,
) -> str:
    """Run with every listener; return all that was said, sent and counted."""
    with collector() as (endpoint, bodies):
        given_settings = {
            "chunked_dir": root / "chunked",
            "output_dir": root / "out",
            "redact_queries": redact,
            "log_format": style,
            "log_level": "debug",
            "metrics_textfile": root / "metrics.prom",
            "otlp_endpoint": endpoint,
            "otlp_file": root / "spans.jsonl",
            **({"queries": root / "queries.jsonl"} if given else {}),
        }
        settings = resolve(
            {key: (value, f"--{key}") for key, value in given_settings.items()},
            directory=root,
            environment={},
        )

        def runner(config: PipelineConfig, emit: Emit, run_id: str) -> BatchRunner:
            small = replace(config.rerank, difference=None) if config.rerank else None
            config = replace(config, rerank=small)
            return BatchRunner(config, emit, run_id, hashing_parts())

        code = run_embedding(
            settings, style=style, dry_run=False, resume="again", make_runner=runner
        )
    assert code == 0
    said = capsys.readouterr()
    assert bodies
    sent = b"".join(bodies).decode("utf-8", "replace")
    counted = (root / "metrics.prom").read_text()
    assert "rag_chunks_total" in counted
    filed = (root / "spans.jsonl").read_text()
    assert "rag.dense.batch" in filed
    page = (root / "out" / "docs_report.html").read_text()
    assert "<svg" in page
    return said.out + said.err + sent + counted + filed + page


@pytest.mark.parametrize("style", ["plain", "json"])
@pytest.mark.parametrize("given", [False, True])
def test_logs_spans_and_metrics_hold_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], style: Format, given: bool
) -> None:
    write_input(tmp_path)
    everything = told(tmp_path, capsys, style=style, redact=False, given=given)
    assert [word for word in PLANTED if word in everything] == []


def holders(root: Path, word: str) -> set[str]:
    return {
        path.name
        for path in (root / "out" / "docs").rglob("*")
        if path.is_file() and word.encode() in path.read_bytes()
    }


def test_only_points_hold_texts_when_queries_are_redacted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_input(tmp_path)
    told(tmp_path, capsys, style="plain", redact=True, given=True)
    for word in (IN_TEXT, IN_HEADING, IN_METADATA):
        assert holders(tmp_path, word) == {"docs_qdrant.jsonl"}, word
    for word in (IN_QUERY, IN_DAMAGED):
        assert holders(tmp_path, word) == set(), word


def test_queries_stand_in_the_rerank_file_and_their_beginning_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_input(tmp_path)
    told(tmp_path, capsys, style="plain", redact=False, given=True)
    assert holders(tmp_path, IN_QUERY) == {
        "docs_rerank.jsonl",
        "processing_summary.json",
    }
