"""What a folder knows of its outputs: deleted, damaged, of another configuration, made with other versions."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

from fgg import checksums
from fgg.checksums import check, checksum, place, read_record, written
from fgg.errors import FggError
from fgg.pipeline import again, outputs
from fgg.pipeline.outputs import ASIDE, Outputs, targets
from fgg.tables import atomic, read_csv, read_json, read_table, write_json, write_table

PATTERNS = [
    (re.compile(r"results/summary\.csv$"), False),
    (re.compile(r"results/(?P<dataset>a|b)/maps/(?P<name>[^/]+)\.parquet$"), False),
    (re.compile(r"results/(?P<dataset>a|b)/cases$"), True),
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with four results, all of which are planned and seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(checksums.SHARED, raising=False)
    for name in ("summary.csv", "a/maps/one.parquet", "a/maps/two.parquet", "b/maps/one.parquet"):
        write(name)
    write("a/cases/1.png")
    (tmp_path / ".snakemake").mkdir()
    known = Outputs()
    known.plan(tmp_path, PLANNED)
    known.damaged(tmp_path, dict(written(tmp_path)))
    known.write(tmp_path)
    return tmp_path


PLANNED = [
    *("results/summary.csv", "results/a/maps/one.parquet", "results/a/maps/two.parquet"),
    *("results/b/maps/one.parquet", "results/a/cases"),
]


def write(name: str, text: str = "") -> None:
    with atomic(Path("results", name)) as temporary:
        temporary.write_text(text or f"content of {name}, which is its own")


def damage(path: Path, how: str) -> None:
    """Change a file without changing its dates, as a disk does."""
    data, dates = bytearray(path.read_bytes()), path.stat()
    if how == "flip":
        data[len(data) // 2] ^= 4
    elif how == "cut":
        data = data[:-3]
    elif how == "grow":
        data += b"\0"
    elif how == "empty":
        data = bytearray()
    elif how == "swap":
        data = bytearray(Path("results/summary.csv").read_bytes())
    path.write_bytes(data)
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))


HOW = ["flip", "cut", "grow", "empty", "swap"]


# ---- damage


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_file_is_found_although_its_date_is_old(folder, how):
    damage(folder / "results/a/maps/one.parquet", how)
    assert list(Outputs.read(folder).damaged(folder, dict(written(folder)))) == ["results/a/maps/one.parquet"]


def test_a_file_with_a_new_date_and_the_same_content_is_not_damaged(folder):
    os.utime(folder / "results/a/maps/one.parquet")
    assert Outputs.read(folder).damaged(folder, dict(written(folder))) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bytes": "x"}', '{"bytes": 1}', "null"])
def test_a_damaged_record_counts_as_damage_of_its_file(folder, text):
    place(folder / "results/summary.csv").write_text(text)
    (how,) = Outputs.read(folder).damaged(folder, dict(written(folder))).values()
    assert how == "its record is damaged"
    with pytest.raises(FggError, match=r"summary\.csv is damaged: its record is damaged; run the workflow again"):
        check("results/summary.csv")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("name", "make", "read"),
    [
        ("t.parquet", lambda path: write_table(path, {"image_id": ["a", "b"], "score": [1.0, 2.0]}, {}), read_table),
        ("t.json", lambda path: write_json(path, {"layers": [1, 2, 3]}, {"seed": 0}), read_json),
        ("t.csv", lambda path: write_table(path, {"a": [1]}, {}), read_csv),
    ],
    ids=["table", "record", "csv"],
)
def test_no_reader_gives_a_number_of_a_damaged_file(folder, how, name, make, read):
    path = Path("results", name)
    make(path)
    damage(path, how)
    with pytest.raises(FggError, match=rf"{re.escape(str(path))} is damaged: it.*; run the workflow again"):
        read(path)
    assert list(Outputs.read(folder).damaged(folder, dict(written(folder)))) == [path.as_posix()], (
        "the next run finds it"
    )


@pytest.mark.parametrize("bit", range(0, 8 * 1000, 97))
def test_pages_of_a_table_without_a_record_have_checksums_too(folder, bit):
    """A copy without the folder of records, of which one bit of the column's page is flipped."""
    write_table("results/t.parquet", {"score": [float(row) ** 0.5 for row in range(4000)]}, {})
    data = bytearray(Path("results/t.parquet").read_bytes())
    data[2000 + bit // 8] ^= 1 << bit % 8
    other = folder / "copy.parquet"
    other.write_bytes(data)
    with pytest.raises(FggError, match=r"cannot be read as a table"):
        read_table(other)


def test_a_failing_reader_makes_the_next_run_look_again(folder, monkeypatch):
    """Even if the disk changed the file so that no date tells."""
    path = folder / "results/summary.csv"
    known = Outputs.read(folder)
    damage(path, "flip")
    own = path.stat()
    known.facts["results/summary.csv"][:3] = [own.st_size, own.st_mtime_ns, own.st_ctime_ns]
    assert known.damaged(folder, dict(written(folder))) == {}
    with pytest.raises(FggError):
        checksum(path)
    assert list(known.damaged(folder, dict(written(folder)))) == ["results/summary.csv"]


def test_files_of_the_user_have_no_record(folder):
    for path in (folder / "mine.csv", folder.parent / "elsewhere.csv", folder / "other" / "x.csv"):
        with atomic(path) as temporary:
            temporary.write_text("x")
        assert read_record(path) is None and not place(path).parent.exists()
        check(path)


def test_records_go_with_their_files(folder):
    kept = read_record(folder / "results/summary.csv")
    (folder / "results/b/maps/one.parquet").unlink()
    (folder / "results" / checksums.FOLDER / ".summary.csv.json.x1").touch()  # of a writer that was killed
    checksums.tidy(folder)
    assert not (folder / "results/b/maps").exists() and read_record(folder / "results/summary.csv") == kept
    assert [own.name for own in (folder / "results" / checksums.FOLDER).iterdir()] == ["summary.csv.json"]


# ---- deleted files


def test_deleted_outputs_are_missed(folder):
    (folder / "results/a/maps/one.parquet").unlink()
    assert Outputs.read(folder).deleted(folder) == ["results/a/maps/one.parquet"]


def test_a_deleted_folder_is_missed_file_by_file(folder):
    import shutil

    shutil.rmtree(folder / "results/a")
    assert Outputs.read(folder).deleted(folder) == sorted(path for path in PLANNED if "/a/" in path)


def test_what_was_never_there_is_not_missed(folder):
    known = Outputs.read(folder)
    known.plan(folder, [*PLANNED, "results/b/maps/new.parquet"])
    assert known.deleted(folder) == []


def test_a_file_in_a_folder_that_a_rule_makes_stands_for_the_folder():
    target = targets(PATTERNS)
    assert target("results/a/cases/layer_1/x.png") == "results/a/cases"
    assert target("results/a/maps/one.parquet") == "results/a/maps/one.parquet"
    assert target("results/c/maps/one.parquet") is None


# ---- other configurations


def test_results_of_another_configuration_are_put_aside_and_come_back(folder):
    known = Outputs.read(folder)
    (folder / "results/notes.txt").write_text("the user's own")
    assert known.plan(folder, ["results/summary.csv", "results/b/maps/one.parquet"]) == [
        *("results/a/cases", "results/a/maps/one.parquet", "results/a/maps/two.parquet")
    ]
    left = sorted(path.relative_to(folder).as_posix() for path in (folder / "results").rglob("*") if path.is_file())
    assert [path for path in left if checksums.FOLDER not in path] == [
        *("results/b/maps/one.parquet", "results/notes.txt", "results/summary.csv")
    ]
    assert not (folder / "results/a").exists()
    before = (folder / ASIDE / "results/a/maps/one.parquet").stat().st_mtime_ns
    assert len(known.bring_back(folder, targets(PATTERNS))) == 3
    assert (folder / "results/a/maps/one.parquet").stat().st_mtime_ns == before
    assert known.damaged(folder, dict(written(folder))) == {} and read_record(folder / "results/a/maps/one.parquet")
    assert known.plan(folder, PLANNED) == [] and known.seen == set(PLANNED)


def test_what_comes_back_unwanted_is_put_aside_again(folder):
    known = Outputs.read(folder)
    fewer = [path for path in PLANNED if "two" not in path]
    known.plan(folder, fewer)
    known.bring_back(folder, targets(PATTERNS))
    assert known.plan(folder, fewer) == ["results/a/maps/two.parquet"]


def test_a_run_for_one_file_puts_nothing_aside(folder):
    assert Outputs.read(folder).plan(folder, ["results/a/maps/one.parquet"]) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"planned": 1}', '{"planned": [], "seen": []}'])
def test_a_damaged_list_is_an_empty_one(folder, text):
    (folder / outputs.LIST).write_text(text)
    assert Outputs.read(folder) == Outputs()


# ---- versions


def test_other_versions_of_libraries_are_told(folder):
    assert outputs.other_versions(dict(written(folder))) == ""
    record = place(folder / "results/summary.csv")
    own = json.loads(record.read_text())
    own["versions"]["torch"] = "1.0"
    record.write_text(json.dumps(own))
    assert re.search(
        r"torch 1\.0, now [\d.+a-z]+ \(1 files\).*--forceall", outputs.other_versions(dict(written(folder)))
    )


# ---- the run that makes files again


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--cores", "2", "results/summary.csv"], ["--cores", "2", "--snakefile", "/w/Snakefile"]),
        (["-c1", "-n"], ["-c1", "-n", "--snakefile", "/w/Snakefile"]),
        (["x.csv", "-s", "S", "--configfile", "c.yaml"], ["-s", "/w/Snakefile", "--configfile", "/w/c.yaml"]),
        (["--directory=d", "--configfile", "c.yaml", "--", "x"], ["--directory={cwd}", "--configfile", "/w/c.yaml"]),
    ],
)
def test_the_typed_command_without_its_targets(words, options, monkeypatch):
    monkeypatch.delenv(again.AGAIN, raising=False)
    found = again.typed(["/bin/snakemake", *words], get_argument_parser(), "/w/Snakefile", ["/w/c.yaml"])
    wanted = [word.replace("{cwd}", str(Path.cwd())) for word in options]
    assert list(found.options)[: len(wanted)] == wanted and found.dry == ("-n" in words)


@pytest.mark.parametrize(
    "words", [["--unlock"], ["--lint"], ["--touch", "-c1"], ["--report"], ["-F", "-c1"], ["-R", "x", "-c1"], ["--dag"]]
)
def test_other_commands_make_nothing_again(words):
    assert again.typed(["/bin/snakemake", *words], get_argument_parser(), "/w/Snakefile", []) is None


def test_neither_does_another_program_or_the_run_itself(monkeypatch):
    assert again.typed(["/bin/pytest", "-c1"], get_argument_parser(), "/w/Snakefile", []) is None
    monkeypatch.setenv(again.AGAIN, "1")
    assert again.typed(["/bin/snakemake", "-c1"], get_argument_parser(), "/w/Snakefile", []) is None


def test_a_file_that_cannot_be_made_again_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FggError, match=r"could not be made again \(x\.csv\); the reason is above"):
        again.Command(("--cores", "1"), False).run(tmp_path, ["x.csv"], [], [])
