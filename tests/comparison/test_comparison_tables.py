"""The comparison's tables: columns, pairing, families, hypotheses, errors, equal bytes."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from synthetic_scores import METRICS as NAMES
from synthetic_scores import UNMEASURABLE

from fgg.comparison import quality, tables
from fgg.comparison.__main__ import main, read
from fgg.comparison.scores import read_scores
from fgg.comparison.summary import main as summarise
from fgg.errors import FggError
from fgg.experiments import experiment_id
from fgg.faithfulness.measures import measures
from fgg.faithfulness.registry import chosen
from fgg.tables import read_settings, read_table, write_table

METRICS = chosen(NAMES)
FEW = ("transmm", "rollout", "gradcam")

CONTRACT_COLUMNS = """
dataset experiment method layers construction clamp_max alpha shuffle_decoder control metric higher_is_better n
mean sem baseline_mean difference improvement_pct ci_low ci_high effect_size p_value p_adjusted significant
protocol precision
"""
CONTRACT = CONTRACT_COLUMNS.split()


def run(results, settings, output, *more):
    arguments = ["--settings", json.dumps(settings), "--results", str(results)]
    code = main([*arguments, "--output", str(output), *more])
    return code or summarise(
        ["--comparison", str(output / "comparison.parquet"), "--output", str(output / "summary.csv")]
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory, write_scores):
    folder = tmp_path_factory.mktemp("comparison")
    settings = write_scores(folder, 40, undefined=4) | {"notes": {"toy": {"gated-l2-no_sae-c10-a1": "rounding noise"}}}
    assert run(folder, settings, folder) == 0
    return folder, settings


@pytest.fixture
def comparison(built):
    return pd.read_csv(built[0] / "comparison.csv").set_index(["experiment", "metric", "stratum"])


def scores(built, experiment, metric):
    frame = read_table(built[0] / "toy" / "faithfulness" / f"{experiment}.parquet").to_pandas()
    return frame.set_index("image_id").sort_index()[metric]


def test_summary_has_the_columns_and_the_order_of_the_contract(built):
    summary = pd.read_csv(built[0] / "summary.csv", dtype={"layers": str})
    assert list(summary.columns[: len(CONTRACT)]) == CONTRACT
    assert list(dict.fromkeys(summary["experiment"])) == list(built[1]["experiments"]["toy"])
    assert len(summary) == 24 * 3 * 2
    assert list(dict.fromkeys(summary["stratum"])) == ["measurable", "all"]
    row = summary[(summary["experiment"] == "gated-l1.2-combined-c10-a1-shuffled") & (summary["metric"] == "saco")]
    assert row.iloc[:1][
        ["method", "layers", "construction", "clamp_max", "alpha", "shuffle_decoder"]
    ].to_numpy().tolist() == [["transmm", "1+2", "combined", 10.0, 1.0, True]]
    assert set(summary["n_experiments_tried"]) == {23}
    assert set(summary["protocol"]) == {"corrected"}
    noted = summary[summary["note"].notna()]
    assert set(noted["experiment"]) == {"gated-l2-no_sae-c10-a1"}
    assert set(noted["note"]) == {"rounding noise"}


def test_the_baseline_row_has_no_statistics(comparison):
    row = comparison.loc[("transmm", "saco", "all")]
    for name in ("difference", "improvement_pct", "ci_low", "ci_high", "effect_size", "p_value", "p_adjusted"):
        assert np.isnan(row[name]), name
    assert not row["significant"]
    assert row["mean"] == row["baseline_mean"]
    assert row["n"] == 40


def test_rows_agree_with_scipy_whatever_the_order_of_the_files(built, comparison):
    for experiment, metric in [("random", "saco"), ("gated-l2-combined-c10-a1", "pixel_flipping")]:
        own, baseline = scores(built, experiment, metric), scores(built, "transmm", metric)
        row = comparison.loc[(experiment, metric, "all")]
        assert row["p_value"] == pytest.approx(stats.ttest_rel(own, baseline).pvalue, rel=1e-9)
        assert row["difference"] == pytest.approx((own - baseline).mean(), rel=1e-12)
        assert row["improvement"] == pytest.approx(METRICS[metric].sign * row["difference"])
        assert np.sign(row["effect_size"]) == np.sign(row["improvement"])


def test_holm_runs_over_the_experiments_and_metrics_of_a_stratum(comparison):
    for _, family in comparison.groupby("stratum"):
        known = family[family["p_value"].notna()]
        assert set(known.index.get_level_values("metric")) == set(METRICS)
        assert known["p_adjusted"].to_numpy() == pytest.approx(multipletests(known["p_value"], method="holm")[1])
        assert (family["significant"] == (family["p_adjusted"] < 0.05)).all()


def test_holm_runs_over_one_metric_if_the_family_says_so(results):
    folder, settings = results
    frame = tables.comparison(folder, ["toy"], fewer(settings, *FEW) | {"family": "metric"}).comparison.to_pandas()
    for _, family in frame.groupby(["stratum", "metric"]):
        known = family[family["p_value"].notna()]
        assert known["p_adjusted"].to_numpy() == pytest.approx(multipletests(known["p_value"], method="holm")[1])


def test_the_first_stratum_holds_the_measurable_images(built, comparison):
    own, baseline = scores(built, "tokentm", "saco"), scores(built, "transmm", "saco")
    row = comparison.loc[("tokentm", "saco", "measurable")]
    assert row["difference"] == pytest.approx((own - baseline)[:-UNMEASURABLE].mean())
    assert (row["n_images"], row["n_measurable"]) == (40 - UNMEASURABLE, 40 - UNMEASURABLE)
    row = comparison.loc[("tokentm", "saco", "all")]
    assert (row["n_images"], row["n_measurable"]) == (40, 40 - UNMEASURABLE)
    assert row[["median", "minimum", "maximum"]].tolist() == [own.median(), own.min(), own.max()]


def test_undefined_scores_are_counted_and_left_out(comparison):
    row = comparison.loc[("gradcam", "faithfulness_correlation", "all")]
    assert (row["n_images"], row["n"], row["n_undefined"], row["n_left_out"]) == (40, 36, 4, 4)
    assert row["mean"] - row["baseline_mean"] == pytest.approx(row["difference"])
    assert row["n_with_ties"] == 3
    assert row["monte_carlo_se"] == pytest.approx(0.05 / 40**0.5)
    assert comparison.loc[("gradcam", "saco", "all"), "n"] == 40


def test_strata_split_the_images_by_correctness(built, comparison):
    frame = read_table(built[0] / "toy" / "faithfulness" / "transmm.parquet").to_pandas().set_index("image_id")
    correct = (frame["label"] == frame["predicted"]).sort_index()
    own, baseline = scores(built, "tokentm", "saco"), scores(built, "transmm", "saco")
    row = comparison.loc[("tokentm", "saco", "correct")]
    assert row["difference"] == pytest.approx((own - baseline)[correct].mean())
    assert row["n"] + comparison.loc[("tokentm", "saco", "incorrect"), "n"] == 40


def test_identical_scores_are_not_tested(comparison):
    row = comparison.loc[("gated-l2-combined-c10-a1-sharpened", "pixel_flipping", "all")]
    assert (row["difference"], row["ci_low"], row["ci_high"], row["n_tied"]) == (0, 0, 0, 40)
    assert row["reason"] == "identical scores"
    assert np.isnan(row["p_value"])


def test_hypotheses_hold_every_combined_gate_against_its_partners(built):
    frame = pd.read_csv(built[0] / "hypotheses.csv")
    assert len(frame) == 2 * 10 * 3 * 2
    assert set(frame["experiment"]) == {"gated-l2-combined-c10-a1", "gated-l1.2-combined-c10-a1"}
    kinds = ["transmm", "shuffled", "permuted", "sharpened", "values", "order", "no_sae", "activation_only"]
    assert list(dict.fromkeys(frame["against"])) == [*kinds, "gradient_only", "power"]
    assert set(frame.loc[frame["against"] == "power", "partner"]) == {"transmm-p2"}
    assert frame["stratum"].iloc[0] == "measurable", "the verdict that counts comes first"
    whole = frame[frame["stratum"] == "all"]
    row = whole[(whole["against"] == "permuted") & (whole["metric"] == "pixel_flipping")].iloc[0]
    own, partner = (scores(built, row[name], "pixel_flipping") for name in ("experiment", "partner"))
    assert row["partner"] == row["experiment"] + "-permuted"
    assert row["p_value"] == pytest.approx(stats.ttest_rel(own, partner).pvalue, rel=1e-9)
    assert row["improvement"] == pytest.approx(-(own - partner).mean())
    for _, family in frame[frame["p_value"].notna()].groupby("stratum"):
        assert family["p_adjusted"].to_numpy() == pytest.approx(multipletests(family["p_value"], method="holm")[1])
    assert set(frame["n_experiments_tried"]) == {23}
    noted = frame[frame["note"].notna()]
    assert set(noted["partner"]) == {"gated-l2-no_sae-c10-a1"}


def test_against_the_baseline_both_tables_agree(built, comparison):
    frame = pd.read_csv(built[0] / "hypotheses.csv")
    for _, row in frame[frame["against"] == "transmm"].iterrows():
        other = comparison.loc[(row["experiment"], row["metric"], row["stratum"])]
        assert row[["difference", "ci_low", "ci_high", "p_value"]].tolist() == (
            other[["difference", "ci_low", "ci_high", "p_value"]].tolist()
        )


def test_hypotheses_without_partner_are_absent():
    gate = {"layers": [3], "construction": "combined", "clamp_max": 10.0, "alpha": 1.0, "shuffle_decoder": False}
    grid = {
        "transmm": {"method": "transmm"},
        experiment_id(gate): {"method": "transmm", "gate": gate, "control": None},
        experiment_id({**gate, "alpha": 2.0}, "sharpened"): {"method": "transmm", "gate": gate, "control": "sharpened"},
    }
    assert list(tables.hypotheses(grid)) == [(experiment_id(gate), "transmm", "transmm")]


def test_two_runs_give_the_same_bytes(built, tmp_path):
    folder, settings = built
    assert run(folder, settings, tmp_path) == 0
    for name in (
        "comparison.parquet",
        "comparison.csv",
        "hypotheses.csv",
        "decomposition.csv",
        "agreement.csv",
        "summary.csv",
    ):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_parquet_is_marked_with_its_settings(built):
    path = built[0] / "comparison.parquet"
    assert read_settings(path)["baseline"] == "transmm"
    assert pq.read_schema(path).remove_metadata() == tables.COMPARISON


def fewer(settings, *names):
    """The settings with only these experiments, which are quicker to compare."""
    return settings | {"experiments": {"toy": {name: settings["experiments"]["toy"][name] for name in names}}}


def edited(results, experiment, change):
    path = results / "toy" / "faithfulness" / f"{experiment}.parquet"
    write_table(path, change(read_table(path)), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(3), "3 of its 40 image ids are missing and 0 are foreign"),
        (lambda t: pa.concat_tables([t, t.slice(0, 2)]), "2 image ids"),
        (lambda t: t.drop_columns(["saco"]), "saco"),
    ],
)
def test_images_that_do_not_pair_are_an_error(results, capsys, change, message):
    folder, settings = results
    edited(folder, "rollout", change)
    assert run(folder, settings, folder) == 1
    error = capsys.readouterr().err
    assert "rollout" in error
    assert message in error
    assert not (folder / "comparison.csv").exists()


def test_a_missing_table_is_an_error(results, capsys):
    folder, settings = results
    (folder / "toy" / "faithfulness" / "rollout.parquet").unlink()
    assert run(folder, settings, folder) == 1
    assert "rollout.parquet does not exist" in capsys.readouterr().err


def test_settings_that_lack_something_are_an_error(results, capsys):
    folder, settings = results
    assert run(folder, {k: v for k, v in settings.items() if k != "seed"}, folder) == 1
    assert "--settings lacks seed" in capsys.readouterr().err
    with pytest.raises(FggError, match="baseline 'lrp'"):
        read_scores(folder / "toy", ["transmm"], "lrp", measures({name: ["mean"] for name in NAMES}))


def test_other_predictions_are_noted(results):
    folder, settings = results

    def flip(table):
        predicted = table["predicted"].to_numpy().copy()
        predicted[:2] = 1 - predicted[:2]
        return table.set_column(table.schema.get_field_index("predicted"), "predicted", pa.array(predicted))

    edited(folder, "rollout", flip)
    frame = tables.comparison(folder, ["toy"], fewer(settings, *FEW)).comparison.to_pandas()
    notes = frame.groupby("experiment")["note"].first()
    assert notes["rollout"] == "2 images predicted otherwise than by transmm"
    assert notes["gradcam"] == ""


def faults(folder, model, saes):
    """The notes that the comparison takes from the data."""
    for path, record in [
        ("prepared/toy/dataset.json", {"n_skipped": 2, "classes": ["no", "yes"]}),
        ("models/toy/model.json", model),
    ]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(record))
    for layer, record in saes.items():
        (folder / f"saes/toy/layer_{layer}").mkdir(parents=True, exist_ok=True)
        (folder / f"saes/toy/layer_{layer}/metrics.json").write_text(json.dumps(record))


SOUND = {"accuracy": {"test": {"accuracy": 0.9, "majority_accuracy": 0.6, "logistic_regression_accuracy": 0.7}}}
FAITHFUL = {"explained_variance": 0.95, "dead_share": 0.1, "same_prediction": 0.99}


def test_degenerate_layers_become_notes(built, tmp_path):
    layers = [{"layer": 1, "status": "ok"}, {"layer": 2, "status": "cancelled"}]
    faults(tmp_path, SOUND | {"layers": layers}, {1: FAITHFUL, 2: FAITHFUL})
    settings = read(json.dumps(built[1] | {"notes": {}}), tmp_path)
    notes = settings["notes"]["toy"]
    assert notes["gated-l1.2-combined-c10-a1-permuted"].startswith("layer 2: residual x gradient is analytically zero")
    assert notes["gated-l2-no_sae-c10-a1"]
    assert not any(
        notes[name] for name in ("transmm", "gated-l2-activation_only-c10-a1", "gated-l2-gradient_only-c10-a1")
    )
    assert (settings["skipped"]["toy"], settings["classes"]["toy"]) == (2, ["no", "yes"])


def test_a_weak_model_or_sae_becomes_a_warning(built, tmp_path):
    layers = [{"layer": n, "status": "ok"} for n in (1, 2)]
    weak = {"accuracy": {"test": {"accuracy": 0.72, "majority_accuracy": 0.6, "logistic_regression_accuracy": 0.7}}}
    faults(
        tmp_path, SOUND | {"layers": layers}, {1: FAITHFUL, 2: FAITHFUL | {"same_prediction": 0.8, "dead_share": 0.7}}
    )
    notes = read(json.dumps(built[1] | {"notes": {}}), tmp_path)["notes"]["toy"]
    warning = "weak SAE of layer 2: only 80 % of predictions stay with its reconstruction in place, 70 % of its features are dead"
    assert notes["gated-l2-combined-c10-a1"] == warning
    assert notes["gated-l1.2-combined-c10-a1"] == warning
    assert (notes["gated-l2-no_sae-c10-a1"], notes["transmm"]) == ("", "")
    faults(tmp_path, weak | {"layers": layers}, {})
    notes = read(json.dumps(built[1] | {"notes": {}}), tmp_path)["notes"]["toy"]
    assert notes["transmm"] == "weak model: accuracy 0.720 on test, logistic regression on grey pixels 0.700"
    relaxed = built[1] | {"notes": {}, "quality": {"model_gain": 0.05, "same_prediction": 0.5, "dead_share": 0.9}}
    assert not any(read(json.dumps(relaxed), tmp_path)["notes"]["toy"].values())


def test_what_was_not_measured_of_a_model_is_not_judged():
    accuracy = {"accuracy": 0.2, "majority_accuracy": None, "logistic_regression_accuracy": None}
    for record in ({}, {"accuracy": None}, {"accuracy": {"val": {}}}, {"accuracy": {"test": accuracy}}):
        assert not list(quality.model_warnings(record, "test", quality.LEVELS))
    few = {"accuracy": 0.99, "majority_accuracy": 0.1, "logistic_regression_accuracy": 0.97}
    assert not list(quality.model_warnings({"accuracy": {"test": few}}, "test", quality.LEVELS)), (
        "a third of the errors"
    )


def test_the_printed_table_counts_what_was_tried(results, capsys):
    folder, settings = results
    assert run(folder, fewer(settings, *FEW), folder) == 0
    printed = capsys.readouterr().out
    assert "toy: 40 images, baseline transmm" in printed
    assert printed.count("36 measurable images") == 3


def test_torch_is_never_imported():
    code = "import sys, fgg.comparison.__main__, fgg.report.figures.__main__, fgg.comparison.summary; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
