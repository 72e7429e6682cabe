"""The headline in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fgg.comparison.pooled import pooled
from fgg.report import headline
from fgg.statistics.power import smallest_detectable

METRICS = ("saco", "faithfulness_correlation", "pixel_flipping")
SIGN = {"better": 1, "worse": -1}


def hypotheses(verdicts, dataset="toy", seed="0", fills=("mean",), measurable=40, every=None):
    """Rows as `results/hypotheses.csv` has them: 50 images, of which some are measurable.

    Args:
        verdicts: experiment, against, verdict.
        every: the verdict on all images, if it differs.
    """
    rows = []
    for experiment, against, verdict in verdicts:
        for stratum, n in (("measurable", measurable), ("all", 50)):
            said = every if stratum == "all" and every else verdict
            change = SIGN.get(said.split(" ")[0], 0) * 0.01
            rows += [
                {
                    "dataset": dataset, "seed": seed, "metric": metric, "fill": fill, "stratum": stratum,
                    "experiment": experiment, "against": against, "partner": "transmm-p2" if against == "power" else against,
                    "verdict": said, "layers": experiment, "clamp_max": 10.0, "alpha": 1.0, "n": n, "n_images": n,
                    "n_measurable": measurable, "n_experiments_tried": 7, "protocol": "corrected", "improvement_pct": 150 * change,
                    "p_adjusted": np.nan if "identical" in said or "not testable" in said else 0.01, "note": "", "higher_is_better": metric != "pixel_flipping",
                    "smallest_detectable": smallest_detectable(n), "improvement": change, "difference": (change + int(seed) * 1e-4) * (1 if metric != "pixel_flipping" else -1),
                    "difference_se": 0.002, "partner_mean": 0.5, "mean": 0.5, "order_difference": np.nan, "order_se": np.nan,
                }
                for metric in METRICS for fill in fills
            ]  # fmt: skip
    return pd.DataFrame(rows)


def text_of(frame, **other):
    return "\n".join(headline.words(frame, **other))


def test_the_words_count_what_beats_transmm_and_every_control():
    text = text_of(
        hypotheses(
            [
                ("1", "transmm", "better"),
                ("1", "sharpened", "better"),
                ("1", "permuted", "better"),
                ("2", "transmm", "better"),
                ("2", "sharpened", "identical scores"),
                ("2", "permuted", "better"),
                ("1+2", "transmm", "worse"),
                ("1+2", "sharpened", "worse"),
                ("1+2", "permuted", "no difference shown"),
                ("3", "transmm", "better"),
                ("3", "no_sae", "no difference shown"),
            ]
        )
    )
    assert (
        "On `toy` (50 images, corrected protocol; 7 experiments beside the baseline, 4 of them combined gates)" in text
    )
    assert (
        "- SaCo: 3 of 4 combined gates better than TransMM, 1 worse; 2 of the better ones beat every control that applies."
        in text
    )
    assert "| 1 | TransMM | **better (+1.5 %, *p* = 0.010)** |" in text
    assert "| 2 | sharpened TransMM | identical scores |" in text


def test_better_in_values_is_never_counted_as_better():
    text = text_of(hypotheses([("1", "transmm", "better in values"), ("1", "power", "no difference shown")]))
    assert "- SaCo: 0 of 1 combined gates better than TransMM, 1 better in values only, 0 worse." in text
    assert "**better" not in text
    assert "TransMM to the power 2" in text


def test_unmeasurable_images_are_counted_and_their_verdict_stands_in_brackets():
    text = text_of(hypotheses([("1", "transmm", "no difference shown")], every="better"))
    assert "Measurable images: 40 of 50 with the fill mean." in text
    assert "| 1 | TransMM | no difference shown (+0.0 %, *p* = 0.010) [better (+1.5 %, *p* = 0.010)] |" in text


def test_fills_that_do_not_agree_are_told():
    rows = [("1", "transmm", "better")]
    two = pd.concat([hypotheses(rows), hypotheses([("1", "transmm", "worse")], fills=("removal",))])
    text = text_of(two)
    assert "fill mean: 1 of 1 combined gates better than TransMM, 0 worse" in text
    assert "The fills do not agree" in text
    assert "The fills agree." in text_of(hypotheses(rows, fills=("mean", "removal")))


def test_the_words_tell_what_the_images_can_show():
    frame = hypotheses([("1", "transmm", "no difference shown")], measurable=150)
    assert "So many images show a difference of d_z = 0.23 with a power of 80 %" in text_of(frame)


def test_warnings_of_the_model_and_the_sae_are_told():
    frame = hypotheses([("1", "transmm", "better")]).assign(note="weak SAE of layer 2: explained variance 0.31")
    assert "**Warning:** weak SAE of layer 2: explained variance 0.31." in text_of(frame)


def test_the_words_do_not_call_an_untested_gate_no_better():
    few = "not testable: only 2 pairs"
    text = text_of(hypotheses([("1", "transmm", few), ("2", "transmm", few)]))
    assert "- SaCo: no combined gate could be tested against TransMM (only 2 pairs)." in text
    text = text_of(hypotheses([("1", "transmm", few), ("2", "transmm", "worse")]))
    assert "0 of 2 combined gates better than TransMM, 1 worse, 1 not testable." in text


def comparison_of(frame):
    """A comparison without rows beside the hypotheses'."""
    return frame.assign(baseline="transmm", baseline_mean=0.5).iloc[:0]


def test_several_seeds_are_told_by_the_pooled_table():
    runs = pd.concat([hypotheses([("1", "transmm", "better")], seed=str(seed)) for seed in range(5)])
    text = text_of(runs, pooled=pooled(comparison_of(runs), runs))
    assert "50 images in each of 5 runs with other seeds" in text
    assert "- SaCo: 1 of 1 combined gates better than TransMM" in text
    runs.loc[runs["seed"].isin(["3", "4"]), "difference"] *= -2
    text = text_of(runs, pooled=pooled(comparison_of(runs), runs))
    assert "- SaCo: 0 of 1 combined gates better than TransMM, 0 worse." in text, (
        "one seed more or less decides nothing"
    )


def test_a_brief_text_shows_the_pooled_comparisons_with_transmm_alone():
    rows = [("1", "transmm", "better"), ("1", "no_sae", "better")]
    runs = pd.concat([hypotheses(rows, seed=str(seed)) for seed in range(5)])
    text = text_of(runs, pooled=pooled(comparison_of(runs), runs), brief=True)
    lines = [line for line in text.splitlines() if line.startswith("| 1 |")]
    assert len(lines) == 3
    assert lines[0].startswith("| 1 | SaCo, mean | +2.0 % | ")
    assert "| 5, 0 of 5 | better (*p* < 0.001) |" in lines[0]
    assert "no SAE" not in text


def test_datasets_that_disagree_are_not_averaged():
    better, worse = ([("1", "transmm", verdict)] for verdict in ("better", "worse"))
    runs = pd.concat(
        [hypotheses(better, seed=str(seed)) for seed in range(3)]
        + [hypotheses(worse, "other", seed=str(seed)) for seed in range(3)]
    )
    found = pooled(comparison_of(runs), runs)
    both = found[found["dataset"] == "(all)"]
    assert set(both["verdict"]) == {"the datasets disagree"}
    assert both["mean"].isna().all()
    text = text_of(runs, pooled=found)
    assert "All datasets together" in text


def test_the_words_go_between_the_markers(tmp_path):
    hypotheses([("1", "transmm", "no difference shown")]).to_csv(tmp_path / "h.csv", index=False)
    page = tmp_path / "README.md"
    page.write_text(f"before\n{headline.BEGIN}\nold\n{headline.END}\nafter\n")
    arguments = ["--hypotheses", str(tmp_path / "h.csv"), "--insert", str(page)]
    assert headline.main(arguments) == 0
    first = page.read_text()
    assert first.startswith("before\n") and first.endswith("\nafter\n")
    assert "old" not in first and "0 of 1 combined gates better than TransMM" in first
    assert headline.main(arguments) == 0
    assert page.read_text() == first
    page.write_text("no markers")
    assert headline.main(arguments) == 1


@pytest.mark.parametrize(
    ("control", "beats"), [("better", True), ("identical scores", False), ("no difference shown", False)]
)
def test_a_lone_control_that_cannot_differ_is_not_beaten(control, beats):
    frame = hypotheses([("1", "transmm", "better"), ("1", "sharpened", control)])
    assert headline.beats_controls(frame[frame["metric"] == "saco"]) == beats
