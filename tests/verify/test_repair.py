"""A damaged bundle is made whole from its own files, or it is said what is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import orjson
import pytest
from bundle_parts import export_bundle
from real_bundle import contents, run_bundle

from processor.ultimate_embedder.cli.entry import run_function
from processor.ultimate_embedder.cli.repair import repair
from processor.ultimate_embedder.errors import BundleError, OutputError, UsageError
from processor.ultimate_embedder.export.layout import MANIFEST, SUMS
from processor.ultimate_embedder.export.publish import exchange_folders
from processor.ultimate_embedder.repair import RepairReport, repair_bundle
from processor.ultimate_embedder.verify import verify_bundle

IDS, POINTS, SPARSE = "docs_ids.jsonl", "docs_qdrant.jsonl", "docs_sparse.jsonl"
RERANK = "docs_rerank.jsonl"
NPY = "docs_all-miniLM-l6_embeddings.npy"
INDEX = "docs_all-miniLM-l6_index.faiss"
BM25 = "docs_qdrant-bm25_postings"
ATTENTION = "docs_qdrant-minilm-attention_postings"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    run_bundle(root)
    return root


@pytest.fixture(scope="module")
def original(run: Path) -> dict[str, bytes]:
    return contents(run / "out" / "docs")


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "out" / "docs", tmp_path / "out" / "docs"))


def garble(path: Path) -> None:
    """Overwrite a stretch in the middle, so that no single bit sets it right."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9] = b"\xff\x00\xff\x01\xfe\xff\x80\x81\xff"
    path.write_bytes(content)


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def rebuilt(report: RepairReport) -> set[str]:
    return {item.file for item in report.rebuilt}


def lost(report: RepairReport) -> dict[str, str]:
    return {item.file: item.reason for item in report.lost}


DAMAGE: dict[str, Callable[[Path], None]] = {
    "garbled": garble,
    "emptied": lambda path: path.write_bytes(b"") and None,
    "removed": Path.unlink,
}
REPAIRABLE = (
    SUMS,
    IDS,
    NPY,
    INDEX,
    SPARSE,
    f"{BM25}/values.npy",
    f"{ATTENTION}/terms.npy",
)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", REPAIRABLE)
def test_a_file_that_others_give_is_made_again_byte_for_byte(
    bundle: Path,
    original: dict[str, bytes],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    damage(bundle / name)
    report = repair_bundle(bundle)
    assert rebuilt(report) == {name}
    assert report.whole
    assert contents(bundle) == original


@pytest.mark.parametrize(
    "names",
    [
        (
            SUMS,
            IDS,
            SPARSE,
            NPY,
            INDEX,
            *(f"{BM25}/{n}.npy" for n in ("rows", "terms")),
        ),
        (NPY, INDEX, IDS),
        (SPARSE, IDS, INDEX),
        (SPARSE, f"{BM25}/statistics.npy", f"{ATTENTION}/statistics.npy"),
        tuple(f"{ATTENTION}/{n}.npy" for n in ("terms", "offsets", "rows", "values")),
    ],
    ids=str,
)
def test_many_files_at_once_are_made_again_one_from_another(
    bundle: Path, original: dict[str, bytes], names: Iterable[str]
) -> None:
    for name in names:
        (bundle / name).unlink()
    report = repair_bundle(bundle)
    assert rebuilt(report) == set(names)
    assert contents(bundle) == original
    assert verify_bundle(bundle).whole


def test_vectors_come_from_an_exact_index_where_there_are_no_points(
    tmp_path: Path,
) -> None:
    bundle = export_bundle(tmp_path, exports=("npy", "faiss"))
    before = contents(bundle)
    for name in before:
        if name.endswith("embeddings.npy"):
            (bundle / name).unlink()
    assert repair_bundle(bundle).whole
    assert contents(bundle) == before


@pytest.mark.parametrize("options", [{"jsonl_layout": "simple"}, {}], ids=str)
def test_a_points_file_is_made_again_when_its_vectors_were_hit(
    tmp_path: Path, options: dict[str, str]
) -> None:
    bundle = export_bundle(tmp_path, **options)
    before = contents(bundle)
    lines = before[POINTS].splitlines(keepends=True)
    for row in (2, 11):
        place = lines[row].index(b":[") + 9
        lines[row] = lines[row][:place] + b"}{" + lines[row][place + 2 :]
    (bundle / POINTS).write_bytes(b"".join(lines))
    report = repair_bundle(bundle)
    assert rebuilt(report) == {POINTS}
    assert contents(bundle) == before


def test_points_and_ids_hit_together_are_made_again(
    bundle: Path, original: dict[str, bytes]
) -> None:
    flip(bundle / POINTS, original[POINTS].index(b":[") + 4)
    (bundle / IDS).unlink()
    (bundle / SPARSE).unlink()
    report = repair_bundle(bundle)
    assert rebuilt(report) == {POINTS, IDS, SPARSE}
    assert contents(bundle) == original


def test_one_flipped_bit_in_a_text_is_proved_right_by_its_hash(
    bundle: Path, original: dict[str, bytes]
) -> None:
    flip(bundle / POINTS, original[POINTS].rindex(b"is told of"), bit=2)
    report = repair_bundle(bundle)
    assert rebuilt(report) == {POINTS}
    assert contents(bundle) == original


def test_vectors_hit_in_every_file_that_holds_them_are_joined_row_by_row(
    bundle: Path, original: dict[str, bytes]
) -> None:
    """Not in the same rows: what one copy lost, the other has."""
    for row in (1, 5):
        flip(bundle / NPY, 128 + row * 384 * 4 + 9, bit=3)
    for row in (2, 7):
        flip(bundle / INDEX, len(original[INDEX]) - (24 - row) * 384 * 4 + 2)
    flip(bundle / POINTS, original[POINTS].index(b":[") + 4)
    report = repair_bundle(bundle)
    assert rebuilt(report) == {NPY, INDEX, POINTS}
    assert contents(bundle) == original


def test_vectors_hit_in_the_same_row_everywhere_are_lost(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path)
    before = contents(bundle)
    for place in (9, 12):
        flip(bundle / NPY, 128 + 12 * 4 + place)
        flip(bundle / INDEX, len(before[INDEX]) - 22 * 12 * 4 + place + 1)
    (bundle / POINTS).unlink()
    report = repair_bundle(bundle)
    assert set(lost(report)) == {NPY, INDEX, POINTS}
    assert report.published is None


def lose_a_text(bundle: Path) -> None:
    content = (bundle / POINTS).read_bytes()
    place = content.index(b"is told of")
    (bundle / POINTS).write_bytes(content[:place] + b"########" + content[place + 8 :])


def test_a_lost_text_is_said_to_stand_only_there_and_nothing_is_written(
    bundle: Path,
) -> None:
    lose_a_text(bundle)
    before = contents(bundle)
    report = repair_bundle(bundle)
    assert report.published is None
    assert not report.whole
    reason = lost(report)[POINTS]
    assert "row 0" in reason
    assert "in the points file alone" in reason
    assert "--chunked-dir" in reason
    assert contents(bundle) == before


def test_a_lost_text_comes_from_the_chunk_files(
    bundle: Path, run: Path, original: dict[str, bytes]
) -> None:
    lose_a_text(bundle)
    report = repair_bundle(bundle, chunked_dir=run / "chunked")
    assert rebuilt(report) == {POINTS}
    assert contents(bundle) == original


def test_points_and_ids_that_are_gone_come_from_the_chunk_files(
    bundle: Path, run: Path, original: dict[str, bytes]
) -> None:
    for name in (POINTS, IDS):
        (bundle / name).unlink()
    report = repair_bundle(bundle, chunked_dir=run / "chunked")
    assert rebuilt(report) == {POINTS, IDS}
    assert contents(bundle) == original


def test_other_chunk_files_than_those_it_was_made_from_are_not_believed(
    bundle: Path, run: Path, tmp_path: Path
) -> None:
    chunked = tmp_path / "chunked"
    shutil.copytree(run / "chunked", chunked)
    path = chunked / "docs" / "api" / "p0_chunks.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries[0]["text"] += " edited since"
    path.write_text(json.dumps(entries), encoding="utf-8")
    lose_a_text(bundle)
    report = repair_bundle(bundle, chunked_dir=chunked)
    assert report.published is None
    assert "not the ones it was made from" in lost(report)[POINTS]


def test_what_can_be_mended_is_while_the_lost_file_stays_as_it_is(
    bundle: Path, original: dict[str, bytes]
) -> None:
    garble(bundle / RERANK)
    damaged = (bundle / RERANK).read_bytes()
    (bundle / INDEX).unlink()
    report = repair_bundle(bundle)
    assert rebuilt(report) == {INDEX}
    assert "run the embedder again" in lost(report)[RERANK]
    assert contents(bundle) == {**original, RERANK: damaged}


@pytest.mark.parametrize("name", [MANIFEST, RERANK, SUMS])
def test_one_flipped_bit_in_a_small_file_without_another_source_is_flipped_back(
    bundle: Path, original: dict[str, bytes], name: str
) -> None:
    flip(bundle / name, len(original[name]) // 2, bit=4)
    report = repair_bundle(bundle)
    assert rebuilt(report) == {name}
    assert contents(bundle) == original


@pytest.mark.parametrize("target", ["sum", "key"])
def test_a_bit_flipped_in_the_manifests_own_sum_or_its_key_is_flipped_back(
    bundle: Path, original: dict[str, bytes], target: str
) -> None:
    place = original[MANIFEST].index(b'"manifest_sha256"')
    flip(bundle / MANIFEST, place + (40 if target == "sum" else 3), bit=5)
    assert repair_bundle(bundle).whole
    assert contents(bundle) == original


def test_a_manifest_that_is_lost_is_said_to_be_and_nothing_is_touched(
    bundle: Path,
) -> None:
    garble(bundle / MANIFEST)
    (bundle / INDEX).unlink()
    before = contents(bundle)
    report = repair_bundle(bundle)
    assert set(lost(report)) == {MANIFEST}
    assert report.published is None
    assert contents(bundle) == before


def test_files_that_are_right_stay_the_same_files(bundle: Path) -> None:
    inode = (bundle / POINTS).stat().st_ino
    (bundle / INDEX).unlink()
    assert repair_bundle(bundle).whole
    assert (bundle / POINTS).stat().st_ino == inode
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["docs"]


def test_a_whole_bundle_is_left_alone(bundle: Path) -> None:
    inode = bundle.stat().st_ino
    report = repair_bundle(bundle)
    assert report.whole
    assert report.published is None
    assert bundle.stat().st_ino == inode


def test_another_folder_gets_the_repaired_bundle_and_the_damaged_one_stays(
    bundle: Path, tmp_path: Path, original: dict[str, bytes]
) -> None:
    garble(bundle / INDEX)
    before = contents(bundle)
    output = tmp_path / "elsewhere" / "mended"
    report = repair_bundle(bundle, output=output)
    assert report.published == str(output)
    assert contents(output) == original
    assert contents(bundle) == before
    assert (output / POINTS).stat().st_ino != (bundle / POINTS).stat().st_ino


def test_a_folder_that_is_no_bundle_is_not_replaced(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(UsageError, match="is not a bundle"):
        repair_bundle(bundle, output=tmp_path / "mine")


def test_the_advice_on_a_place_that_is_taken_names_repairs_own_option(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    arguments = [str(bundle), "--output", str(tmp_path / "mine")]
    assert run_function(repair, arguments) == 2
    said = capsys.readouterr().err
    assert "Choose another --output, or move it away." in said


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("nope", "There is no folder {}. Name the folder of one collection."),
        ("docs_in", "{} holds no bundle. Name the folder of one collection."),
        (
            "out",
            "{0} is not a bundle itself. Name the folder of one collection; {0} "
            "holds: docs.",
        ),
    ],
)
def test_a_folder_that_is_no_bundle_is_not_to_be_moved_away(
    bundle: Path,
    tmp_path: Path,
    folder: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "docs_in").mkdir()
    (tmp_path / "docs_in" / "letter").touch()
    assert run_function(repair, [str(tmp_path / folder)]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {says.format(tmp_path / folder)}\n"


def test_a_target_that_cannot_be_written_names_repairs_own_option(
    bundle: Path, tmp_path: Path
) -> None:
    refused = OSError(errno.EACCES, "Permission denied", str(tmp_path / "x"))

    def refuse(first: Path, second: Path) -> bool:
        raise refused

    garble(bundle / INDEX)
    with pytest.raises(OutputError, match="name another folder with --output"):
        repair_bundle(bundle, exchange=refuse)


def test_a_newer_bundle_is_not_to_be_built_again(bundle: Path) -> None:
    path = bundle / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"v4.1"', b'"v5.0"', 1))
    with pytest.raises(BundleError, match="Update this program"):
        repair_bundle(bundle)


def test_a_bundle_of_another_collection_is_not_replaced(
    bundle: Path, tmp_path: Path
) -> None:
    other = export_bundle(tmp_path, collection="other", rows=4)
    before = contents(other)
    (bundle / INDEX).unlink()
    with pytest.raises(UsageError, match="is a bundle of 'other', not of 'docs'"):
        repair_bundle(bundle, output=other)
    garble(other / MANIFEST)
    with pytest.raises(UsageError, match="a collection that cannot be told"):
        repair_bundle(bundle, output=other)
    assert contents(other).keys() == before.keys()


def test_a_whole_bundle_is_not_replaced_by_one_with_a_lost_file(
    bundle: Path, tmp_path: Path, original: dict[str, bytes]
) -> None:
    """A damaged one is: what it lacks may be what the result has."""
    output = Path(shutil.copytree(bundle, tmp_path / "mended"))
    garble(bundle / RERANK)
    (bundle / INDEX).unlink()
    with pytest.raises(UsageError, match=f"is whole, and {RERANK} would be lost"):
        repair_bundle(bundle, output=output)
    assert contents(output) == original
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mended", "out"]
    (output / NPY).unlink()
    assert repair_bundle(bundle, output=output).published == str(output)
    assert contents(output)[NPY] == original[NPY]


def test_files_that_do_not_belong_are_kept_and_told(
    bundle: Path, original: dict[str, bytes]
) -> None:
    (bundle / "notes.txt").write_text("mine")
    (bundle / "more" / "inner").mkdir(parents=True)
    (bundle / "more" / "inner" / "x").touch()
    (bundle / INDEX).unlink()
    report = repair_bundle(bundle)
    assert report.strays == ("more", "notes.txt")
    assert not report.whole
    assert contents(bundle) == {**original, "notes.txt": b"mine", "more/inner/x": b""}


def test_a_link_in_the_place_of_a_file_is_replaced_by_the_file(
    bundle: Path, original: dict[str, bytes], tmp_path: Path
) -> None:
    shutil.move(bundle / IDS, tmp_path / "ids")
    (bundle / IDS).symlink_to(tmp_path / "ids")
    assert repair_bundle(bundle).whole
    assert not (bundle / IDS).is_symlink()
    assert contents(bundle) == original


def test_a_bundle_replaced_meanwhile_is_not_overwritten(bundle: Path) -> None:
    """A run publishes between the reading and the swap."""
    (bundle / INDEX).unlink()

    def run_first(first: Path, second: Path) -> bool:
        raise AssertionError("the swap must not be reached")

    real = Path.read_bytes
    calls = 0

    def changing(path: Path) -> bytes:
        nonlocal calls
        if path == bundle / MANIFEST:
            calls += 1
            if calls == 3:
                return b"another"
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", changing)
        with pytest.raises(BundleError, match="was replaced while"):
            repair_bundle(bundle, exchange=run_first)
    assert not (bundle / INDEX).exists()
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["docs"]


def test_a_full_disk_changes_nothing_and_leaves_nothing(bundle: Path) -> None:
    (bundle / INDEX).unlink()
    before = contents(bundle)

    def full(first: Path, second: Path) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match="No space left"):
        repair_bundle(bundle, exchange=full)
    assert contents(bundle) == before
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["docs"]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_repair_that_is_killed_leaves_the_old_bundle_or_the_new_one(
    bundle: Path, original: dict[str, bytes], swapped: bool
) -> None:
    (bundle / INDEX).unlink()
    before = contents(bundle)

    def killed(first: Path, second: Path) -> bool:
        if swapped:
            exchange_folders(first, second)
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    child = os.fork()
    if child == 0:
        repair_bundle(bundle, exchange=killed)
        os._exit(0)  # not reached
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert contents(bundle) == (original if swapped else before)
    assert len(list(bundle.parent.iterdir())) == 2
    assert repair_bundle(bundle).whole
    assert contents(bundle) == original
    assert [path.name for path in bundle.parent.iterdir()] == ["docs"]


def test_a_manifest_without_sums_cannot_be_repaired(bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(
        orjson.dumps(
            {"schema_version": "v4.0", "collection": "docs", "chunk_count": 24}
        )
    )
    with pytest.raises(BundleError, match="states no sums"):
        repair_bundle(bundle)


def test_damage_is_told_with_its_first_byte(
    bundle: Path, original: dict[str, bytes]
) -> None:
    flip(bundle / NPY, 1000)
    (bundle / IDS).write_bytes(original[IDS][:333])
    (bundle / SUMS).write_bytes(original[SUMS] + b"x")
    damage = {item.file: item.damage for item in repair_bundle(bundle).rebuilt}
    assert damage == {
        NPY: "differed from byte 1000",
        IDS: "broke off at byte 333",
        SUMS: f"went on at byte {len(original[SUMS])}",
    }


def test_the_command_repairs_and_says_what_and_from_what(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / INDEX).unlink()
    assert run_function(repair, [str(bundle)]) == 0
    out = capsys.readouterr().out
    assert f"rebuilt: {INDEX}: missing; made again from {NPY}" in out
    assert out.endswith("docs: repaired\n")
    assert run_function(repair, [str(bundle)]) == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_the_command_ends_with_1_when_something_is_lost(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    garble(bundle / RERANK)
    assert run_function(repair, [str(bundle), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["whole"] is False
    assert [item["file"] for item in document["lost"]] == [RERANK]
    assert run_function(repair, [str(bundle)]) == 1
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nowhere"], [], ["--nonsense"]])
def test_bad_usage_of_the_command_gives_exit_code_2(arguments: list[str]) -> None:
    assert run_function(repair, arguments) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_hundred_random_flips_are_mended_or_told_and_never_made_worse(
    bundle: Path, run: Path, original: dict[str, bytes]
) -> None:
    """With the chunk files at hand, any single flipped bit is mended."""
    chance, names = random.Random(11), list(original)
    for number in range(300):
        name = names[number % len(names)]
        place = chance.randrange(len(original[name]))
        flip(bundle / name, place, chance.randrange(8))
        report = repair_bundle(bundle, chunked_dir=run / "chunked")
        assert report.whole, (name, place, report.lost)
        assert contents(bundle) == original, (name, place)
