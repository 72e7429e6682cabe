"""Machines that lack something: no home, odd locales, places that cannot be written, files of settings that are not there."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import whole_workflow
import yaml
from small_workflow import ROOT, SMALL, file_system
from snakemake.common import get_appdirs

from fgg.errors import FggError
from fgg.pipeline import before_snakemake, environment


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """A file system that nobody can write to, not even root."""
    with file_system(tmp_path / "read-only", "size=64k,ro") as place:
        yield place


@pytest.fixture
def caches(monkeypatch):
    """No variable of the environment says where caches are; what a test sets is undone."""
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", *before_snakemake.KEPT):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def nobody(number: int):
    """The system's answer about a user whom it does not know, as in some containers."""
    raise KeyError(number)


def given(**options) -> argparse.Namespace:
    return argparse.Namespace(**{"configfile": None, "directory": None, "executor": None, **options})


# ---- before Snakemake starts


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["does not exist", "seen from"]),
        ("folder", ["is a folder; name a file in it"]),
        (b"\xff\xfe\x00", ["is not UTF-8 text", "save it as UTF-8"]),
        (b"a:\n\tb: [1", ["is not valid YAML", "correct it"]),
        (b"\x00", ["is not valid YAML"]),
        (b"a: !!python/object/apply:os.system ['true']", ["is not valid YAML"]),
        (b"a: " + b"[" * 1500, ["nested too deeply"]),
        (b"&a [" + b"*a, " * 3 + b"]", ["is not valid YAML"]),
        (b"a: &a [*b]\nb: 1", ["is not valid YAML"]),
        (b"a: &a [1, *a]", ["contains itself"]),
    ],
    ids=["none", "folder", "binary", "tab", "zero", "code", "deep", "alias-top", "alias-unknown", "alias-loop"],
)
def test_a_file_of_settings_that_cannot_be_read_is_told(content, words, tmp_path):
    path = tmp_path / "mine.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises((FggError, SystemExit)) as told:
        before_snakemake.check(given(configfile=[str(path)], directory=str(tmp_path)), get_appdirs())
    said = str(told.value)
    assert said.startswith("error: ") and all(word in said for word in words), said


@pytest.mark.parametrize("text", ["a: 1\n", '{"a":\t1}', "", "# nothing\n"], ids=["yaml", "json", "empty", "comment"])
def test_a_readable_file_of_settings_is_left_to_snakemake(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    before_snakemake.check_configuration(path)


def test_a_pipe_of_settings_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before_snakemake.check_configuration(tmp_path / "pipe")


def test_a_target_that_an_option_swallowed_is_told():
    with pytest.raises(FggError, match=r"name it before the options: snakemake results/summary.csv --configfile"):
        before_snakemake.check_configuration(Path("results/summary.csv"))


@pytest.mark.parametrize("kind", ["file", "below-file", "read-only"])
def test_a_working_folder_that_cannot_be_one_is_told(kind, tmp_path, read_only):
    (tmp_path / "file").touch()
    folder = {"file": tmp_path / "file", "below-file": tmp_path / "file" / "x", "read-only": read_only / "x"}[kind]
    with pytest.raises(FggError, match=r"--directory .*(is not a folder|cannot be made).*name another one"):
        before_snakemake.check_folder(folder)


def test_a_working_folder_that_does_not_exist_yet_is_fine(tmp_path):
    before_snakemake.check_folder(tmp_path / "a" / "b")


# ---- the home folder


@pytest.mark.parametrize("home", ["read-only", "below-file", "unknown"])
def test_without_a_home_caches_go_to_the_working_folder(home, tmp_path, read_only, caches):
    (tmp_path / "file").touch()
    if home == "unknown":
        caches.delenv("HOME")
        caches.setattr(pwd, "getpwuid", nobody)
    else:
        caches.setenv("HOME", str({"read-only": read_only, "below-file": tmp_path / "file" / "x"}[home]))
    said = before_snakemake.provide_cache(tmp_path, get_appdirs())
    assert said.startswith("note: nothing can be written to") and "XDG_CACHE_HOME chooses another place" in said
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / ".snakemake/fgg/cache")
    assert os.environ["MPLCONFIGDIR"].startswith(os.environ["XDG_CACHE_HOME"])
    assert not before_snakemake.provide_cache(tmp_path, get_appdirs()), "once is enough"


def test_downloads_in_a_home_that_cannot_be_written_are_still_found(tmp_path, read_only, caches):
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    caches.setenv("HOME", str(tmp_path))
    caches.setattr(before_snakemake, "writable", lambda path: False)
    assert before_snakemake.provide_cache(tmp_path / "run", get_appdirs())
    assert os.environ["HF_HOME"] == str(tmp_path / ".cache" / "huggingface")
    assert "TORCH_HOME" not in os.environ, "there is nothing to keep"


def test_a_home_that_can_be_written_stays_as_it_is(tmp_path, caches):
    caches.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    assert before_snakemake.provide_cache(tmp_path / "run", get_appdirs()) == ""
    assert dict(os.environ) == before


def test_a_user_without_a_name_gets_one(monkeypatch, tmp_path):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    before_snakemake.check(given(directory=str(tmp_path)), get_appdirs())
    assert getpass.getuser() == f"user-{os.getuid()}"


# ---- places that jobs write to


@pytest.mark.parametrize("what", ["file", "link"])
@pytest.mark.parametrize("path", ["results", "results/tiny", "data/prepared"])
def test_something_in_the_way_of_a_folder_is_told(what, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch() if what == "file" else Path(path).symlink_to("/nowhere/at/all")
    for check in (environment.check_folders, environment.check_outputs):
        with pytest.raises(
            FggError, match=rf"^{path} is a (file|link that leads nowhere), but a folder is needed; move"
        ):
            check([f"{path}/tiny/attributions/transmm.parquet"])


def test_a_place_that_cannot_be_written_is_told_before_jobs_run(read_only, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results").symlink_to(read_only)
    environment.check_outputs(["data/models/tiny/model.json", "logs/model/tiny.log"])
    environment.check_folders(["results/tiny"])
    with pytest.raises(FggError, match=r"nothing can be written to results, where jobs would write; .*--directory"):
        environment.check_outputs(["data/models/tiny/model.json", "results/tiny/images.parquet"])


# ---- the environment of jobs


@pytest.fixture
def job_environment(monkeypatch) -> dict[str, str]:
    """The environment that a run gives its jobs."""
    for name in ("PATH", "PYTHONPATH", "PYTHONUTF8", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "FGG_TIMING"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("FGG_TIMING")
    environment.use_environment(str(ROOT))
    return dict(os.environ)


@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "LANG": ""},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        {"LANG": "de_DE@euro"},
    ],
    ids=["C", "POSIX", "not-coerced", "unknown"],
)
def test_jobs_read_and_write_utf_8_in_every_locale(changes, job_environment, tmp_path):
    (tmp_path / "Größe").mkdir()
    code = "import os, sys; from fgg.tables import write_json\n"
    code += "name, = os.listdir('.'); print(name, '猫'); write_json('r.json', {'name': name}, {})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**job_environment, **changes}, capture_output=True, check=True
    )
    assert done.stdout.decode() == "Größe 猫\n"
    assert json.loads((tmp_path / "r.json").read_bytes())["name"] == "Größe"


def test_a_repository_whose_name_separates_paths_is_told(monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    with pytest.raises(FggError, match="separates folders in PYTHONPATH; rename the folder"):
        environment.use_environment("/somewhere/a:b")


# ---- the whole, as a user starts it


def test_settings_that_are_not_there_are_told(folder):
    said = whole_workflow.snakemake(folder, "--dry-run", configs=[folder / "none.yaml"], check=False)
    assert f"error: --configfile {folder}/none.yaml does not exist" in said and "Traceback" not in said


def test_a_run_without_a_home_works(folder, read_only):
    changes = {"HOME": str(read_only), "XDG_CACHE_HOME": "", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    target = "data/prepared/tiny/dataset.json"
    said = whole_workflow.snakemake(folder, target, "--cores", "1", configs=[SMALL], changes=changes)
    assert "caches go to" in said and "Traceback" not in said
    assert (folder / target).is_file()


def test_every_path_may_have_braces_quotes_and_more(folder):
    """The repository, the working folder, the settings, the images, and the files of a model and its SAEs."""
    odd = folder / "{x} {dataset} $HOME 'a' \"b\" #1 %s [c] ; & Größe"
    for name in ("Snakefile", "config.yaml", "workflow", "profiles", "envs", "fgg"):
        (odd / "code").mkdir(parents=True, exist_ok=True)
        (odd / "code" / name).symlink_to(ROOT / name)
    (folder / "pictures").rename(odd / "pictures")
    settings = yaml.safe_load(SMALL.read_text())
    own = settings["datasets"]["tiny"]
    own["path"] = str(odd / "pictures")
    own["model"]["weights"] = str(odd / "model.safetensors")
    own["preprocess"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    own["sae"]["weights"] = str(odd / "sae_{layer}")
    (odd / "model.safetensors").touch()
    (odd / "sae_0").mkdir()
    (odd / "mine.yaml").write_text(yaml.safe_dump(settings))
    start = {"configs": [odd / "mine.yaml"], "code": odd / "code"}
    said = whole_workflow.snakemake(odd / "run", "--dry-run", "--cores", "1", "results/summary.csv", **start)
    assert "Traceback" not in said
    target = "data/prepared/tiny/dataset.json"
    whole_workflow.snakemake(odd / "run", target, "--cores", "1", **start)
    assert (odd / "run" / target).is_file()
