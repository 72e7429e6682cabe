"""The titles of the figures follow from the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fgg.faithfulness.registry import metrics
from fgg.report.figures import dot_plots, feature_deletion, paired_differences, pixel_flipping_curves
from fgg.report.metrics_shown import measures_in


def rows(verdicts, metric="saco", means=(0.5, 0.6), shares=(0.4, 0.7)):
    """Two methods, and a gate per verdict."""
    base = {
        "dataset": "toy", "metric": metric, "fill": "mean", "control": None, "shuffle_decoder": None, "clamp_max": None, "alpha": None,
        "role": "method", "baseline": "transmm", "higher_is_better": metrics()[metric].higher_is_better,
    }  # fmt: skip
    found = [
        {**base, "experiment": name, "method": name, "construction": None, "layers": None, "mean": mean, "verdict": "x",
         "share_improved": 0.1}
        for name, mean in zip(("transmm", "rollout"), means, strict=True)
    ]  # fmt: skip
    found += [
        {**base, "experiment": f"gated-{number}", "method": "transmm", "construction": "combined", "layers": str(number), "mean": 0.9,
         "verdict": verdict, "share_improved": shares[number % 2]}
        for number, verdict in enumerate(verdicts)
    ]  # fmt: skip
    frame = pd.DataFrame(found)
    return frame.astype(object).where(frame.notna(), None)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["better", "worse"], "SaCo of 2 gates against TransMM: of 2 comparisons, 1 is better and 1 is worse"),
        (["better in values"], "SaCo of 1 gate against TransMM: of 1 comparison, none is better, 1 is better in values only and none is worse"),
        ([], "SaCo: Rollout has the best mean of 2 methods"),
    ],
)  # fmt: skip
def test_a_metrics_figure_says_how_the_gates_do(verdicts, said):
    assert dot_plots._finding([rows(verdicts)], metrics()["saco"], "TransMM") == said


def test_the_best_method_follows_the_metrics_direction():
    assert "TransMM has the best mean" in dot_plots._finding(
        [rows([], "pixel_flipping")], metrics()["pixel_flipping"], "x"
    )


@pytest.mark.parametrize(
    ("random", "said"), [(0.01, "4 to 8 times"), (0.1, "0.4 to 0.8 times"), (0.0, "what deleting")]
)
def test_feature_deletion_says_how_much_more_scores_find(random, said):
    table = pd.DataFrame(
        [
            {"layer": 1, "k": k, "group": group, "absolute_change": size}
            for k, score in ((1, 0.04), (10, 0.08))
            for group, size in (("score", score), ("random", random))
        ]
    )
    assert said in feature_deletion._finding(table)


def test_paired_differences_say_how_many_images_improve():
    frame = rows(["worse", "better"])
    others = frame[frame["experiment"] != "transmm"]
    said = paired_differences._finding(others, measures_in(frame), "TransMM")
    assert said == "gates by activation × gradient improve 40 to 70\u00a0% of the images over TransMM"
    alone = others[others["construction"].isna()]
    assert (
        paired_differences._finding(alone, measures_in(frame), "TransMM") == "differences from TransMM, image by image"
    )


@pytest.mark.parametrize(
    ("areas", "said"),
    [
        ([0.01], ": the gate's area is +0.01 against the baseline's, lower is better"),
        ([-0.02, 0.01, np.nan], ": the gates' areas are −0.02 to +0.01 against the baseline's, lower is better"),
        ([np.nan], " curves"),
    ],
)
def test_pixel_flipping_curves_say_whose_area_is_lower(areas, said):
    assert pixel_flipping_curves._finding(areas) == said
