"""The command: what it prints, its exit codes, and embedding a sample again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bundle_parts import COMPANION, PRIMARY, export_bundle, make_store, unit_vectors
from test_contradictions import reseal

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.verify import verify
from processor.ultimate_embedder.errors import ModelNotAvailable
from processor.ultimate_embedder.records import Float32Array
from processor.ultimate_embedder.verify import verify_bundle

STORED = {PRIMARY: unit_vectors(23, 12, 1), COMPANION: unit_vectors(23, 8, 2)}


def remembering(texts: Sequence[str], key: str) -> Float32Array:
    """Return the stored vectors of known texts."""
    rows = {chunk.text: row for row, chunk in enumerate(make_store(23))}
    return STORED[key][[rows[text] for text in texts]]


def turned(texts: Sequence[str], key: str) -> Float32Array:
    vectors = remembering(texts, key).copy()
    if key == COMPANION:
        vectors[4] = -vectors[4]
    return vectors


def narrow(texts: Sequence[str], key: str) -> Float32Array:
    return remembering(texts, key)[:, :4]


def test_a_whole_bundle_gives_exit_code_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = export_bundle(tmp_path)
    assert run_function(verify, [str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "checked: sums of 19 files" in out
    assert out.endswith(": whole\n")


def test_a_damaged_bundle_gives_exit_code_1_and_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = export_bundle(tmp_path)
    (bundle / "docs_ids.jsonl").unlink()
    assert run_function(verify, [str(bundle)]) == 1
    out = capsys.readouterr().out
    assert "damaged: docs_ids.jsonl: whole file: missing" in out


@pytest.mark.parametrize("arguments", [["nowhere"], [], ["--nonsense"]])
def test_bad_usage_gives_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_function(verify, arguments) == 2
    assert capsys.readouterr().out == ""


def test_json_is_one_document_on_standard_output(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bundle = export_bundle(tmp_path)
    assert run_function(verify, [str(bundle), "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["whole"] is True
    (bundle / "stray").touch()
    assert run_function(verify, [str(bundle), "--json"]) == 1
    document = json.loads(capfdbinary.readouterr().out)
    assert document["whole"] is False
    assert document["findings"][0]["file"] == "stray"


def test_names_that_are_no_unicode_are_shown(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bundle = export_bundle(tmp_path)
    (bundle / os.fsdecode(b"bad\xff")).touch()
    assert run_function(verify, [str(bundle), "--json"]) == 1
    document = json.loads(capfdbinary.readouterr().out)
    assert document["findings"][0]["file"] == "bad\\udcff"
    assert run_function(verify, [str(bundle)]) == 1
    assert (
        "damaged: bad\N{REPLACEMENT CHARACTER}" in capfdbinary.readouterr().out.decode()
    )


def test_a_model_that_repeats_its_vectors_passes_the_deep_check(tmp_path: Path) -> None:
    report = verify_bundle(export_bundle(tmp_path), deep=True, embed=remembering)
    assert report.whole
    assert (
        f"23 texts embedded again by {PRIMARY}, 23 equal bit for bit" in report.checks
    )


def test_a_model_that_gives_other_vectors_fails_it_by_row(tmp_path: Path) -> None:
    report = verify_bundle(export_bundle(tmp_path), deep=True, embed=turned)
    (finding,) = report.findings
    assert finding.file == f"docs_{COMPANION}_embeddings.npy"
    assert finding.place == "row 4"
    assert "cosine -1.0" in finding.problem


def test_a_model_of_another_width_fails_it(tmp_path: Path) -> None:
    report = verify_bundle(export_bundle(tmp_path), deep=True, embed=narrow)
    assert {finding.place for finding in report.findings} == {"sample"}


def test_without_points_nothing_is_embedded_again_and_a_note_says_so(
    tmp_path: Path,
) -> None:
    bundle = export_bundle(tmp_path, exports=("npy",))
    report = verify_bundle(bundle, deep=True, embed=remembering)
    assert report.whole
    assert "not embedded again" in report.notes[0]


def test_a_deep_check_needs_something_that_embeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embed"):
        verify_bundle(tmp_path, deep=True)


def test_the_sample_is_spread_over_the_rows(tmp_path: Path) -> None:
    asked: list[int] = []

    def count(texts: Sequence[str], key: str) -> Float32Array:
        asked.append(len(texts))
        return np.zeros((0, 0), dtype=np.float32)

    verify_bundle(export_bundle(tmp_path, rows=100), deep=True, embed=count)
    assert asked == [32, 32]


def test_a_sample_is_compared_with_its_own_rows_from_the_first_to_the_last(
    tmp_path: Path,
) -> None:
    bundle = export_bundle(tmp_path, rows=100)
    texts = [chunk.text for chunk in make_store(100)]
    stored = {PRIMARY: unit_vectors(100, 12, 1), COMPANION: unit_vectors(100, 8, 2)}
    asked: dict[str, list[int]] = {}

    def embed(wanted: Sequence[str], key: str) -> Float32Array:
        asked[key] = [texts.index(text) for text in wanted]
        vectors = stored[key][asked[key]].copy()
        vectors[-1, 0] += 0.1 if key == PRIMARY else np.nan
        return vectors

    report = verify_bundle(bundle, deep=True, embed=embed)
    rows = asked[PRIMARY]
    assert (len(rows), rows[0], rows[-1]) == (32, 0, 99)
    assert {after - before for before, after in pairwise(rows)} == {3, 4}
    assert {finding.place for finding in report.findings} == {"row 99"}
    assert {finding.file for finding in report.findings} == {
        f"docs_{key}_embeddings.npy" for key in (PRIMARY, COMPANION)
    }
    told = f"32 texts embedded again by {PRIMARY}, 31 equal bit for bit"
    assert told in report.checks


def test_a_model_that_is_not_here_stops_no_other_from_embedding_again(
    tmp_path: Path,
) -> None:
    def companion(texts: Sequence[str], key: str) -> Float32Array:
        if key == PRIMARY:
            raise ModelNotAvailable("its weights are not here")
        return remembering(texts, key)

    report = verify_bundle(export_bundle(tmp_path), deep=True, embed=companion)
    assert any(f"not embedded again by {PRIMARY}" in note for note in report.notes)
    told = f"23 texts embedded again by {COMPANION}, 23 equal bit for bit"
    assert told in report.checks


def test_nothing_is_embedded_again_without_being_asked_for(tmp_path: Path) -> None:
    def embed(texts: Sequence[str], key: str) -> Float32Array:
        raise AssertionError("nobody asked")

    assert verify_bundle(export_bundle(tmp_path), embed=embed).whole


@pytest.mark.parametrize("name", ["docs_qdrant.jsonl", "docs_sparse.jsonl"])
def test_a_line_that_is_missing_accuses_no_model(tmp_path: Path, name: str) -> None:
    bundle = export_bundle(tmp_path)
    lines = (bundle / name).read_bytes().splitlines(keepends=True)
    (bundle / name).write_bytes(b"".join(lines[:-1]))
    reseal(bundle)
    report = verify_bundle(bundle, deep=True, embed=remembering)
    assert (name, "line 22") in {(f.file, f.place) for f in report.findings}
    assert not any(finding.file.endswith(".npy") for finding in report.findings)


def test_vectors_too_few_for_the_sample_are_not_compared_with_it(
    tmp_path: Path,
) -> None:
    bundle = export_bundle(tmp_path)
    name = f"docs_{PRIMARY}_embeddings.npy"
    np.save(bundle / name, np.load(bundle / name)[:-1])
    reseal(bundle)
    report = verify_bundle(bundle, deep=True, embed=remembering)
    assert [f.place for f in report.findings if f.file == name] == ["header"]
