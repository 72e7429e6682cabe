"""The figure of the SAEs' quality: what is drawn is what was measured, and weak SAEs look weak."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fgg.report.figures import sae_quality, style

MEASURED = {
    "features": 64, "tokens": 640, "l0": 4.0, "l0_low": 3, "l0_high": 6, "dead_share": 0.125, "dense_share": 0.05,
    "explained_variance": 0.91, "same_prediction": 0.98, "accuracy_before": 0.84, "accuracy_after": 0.83, "kl": 0.02,
    "morans_i": 0.21, "morans_i_random": -0.0101, "monosemanticity": 0.205, "monosemanticity_random": 0.089,
    "frequency_histogram": {"lowest": -5.0, "step": 0.25, "counts": [0] * 8 + [1, 3, 9, 20, 15, 6, 2, 0, 0, 0, 0, 0]},
}  # fmt: skip
WEAK = {"explained_variance": 0.43, "accuracy_after": 0.7, "dense_share": 0.3}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function: layer -> measurements -> the axes by title, before the figure is written."""

    def draw(measured):
        found = {}

        def keep(fig, folder, name):
            fig.canvas.draw()
            found.update({axis.get_title().replace("\n", " "): axis for axis in fig.axes})

        monkeypatch.setattr(style, "save", keep)
        sae_quality.quality_figure("toy", measured, tmp_path)
        return found

    return draw


def dots(axis):
    """(marker, x) of the marks of a panel, from the first layer to the last."""
    return [
        (line.get_marker(), float(line.get_xdata()[0])) for line in axis.lines if line.get_marker() not in ("None", "")
    ]


def test_values_and_what_they_are_compared_with(drawn):
    axes = drawn({1: MEASURED, 2: MEASURED | {"morans_i": 0.3}})
    assert dots(axes["Explained variance →"]) == [("o", 0.91)] * 2
    assert dots(axes["Accuracy →"]) == [("D", 0.84), ("o", 0.83)] * 2
    assert dots(axes["Moran's I →"]) == [("D", -0.0101), ("o", 0.21), ("D", -0.0101), ("o", 0.3)]
    assert dots(axes["Mono- semanticity →"]) == [("D", 0.089), ("o", 0.205)] * 2
    texts = {text.get_text() for axis in axes.values() for text in axis.texts}
    assert {".910", ".020", ".210", ".300", "12 % dead", "5 % dense"} <= texts
    assert not any("unknown" in text for text in texts)


def test_the_histogram_is_that_of_the_record(drawn):
    axis = drawn({1: MEASURED})["How often features are active"]
    (steps,) = [patch for patch in axis.patches if hasattr(patch, "get_data") and hasattr(patch.get_data(), "edges")]
    values, edges, _ = steps.get_data()
    assert values.tolist() == MEASURED["frequency_histogram"]["counts"]
    assert np.allclose(edges, np.linspace(-5, 0, 21))
    (text,) = [each.get_text() for each in axis.get_legend().get_texts()]
    assert text == "layer 1: 64 features, L0 4 (quartiles 3 to 6)"


def test_a_broken_level_is_a_cross(drawn):
    axes = drawn({1: MEASURED, 2: MEASURED | WEAK})
    assert [mark for mark, _ in dots(axes["Explained variance →"])] == ["o", "X"]
    assert [mark for mark, _ in dots(axes["Accuracy →"])] == ["D", "o", "D", "X"]
    assert [mark for mark, _ in dots(axes["← KL of the probabilities"])] == ["o", "o"]
    looks = {text.get_text(): text.get_weight() for text in axes["← Dead and dense features"].texts}
    assert (looks["30 % dense"], looks["5 % dense"], looks["12 % dead"]) == ("bold", "normal", "normal")


def test_the_title_counts_the_sound_saes(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(style, "save", lambda fig, *_: said.append(fig.get_suptitle()))
    sae_quality.quality_figure("toy", {1: MEASURED, 2: MEASURED | WEAK}, tmp_path)
    sae_quality.quality_figure("toy", {1: MEASURED}, tmp_path)
    assert said == [
        f"toy: 1 of {text} break no level of quality, on 640 held-out patches" for text in ("2 SAEs", "1 SAE")
    ]


def test_levels_of_the_configuration_are_drawn(tmp_path):
    for name, levels in (("strict", {"kl": 0.01}), ("default", {})):
        sae_quality.quality_figure(name, {1: MEASURED}, tmp_path, {**sae_quality.LEVELS, **levels})
    assert (tmp_path / "strict_sae_quality.svg").read_text() != (tmp_path / "default_sae_quality.svg").read_text()


@pytest.mark.parametrize("layers", [1, 12])
def test_it_is_written_the_same_twice(layers, tmp_path):
    measured = dict.fromkeys(range(layers), MEASURED)
    for folder in ("a", "b"):
        sae_quality.quality_figure("toy", measured, tmp_path / folder)
    for suffix in ("png", "svg"):
        one, other = ((tmp_path / folder / f"toy_sae_quality.{suffix}").read_bytes() for folder in "ab")
        assert one == other
    assert len(re.findall(r"<!-- layer \d+ -->", (tmp_path / "a/toy_sae_quality.svg").read_text())) >= 2 * layers
