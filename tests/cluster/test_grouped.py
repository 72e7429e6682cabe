"""Several jobs of the workflow in one job of a real Slurm, by the lines of the profile that are commented out."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_spread import ROOT, accounts, slurm

__all__ = ["slurm"]  # the fixture
PROFILE = ROOT / "profiles" / "slurm" / "config.yaml"
RULES = (ROOT / "workflow" / "rules").glob("*.smk")
SNAKEFILE = """
rule all:
    input: expand("{number}.txt", number=range(6))
rule attribution:
    output: "{number}.txt"
    resources: gpu=1, mem_mb=500, runtime=5
    shell: "echo $SLURM_JOB_ID $(date +%s%N) > {output}; sleep 0.5; date +%s%N >> {output}"
"""
pytestmark = pytest.mark.dag


def grouping() -> dict:
    """The lines of the profile that put several jobs into one."""
    lines = re.search(r"(?m)(^# groups:(?:.*\n)(?:# .*\n)*?# resources: .*)", PROFILE.read_text(encoding="utf-8"))[1]
    return yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines.splitlines()))


def test_the_profile_groups_rules_that_there_are():
    own = grouping()
    rules = set(re.findall(r"(?m)^rule (\w+):", "".join(path.read_text(encoding="utf-8") for path in RULES)))
    assert set(own["groups"]) <= rules
    assert set(own["group-components"]) == set(own["groups"].values())


def test_jobs_of_a_group_follow_each_other_on_one_gpu(slurm, tmp_path):
    if slurm:
        pytest.skip(slurm)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    quick = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 3, "latency-wait": 10}
    profile = {"executor": "slurm", "jobs": 10, **quick, **grouping()}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    words = [sys.executable, "-m", "snakemake", "--workflow-profile", "profile"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    jobs = {job["JobId"]: job for job in accounts()}
    assert len(jobs) == 2, "six jobs, four at most in each"
    minutes = 0
    for job in jobs.values():
        assert (job["TresPerJob"], job["NumCPUs"], job["MinMemoryNode"]) == ("gres:gpu:1", "1", "500M")
        hours, own, _ = map(int, job["TimeLimit"].split(":"))
        minutes += 60 * hours + own
    assert minutes == 6 * 5
    times: dict[str, list[tuple[int, int]]] = {}
    for path in sorted(Path(tmp_path).glob("*.txt")):
        name, start, end = path.read_text().split()
        times.setdefault(name, []).append((int(start), int(end)))
    assert set(times) == set(jobs)
    for name, own_times in times.items():
        ordered = sorted(own_times)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ordered)), name
