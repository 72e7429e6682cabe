"""The kill harness notices a file that differs, a partial one, and everything that a run must not leave behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fgg.tables import atomic, write_json, write_table
from tests.kills.files import check_no_partial_file, content, differences, leftovers, start_over
from tests.kills.processes import MARK, members, wait_for_all

LEFT = [
    "data/.model.json.host.1.x",
    "results/a/.map.parquet.host.1.x",
    "logs/.x",
    ".snakemake/locks/0.input.lock",
    ".snakemake/incomplete/abc",
    ".snakemake/fgg/shared/group/pieces.json",
    ".snakemake/fgg/.outputs.json.host.1.x",
    ".snakemake/metadata/cut-off",
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a table, a record and the record of the run, as a run leaves them."""
    monkeypatch.chdir(tmp_path)
    write_json("data/model.json", {"a": 1}, {})
    write_table("results/a/map.parquet", {"x": [1.0, 2.0]}, {})
    write_json("results/manifest.json", {"seconds": {"a": 1.5}, "outputs": {"b": 2}}, {})
    for name, text in (("metadata/abc", "{}"), ("log/1.log", "said"), ("fgg/outputs.json", "{}")):
        path = tmp_path / ".snakemake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_finished_folder_has_no_leftovers(folder):
    assert leftovers(folder) == [] and check_no_partial_file(folder) == 3


@pytest.mark.parametrize("name", LEFT)
def test_what_a_run_must_not_leave(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text('{"cut')
    assert name in leftovers(folder)


def test_each_difference_is_named(folder):
    before = content(folder)
    assert "results/manifest.json" in before and "results/a/.checksums/map.parquet.json" in before
    record = json.loads(Path("results/manifest.json").read_text())
    write_json("results/manifest.json", {**record, "seconds": {"a": 7.5}}, {})
    assert differences(content(folder), before) == [], "durations differ between equal runs"
    write_json("results/manifest.json", {**record, "outputs": {"b": 3}}, {})
    Path("data/model.json").unlink()
    with atomic("results/more.csv") as temporary:
        temporary.write_text("x\n1\n")
    assert differences(content(folder), before) == [
        "data/model.json is missing",
        "results/.checksums/more.csv.json is left over",
        "results/manifest.json has other bytes",
        "results/more.csv is left over",
    ]


def test_a_partial_file_is_found(folder):
    path = folder / "results" / "a" / "map.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(AssertionError, match=r"map\.parquet is not whole"):
        check_no_partial_file(folder)
    check_no_partial_file(folder, {path: path.read_bytes()})  # damaged on purpose
    with pytest.raises(AssertionError, match=r"map\.parquet is not whole"):
        check_no_partial_file(folder, {path: b"other"})


def test_every_way_of_starting_over_leaves_something_to_do(folder, tmp_path_factory):
    before, ways = contents(folder), set()
    for seed in range(30):
        copied = tmp_path_factory.mktemp("copied")
        shutil.copytree(folder, copied, dirs_exist_ok=True)
        ways.add(start_over(copied, random.Random(seed))[0].split(":")[0].split()[-1])
        assert contents(copied) != before
    assert {"folder", "later", "deleted", "damaged"} == ways


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_process_is_found_by_its_mark_without_its_parent(tmp_path):
    """Also one whose parent has ended."""
    started = f"{sys.executable} -c 'import time; time.sleep(60)' > /dev/null & echo $!"
    # Between its start and its own program, the child is still called bash.
    shell = f'{started}; while [ "$(cat /proc/$!/comm)" = bash ]; do sleep .01; done'
    done = subprocess.run(
        ["bash", "-c", shell], env={**os.environ, MARK: str(tmp_path)}, stdout=subprocess.PIPE, text=True, check=True
    )
    (own,) = members(tmp_path)
    assert own.process.pid == int(done.stdout) and own.role == "child"
    assert wait_for_all(tmp_path, 0.2) == [own]
    own.process.kill()
    assert not wait_for_all(tmp_path, 5)
