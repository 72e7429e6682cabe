"""The workflow as a module of somebody's own Snakefile."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import whole_workflow
import yaml
from pictures import draw

from fgg.pipeline.workflow_files import over_defaults

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "workflow" / "tiny.yaml"
pytestmark = pytest.mark.dag
OWN = """
configfile: "own.yaml"


module fgg:
    snakefile:
        "{snakefile}"
    config:
        config{more}


use rule * from fgg as {names}


rule best:
    input:
        "results/summary.csv",
    output:
        "best.txt",
    shell:
        "head -n 2 {{input}} > {{output}}"


rule everything:
    default_target: True
    input:
        "best.txt",
"""


def write(
    folder: Path, settings: dict, more: str = "", names: str = "fgg_*", snakefile: Path = ROOT / "Snakefile"
) -> None:
    """Write a Snakefile that uses the workflow, and its settings."""
    (folder / "Snakefile").write_text(OWN.format(snakefile=snakefile, more=more, names=names))
    (folder / "own.yaml").write_text(yaml.safe_dump(settings))


def snakemake(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run somebody's Snakefile."""
    own = [folder / "own.yaml"]
    return whole_workflow.snakemake(folder, *arguments, configs=own, code=folder, check=check, warm=True)


def jobs(said: str) -> dict[str, int]:
    """The jobs of a plan."""
    table = said.split("Job stats:")[1].split("total")[0].splitlines()
    return {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2 and words[1].isdigit()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with pictures."""
    draw(tmp_path / "pictures")
    return tmp_path


def test_all_rules_are_planned_under_their_new_names(folder):
    write(folder, yaml.safe_load(TINY.read_text()))
    said = snakemake(folder, "--dry-run", "--cores", "1")
    plan = jobs(said)
    for rule in ("prepare", "model", "sae", "validation_attribution", "selection", "cases", "report_page", "summary"):
        assert plan[f"fgg_{rule}"] == 1, rule
    assert plan["best"] == plan["everything"] == 1
    assert "directive specifies rules that are not present" not in said
    assert not (folder / ".snakemake" / "fgg.lock").exists(), "the run is tended by the other Snakefile"


def test_it_runs_to_the_end(folder):
    own = yaml.safe_load(TINY.read_text())
    own["experiments"] = {"baselines": ["random", "transmm"], "gated": {"layers": []}, "controls": []}
    own["datasets"]["tiny"]["sae"] = {"layers": []}
    own["metrics"] |= {"fills": ["mean"], "faithfulness_correlation": None, "srg": None, "pixel_flipping": None}
    own |= {"cases": {"enabled": False}}
    del own["select"]
    write(folder, own)
    snakemake(folder, "--cores", "2")
    assert (folder / "best.txt").read_text().startswith("dataset,experiment,")
    assert set(pd.read_csv(folder / "results/summary.csv")["experiment"]) == {"random", "transmm"}
    assert "Nothing to be done" in snakemake(folder, "--dry-run", "--cores", "1")


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_settings_lie_over_the_defaults(tmp_path, snakefile):
    own = {"shards": 2, "experiments": {"baselines": ["transmm", "random"], "controls": []}}
    write(tmp_path, own, names="*", snakefile=ROOT / snakefile)
    (tmp_path / "own.yaml").rename(tmp_path / "mine.yaml")
    (tmp_path / "own.yaml").write_text((tmp_path / "mine.yaml").read_text())
    plan = jobs(snakemake(tmp_path, "--dry-run", "--cores", "1"))
    assert plan["responses"] == 2 and plan["merge"] > 2
    assert "sae_variant" not in plan


@pytest.mark.parametrize(
    "more", ['\n    prefix:\n        "there"', '\n    replace_prefix:\n        {{"results": "there"}}']
)
def test_moved_files_are_refused(tmp_path, more):
    write(tmp_path, {}, more.replace("{{", "{").replace("}}", "}"))
    said = snakemake(tmp_path, "--dry-run", "--cores", "1", check=False)
    assert re.search(r"prefix and replace_prefix cannot be used .* would become there/", said)
    assert "--directory" in said and "Traceback" not in said


def test_defaults_keep_what_is_not_given(tmp_path):
    (tmp_path / "config.yaml").write_text("a: {b: 1, c: [1, 2]}\nd: 2\n")
    assert over_defaults({"a": {"c": [3], "e": None}}, tmp_path) == {"a": {"b": 1, "c": [3], "e": None}, "d": 2}
    assert over_defaults({"a": None}, tmp_path) == {"a": None, "d": 2}
