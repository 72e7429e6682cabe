"""A sweep of SAEs with a choice, and gates of features that were not learnt, in the real workflow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import whole_workflow
import yaml
from pictures import draw

SMALL = Path(__file__).parents[1] / "faults" / "small.yaml"
pytestmark = pytest.mark.dag
CANDIDATES = ["topk-x2-k2", "topk-x2-k4", "batchtopk-x2-k2", "batchtopk-x2-k4"]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    own = yaml.safe_load(SMALL.read_text())
    sae = own["datasets"]["tiny"]["sae"]
    sae["train"] |= {"architecture": ["topk", "batchtopk"], "k": [2, 4]}
    sae["select"] = {"measure": "explained_variance", "most_l0": 3}
    own["experiments"]["controls"] = ["pca_sae", "untrained_sae"]
    target = tmp_path_factory.mktemp("config") / "saes.yaml"
    target.write_text(yaml.safe_dump(own))
    return target


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config) -> Path:
    folder = tmp_path_factory.mktemp("saes")
    draw(folder / "pictures", per_class=8, side=16)
    targets = ("results/hypotheses.csv", "results/figures/tiny_sae_sweep.png")
    whole_workflow.snakemake(folder, "--cores", "2", *targets, configs=[config], warm=True)
    return folder


def test_every_candidate_is_kept_and_the_best_within_the_limit_is_used(finished):
    table = pd.read_csv(finished / "results/tiny/sae_sweep/layer_0.csv")
    assert table["name"].tolist() == CANDIDATES
    within = table[table["l0"] <= 3]
    best = within.loc[within["explained_variance"].idxmax(), "name"]
    assert table.loc[table["chosen"], "name"].tolist() == [best]
    for name in ("cfg.json", "sae_weights.safetensors"):
        own = finished / "data/saes/tiny/layer_0" / name
        assert own.read_bytes() == (finished / f"data/saes/tiny/sweep/{best}/layer_0" / name).read_bytes()
    measured = [
        json.loads((finished / f"data/saes/tiny/sweep/{n}/layer_0/metrics.json").read_text()) for n in CANDIDATES
    ]
    assert table["explained_variance"].tolist() == pytest.approx([own["explained_variance"] for own in measured])


def test_gates_of_other_dictionaries_are_compared(finished):
    table = pd.read_csv(finished / "results/hypotheses.csv")
    assert set(table["against"]) == {"transmm", "pca", "untrained"}
    for kind in ("pca", "untrained"):
        made = json.loads((finished / f"data/saes/tiny/{kind}/layer_0/cfg.json").read_text())
        assert made["metadata"]["kind"] == kind
        if kind == "untrained":
            chosen = json.loads((finished / "data/saes/tiny/layer_0/metrics.json").read_text())
            own = json.loads((finished / "data/saes/tiny/untrained/layer_0/metrics.json").read_text())
            assert own["fgg"]["settings"]["train"] == chosen["fgg"]["settings"]["train"]
            assert chosen["chosen"].endswith("of 4, largest explained variance with L0 of at most 3")
        own, plain = (
            pd.read_parquet(finished / f"results/tiny/attributions/gated-l0-combined-c10-a1{end}.parquet")
            for end in (f"-{kind}", "")
        )
        assert (own["relevance"].map(tuple) != plain["relevance"].map(tuple)).any()


def test_another_choice_trains_nothing(finished, config, tmp_path):
    own = yaml.safe_load(config.read_text())
    own["datasets"]["tiny"]["sae"]["select"] = {"measure": "kl"}
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(own))
    assert made(finished, other) == {"untrained"}, "it is trained like the chosen one"
    own["datasets"]["tiny"]["sae"]["train"]["k"] = [2, 4, 6]
    other.write_text(yaml.safe_dump(own))
    assert made(finished, other) == {"untrained", "sweep/topk-x2-k6", "sweep/batchtopk-x2-k6"}


def made(folder: Path, config: Path) -> set[str]:
    """Which SAEs a dry run would make, beside the chosen one."""
    said = whole_workflow.snakemake(
        folder, "--cores", "2", "--dry-run", "results/hypotheses.csv", configs=[config], warm=True
    )
    assert "chosen_sae" in said
    return set(re.findall(r"Making the SAE of layer 0 of tiny: (\S+)", said))
