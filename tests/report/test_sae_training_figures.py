"""The learning curves and the sweep: every point is drawn, and the chosen SAE is the filled one."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fgg.report.figures import sae_training, style

POINTS = [
    {"tokens": 1000 * n, "explained_variance": 1 - 2 * 0.5**n, "l0": 8.0, "dead_share": 0.5**n, "loss_recovered": None}
    for n in range(11)
]


@pytest.fixture
def drawn(monkeypatch):
    """What is on the panels when a figure is saved."""
    found = {}

    def keep(fig, _, name):
        found["name"], found["title"] = name, fig.get_suptitle()
        found["axes"] = [
            {
                "lines": [np.array(line.get_xydata(), float) for line in axis.lines],
                "dots": [(np.array(own.get_offsets()), own.get_facecolors()) for own in axis.collections],
                "labels": [text.get_text() for text in axis.texts],
                "limits": axis.get_ylim(),
            }
            for axis in fig.axes
        ]

    monkeypatch.setattr(style, "save", keep)
    return found


def test_the_learning_curves_of_all_layers(drawn, tmp_path):
    measured = {1: {"learning_curve": POINTS}, 2: {"learning_curve": POINTS}, 3: {}}
    sae_training.training_figure("toy", measured, tmp_path)
    assert drawn["name"] == "toy_sae_training" and "0.998 (layer 1), 0.998 (layer 2)" in drawn["title"]
    explained, l0, dead, loss = drawn["axes"]
    assert [len(line) for line in explained["lines"]] == [11, 11]
    assert explained["lines"][0][:, 1].tolist() == [point["explained_variance"] for point in POINTS]
    assert explained["limits"][0] == -0.1, "what is worse than the mean is cut off"
    assert l0["limits"][0] == 0 and len(dead["lines"][0]) == 11
    assert [len(line) for line in loss["lines"]] == [0, 0], "what is undefined is not drawn"


def test_no_training_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(style, "remark", lambda _, name, *text: said.append(name))
    sae_training.training_figure("toy", {1: {}}, tmp_path)
    sae_training.sweep_figure("toy", [], tmp_path)
    assert said == ["toy_sae_training", "toy_sae_sweep"]


def table(layer):
    rows = [
        {"layer": layer, "name": f"{kind}-k{k}", "architecture": kind, "expansion": 8, "k": k, "l1": 1, "seed": None}
        | {"l0_coefficient": 1, "normalize": "none", "learning_rate": 0.001, "l0": k + 0.5, "kl": 1 / k}
        | {"explained_variance": 1 - 1 / k - 0.1 * (kind == "standard"), "chosen": (kind, k) == ("topk", 16)}
        | {"pareto": kind == "topk", "within_limits": k < 32}
        for kind in ("topk", "standard")
        for k in (8, 16, 32)
    ]
    return pd.DataFrame(rows)


def test_every_sae_of_the_sweep_is_a_dot_and_the_chosen_one_is_filled(drawn, tmp_path):
    sae_training.sweep_figure("toy", [table(1), table(2)], tmp_path)
    assert "6 SAEs per layer" in drawn["title"] and len(drawn["axes"]) == 4
    left = drawn["axes"][0]
    dots = np.concatenate([own for own, _ in left["dots"]])
    assert sorted(map(tuple, dots)) == sorted(zip(table(1)["l0"], table(1)["explained_variance"], strict=True))
    white = np.array([1.0, 1.0, 1.0])
    filled = [
        tuple(dot)
        for own, faces in left["dots"]
        for dot, face in zip(own, faces, strict=True)
        if (face[:3] != white).any()
    ]
    assert filled == [(16.5, 1 - 1 / 16)] and left["labels"] == ["topk-k16"]
    assert left["lines"][0][:, 0].tolist() == [8.5, 16.5, 32.5], "the front, by L0"
    plt.close("all")
