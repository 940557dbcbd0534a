"""The demo's input, made from what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from demo_scripts import SCRIPTS, load_script
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = SCRIPTS / "demo_corpus.py"
demo_corpus = load_script(SCRIPT)


def build(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--output-dir", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def files_of(output: Path) -> dict[str, bytes]:
    root = output / "qdrant_ecosystem"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The limited corpus of this environment."""
    output = tmp_path_factory.mktemp("corpus")
    result = build(output)
    assert result.returncode == 0, result.stderr
    return output


def test_the_corpus_has_six_subdirectories_with_readme_and_sources(
    corpus: Path,
) -> None:
    files = files_of(corpus)
    names = {package.name for package in demo_corpus.PACKAGES}
    assert len(names) == 6
    assert {path.split("/")[0] for path in files} == names
    for name in names:
        assert len(files[f"{name}/README.md"]) > 100
        assert any(
            p.startswith(f"{name}/") and p.endswith((".py", ".pyi")) for p in files
        )


def test_the_limited_corpus_stays_small(corpus: Path) -> None:
    sizes: dict[str, int] = {}
    for path, content in files_of(corpus).items():
        if not path.endswith("README.md"):
            name = path.split("/")[0]
            sizes[name] = sizes.get(name, 0) + len(content)
    assert max(sizes.values()) <= demo_corpus.BYTES_PER_PACKAGE
    assert sum(sizes.values()) > 600_000  # and is no toy


def test_sources_are_mirrored_byte_for_byte(corpus: Path) -> None:
    folder = demo_corpus.package_folder("fastembed")
    for path, content in files_of(corpus).items():
        name, _, inner = path.partition("/")
        if name == "fastembed" and inner != "README.md":
            assert (folder / inner).read_bytes() == content


def test_the_modules_a_user_meets_first_are_in_and_generated_ones_are_not(
    corpus: Path,
) -> None:
    files = files_of(corpus)
    assert {
        "qdrant_client/qdrant_client.py",
        "qdrant_edge/__init__.pyi",
        "fastembed/sparse/bm25.py",
        "sentence_transformers/sentence_transformer/model.py",
        "transformers/models/bert/modeling_bert.py",
        "faiss/class_wrappers.py",
    } <= set(files)
    assert not [path for path in files if "_pb2" in path or "swigfaiss" in path]


def test_the_same_packages_give_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    assert build(tmp_path).returncode == 0
    assert files_of(tmp_path) == files_of(corpus)
    record = json.loads((tmp_path / ".demo_corpus/files.json").read_text())
    assert record["files"] == sorted(files_of(tmp_path))
    assert set(record["versions"]) == {p.name for p in demo_corpus.PACKAGES}


def test_a_second_run_touches_only_what_changed_and_removes_only_its_own(
    tmp_path: Path,
) -> None:
    document = demo_corpus.Document
    demo_corpus.write(
        tmp_path, [document("a/x.py", b"x"), document("a/y.py", b"y")], {}
    )
    mine = tmp_path / "qdrant_ecosystem" / "a" / "mine.md"
    mine.write_text("not ours")
    kept = tmp_path / "qdrant_ecosystem" / "a" / "x.py"
    before = kept.stat().st_mtime_ns
    demo_corpus.write(
        tmp_path, [document("a/x.py", b"x"), document("a/z.py", b"z")], {}
    )
    assert kept.stat().st_mtime_ns == before
    assert set(files_of(tmp_path)) == {"a/x.py", "a/z.py", "a/mine.md"}


def test_full_takes_every_source_that_is_not_empty(tmp_path: Path) -> None:
    package = demo_corpus.Package("qdrant_client", "qdrant-client")
    folder = demo_corpus.package_folder("qdrant_client")
    found = {d.path for d in demo_corpus.documents(package, folder, full=True)}
    sources = {
        f"qdrant_client/{path.relative_to(folder).as_posix()}"
        for suffix in ("*.py", "*.pyi")
        for path in folder.rglob(suffix)
        if path.stat().st_size
    }
    assert found == sources | {"qdrant_client/README.md"}


def test_no_package_is_imported() -> None:
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help'];\n"
        f"m = runpy.run_path({str(SCRIPT)!r}); [m['package_folder'](p.name)"
        f" for p in m['PACKAGES']];\n"
        f"print([p.name for p in m['PACKAGES'] if p.name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_missing_package_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    present = demo_corpus.Package("fastembed", "fastembed")
    absent = demo_corpus.Package("no_such_package_here", "no-such-package-here")
    monkeypatch.setattr(sys, "argv", ["x", "--output-dir", str(tmp_path)])
    monkeypatch.setattr(demo_corpus, "PACKAGES", (absent, present))
    assert demo_corpus.main() == 0
    assert "no_such_package_here is not installed" in capsys.readouterr().err
    assert {path.split("/")[0] for path in files_of(tmp_path)} == {"fastembed"}
    monkeypatch.setattr(demo_corpus, "PACKAGES", (absent,))
    assert demo_corpus.main() == 1


PATHS = st.lists(
    st.from_regex(r"([a-c]/){0,2}[a-d]\.py", fullmatch=True), unique=True, max_size=12
)


@given(paths=PATHS, limit=st.integers(0, 60), data=st.data())
def test_the_choice_is_the_longest_start_of_the_order_that_fits(
    paths: list[str], limit: int, data: st.DataObject
) -> None:
    sizes = {path: data.draw(st.integers(1, 20)) for path in paths}
    first = ("b/*.py", "a.py")
    order = demo_corpus.in_order(sizes, first)
    chosen = list(demo_corpus.choose(sizes, first, limit))
    assert chosen == order[: len(chosen)]
    assert sum(sizes[path] for path in chosen) <= limit
    if len(chosen) < len(order):
        assert sum(sizes[path] for path in order[: len(chosen) + 1]) > limit
    assert all(
        order.index(p) < order.index(q)
        for p in order
        for q in order
        if p.startswith("b/") and not q.startswith("b/")
    )
