"""The README by the word: every command in it works, every link leads somewhere, every number about fgg is right."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from fgg import cli
from fgg.attribution.registry import methods

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("    #")[0].strip() for line in TEXT.splitlines() if line.startswith("    ")]


def commands(start: str) -> list[list[str]]:
    return [shlex.split(line) for line in COMMANDS if line.startswith(start)]


def test_it_has_no_other_commands_than_those_tried_here():
    kinds = ("make ", ".venv/bin/python -m fgg explain ", ".venv/bin/snakemake ")
    assert COMMANDS and all(line.startswith(kinds) for line in COMMANDS), COMMANDS


@pytest.mark.parametrize("words", commands("make "), ids=" ".join)
def test_the_make_targets_exist(words):
    said = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert ("snakemake" if words[1] == "results" else "pytest") in said.stdout


@pytest.mark.parametrize("words", commands(".venv/bin/python -m fgg"), ids=" ".join)
def test_the_command_explains_an_image_of_the_default_run(words, capsys):
    # tests/explain runs it to the end. Here the folder has no model yet: the message names the command that makes one.
    if (ROOT / "data/models/elpv/model.json").is_file():
        pytest.skip("the main job has run here")
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(cli.main([*words[3:], "--directory", str(ROOT)]))
    assert stopped.value.code == 1
    assert "make results" in capsys.readouterr().err


@pytest.mark.parametrize("words", commands(".venv/bin/snakemake"), ids=" ".join)
def test_the_workflow_plans_the_job_with_own_settings(words, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"seed": 3}))
    program = ROOT / ".venv/bin/snakemake"
    if not program.is_file():
        pytest.skip("no .venv beside the README")
    more = ["--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--quiet", "rules"]
    said = subprocess.run([str(program), *words[1:], *more], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert "comparison" in said.stdout + said.stderr


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT)
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_it_fits_a_screen_and_counts_the_methods_right():
    assert len(TEXT.splitlines()) <= 50
    stated = int(re.search(r"and (\d+) other methods", TEXT.replace("\n", " "))[1])
    assert stated == sum(entry.role not in ("reference", "floor") for entry in methods().values()) - 1  # TransMM
