"""The files by which others install, find, cite and test the workflow."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import fgg
from fgg.data.sources.registry import sources
from fgg.pipeline.configuration import check
from fgg.pipeline.workflow_files import over_defaults

ROOT = Path(__file__).resolve().parents[2]
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Package -> version in a file of requirements."""
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==([^\s;]+)", read(name)))


# ---- the lock


def test_the_lock_has_the_tested_versions():
    assert pins("requirements.lock") == pins("requirements.txt")


def test_every_entry_of_the_lock_has_hashes_and_none_names_a_host():
    text = read("requirements.lock")
    entries = re.split(r"(?m)^(?=[a-z0-9])", re.sub(r"(?m)^#.*\n", "", text))[1:]
    assert len(entries) == len(pins("requirements.txt"))
    for entry in entries:
        name, *hashes = entry.rstrip("\n").split("\n")
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+ \\", name), name
        assert hashes and all(HASH.fullmatch(line) for line in hashes), name
        assert [line.endswith("\\") for line in hashes] == [True] * (len(hashes) - 1) + [False], name
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_what_builds_the_package_is_pinned():
    text = read("requirements-dist.txt")
    assert {"build", "twine"} <= set(pins("requirements-dist.txt"))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    assert not set(pins("requirements-dist.txt")) & set(pins("requirements.txt"))


# ---- the catalogue


def test_the_catalogue_finds_what_it_asks_for():
    usage = yaml.safe_load(read(".snakemake-workflow-catalog.yml"))["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert usage["software-stack-deployment"]["conda"] is True and list((ROOT / "envs").glob("*.yaml"))
    assert usage["report"] is True and 'report: "workflow/report/' in read("Snakefile")
    for name in ("workflow/Snakefile", "config/config.yaml", "config/README.md", "LICENSE", "README.md"):
        assert (ROOT / name).is_file(), name


def test_the_configuration_for_a_start_runs_the_default_study():
    schema = ROOT / "workflow" / "schemas" / "config.schema.yaml"
    assert check(over_defaults(yaml.safe_load(read("config/config.yaml"))), schema) == check(over_defaults({}), schema)


def test_the_examples_of_its_readme_are_valid():
    text = read("config/README.md")
    examples = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(examples) == 2
    for own in examples:
        check(over_defaults(own), ROOT / "workflow" / "schemas" / "config.schema.yaml")
    (row,) = re.findall(r"(?m)^\| `source` \| (.*) \|$", text)
    assert set(re.findall(r"`(\w+)`", row)) <= set(sources())
    for path in re.findall(r"`((?:docs|config|workflow)/[\w./-]+)`", text):
        assert (ROOT / path).is_file(), path


# ---- citation, GitHub, make


def test_the_citation():
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["cff-version"] == "1.2.0" and cited["version"] == fgg.__version__ and cited["license"] == "MIT"
    assert cited["message"] and cited["title"] and all(author.get("name") for author in cited["authors"])
    for reference in cited["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)


def test_github_runs_what_ci_runs_on_every_python():
    steps = yaml.load(read(".github/workflows/ci.yml"), yaml.BaseLoader)
    assert set(steps["on"]) == {"pull_request", "push"} and steps["on"]["push"]["branches"] == ["main"]
    (job,) = steps["jobs"].values()
    supported = SpecifierSet(re.search(r'requires-python = "(.*)"', read("pyproject.toml"))[1])
    versions = job["strategy"]["matrix"]["python"]
    assert all(version in supported for version in versions)
    assert versions == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported]
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    assert {"make check", "make dist", "make test"} <= set(read(".ci/run").splitlines())
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", action) for action in used)
    assert any(step.get("with", {}).get("cache") == "pip" for step in job["steps"])


@pytest.mark.parametrize(("given", "used"), [({}, "disabled"), ({"WANDB_MODE": "online"}, "online")], ids=str)
def test_make_leaves_trackers_to_the_user(given, used):
    own = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"} | given
    said = subprocess.run(
        ["make", "-pn", "clean"], cwd=ROOT, env=own, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"(?m)^WANDB_MODE = (.*)$", said) == [used]


def test_the_package_sets_trackers_only_where_the_user_has_not():
    for path in [*(ROOT / "fgg").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"environ\[\"WANDB\w*\"\] = ", text), path


def test_the_bounds_of_what_builds_it():
    (asked,) = re.findall(r'(?m)^requires = \["(.*)"\]$', read("pyproject.toml"))
    assert pins("requirements.txt")["setuptools"] in Requirement(asked).specifier
