"""The page on own data: its files are valid, its commands name them, and its script makes the folder."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fgg.data.sources.registry import open_source
from fgg.experiments import dataset_config, experiments
from fgg.models.zero_shot import class_names, prompts
from fgg.pipeline.configuration import check

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
CONFIGS = {text.splitlines()[0].removeprefix("# "): yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"}
COMMANDS = [text for kind, text in BLOCKS if kind == "bash"]


def merged(base, over):
    """What Snakemake makes of a file given beside the default: tables are merged, all else is replaced."""
    both = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            both[key] = merged(base[key], over[key])
    return both


def test_the_page_has_what_is_tested_here():
    assert list(CONFIGS) == ["mine/mine.yaml", "mine/again.yaml", "mine/clip.yaml"] and len(COMMANDS) == 3
    assert {f"`{name}`" for name in list(CONFIGS)[:2]} <= set(re.findall(r"`[^`\n]+`", PAGE)), (
        "the text names the files"
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_of_the_page_is_valid(name):
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config = check(merged(default, CONFIGS[name]), ROOT / "workflow" / "schemas" / "config.schema.yaml")
    assert len(config["run"]) == 1
    grid = experiments(config, config["run"][0])
    assert "transmm" in grid and any("combined" in experiment for experiment in grid)
    zero_shot = dataset_config(config, config["run"][0])["model"]["zero_shot"]
    if name == "mine/clip.yaml":
        texts = prompts(class_names(["mono", "poly"], zero_shot["class_names"]), zero_shot["templates"])
        assert texts[0] == ["a photo of a monocrystalline solar cell", "a close-up of a monocrystalline solar cell"]


def test_the_second_file_takes_what_the_first_one_made():
    own, other = CONFIGS["mine/mine.yaml"]["datasets"]["mine"], CONFIGS["mine/again.yaml"]["datasets"]["again"]
    for key in ("architecture", "kwargs"):
        assert own["model"][key] == other["model"][key]
    assert other["model"]["weights"] == "data/models/mine/model.safetensors"
    assert other["sae"]["weights"].replace("{layer}", "1") == "data/saes/mine/layer_1"
    assert own["path"] == other["path"] and own["metrics"] == other["metrics"]


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_a_command_names_a_file_of_the_page(command):
    """Its target comes before the options, of which `--configfile` takes a list and would swallow it."""
    snakemake, target, *options = shlex.split(command)
    assert (snakemake, target) == ("snakemake", "results/summary.csv")
    parser = argparse.ArgumentParser()
    for name in ("--cores", "--directory", "--configfile"):
        parser.add_argument(name, required=True)
    given = parser.parse_args(options)
    assert given.configfile in CONFIGS and given.directory == "mine"


def test_the_script_makes_the_folder(tmp_path):
    done = subprocess.run(
        ["bash", "-ec", COMMANDS[0]],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "mine" / CONFIGS["mine/mine.yaml"]["datasets"]["mine"]["path"]
    records = open_source({"source": "image_folder", "path": str(path)}).records
    assert {kind: sum(record.label_name == kind for record in records) for kind in ("mono", "poly")} == {
        "mono": 150,
        "poly": 150,
    }
