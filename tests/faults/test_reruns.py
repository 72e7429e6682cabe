"""Deleted, damaged and foreign files in the folder of a real run: what the next run makes again, and what it says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import whole_workflow
import yaml
from small_workflow import SMALL, pictures

from fgg.checksums import FOLDER as RECORDS
from fgg.pipeline.outputs import DAMAGED

pytestmark = pytest.mark.dag
UNEQUAL = ("manifest.json", "versions.html", "configuration.html")  # times, machine, settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the small workflow has run."""
    made = pictures(tmp_path_factory.mktemp("reruns"))
    run(made)
    return made


def run(folder: Path, *arguments: str, **changes) -> str:
    """Run the workflow; all that it says. ``changes`` go over the configuration."""
    own = folder / "own.yaml"
    own.write_text(yaml.safe_dump(changes))
    arguments = ("--cores", "2", *arguments, "results/summary.csv")
    return whole_workflow.snakemake(folder, *arguments, configs=[SMALL, own], warm=True)


def content(folder: Path) -> dict[str, str]:
    """Name -> hash of each table, weight, figure and page."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in ("data", "results")
        for path in sorted((folder / place).rglob("*"))
        if path.is_file() and RECORDS not in path.parts and path.name not in UNEQUAL
    }


def jobs(said: str) -> set[str]:
    """The rules of the jobs that ran, from the tables of the run and of the one that makes files again."""
    return set(re.findall(r"(?m)^(\w+) +\d+$", said)) - {"total"}


def damage(path: Path, how: str, other: Path) -> None:
    """Change a file and keep its date."""
    data, dates = bytearray(path.read_bytes()), path.stat()
    if how == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "cut": data[: len(data) // 2], "swap": other.read_bytes()}[how])
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))


def test_deleted_outputs_come_back_alone(folder):
    before = content(folder)
    gone = ["results/hypotheses.csv", "results/tiny/faithfulness/transmm.parquet"]
    for name in gone:
        (folder / name).unlink()
    said = run(folder)
    assert f"note: deleted since the last run: {', '.join(gone)}; it is made again" in said
    assert jobs(said) == {"faithfulness", "comparison"}
    assert content(folder) == before


def test_new_dates_rerun_nothing(folder):
    for picture in [*(folder / "pictures").rglob("*.png")]:
        shutil.copyfile(picture, picture.with_suffix(".new"))
        picture.with_suffix(".new").replace(picture)
    said = run(folder)
    assert "Nothing to be done" in said and not jobs(said)


def test_a_clock_that_was_set_back(folder):
    """All files are from a time to come, and what is made now is older than what it is made from."""
    before = content(folder)
    for place in ("data", "results", "pictures"):
        for path in [*(folder / place).rglob("*")]:
            later = path.stat().st_mtime + 2 * 86400
            os.utime(path, (later, later))
    (folder / "results/tiny/faithfulness/transmm.parquet").unlink()
    said = run(folder)
    assert (
        "files and folders of outputs are dated in the future, as after a clock was set back; they get today's date"
        in said
    )
    assert jobs(said) == {"faithfulness"}
    assert "Nothing to be done" in run(folder)
    assert content(folder) == before


DAMAGE = {  # three ways, and each kind of file
    "data/models/tiny/model.safetensors": "flip",
    "data/models/tiny/model.json": "cut",
    "data/prepared/tiny/test.parquet": "swap",
    "data/saes/tiny/layer_0/sae_weights.safetensors": "cut",
    "data/saes/tiny/layer_0/metrics.json": "flip",
    "results/tiny/responses.parquet": "flip",
    "results/tiny/attributions/transmm.parquet": "cut",
    "results/comparison.parquet": "swap",
    "results/sae_quality.csv": "flip",
    "results/README.md": "flip",
}


def test_damaged_files_are_named_and_made_again(folder):
    before = content(folder)
    for name, how in DAMAGE.items():
        damage(folder / name, how, folder / "results" / "summary.csv")
    said = run(folder)
    for name in DAMAGE:
        assert re.search(rf"note: {re.escape(name)} is damaged: it.*; it is made again", said), name
        assert (folder / DAMAGED / name).is_file(), "what was damaged is kept"
    assert content(folder) == before


def test_another_configuration_leaves_no_mixture_and_comes_back(folder):
    before = content(folder)
    said = run(folder, feature_deletion={"enabled": False})
    assert "note: results of another configuration are put aside" in said and "use --directory" in said
    assert not [name for name in content(folder) if "feature_deletion" in name]
    manifest = json.loads((folder / "results/manifest.json").read_text())
    assert manifest["configuration"]["feature_deletion"]["enabled"] is False
    for name in ("results/comparison.parquet", "data/models/tiny/model.safetensors", "results/README.md"):
        assert manifest["outputs"][name]["sha256"] == content(folder)[name]
    said = run(folder)
    assert "which lay aside, are back" in said
    assert not {"model", "sae", "attribution", "faithfulness", "feature_deletion"} & jobs(said), "nothing is lost"
    assert content(folder) == before
