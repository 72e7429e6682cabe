"""The built package holds the workflow, which runs from it in any folder and writes nothing beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pictures import draw

from fgg.errors import FggError
from fgg.pipeline import workflow_files
from fgg.pipeline.code_hashes import code_hash

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "workflow" / "tiny.yaml"
BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "Snakefile", "config.yaml")
FOLDERS = ("fgg", "workflow", "profiles", "envs")
WORKFLOW_PARTS = ("Snakefile", "config.yaml", "workflow", "profiles", "envs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The package, built in a copy of the repository that also has tests and results."""
    place = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, place)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/test_something.py", "results/summary.csv", "data/prepared/images.parquet", "stray.py"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("")
    words = ["pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, "-m", *words], cwd=place, check=True)
    (found,) = (place / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """A folder of packages into which it is installed."""
    place = tmp_path_factory.mktemp("installed") / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def python(site: Path, folder: Path, *words: str) -> str:
    """Run Python with the installed package in a folder; what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def files(folder: Path) -> set[str]:
    """The files in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_holds_the_package_and_the_workflow_and_nothing_else(site):
    package = {name for name in files(ROOT / "fgg") if "__pycache__" not in name}
    workflow = {
        path.relative_to(ROOT).as_posix()
        for part in WORKFLOW_PARTS
        for path in [ROOT / part, *(ROOT / part).rglob("*")]
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in files(site) if ".dist-info/" not in name}
    assert found == {f"fgg/{name}" for name in package} | {f"fgg/_workflow/{name}" for name in workflow}
    for name in workflow:
        assert (site / "fgg" / "_workflow" / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_the_default_study_is_planned_in_an_empty_folder(site, tmp_path):
    before = files(site)
    said = python(site, tmp_path, "-m", "fgg", "run", "-n", "--quiet", "rules")
    assert int(re.findall(r"(?m)^total +(\d+)$", said)[-1]) > 50
    assert {path.name for path in tmp_path.iterdir()} <= {".snakemake"}
    assert files(site) == before


def test_jobs_run_from_it_and_write_into_the_current_folder(site, tmp_path):
    draw(tmp_path / "pictures")
    shutil.copy(TINY, tmp_path / "mine.yaml")
    before = files(site)
    target = "data/prepared/tiny/dataset.json"
    python(site, tmp_path, "-m", "fgg", "run", target, "--config", "mine.yaml", "--cores", "1")
    assert (tmp_path / target).is_file() and (tmp_path / "logs/prepare/tiny.log").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {".snakemake", "data", "logs", "mine.yaml", "pictures"}
    assert files(site) == before


def test_its_code_is_the_same_for_jobs_as_that_of_a_clone(site, tmp_path):
    module = "fgg.attribution.attribute"
    question = f"from fgg.pipeline.code_hashes import code_hash as f; print(f({module!r}, {str(site)!r}))"
    assert python(site, tmp_path, "-c", question).strip() == code_hash(module, str(ROOT))


def test_where_the_workflow_is(tmp_path):
    assert workflow_files.WORKFLOW == ROOT
    (tmp_path / "fgg" / "_workflow").mkdir(parents=True)
    (tmp_path / "Snakefile").touch()  # somebody's, beside the installed package
    assert workflow_files.workflow_folder(tmp_path / "fgg") == tmp_path / "fgg" / "_workflow"
    assert workflow_files.workflow_folder(tmp_path / "other" / "fgg") == tmp_path / "other" / "fgg" / "_workflow"


def test_from_where_jobs_import_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert workflow_files.import_folder(ROOT / "fgg", deployed=True) == str(ROOT), "a clone"
    package = tmp_path / "site-packages" / "fgg"
    (package / "_workflow").mkdir(parents=True)
    (package / "__init__.py").write_text("name = 'installed'\n")
    (package.parent / "numpy.py").write_text("raise SystemExit('a package of another environment')\n")
    assert workflow_files.import_folder(package, deployed=False) is None
    for _ in range(2):
        folder = workflow_files.import_folder(package, deployed=True)
        done = subprocess.run(
            [sys.executable, "-c", "import fgg, numpy; print(fgg.name, numpy.__name__)"],
            env=os.environ | {"PYTHONPATH": folder}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == ["installed", "numpy"]


def test_a_folder_with_another_copy_of_the_package_is_refused(tmp_path):
    workflow_files.check_no_other_package([ROOT, tmp_path])
    (tmp_path / "fgg").mkdir()
    workflow_files.check_no_other_package([tmp_path])
    (tmp_path / "fgg" / "__init__.py").touch()
    with pytest.raises(FggError, match="has a package fgg of its own, which the jobs would use"):
        workflow_files.check_no_other_package([tmp_path])
