"""The figure of powers: gains lie at the numbers of the table, and the title says whether a power reaches the gates."""

import numpy as np
import pandas as pd
from drawn_figures import GATES, MEASURES, comparison, drawn, title

from fgg.report.figures import powers

__all__ = ["drawn"]


def curve(axis):
    """(x, y) of TransMM to its powers."""
    (line,) = [line for line in axis.lines if line.get_marker() == "D"]
    return np.array(line.get_xydata(), float)


def test_the_gains_of_the_powers_and_the_levels_of_the_gates(drawn, tmp_path):
    fig = drawn(powers.powers_figure, comparison(), tmp_path, MEASURES)
    assert len(fig.axes) == 4, "two metrics with two fills"
    for axis in fig.axes:
        np.testing.assert_allclose(curve(axis), [[0.5, -0.01], [1, 0], [2, 0.03]], atol=1e-12)
        levels = [line.get_ydata()[0] for line in axis.lines if tuple(line.get_xdata()) == (0, 1)]
        np.testing.assert_allclose(
            sorted(levels), [0, 0.02], atol=1e-12
        )  # no difference; the gate, but not its control
        (bars,) = axis.collections
        ends = [path.vertices[:, 1] for path in bars.get_paths()]
        np.testing.assert_allclose(ends, [[-0.025, 0.005], [0, 0], [0.015, 0.045]], atol=1e-12)
        assert axis.get_title().endswith("n = 50, ↑ better") and axis.get_xlim()[1] > 2
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.5", "1", "2"]


def test_the_title_says_by_how_many_metrics_a_power_reaches_the_gates(drawn, tmp_path):
    texts = []
    for gain in (0.02, 0.031):
        frame = comparison(changes={GATES[0]: {"improvement": gain}})
        texts.append(title(drawn(powers.powers_figure, frame, tmp_path, MEASURES)))
    assert "gains at least as much as the best gate by 4 of 4 metrics and fills" in texts[0]
    assert texts[1] == "toy: the best gate gains more than TransMM and all its powers by all 4 metrics and fills"


def test_of_many_gates_those_that_are_best_most_often_are_drawn(drawn, tmp_path):
    frame = comparison()
    gate = frame[frame["experiment"] == GATES[0]]
    more = [
        gate.assign(
            experiment=f"gated-l{layer}-combined-c10-a1",
            layers=str(layer),
            improvement=0.1 if layer == 7 else 0.001 * layer,
        )
        for layer in range(3, 12)
    ]
    frame = pd.concat([frame, *more], ignore_index=True)
    axis = drawn(powers.powers_figure, frame, tmp_path, MEASURES).axes[0]
    texts = axis.get_legend_handles_labels()[1]
    assert texts == ["TransMM to a power", *(f"gated, layer {layer}" for layer in (2, 7, 10, 11))]


def test_powers_without_gates_are_drawn(drawn, tmp_path):
    frame = comparison()
    fig = drawn(powers.powers_figure, frame[frame["construction"].isna()], tmp_path, MEASURES)
    assert "with the order of the patches unchanged" in title(fig) and len(curve(fig.axes[0])) == 3


def test_the_power_of_an_experiment_is_in_its_name():
    assert [powers._power(name) for name in ("transmm", "transmm-p0.5", "transmm-p2")] == [1.0, 0.5, 2.0]


def test_metrics_without_values_leave_empty_panels(drawn, tmp_path):
    frame = comparison(fills=("mean",))
    frame[["mean", "improvement", "ci_low", "ci_high"]] = np.nan
    fig = drawn(powers.powers_figure, frame, tmp_path, MEASURES)
    assert "with the order of the patches unchanged" in title(fig)
    assert np.isnan(curve(fig.axes[0])[[0, 2], 1]).all()
