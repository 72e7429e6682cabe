"""The workflow on a tiny planted set: masks, judged metrics, the gate on two methods, and an option chosen on validation."""

from pathlib import Path

import pandas as pd
import pytest
from whole_workflow import snakemake

from fgg.tables import read_json, read_settings, read_table

CONFIG = Path(__file__).with_name("planted.yaml")
GRID = {
    *("transmm", "cue_map", "decoy_map", "attnlrp-chosen", "integrated_gradients-steps4", "libragrad-layers1"),
    *(f"gated-{base}l1-combined-c10-a1{end}" for base in ("", "libragrad-") for end in ("", "-permuted")),
}
LOCALISATION = {"relevance_mass", "relevance_rank", "pointing_game", "average_precision", "pr_area"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted_study")
    snakemake(folder, "--cores", "2", "results/summary.csv", configs=[CONFIG], warm=True)
    return folder / "results"


def test_all_experiments_by_all_metrics(results):
    table = pd.read_csv(results / "summary.csv")
    assert set(table["experiment"]) == GRID
    assert set(table["metric"]) == {"saco", "pixel_flipping", "srg", *LOCALISATION}
    methods = pd.read_csv(results / "methods.csv").set_index("experiment")
    assert set(methods.index) == GRID and methods.loc["cue_map", "role"] == "reference"
    assert methods.loc["integrated_gradients-steps4", ["forward_passes", "backward_passes"]].tolist() == [6, 4]
    assert methods.loc["integrated_gradients-steps4", "completeness_residual"] > 0


def test_the_map_of_the_cue_is_right(results):
    methods = pd.read_csv(results / "methods.csv").set_index("experiment")
    for metric in ("pointing_game", "average_precision", "relevance_rank"):
        assert methods.loc["cue_map", metric] == pytest.approx(1)
        assert methods.loc["decoy_map", metric] < 0.6
    judged = pd.read_csv(results / "judged.csv").set_index(["metric", "stratum"])
    assert judged.loc[("pointing_game", "measurable"), "share_right"] == 1
    assert judged.loc[("srg", "measurable"), "n"] > 0
    images = read_table(results / "cues/images.parquet").to_pandas()
    assert set(images["fill"]) == {"mean", "cue", "decoy"}


def test_the_gate_on_another_method(results):
    hypotheses = pd.read_csv(results / "hypotheses.csv")
    own = hypotheses[hypotheses["experiment"] == "gated-libragrad-l1-combined-c10-a1"]
    assert set(own["against"]) == {"ungated", "permuted"} and set(own["method"]) == {"libragrad"}
    text = (results / "README.md").read_text(encoding="utf-8")
    assert "the gate on other methods (1 gates" in text


def test_the_option_is_chosen_on_validation_images(results):
    choice = read_json(results / "cues/options/attnlrp-chosen.json")
    assert choice["options"]["gamma"] in (0.1, 1) and set(choice["scores"]) == {"0.1", "1"}
    used = read_settings(results / "cues/attributions/attnlrp-chosen.parquet")["experiment"]
    assert used == {"method": "attnlrp", "options": choice["options"]}


@pytest.mark.parametrize("name", ["figures/cues_methods.png", "methods.html", "judged.html"])
def test_figure_and_pages(results, name):
    assert (results / name).stat().st_size > 1000
