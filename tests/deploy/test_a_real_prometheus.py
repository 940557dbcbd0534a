"""A real Prometheus server, with the rules of deploy/, watches a run that goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_parts import (
    PROMETHEUS,
    Expression,
    dashboard_expressions,
    free_port,
    parts_on_a_card,
    program,
    rule_expressions,
    rules,
    watched_config,
)

from processor.ultimate_embedder.batch_runner import BatchRunner
from processor.ultimate_embedder.cli.embed_run import run_embedding
from processor.ultimate_embedder.encoders.protocols import AttentionEncoder
from processor.ultimate_embedder.run.parts import Parts
from processor.ultimate_embedder.settings import ReportingConfig, Settings
from processor.ultimate_embedder.testing import HashingEncoder
from processor.ultimate_embedder.workers.jobs import EncodeJob
from processor.ultimate_embedder.workers.opening import in_process

PATIENCE_SECONDS = 60.0
# What a run on a GPU shows while it computes dense vectors, as the panels are called.
DURING_DENSE = {
    "run-overview: Pace by stage",
    "run-overview: Progress by stage",
    "run-overview: Share of padding",
    "run-overview: Tokens per second by model",
    "run-overview: Seconds for a dense batch",
    "gpu-memory: Peak and cap",
    "gpu-memory: Left below the cap",
    "gpu-memory: Peak as a share of the cap",
    "gpu-memory: Batches made smaller",
    "fallbacks-quarantine: Set aside",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A Prometheus that answers."""

    port: int

    def get(self, path: str, **query: str) -> Any:
        """Return the data of an answer, or None while it is not ready."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        try:
            with urllib.request.urlopen(  # noqa: S310  a server of our own
                f"{url}?{urllib.parse.urlencode(query)}", timeout=5
            ) as answer:
                content = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return None
        assert content["status"] == "success"
        return content["data"]

    def finds(self, expression: Expression) -> bool:
        """Whether an expression has a value now, and one that is a number."""
        data = self.get("query", query=expression.promql)
        return bool(data) and any(
            sample["value"][1] != "NaN" for sample in data["result"]
        )


@contextmanager
def prometheus(folder: Path, target_port: int) -> Iterator[Server]:
    """Run the server with the configuration of deploy/, quicker and on one target."""
    server_program = program("prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    config["global"] = {
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "evaluation_interval": "500ms",
    }
    (job, _) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{target_port}"]}]
    config["scrape_configs"] = [job]
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    server = Server(free_port())
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [
                server_program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{server.port}",
            ],
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield server
        finally:
            process.terminate()


class Watcher(threading.Thread):
    """Asks until all is seen that a run shows while it goes on, then lets it end."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.missing = {e for e in expressions() if e.place in DURING_DENSE}
        self.alerts: set[str] = set()
        self.may_end = threading.Event()
        self.failure: Exception | None = None
        self._server = server

    def run(self) -> None:
        try:
            self._watch()
        except Exception as failure:  # noqa: BLE001  the test waits and looks at it
            self.failure = failure
        finally:
            self.may_end.set()

    def _watch(self) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            self.missing = {e for e in self.missing if not self._server.finds(e)}
            told = self._server.get("alerts") or {"alerts": []}
            self.alerts |= {
                alert["labels"]["alertname"]
                for alert in told["alerts"]
                if alert["state"] == "firing"
            }
            if not self.missing and "RagChunksQuarantined" in self.alerts:
                return
            time.sleep(0.3)


def expressions() -> list[Expression]:
    return [*dashboard_expressions(window="5s"), *rule_expressions()]


def paced(parts: Parts, may_end: threading.Event) -> Parts:
    """Return parts whose third dense model takes its time until it may end.

    By then two models have given the card back, which is when peaks are told.
    """

    class Paced(HashingEncoder):
        def encode(self, ids: Any) -> Any:
            may_end.wait(0.7)
            return super().encode(ids)

    @contextmanager
    def open_encoder(job: EncodeJob) -> Iterator[AttentionEncoder]:
        slow = Paced if job.model.name == "third" else HashingEncoder
        yield slow(job.model.vector_dim, "cuda:0")

    return replace(parts, open_executor=in_process(open_encoder))


@pytest.mark.slow
def test_dashboards_and_rules_have_data_while_a_run_goes_on(tmp_path: Path) -> None:
    config = watched_config(tmp_path)
    config = replace(config, gpu=replace(config.gpu, base_batch_size=1))
    assert {expression.place for expression in expressions()} >= DURING_DENSE
    port = free_port()
    with prometheus(tmp_path / "prometheus", port) as server:
        watcher = Watcher(server)
        watcher.start()
        parts = paced(parts_on_a_card(tmp_path), watcher.may_end)
        code = run_embedding(
            Settings(pipeline=config, reporting=ReportingConfig(metrics_port=port)),
            style="plain",
            dry_run=False,
            resume="the same command",
            make_runner=lambda *given: BatchRunner(*given, parts),
        )
        watcher.join()
        assert watcher.failure is None
        assert code == 0
        assert {e.place for e in watcher.missing} == set()
        assert "RagChunksQuarantined" in watcher.alerts
        for expression in expressions():
            assert server.get("query", query=expression.promql) is not None
        groups = server.get("rules")["groups"]
        loaded = [rule for group in groups for rule in group["rules"]]
        assert {rule["name"]: rule["health"] for rule in loaded} == {
            rule["alert"]: "ok" for rule in rules()
        }
