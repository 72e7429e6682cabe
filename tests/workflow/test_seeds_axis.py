"""Seeds as an axis of the workflow: what is shared, what is repeated, and what is pooled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import whole_workflow
import yaml
from pictures import draw

from fgg.statistics.pooled import pool

SMALL = Path(__file__).parents[1] / "faults" / "small.yaml"
pytestmark = pytest.mark.dag


def configured(folder: Path, **keys) -> Path:
    """The small workflow with other top-level keys."""
    target = folder / "seeds.yaml"
    target.write_text(yaml.safe_dump(yaml.safe_load(SMALL.read_text()) | keys))
    return target


def planned(folder: Path, config: Path) -> dict[str, int]:
    """What a dry run would run: rule -> jobs."""
    text = whole_workflow.snakemake(
        folder, "--cores", "2", "--dry-run", "results/summary.csv", configs=[config], warm=True
    )
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the small workflow has run with two seeds of the SAE."""
    folder = tmp_path_factory.mktemp("seeds")
    draw(folder / "pictures", per_class=8, side=16)
    config = configured(folder, seeds={"sae": [0, 1]})
    whole_workflow.snakemake(folder, "--cores", "2", "results/summary.csv", configs=[config], warm=True)
    return folder


def test_stages_are_repeated_for_their_seeds_only(tmp_path):
    draw(tmp_path / "pictures", per_class=8, side=16)
    whole = planned(tmp_path, configured(tmp_path, seeds=[0, 1]))
    assert (whole["prepare"], whole["model"], whole["sae"], whole["responses"]) == (2, 2, 2, 2)
    parts = planned(tmp_path, configured(tmp_path, seeds={"model": [0, 1], "sae": [0, 1, 2]}))
    assert (parts["prepare"], parts["model"], parts["sae"], parts["responses"]) == (1, 2, 6, 6)
    assert (whole["pooled"], parts["comparison"]) == (1, 1)


def test_the_first_seed_alone_has_nothing_more_to_compute(finished, tmp_path):
    """Its folders bear the dataset's name, so a second seed can be added later."""
    plan = planned(finished, configured(tmp_path))
    assert set(plan) <= {
        "comparison",
        "feature_deletion_summary",
        "figures",
        "readme",
        "pages",
        "report_page",
        "manifest",
        "summary",
    }
    more = planned(finished, configured(tmp_path, seeds={"sae": [0, 1, 2]}))
    assert (more["sae"], more.get("model", 0), more["faithfulness"]) == (1, 0, 2)


def test_tables_have_the_runs_and_the_pooled_one_rests_on_them(finished):
    summary = pd.read_csv(finished / "results/summary.csv", dtype={"seed": str})
    assert list(dict.fromkeys(summary["seed"])) == ["split 0, model 0, sae 0", "split 0, model 0, sae 1"]
    assert set(summary["dataset"]) == {"tiny"}
    comparison = pd.read_csv(finished / "results/comparison.csv")
    pooled = pd.read_csv(finished / "results/pooled.csv")
    own = pooled[(pooled["against"] == "baseline") & (pooled["stratum"] == "all")].iloc[0]
    keys = ["experiment", "metric", "stratum", "fill"]
    runs = comparison[(comparison[keys] == own[keys]).all(axis=1)]
    sign = np.where(runs["higher_is_better"], 1, -1)
    expected = pool(sign * runs["difference"].to_numpy(), runs["difference_se"].to_numpy() ** 2)
    assert own["n_runs"] == len(runs) == 2
    assert own["mean"] == pytest.approx(expected["mean"], nan_ok=True)
    assert own["ci_low"] == pytest.approx(expected["ci_low"], nan_ok=True)


def test_maps_without_an_sae_do_not_depend_on_its_seed(finished):
    first, second = (
        (finished / f"results/{name}/attributions/transmm.parquet").read_bytes() for name in ("tiny", "tiny-sae1")
    )
    assert first == second
    gates = [
        pd.read_parquet(finished / f"results/{name}/gates/gated-l0-combined-c10-a1.parquet")
        for name in ("tiny", "tiny-sae1")
    ]
    assert not np.allclose(*(np.stack(table["gate"]) for table in gates))


def test_the_words_tell_of_both_runs(finished):
    text = (finished / "results/README.md").read_text()
    assert "in each of 2 runs with other seeds" in text
    assert (finished / "results/pooled.html").is_file()
