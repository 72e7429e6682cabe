"""Verdicts in words, order told from values, and the decomposition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fgg.attribution.controls import laid
from fgg.comparison import tables
from fgg.comparison.decomposition import decompose
from fgg.comparison.order_only import can_be_told_apart, order_only
from fgg.comparison.verdicts import is_better, verdict
from fgg.faithfulness.measures import measures
from fgg.faithfulness.saco import coefficient
from fgg.tables import read_table, write_table

BASE = {
    "p_value": 0.001, "significant": True, "improvement": 0.1, "difference": 0.1, "reason": "", "told_apart": True,
    "order_difference": np.nan, "order_p_adjusted": np.nan, "equivalence_p_adjusted": 0.5,
}  # fmt: skip
UNTESTED = {"p_value": np.nan, "significant": False, "improvement": 0.0}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "better"),
        ({"improvement": -0.1}, "worse"),
        ({"order_difference": 0.08, "order_p_adjusted": 0.001}, "better"),
        ({"order_difference": 0.08, "order_p_adjusted": 0.2}, "better in values"),
        ({"order_difference": -0.08, "order_p_adjusted": 0.001}, "better in values"),
        ({"order_difference": 0.0, "order_p_adjusted": np.nan}, "better in values"),
        ({"improvement": -0.1, "difference": -0.1, "order_difference": 0.08, "order_p_adjusted": 0.01}, "worse in values"),
        ({"told_apart": False}, "better (order and values not told apart)"),
        ({"p_value": 0.04, "significant": False}, "no difference shown"),
        ({"p_value": 0.4, "significant": False, "equivalence_p_adjusted": 0.01}, "equivalent"),
        (UNTESTED | {"reason": "identical scores"}, "identical scores"),
        (UNTESTED | {"reason": "the baseline"}, "the baseline"),
        (UNTESTED | {"reason": "only 2 pairs"}, "not testable: only 2 pairs"),
    ],
)  # fmt: skip
def test_verdicts(row, words):
    assert verdict(BASE | row) == words
    assert is_better(words) == (words == "better")


def test_saco_by_the_order_alone_is_that_of_the_baselines_values_in_the_maps_order(results):
    """The bins of the map keep their drops; the k-th bin weighs what the baseline's k-th weighs."""
    folder, _ = results
    saco = measures({"saco": ["mean"]})["saco"]
    found = order_only(folder / "toy", "rollout", "transmm", saco, "corrected")
    rows = [
        read_table(folder / "toy" / "faithfulness" / f"{name}.parquet").to_pandas().set_index("image_id")
        for name in ("rollout", "transmm")
    ]
    for image in ("image0000", "image0007"):
        drops, weights = rows[0].loc[image, "saco_bin_drops"], rows[1].loc[image, "saco_bin_relevance"]
        total = agreeing = 0.0
        for i in range(len(drops)):
            for j in range(i + 1, len(drops)):
                weight = weights[i] - weights[j]
                total += abs(weight)
                agreeing += weight if drops[i] >= drops[j] else -weight
        assert found[image] == pytest.approx(agreeing / total)


def test_the_order_alone_of_a_map_with_the_baselines_order_is_the_baseline(results):
    folder, _ = results
    for metric in ("faithfulness_correlation", "faithfulness_correlation_pearson"):
        measure = measures({metric: ["mean"]})[metric]
        alone = order_only(folder / "toy", "transmm-p2", "transmm", measure, "corrected")
        own = order_only(folder / "toy", "transmm", "transmm", measure, "corrected")
        pd.testing.assert_series_equal(alone, own)
        other = order_only(folder / "toy", "rollout", "transmm", measure, "corrected")
        assert (other != own).any()


def test_what_reads_only_the_order_needs_no_telling_apart():
    known = measures({"saco": ["mean"], "pixel_flipping": ["mean"], "srg": ["mean"]})
    assert all(can_be_told_apart(measure) for measure in known.values())
    assert order_only("nowhere", "a", "b", known["pixel_flipping"], "corrected") is None


def test_transmm_squared_is_not_called_better_without_the_word_values(tmp_path, write_scores):
    """The scores of the squared map are far better; its order is TransMM's, so no verdict may say plainly better."""
    settings = write_scores(tmp_path, 40)
    place = tmp_path / "toy" / "faithfulness"
    squared, own = (read_table(place / f"{name}.parquet").to_pandas() for name in ("transmm-p2", "transmm"))
    own, squared = own.set_index("image_id").sort_index(), squared.set_index("image_id").sort_index()
    squared["saco"] = own["saco"] + np.linspace(0.2, 0.3, 40)
    squared["faithfulness_correlation"] = own["faithfulness_correlation"] + np.linspace(0.2, 0.3, 40)
    for name in ("saco_bin_drops", "saco_bin_relevance"):
        squared[name] = own[name]
    for frame, name in ((own, "transmm"), (squared, "transmm-p2")):
        weights = torch.tensor(np.stack(own["saco_bin_relevance"]))
        frame["saco"] = coefficient(weights, torch.tensor(np.stack(frame["saco_bin_drops"])), "corrected")[0] + (
            np.linspace(0.2, 0.3, 40) if name == "transmm-p2" else 0
        )
        columns = {column: np.stack(values) for column, values in frame.reset_index().items()}
        write_table(place / f"{name}.parquet", columns, {})
    grid = {name: settings["experiments"]["toy"][name] for name in ("transmm", "transmm-p2")}
    found = tables.comparison(tmp_path, ["toy"], settings | {"experiments": {"toy": grid}}).comparison.to_pandas()
    rows = found[(found["experiment"] == "transmm-p2") & (found["stratum"] == "measurable")].set_index("metric")
    assert rows.loc["saco", "verdict"] == "better in values"
    assert rows.loc["faithfulness_correlation", "verdict"] == "better in values"
    assert rows.loc["pixel_flipping", "verdict"] == "identical scores"


def test_values_are_laid_in_an_order():
    values, order = np.array([[0.1, 0.7, 0.4]], dtype=np.float32), np.array([[5.0, 1.0, 3.0]], dtype=np.float32)
    assert laid(values, order).tolist() == [[pytest.approx(0.7), pytest.approx(0.1), pytest.approx(0.4)]]


def test_the_parts_of_a_gain_add_up_and_are_the_shapley_values():
    rng = np.random.default_rng(0)
    neither = rng.random(50)
    order, values = neither + 0.2 + 0.01 * rng.standard_normal(50), neither - 0.05
    both = neither + 0.25
    found = decompose(neither, both, order, values, 0)
    assert found["gain"] == pytest.approx(0.25)
    assert found["order"] + found["values"] == pytest.approx(found["gain"])
    assert found["order"] == pytest.approx(((order - neither).mean() + (both - values).mean()) / 2)
    assert found["order_first"] == pytest.approx(0.2, abs=0.01)
    assert found["values_last"] == pytest.approx(0.05, abs=0.01)
    assert found["interaction"] == pytest.approx(0.25 - found["order_first"] - found["values_first"])
    assert found["order_low"] < found["order"] < found["order_high"]
    assert found["order_p"] < 1e-6


def test_the_table_of_parts_has_a_row_per_gate_metric_and_stratum(results):
    folder, settings = results
    found = tables.comparison(folder, ["toy"], settings).decomposition.to_pandas()
    assert len(found) == 2 * 3 * 2
    row = found[(found["metric"] == "saco") & (found["stratum"] == "all")].iloc[0]
    means = {}
    for part, suffix in (("gated", ""), ("order", "-order"), ("values", "-values")):
        frame = read_table(folder / "toy" / "faithfulness" / f"{row['experiment']}{suffix}.parquet").to_pandas()
        means[part] = frame["saco"].mean()
        assert row[f"{part}_mean"] == pytest.approx(means[part])
    assert row["gain"] == pytest.approx(means["gated"] - row["baseline_mean"])
    assert row["order_first"] == pytest.approx(means["order"] - row["baseline_mean"])


def test_agreement_ranks_methods_and_images(results):
    folder, settings = results
    found = tables.comparison(folder, ["toy"], settings).agreement.to_pandas()
    assert len(found) == 3 * 2
    assert found["over_methods"].between(-1, 1).all()
    row = found[(found["first"] == "saco") & (found["second"] == "pixel_flipping") & (found["stratum"] == "all")].iloc[
        0
    ]
    frames = {
        name: read_table(folder / "toy" / "faithfulness" / f"{name}.parquet").to_pandas().sort_values("image_id")
        for name in settings["experiments"]["toy"]
    }
    means = pd.DataFrame({name: frame[["saco", "pixel_flipping"]].mean() for name, frame in frames.items()})
    assert row["over_methods"] == pytest.approx(means.T.rank().corr().iloc[0, 1] * -1)
    assert (row["n_methods"], row["n_images"]) == (24, 40)
