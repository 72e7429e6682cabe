"""What jobs ask of a cluster: one table, used by every rule, doubled with every attempt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fgg.pipeline.environment import doubled

ROOT = Path(__file__).resolve().parents[2]
TABLE = yaml.safe_load((ROOT / "workflow" / "resources.yaml").read_text(encoding="utf-8"))
RULES = {
    name: body
    for file in sorted((ROOT / "workflow" / "rules").glob("*.smk"))
    for name, body in re.findall(r"(?ms)^rule (\w+):\n(.*?)(?=^\S|\Z)", file.read_text(encoding="utf-8"))
}


def test_every_rule_takes_memory_and_time_from_the_table():
    assert len(RULES) > 10
    asked = {name: re.findall(r'\*\*parameters\.needs\("(\w+)"\)', body) for name, body in RULES.items()}
    shared = {"merge_gated": ["merge"], "foreign_metric": ["faithfulness"], "thesis_statistics": ["comparison"]}
    shared |= {"pooled": ["sanity"], "option_choice": ["attribution"], "feature_deletion_summary": ["sanity"]}
    shared |= {"chosen_sae": ["measurable"]}
    assert asked == {name: shared.get(name, [name]) for name in RULES}
    assert {row for rows in asked.values() for row in rows} == set(TABLE), "no row without a rule"


@pytest.mark.parametrize("rule", TABLE)
def test_the_table_has_numbers_that_a_cluster_can_give(rule):
    assert set(TABLE[rule]) == {"mem_mb", "runtime"}
    assert 1000 <= TABLE[rule]["mem_mb"] <= 64_000
    assert 5 <= TABLE[rule]["runtime"] <= 24 * 60


def test_every_attempt_asks_for_twice_as_much():
    assert [doubled(3000)(None, attempt) for attempt in (1, 2, 3)] == [3000, 6000, 12000]


def test_nothing_bounds_memory_on_the_own_machine():
    default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text(encoding="utf-8"))
    assert default["resources"] == {"gpu": 1}
    assert "default-resources" not in default


def test_the_slurm_profile_leaves_gpus_to_the_cluster():
    text = (ROOT / "profiles" / "slurm" / "config.yaml").read_text(encoding="utf-8")
    profile = yaml.safe_load(text)
    assert profile["executor"] == "slurm" and profile["retries"] >= 1 and "resources" not in profile
    assert not {"gpu", "gpu_model"} & set(profile["default-resources"]), "every job would ask for a GPU"
    # What is commented out is YAML too, and names rules that there are.
    commented = re.search(r"(?ms)^# (set-resources:.*)", text)[1]
    lines = [line.removeprefix("# ") for line in commented.splitlines() if not line.startswith("#   #")]
    shown = yaml.safe_load("\n".join(lines))["set-resources"]
    assert set(shown) == {name for name, body in RULES.items() if "gpu=parameters.gpus" in body}
