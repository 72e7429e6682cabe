"""The forest plot: marks lie at the numbers of the tables, one per seed, and the title counts the verdicts."""

import numpy as np
import pandas as pd
import pytest
from drawn_figures import GATES, MEASURES, comparison, drawn, marks, title

from fgg.report.figures import forest, style
from fgg.report.figures.findings import tally

__all__ = ["drawn"]


def pooled(mean=0.02, verdict="better", runs=3):
    """Rows of pooled.csv for both gates."""
    rows = [
        {
            "experiment": name, "metric": metric, "fill": fill, "n_runs": runs, "mean": mean, "ci_low": mean - 0.01,
            "ci_high": mean + 0.01, "prediction_low": mean - 0.02, "prediction_high": mean + 0.02, "verdict": verdict,
        }
        for name in GATES
        for metric in ("saco", "pixel_flipping")
        for fill in ("mean", "removal")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def lines_of(axis, marker):
    return sorted(round(x, 6) for x, _ in marks(axis, marker))


def test_a_mark_lies_at_the_improvement_and_its_bar_at_the_interval(drawn, tmp_path):
    fig = drawn(forest.forest_figure, comparison(), "0", tmp_path, MEASURES)
    assert [axis.get_title().split("\n") for axis in fig.axes] == [
        [name, f"fill {fill}", "n = 50, better →"]
        for fill in ("mean", "removal")
        for name in ("SaCo", "Pixel Flipping")
    ]
    for axis in fig.axes:
        assert lines_of(axis, "o") == [-0.1, 0.02], "the gates, also where lower is better"
        bars = [tuple(np.round(line.get_xdata(), 6)) for line in axis.lines if len(set(line.get_ydata())) == 1]
        assert {(0.005, 0.035), (-0.115, -0.085)} <= set(bars)
        assert [line for line in axis.lines if set(line.get_xdata()) == {0.0} and len(line.get_xdata()) == 2]
        assert [text.get_text() for text in axis.texts] == ["−0.3", "−0.5"], "what lies beyond the axis"
    names = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert names == [
        "Baselines",
        "Rollout",
        "Gated, layer 2",
        "activation × gradient",
        "activation",
        "Bounds",
        "Random",
    ]


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("better", "of 8 comparisons, 4 are better and none is worse"),
        ("better in values", "of 8 comparisons, none is better, 4 are better in values only and none is worse"),
        ("worse", "of 8 comparisons, none is better and 4 are worse"),
        ("no difference shown", "of 8 comparisons, none is better and none is worse"),
    ],
)
def test_the_title_follows_the_verdicts_on_the_gates(drawn, tmp_path, verdict, said):
    frame = comparison(changes={GATES[0]: {"verdict": verdict}, "rollout": {"verdict": "worse"}})
    assert title(drawn(forest.forest_figure, frame, "0", tmp_path, MEASURES)) == f"toy: 2 gates against TransMM: {said}"


def test_only_a_plain_verdict_is_filled(drawn, tmp_path):
    changes = {GATES[0]: {"verdict": "better"}, GATES[1]: {"verdict": "worse in values"}}
    axis = drawn(forest.forest_figure, comparison(changes=changes), "0", tmp_path, MEASURES).axes[0]
    faces = {
        round(float(line.get_xdata()[0]), 6): line.get_markerfacecolor()
        for line in axis.lines
        if line.get_marker() == "o"
    }
    assert faces == {0.02: style.VERMILION, -0.1: "white"}


def test_every_seed_has_a_mark_and_the_pooled_one_lies_below_them(drawn, tmp_path):
    frame = comparison(seeds=("0", "1", "2"), changes={"rollout": {"verdict": "worse"}})
    fig = drawn(forest.forest_figure, frame, "0", tmp_path, MEASURES, pooled())
    assert (
        title(fig)
        == "toy: 2 gates against TransMM (pooled over 3 seeds): of 8 comparisons, 8 are better and none is worse"
    )
    axis = fig.axes[0]
    assert lines_of(axis, "o") == [-0.1, -0.09, -0.08, 0.02, 0.03, 0.04]
    diamonds = sorted(marks(axis, "D"), key=lambda own: -own[1])
    assert [round(x, 6) for x, _ in diamonds] == [0.02, 0.02]
    tops = sorted((y for x, y in marks(axis, "o") if x > 0), reverse=True)
    assert len(set(tops)) == 3 and diamonds[0][1] < min(tops)
    assert axis.get_ylim()[0] < min(line.get_ydata()[0] for line in axis.lines if line.get_marker() == "D")
    bars = [tuple(np.round(line.get_xdata(), 6)) for line in axis.lines if line.get_linewidth() == 1.9]
    assert bars == [(0.01, 0.03)] * 2
    dotted = [
        tuple(np.round(line.get_xdata(), 6)) for line in axis.lines if line.get_linestyle() == ":" or line.is_dashed()
    ]
    assert (0.0, 0.04) in dotted, "the prediction interval"


def test_without_a_pooled_table_the_seeds_stand_alone(drawn, tmp_path):
    frame = comparison(seeds=("0", "1"), changes={GATES[0]: {"verdict": "worse"}})
    for table in (None, pooled(runs=1)):
        fig = drawn(forest.forest_figure, frame, "0", tmp_path, MEASURES, table)
        assert title(fig).endswith("(in 2 seeds): of 16 comparisons, none is better and 8 are worse")
        assert not marks(fig.axes[0], "D")


def test_many_seeds_are_dots_and_keep_the_figure_short(drawn, tmp_path):
    heights = []
    for count in (3, 12):
        frame = comparison(seeds=tuple(map(str, range(count))), width=0.002)
        fig = drawn(forest.forest_figure, frame, "0", tmp_path, MEASURES, pooled(runs=count))
        heights.append(fig.get_size_inches()[1])
    assert heights[1] < heights[0]
    assert len(marks(fig.axes[0], "o")) == 24
    assert len({y for x, y in marks(fig.axes[0], "o")}) == 2, "the dots of a gate share a line"


def test_a_metric_with_fewer_fills_leaves_its_place_empty(drawn, tmp_path):
    frame = comparison()
    frame = frame[(frame["metric"] == "saco") | (frame["fill"] == "mean")]
    fig = drawn(forest.forest_figure, frame, "0", tmp_path, MEASURES)
    assert [axis.axison for axis in fig.axes] == [True, True, True, False]


def test_gates_of_one_construction_share_a_section(drawn, tmp_path):
    frame = comparison()
    frame = frame[frame["experiment"] != GATES[1]]
    other = frame[frame["experiment"] == GATES[0]].assign(experiment="gated-l1.2-combined-c10-a1", layers="1+2")
    fig = drawn(forest.forest_figure, pd.concat([frame, other], ignore_index=True), "0", tmp_path, MEASURES)
    names = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert names[2:5] == ["Gated, activation × gradient", "layer 2", "layers 1+2"]


def test_what_is_undefined_is_not_drawn(drawn, tmp_path):
    frame = comparison(seeds=("0", "1"))
    frame.loc[frame["fill"] == "mean", ["improvement", "ci_low", "ci_high"]] = np.nan
    nothing = pooled(runs=2).assign(**dict.fromkeys(("mean", "ci_low", "ci_high"), np.nan), verdict="not testable")
    fig = drawn(forest.forest_figure, frame, "0", tmp_path, MEASURES, nothing)
    assert [len(marks(axis, "o")) for axis in fig.axes] == [0, 0, 4, 4]
    assert not any(marks(axis, "D") for axis in fig.axes)
    assert ["undefined" in [text.get_text() for text in axis.texts] for axis in fig.axes] == [True, True, False, False]


def test_a_lone_baseline_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(style, "remark", lambda _, name, *text: said.append(name))
    frame = comparison()
    forest.forest_figure(frame[frame["experiment"] == "transmm"], "0", tmp_path, MEASURES)
    assert said == ["toy_forest"]


def test_a_tally_counts_each_verdict_once():
    verdicts = [
        "better",
        "better in values",
        "better (order and values not told apart)",
        "worse",
        "worse in values",
        "equivalent",
    ]
    assert tally(pd.Series(verdicts)) == (1, 2, 2, 6)
    assert str(tally(pd.Series(["better"]))) == "of 1 comparison, 1 is better and none is worse"
