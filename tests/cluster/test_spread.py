"""The small workflow spread over shards, and through a real Slurm: the same tables, byte for byte."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import one_process
import pytest
import whole_workflow
import yaml
from pictures import draw

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [ROOT / "tests" / "workflow" / "tiny.yaml", Path(__file__).with_name("spread.yaml")]
SLURM = Path(__file__).with_name("slurm.sh")
SHARDS = {"shards": 2}
GPU_RULES = ["attribution", "faithfulness", "feature_deletion", "gated_attribution", "model", "responses", "sae"]
UNEQUAL = ("configuration.html", "report.html", "versions.html", "manifest.json")  # settings, machine, times
pytestmark = pytest.mark.dag


def snakemake(folder: Path, *arguments: str, settings: dict | None = None) -> str:
    """Run the workflow in a folder; its output as text. ``settings`` go over the configuration."""
    own = folder / "own.yaml"
    own.write_text(yaml.safe_dump(settings or {}))
    return whole_workflow.snakemake(folder, *arguments, configs=[*CONFIGS, own], warm=True)


def planned(folder: Path, *arguments: str, settings: dict) -> dict[str, int]:
    """What a dry run would run: rule -> jobs."""
    text = snakemake(folder, "--dry-run", "--cores", "1", "results/summary.csv", *arguments, settings=settings)
    rows = re.findall(r"(?m)^(\w+) +(\d+)$", text.split("Job stats:")[1].split("total")[0])
    return {rule: int(jobs) for rule, jobs in rows}


def tables(folder: Path) -> dict[str, bytes]:
    """Everything that was computed, without pictures and the page that shows the settings: name -> bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for place in ("data", "results")
        for path in sorted((folder / place).rglob("*"))
        if path.is_file()
        and path.suffix not in (".png", ".svg")
        and path.name not in UNEQUAL
        and path.name.removesuffix(".json") not in UNEQUAL  # their records
    }


# ---- Slurm


def slurm_is_missing() -> str:
    """Why a Slurm cannot be started here; empty where it can."""
    programs = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo") if not shutil.which(name)]
    if programs:
        return f"no {', '.join(programs)} here; as root: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root can start a Slurm for the test"


@pytest.fixture(scope="module")
def slurm() -> Iterator[str]:
    """Why there is no Slurm; or nothing, and there is one of one node with two pretended GPUs, which sbatch finds."""
    reason = slurm_is_missing()
    if reason:
        yield reason
        return
    # The path of a socket is short, so this is no folder of pytest's.
    with tempfile.TemporaryDirectory(prefix="slurm.") as place, pytest.MonkeyPatch.context() as monkeypatch:
        folder = Path(place)
        try:
            started = subprocess.run([SLURM, "start", folder], capture_output=True, text=True, check=False)
            assert started.returncode == 0, started.stderr
            monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
            yield ""
        finally:
            subprocess.run([SLURM, "stop", folder], check=False)


def accounts() -> list[dict[str, str]]:
    """What Slurm says of its jobs."""
    text = subprocess.run(["scontrol", "show", "jobs", "--oneliner"], capture_output=True, text=True, check=True).stdout
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if "Comment=rule_" in line]


def at_once(jobs: list[dict[str, str]]) -> int:
    """The largest number of jobs that ran at the same time."""
    times = [[datetime.fromisoformat(job[key]) for key in ("StartTime", "EndTime")] for job in jobs]
    return max(sum(start <= moment < end for start, end in times) for moment, _ in times)


# ---- the tests


@pytest.fixture(scope="module")
def spread(slurm, tmp_path_factory) -> Path:
    """A folder in which the workflow has run in two shards: through Slurm, by the profile as it is apart from how often
    jobs are asked after; where there is none, on this machine.
    """
    folder = tmp_path_factory.mktemp("spread")
    draw(folder / "pictures")
    quick = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "6"]
    profile = ["--workflow-profile", str(ROOT / "profiles" / "slurm"), "--latency-wait", "20", *quick]
    how = ["--cores", "2"] if slurm else profile
    snakemake(folder, *how, "--notemp", "results/tiny/shards/1-of-2/attributions/transmm.parquet", settings=SHARDS)
    assert planned(folder, settings=SHARDS) == {
        "attribution": 1,
        "gated_attribution": 2,
        "sae": 1,
        "responses": 2,
        "faithfulness": 4,
        "feature_deletion": 1,
        "feature_deletion_summary": 1,
        "merge": 6,  # maps, answers, and of two experiments the scores and the curves
        "merge_gated": 1,
        "measurable": 1,
        "comparison": 1,
        "figures": 1,
        "pages": 1,
        "report_page": 1,
        "manifest": 1,
        "readme": 1,
        "summary": 1,
    }, "a shard that is done is not done again"
    snakemake(folder, *how, "results/summary.csv", settings=SHARDS)
    return folder


def test_one_shard_is_no_shard(tmp_path):
    draw(tmp_path / "pictures")
    whole = planned(tmp_path, settings={})
    assert whole["faithfulness"] == 2 and not {"merge", "merge_gated"} & set(whole)


def test_shards_leave_the_tables_of_an_undivided_run_and_nothing_else(spread, tmp_path):
    """Of a run on this machine, by one process."""
    (tmp_path / "pictures").symlink_to(spread / "pictures")
    said = snakemake(tmp_path, "--cores", "1", "--dry-run", "--printshellcmds", "results/summary.csv")
    one_process.run(one_process.commands(said).values(), tmp_path)
    found, wanted = tables(spread), tables(tmp_path)
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_a_real_slurm_has_run_what_the_profile_says(slurm, spread):
    if slurm:
        pytest.skip(slurm)
    jobs = accounts()
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    rules = {job["JobId"]: re.match(r"rule_([a-z_]+?)(_wildcards.*)?$", job["Comment"])[1] for job in jobs}
    assert sorted(set(rules.values())) == sorted(["prepare", "comparison", *GPU_RULES]), "the light ones run here"
    asked = yaml.safe_load((ROOT / "workflow" / "resources.yaml").read_text())
    for job in jobs:
        rule = rules[job["JobId"]]
        assert job["MinMemoryNode"] in (f"{asked[rule]['mem_mb']}M", f"{asked[rule]['mem_mb'] / 1024:g}G"), rule
        hours, minutes, _ = map(int, job["TimeLimit"].split(":"))
        assert 60 * hours + minutes == asked[rule]["runtime"], rule
        assert job.get("TresPerJob", "") == ("gres:gpu:1" if rule in GPU_RULES else ""), rule
        assert job["NumCPUs"] == ("2" if rule == "model" else "1"), rule
    assert at_once([job for job in jobs if rules[job["JobId"]] in GPU_RULES]) <= 2, "there are two GPUs"
