"""The code blocks of the pages about Qdrant, run as they stand.

A server in this process stands for the one that a page names; bundle and folders have
the names that the page gives them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fake_qdrant import FakeQdrant, serving

from processor.ultimate_embedder.delivery.bundle_points import plan_upload
from processor.ultimate_embedder.delivery.opening import Server, at_server
from processor.ultimate_embedder.delivery.upload import send_bundle

ROOT = Path(__file__).resolve().parents[2]
PLACES = re.compile(r"http://localhost:6333|https://your-cluster:6333")


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def block(page: str, language: str, words: str) -> str:
    """Return the one block that holds these words."""
    (found,) = [one for one in blocks(page, language) if words in one]
    return found


@pytest.fixture(scope="module")
def fake() -> FakeQdrant:
    return FakeQdrant()


@pytest.fixture(scope="module")
def address(fake: FakeQdrant, folder: Path) -> Iterator[str]:
    """A server that holds the bundle as `docs`, `my_docs` and, by an alias, `live`."""
    with serving(fake) as url:
        server = Server(url=url, transport="http")
        for name in ("docs", "my_docs"):
            with closing(at_server(server, name)) as store:
                send_bundle(plan_upload(folder, name), store)
        with closing(at_server(server, "docs")) as store:
            store.point_alias("live")
        yield url


@pytest.fixture
def at_home(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader."""
    (tmp_path / "Embeddings").mkdir()
    (tmp_path / "Embeddings" / "docs").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QDRANT_API_KEY", "your-key")
    return tmp_path


def run(code: str, address: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run a block with another address; return the lines that it printed."""
    exec(compile(PLACES.sub(address, code), "page", "exec"), {})  # noqa: S102
    return capsys.readouterr().out.splitlines()


def test_a_collection_behind_an_alias_is_asked(
    at_home: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(block("recipes.md", "python", "QDRANT_API_KEY"), address, capsys)
    assert len(lines) == 3
    assert all("docs:library:library:chunk:" in line for line in lines)
    assert "StageScore" in lines[0]


def test_hybrid_search_with_qdrant_client_alone(
    at_home: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(block("recipes.md", "python", "RrfQuery"), address, capsys)
    assert len(lines) == 10
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)


def test_two_stages(
    at_home: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run(block("recipes.md", "python", "RERANKING_MODELS"), address, capsys)
    assert len(lines) == 5
    assert all(" -> " in line for line in lines)
    scores = [float(line.split()[3]) for line in lines]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("words", "best"),
    [
        ("np.argsort(-scores)", "1.000"),
        ("import pandas", "1.0"),
        ("import faiss", "1.000"),
        ("Counter", ""),
    ],
    ids=["numpy", "pandas", "faiss", "bm25"],
)
def test_files_are_read_without_this_package(
    at_home: Path,
    address: str,
    capsys: pytest.CaptureFixture[str],
    words: str,
    best: str,
) -> None:
    if "pandas" in words:
        pytest.importorskip("pandas")
    code = block("recipes.md", "python", words)
    assert "processor" not in code
    lines = run(code, address, capsys)
    found = [line for line in lines if "docs:library:library:chunk:" in line]
    assert len(found) == 5
    assert found[0].endswith("docs:library:library:chunk:0")
    assert best in found[0]


def test_numpy_and_faiss_agree(
    at_home: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = run(block("recipes.md", "python", "np.argsort(-scores)"), address, capsys)
    theirs = run(block("recipes.md", "python", "import faiss"), address, capsys)
    assert [line.split()[1] for line in ours] == [line.split()[1] for line in theirs]


def test_the_page_about_qdrant_asks_a_collection(
    at_home: Path, folder: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = at_home / "Embeddings" / "my_docs"
    mine.mkdir()
    shutil.copy(folder / "processing_summary.json", mine)
    code = block("qdrant.md", "python", "open_qdrant")
    renamed = code.replace(
        "Server(url", 'collection="my_docs", place=Server(url'
    )  # the bundle calls itself docs
    lines = run(renamed, address, capsys)
    assert [int(line.split()[0]) for line in lines] == list(range(1, 11))


def test_every_python_block_of_the_recipes_is_run_by_a_test_above() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    named = re.findall(r'"recipes\.md", "python", "([A-Za-z_]+)"', source)
    named += ["argsort(-scores)", "pandas", "faiss", "Counter"]
    for one in blocks("recipes.md", "python"):
        assert any(words in one for words in named)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_way_from_kaggle_into_a_server_step_by_step(
    tmp_path: Path, fake: FakeQdrant, address: str
) -> None:
    """The page's commands in a shell: at home, in the notebook, at home again."""
    home, kaggle = tmp_path / "home", tmp_path / "kaggle"
    (home / "docs_in" / "docs" / "library").mkdir(parents=True)
    for name in ("search-it.md", "models.md"):
        shutil.copy(ROOT / "docs" / name, home / "docs_in" / "docs" / "library")
    (kaggle / "working").mkdir(parents=True)
    (home / "scripts").symlink_to(ROOT / "scripts")
    (kaggle / "working" / "embedder").symlink_to(ROOT)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "EMBEDDER_PROFILE": "embedded"}
    environment["EMBEDDER_KAGGLE_ROOT"] = str(kaggle)

    def shell(commands: str, folder: Path) -> None:
        lines = [line.removeprefix("!") for line in commands.splitlines()]
        script = PLACES.sub(address, "\n".join(["set -e", *lines]))
        script = script.replace("/kaggle/working", str(kaggle / "working"))
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    chunk, embed, unpack, send = blocks("recipes.md", "console")
    shell(chunk, home)
    shutil.copytree(home / "Chunked", kaggle / "input" / "mine" / "Chunked")
    shell(embed, kaggle / "working")
    shutil.copy(kaggle / "working" / "docs.zip", home)
    shell(unpack, home)
    fake.key = "your-key"
    try:
        shell(send, home)
    finally:
        fake.key = None
    behind = {
        a.alias_name: a.collection_name for a in fake.client.get_aliases().aliases
    }
    assert behind["live"].startswith("docs-")
    assert fake.client.count("live").count > 10
