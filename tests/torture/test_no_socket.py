"""Under `--offline` no command opens a socket: there may be no network at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from light_command import ROOT
from promises import Promise
from torture_parts import some_pages, write_pages, write_queries

GUARD = """
import sys

def refuse(event, arguments):
    if event.startswith(("socket.__new__", "socket.connect", "socket.getaddrinfo",
                         "socket.sendto", "urllib.Request", "http.client.connect")):
        sys.stderr.write(f"a socket was asked for: {event} {arguments}\\n")
        sys.stderr.flush()
        import os
        os._exit(77)

sys.addaudithook(refuse)
"""
CAUGHT = 77


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    """Return an environment where each Python process refuses sockets by dying."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(GUARD)
    free = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    kept = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    return kept | free


@pytest.fixture
def cut_off() -> list[str]:
    """Return what starts a command without any network."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    if subprocess.run([unshare, "-n", "true"], check=False).returncode:
        pytest.skip("this process may not make a network namespace")
    return [unshare, "-n"]


def commands(root: Path) -> dict[str, list[str]]:
    """Return the commands that work offline, by script, over a tiny collection."""
    write_pages(root / "chunked", some_pages(2))
    write_queries(root, 2)
    data = root / "beir"
    (data / "qrels").mkdir(parents=True)
    documents = [
        json.dumps({"_id": f"d{number}", "title": "", "text": text})
        for number, text in enumerate(some_pages(1)["page0"])
    ]
    (data / "corpus.jsonl").write_text("\n".join(documents) + "\n")
    (data / "queries.jsonl").write_text('{"_id": "q", "text": "shard and index"}\n')
    (data / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq\td0\t1\n", encoding="utf-8"
    )
    bundle = str(root / "out" / "docs")
    embed = ["--chunked-dir", str(root / "chunked"), "--output-dir", str(root / "out")]
    queries = ["--queries", str(root / "queries.jsonl"), "--no-probes"]
    few = ["--collections", "docs", "--device", "cpu", "--log-format", "plain"]
    work = ["--work-dir", str(root / "work")]
    return {
        "embed_collections_v6.py": [*embed, *queries, *few, "--offline"],
        "search_bundle.py": [bundle, "how do shards work", "--offline", "--json"],
        "verify_bundle.py": [bundle],
        "evaluate_bundle.py": ["--data", str(data), *work, "--offline", "--json"],
    }


def run_all(root: Path, prefix: list[str], environment: dict[str, str]) -> int:
    ran = 0
    for script, arguments in commands(root).items():
        command = [*prefix, sys.executable, str(ROOT / "scripts" / script), *arguments]
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=root,
        )
        assert done.returncode == 0, (script, done.returncode, done.stderr[-2000:])
        assert "a socket was asked for" not in done.stderr, script
        ran += 1
    return ran


def test_the_guard_catches_a_socket(guarded: dict[str, str]) -> None:
    code = "import socket; socket.socket()"
    done = subprocess.run([sys.executable, "-c", code], env=guarded, check=False)
    assert done.returncode == CAUGHT


@pytest.mark.slow
@pytest.mark.torture
def test_offline_commands_ask_for_no_socket(
    tmp_path: Path, guarded: dict[str, str], promise: Promise
) -> None:
    promise.holds(
        "embed, search, verify and evaluate under --offline, with the embedded model: "
        "no Python process of theirs asks for a socket or a name"
    )
    for _ in promise.rounds(range(1)):
        assert run_all(tmp_path, [], guarded) == 4


@pytest.mark.slow
@pytest.mark.torture
def test_offline_commands_work_without_any_network(
    tmp_path: Path, cut_off: list[str], promise: Promise
) -> None:
    promise.holds(
        "The same commands in a network namespace without interfaces (unshare -n) do "
        "their work"
    )
    for _ in promise.rounds(range(1)):
        assert run_all(tmp_path, cut_off, dict(os.environ)) == 4


def test_looking_at_a_bundle_asks_for_no_socket(
    tmp_path: Path, guarded: dict[str, str], promise: Promise
) -> None:
    promise.holds("Planning a run under --offline asks for no socket")
    for _ in promise.rounds(range(1)):
        arguments = commands(tmp_path)["embed_collections_v6.py"]
        script = ROOT / "scripts" / "embed_collections_v6.py"
        done = subprocess.run(
            [sys.executable, str(script), *arguments, "--dry-run"],
            env=guarded,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
