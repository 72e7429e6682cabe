"""Pareto fronts: of cost and faithfulness over methods, and of L0 and what is kept over SAEs."""

import numpy as np
import pandas as pd
import pytest
from drawn_figures import GATES, MEASURES, comparison, drawn, marks, title

from fgg.report.figures import methods, sae_pareto, style

__all__ = ["drawn"]


def rings(axis):
    """Places of the rings around what is on the front."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axis.lines
        if line.get_marker() == "o" and line.get_markeredgecolor() == style.BLACK and line.get_markersize() == 9
    ]


def test_cost_is_passes_and_a_backward_pass_counts_as_two():
    rows = pd.DataFrame({"forward_passes": [1, 50, np.nan], "backward_passes": [1, 0, np.nan]})
    np.testing.assert_array_equal(methods.cost(rows), [3, 50, np.nan])


def test_methods_stand_at_their_means_ordered_by_cost_and_the_front_is_ringed(drawn, tmp_path):
    fig = drawn(methods.methods_figure, comparison(), tmp_path, MEASURES)
    saco, flipping = fig.axes
    for axis, means in ((saco, [0.2, 0.52]), (flipping, [0.8, 0.48])):
        np.testing.assert_allclose([y for _, y in rings(axis)], means)
        assert [text.get_text() for text in axis.texts] == ["Rollout", "gated, layer 2, activation × gradient"]
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1 pass", "3 passes"]
    assert marks(saco, "v")[0][0] < marks(saco, "s")[0][0] < marks(saco, "D")[0][0] < rings(saco)[1][0]
    low, high = saco.get_ylim()
    assert low < high and flipping.get_ylim()[0] > flipping.get_ylim()[1], "up is better in both"
    (front,) = [line for line in saco.lines if line.get_drawstyle() == "steps-post"]
    np.testing.assert_allclose(front.get_ydata(), [0.2, 0.52, 0.52])
    assert not [y for _, y in marks(saco, "^")], "controls are left out"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "toy: a gate is on the Pareto front of cost and faithfulness by 2 of 2 metrics, significantly better than the "
             "baseline by none"),
        ({GATES[0]: {"verdict": "better"}}, "toy: a gate is on the Pareto front of cost and faithfulness by 2 of 2 metrics, "
                                            "significantly better than the baseline by 2"),
        ({GATES[0]: {"mean": 0.49}}, "toy: no gate is on the Pareto front of cost and faithfulness, by any metric"),
    ],
)  # fmt: skip
def test_the_title_says_whether_gates_are_on_the_front(drawn, tmp_path, changes, said):
    frame = comparison(changes=changes)
    if said.endswith("any metric"):
        frame = frame[frame["metric"] == "saco"]
    assert title(drawn(methods.methods_figure, frame, tmp_path, MEASURES)) == said


def test_of_equals_on_the_front_one_is_named(drawn, tmp_path):
    frame = comparison(changes={GATES[1]: {"mean": 0.52}}, fills=("mean",))
    axis = drawn(methods.methods_figure, frame[frame["metric"] == "saco"], tmp_path, MEASURES).axes[0]
    assert [y for _, y in rings(axis)] == [0.2, 0.52, 0.52]
    assert [text.get_text() for text in axis.texts][1:] == ["gated, layer 2, activation and 1 more"]


def test_bounds_and_unknown_costs_are_drawn_but_are_not_on_the_front(drawn, tmp_path):
    frame = comparison(
        changes={"random": {"mean": 0.9}, "rollout": {"forward_passes": None, "mean": 0.95}}, fills=("mean",)
    )
    axis = drawn(methods.methods_figure, frame[frame["metric"] == "saco"], tmp_path, MEASURES).axes[0]
    assert [y for _, y in rings(axis)] == [0.52]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1 pass", "3 passes", "unknown"]
    assert marks(axis, "s")[0][1] == 0.95 and marks(axis, "v")[0][1] == 0.9


def test_a_metric_without_values_is_said(drawn, tmp_path, monkeypatch):
    frame = comparison(fills=("mean",))
    frame.loc[frame["metric"] == "saco", ["mean", "sem", "improvement"]] = np.nan
    fig = drawn(methods.methods_figure, frame, tmp_path, MEASURES)
    assert [text.get_text() for text in fig.axes[0].texts] == ["no method has a value"]
    assert len(rings(fig.axes[1])) == 2
    said = []
    monkeypatch.setattr(style, "remark", lambda _, name, *text: said.append(name))
    methods.methods_figure(frame[frame["metric"] == "saco"], tmp_path, MEASURES)
    assert said == ["toy_methods"]


def saes(**changes):
    """Rows of sae_quality.csv: two layers with a trained SAE and two controls."""
    rows = [
        {"layer": layer, "kind": kind, "l0": l0, "l0_low": l0 - 4, "l0_high": l0 + 4, "explained_variance": explained,
         "loss": 0.4, "loss_replaced": 0.4 + worse, "same_prediction": 0.98, "tokens": 640, **changes}
        for layer in (1, 2)
        for kind, l0, explained, worse in (("trained", 24, 0.9, 0.01), ("frozen_decoder", 24, 0.7, 0.02), ("pca", 96, 1.0, 0.0))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_saes_stand_at_their_measures_and_the_front_is_within_a_layer(drawn, tmp_path):
    fig = drawn(sae_pareto.pareto_figure, "toy", saes(), tmp_path)
    l0, explained, loss, same = fig.axes
    assert [x for x, _ in marks(l0, "^")] == [24, 96] * 2
    assert [x for x, _ in rings(explained)] == [0.9, 1.0] * 2
    np.testing.assert_allclose([x for x, _ in rings(loss)], [0.01, 0] * 2, atol=1e-12)
    assert not rings(l0) and not rings(same)
    assert {"0.9", "0.7", "1"} == {text.get_text() for text in explained.texts}
    assert {"+0.01", "+0.02", "0"} == {text.get_text() for text in loss.texts}
    assert [tick.get_text() for tick in l0.get_yticklabels()][:3] == ["Layer 1", "trained SAE", "random decoder"]
    assert [tuple(line.get_xdata()) for line in l0.lines if tuple(line.get_xdata()) == (20, 28)], "the quartiles of L0"
    assert title(fig) == (
        "toy: the gates' SAEs explain 90 % of the variance with 24 active features per patch; "
        "on the Pareto front with their controls: 2 of 2 by variance and 2 of 2 by loss"
    )


def test_the_title_changes_where_a_control_is_better(drawn, tmp_path):
    frame = saes()
    frame.loc[frame["kind"] == "frozen_decoder", "explained_variance"] = 0.95
    frame.loc[frame["kind"] == "trained", "loss_replaced"] = [0.39, 0.43]
    text = title(drawn(sae_pareto.pareto_figure, "toy", frame, tmp_path))
    assert (
        "active features per patch; on the Pareto front with their controls: 0 of 2 by variance and 1 of 2 by loss"
        in text
    )


def test_one_sae_is_worth_a_line_and_unknown_is_said(drawn, tmp_path):
    measured = {2: {"l0": 16.5, "explained_variance": 0.91, "kind": None, "loss": None}}
    fig = drawn(sae_pareto.pareto_figure, "toy", sae_pareto.measured_rows(measured), tmp_path)
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == ["SAEs of the gates", "layer 2"]
    assert [[text.get_text() for text in axis.texts] for axis in fig.axes] == [
        ["16.5"],
        ["0.91"],
        ["unknown"],
        ["unknown"],
    ]
    assert title(fig) == "toy: the gate's SAE explains 91 % of the variance with 16.5 active features per patch"
    assert fig.get_size_inches()[1] < 2.5
    assert not any(rings(axis) for axis in fig.axes), "a front of one says nothing"


def test_without_controls_the_title_tells_the_loss(drawn, tmp_path):
    frame = saes()
    frame = frame[frame["kind"] == "trained"].assign(loss_replaced=[0.39, 0.42])
    text = title(drawn(sae_pareto.pareto_figure, "toy", frame, tmp_path))
    assert text.endswith("24 active features per patch; the loss changes by −0.01 to +0.02 nats")


def test_a_negative_share_has_a_minus(drawn, tmp_path):
    fig = drawn(sae_pareto.pareto_figure, "toy", saes(explained_variance=-0.04)[:1], tmp_path)
    assert "explains −4 % of the variance" in title(fig)
    assert [text.get_text() for text in fig.axes[1].texts] == ["−0.04"]


def test_no_sae_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(style, "remark", lambda _, name, *text: said.append(name))
    sae_pareto.pareto_figure("toy", sae_pareto.measured_rows({}), tmp_path)
    assert said == ["toy_sae_pareto"]
