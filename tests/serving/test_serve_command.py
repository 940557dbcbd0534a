"""The command: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from search_parts import write_bundle

from processor.ultimate_embedder.cli.serve import listen, own_names
from processor.ultimate_embedder.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "serve_bundle.py"


def refused(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    code, said = refused(tmp_path)
    assert code == 2
    assert said.startswith(f"error: {tmp_path} holds no bundle.")


def test_other_machines_come_in_only_with_a_token(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "out")
    code, said = refused(path, "--host", "0.0.0.0")  # noqa: S104 - refused
    assert code == 2
    assert "--token-file" in said
    short = tmp_path / "token"
    short.write_text("hush\n")
    code, said = refused(path, "--token-file", short)
    assert code == 2
    assert "shorter than 16" in said
    code, said = refused(path, "--token-file", tmp_path / "none")
    assert code == 2
    assert "cannot be read" in said


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "out")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refused(path, "--port", port)
    assert code == 2
    assert f"Port {port} of 127.0.0.1 cannot be listened on: Address " in said
    assert "bind" not in said  # Python's own words
    assert "--port" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_a_service_answers_under_the_address_it_listens_on(
    make_client, host: str
) -> None:
    try:
        listening = listen(host, 0)
    except UsageError:
        pytest.skip(f"this machine has no {host}")
    with listening:
        port = listening.getsockname()[1]
        client = make_client(hosts=own_names(listening))
    named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert client.get("/healthz", headers={"host": named}).status_code == 200
    foreign = {"host": f"attacker.example:{port}"}
    assert client.get("/healthz", headers=foreign).status_code == 400


def test_two_bundles_of_one_collection_are_refused(tmp_path: Path) -> None:
    one, two = write_bundle(tmp_path / "a"), write_bundle(tmp_path / "b")
    code, said = refused(one, two)
    assert code == 2
    assert "Two of the bundles hold the collection docs" in said


def test_a_model_that_cannot_be_had_is_told_at_the_start(tmp_path: Path) -> None:
    code, said = refused(write_bundle(tmp_path / "out"), "--port", 0)
    assert code == 1
    assert "hashed-words" in said


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield the process and the address that it says."""
    with subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ) as process:
        assert process.stdout is not None
        said = ""
        try:
            for line in process.stdout:
                said += line
                if found := re.search(r"Serving on (http://\S+)", line):
                    yield process, found[1]
                    break
            else:
                raise AssertionError(said + (process.stderr or "").read())
        finally:
            process.kill()


@pytest.mark.slow
def test_a_real_bundle_is_served_and_sigterm_ends_it(
    tmp_path: Path,
) -> None:
    chunks = tmp_path / "chunked" / "docs" / "guide"
    chunks.mkdir(parents=True)
    (chunks / "a_chunks.json").write_text(
        '[{"text": "Points are filtered by payload conditions."},'
        ' {"text": "A snapshot copies a shard to a file."}]'
    )
    embed = ROOT / "scripts" / "embed_collections_v6.py"
    folders = ["--chunked-dir", chunks.parents[1], "--output-dir", tmp_path / "out"]
    subprocess.run([sys.executable, embed, *folders], check=True, capture_output=True)
    with serving(tmp_path / "out") as (process, address):
        body = {"query": "copies of a shard"}
        found = httpx2.post(f"{address}/search", json=body, timeout=60).json()
        assert found["hits"][0]["text"].startswith("A snapshot")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_answers_do_not_wait_for_the_client_to_confirm_their_first_part() -> None:
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
    ):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
