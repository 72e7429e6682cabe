"""The summary of deleted features, against numbers computed here from made-up tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fgg.features.groups import GROUPS
from fgg.features.summary import COLUMNS, LARGER, SMALLER, UNCLEAR, UNTESTED, main, summary
from fgg.tables import write_table

IMAGES, COUNTS = 30, (1, 5)
# Mean signed change of the logit by group; the sizes are its absolute values.
LEVELS = {
    "score": -1.0, "random": -0.3, "positive": -1.0, "random_positive": -0.1, "negative": 0.8, "random_negative": 0.8,
    "most_active": -2.0, "least_active": -0.01,
}  # fmt: skip


def write(place, layer, seed=0, constant=False, lacking=0):
    """Both tables of a layer; ``lacking`` images have no random control for the larger k."""
    rng = np.random.default_rng(seed)
    rows, single = [], []
    for i in range(IMAGES):
        for group in GROUPS:
            for k in COUNTS:
                if group == "random" and k == max(COUNTS) and i < lacking:
                    continue
                change = 0.0 if constant else LEVELS[group] * k**0.5 + 0.2 * rng.normal()
                rows.append({
                    "image_id": f"i{i}", "group": group, "k": k, "logit_change": change, "absolute_change": abs(change),
                    "probability_change": change / 10, "expected": change * 0.9, "activation": 3.0 * k, "removed": 0.1,
                })  # fmt: skip
        for feature in range(5):
            expected = rng.normal()
            effect = 0.0 if constant else expected + (i % 3) * rng.normal()
            single.append({"image_id": f"i{i}", "feature": feature, "expected": expected, "logit_change": effect})
    rng.shuffle(rows)
    write_table(place / f"layer_{layer}.parquet", pd.DataFrame(rows).to_dict("list"), {})
    write_table(place / "alone" / f"layer_{layer}.parquet", pd.DataFrame(single).to_dict("list"), {})
    return pd.DataFrame(rows), pd.DataFrame(single)


def settings(*instances):
    return {
        "seed": 0,
        "instances": [[name, {"dataset": "toy", "seed": seed, "layers": layers}] for name, seed, layers in instances],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two seeds, the first with two layers; the last layer's deletions do nothing."""
    folder = tmp_path_factory.mktemp("summary")
    tables = {
        ("0", 1): write(folder / "toy/feature_deletion", 1, lacking=4),
        ("0", 2): write(folder / "toy/feature_deletion", 2, constant=True),
        ("1", 1): write(folder / "toy-seed1/feature_deletion", 1, seed=5),
    }
    own = settings(("toy", "0", [1, 2]), ("toy-seed1", "1", [1]))
    return folder, own, tables, summary(folder, own)


def row_of(frame, layer, group, k, against=None, seed="0"):
    own = frame[(frame["seed"] == seed) & (frame["layer"] == layer) & (frame["group"] == group) & (frame["k"] == k)]
    return (own[own["against"] == against] if against else own).iloc[0]


def vector(table, group, k, name):
    own = table[(table["group"] == group) & (table["k"] == k)].set_index("image_id")[name]
    return own.reindex([f"i{i}" for i in range(IMAGES)]).to_numpy()


def test_every_group_and_comparison_has_a_row(made):
    frame = made[3]
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 3 * (len(COUNTS) * (len(GROUPS) + 3) + 1)
    assert frame[frame["group"] == "score"]["against"].value_counts().to_dict() == dict.fromkeys(
        ("random", "most_active", "least_active"), 6
    )


def test_means_and_intervals(made):
    _, _, tables, frame = made
    table = tables["1", 1][0]
    for group in GROUPS:
        row = row_of(frame, 1, group, 5, seed="1")
        for name in ("absolute_change", "logit_change"):
            values = vector(table, group, 5, name)
            assert row[name] == pytest.approx(values.mean())
            slow = stats.bootstrap((values,), np.mean, n_resamples=9999, random_state=1).confidence_interval
            assert row[f"{name}_low"] == pytest.approx(slow.low, abs=0.01)
            assert row[f"{name}_high"] == pytest.approx(slow.high, abs=0.01)
        assert row["expected"] == pytest.approx(0.9 * row["logit_change"])
        assert row["n"] == IMAGES


def test_comparisons_are_paired_by_image(made):
    _, _, tables, frame = made
    table = tables["0", 1][0]
    for group, against, name in (
        ("score", "random", "absolute_change"),
        ("score", "most_active", "absolute_change"),
        ("positive", "random_positive", "logit_change"),
        ("negative", "random_negative", "logit_change"),
    ):
        for k in COUNTS:
            row = row_of(frame, 1, group, k, against)
            difference = vector(table, group, k, name) - vector(table, against, k, name)
            known = difference[~np.isnan(difference)]
            assert row["difference"] == pytest.approx(known.mean())
            assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(known).pvalue)
            assert (row["n_pairs"], row["n_left_out"]) == (len(known), IMAGES - len(known))
    assert row_of(frame, 1, "score", 5, "random")["n_left_out"] == 4


def test_verdicts_say_which_way(made):
    frame = made[3]
    assert row_of(frame, 1, "score", 5, "random")["verdict"] == LARGER
    assert row_of(frame, 1, "score", 5, "most_active")["verdict"] == SMALLER
    assert row_of(frame, 1, "positive", 5, "random_positive")["verdict"] == LARGER, "it falls more"
    assert row_of(frame, 1, "positive", 5, "most_active")["verdict"] == SMALLER, "it falls less"
    assert row_of(frame, 1, "negative", 5, "random_negative")["verdict"] == UNCLEAR
    still = row_of(frame, 2, "score", 5, "random")
    assert (still["verdict"], still["reason"]) == (UNTESTED, "identical scores")
    assert (frame.loc[frame["against"].isna(), "verdict"] == "").all()


def test_holm_runs_over_the_whole_table(made):
    frame = made[3]
    tested = frame[frame["wilcoxon_p"].notna()].sort_values("wilcoxon_p")
    assert len(tested) == 2 * 2 * 6
    highest = 0.0
    for place, (_, row) in enumerate(tested.iterrows()):
        highest = max(highest, min(1.0, row["wilcoxon_p"] * (len(tested) - place)))
        assert row["p_adjusted"] == pytest.approx(highest)


def test_rank_correlations_are_per_image(made):
    _, _, tables, frame = made
    single = tables["0", 1][1]
    slow = [stats.spearmanr(own["expected"], own["logit_change"])[0] for _, own in single.groupby("image_id")]
    row = row_of(frame, 1, "alone", 1)
    assert row["rank_correlation"] == pytest.approx(np.mean(slow)) and row["n"] == IMAGES
    assert row["rank_low"] < row["rank_correlation"] < row["rank_high"]
    still = row_of(frame, 2, "alone", 1)
    assert still["n"] == 0 and np.isnan(still["rank_correlation"]), "constant effects have no ranks"


def test_the_command_writes_the_same_bytes_again(made, tmp_path):
    folder, own, _, _ = made
    for name in ("a", "b"):
        arguments = ["--settings", json.dumps(own), "--results", str(folder), "--output", str(tmp_path / f"{name}.csv")]
        assert main(arguments) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_missing_table_is_named(tmp_path, capsys):
    arguments = ["--settings", json.dumps(settings(("toy", "0", [3]))), "--results", str(tmp_path)]
    assert main([*arguments, "--output", str(tmp_path / "out.csv")]) == 1
    assert "layer_3.parquet does not exist" in capsys.readouterr().err
