"""The comparison's figures: all are written, and the same data give the same bytes."""

import json

import numpy as np
import pytest

from fgg.catalogue import METRICS
from fgg.comparison import figures, labels, style
from fgg.comparison.__main__ import main
from fgg.tables import read_table

NAMES = [*METRICS, "hypotheses", "pixel_flipping_curves"]


def draw(folder, output, dataset="toy"):
    comparison = str(folder / "comparison.parquet")
    arguments = ["--comparison", comparison, "--results", str(folder), "--dataset", dataset, "--output", str(output)]
    return figures.main(arguments)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, write_scores):
    folder = tmp_path_factory.mktemp("figures")
    settings = write_scores(folder, 40, undefined=4)
    keep = ("transmm", "random", "gradcam", "gated-l2-combined-c10-a1", "gated-l2-combined-c10-a1-permuted")
    settings["experiments"] = {"toy": {name: settings["experiments"]["toy"][name] for name in keep}}
    arguments = ["--datasets", '["toy"]', "--settings", json.dumps(settings)]
    assert main([*arguments, "--results", str(folder), "--output", str(folder)]) == 0
    return folder


def test_figures_are_written_twice_alike(compared, tmp_path):
    assert draw(compared, tmp_path / "a") == 0
    assert draw(compared, tmp_path / "b") == 0
    expected = {f"toy_{name}.{suffix}" for name in NAMES for suffix in ("png", "svg")}
    assert {path.name for path in (tmp_path / "a").iterdir()} == expected
    for name in expected:
        content = (tmp_path / "a" / name).read_bytes()
        assert len(content) > 5000
        assert content == (tmp_path / "b" / name).read_bytes(), name


def test_a_lone_baseline_can_be_drawn(results, tmp_path):
    folder, settings = results
    settings["experiments"] = {"toy": {"transmm": {"method": "transmm"}}}
    arguments = ["--datasets", '["toy"]', "--settings", json.dumps(settings)]
    assert main([*arguments, "--results", str(folder), "--output", str(folder)]) == 0
    assert draw(folder, tmp_path / "figures") == 0


def test_an_unknown_dataset_is_an_error(compared, tmp_path, capsys):
    assert draw(compared, tmp_path, "other") == 1
    assert "no dataset 'other'" in capsys.readouterr().err


def test_far_off_points_become_arrows_with_their_number():
    with style.figure(1) as (_, axis):
        axis.set_xlim(-1, 1)
        style.interval(axis, 0, 5.25, 5, 6, style.GROUP_STYLES["Gated"])
        assert [text.get_text() for text in axis.texts] == ["+5.25"]
        assert axis.lines[0].get_xdata()[0] == 1
        style.interval(axis, 0, np.nan, np.nan, np.nan, style.BASELINE)
        assert len(axis.lines) == 1


def test_limits_hold_the_values():
    low, high = style.limits(0, [1.0, np.nan], [-1.0, 3.0])
    assert low < -1
    assert high > 3
    assert style.limits([np.nan])[0] < style.limits([np.nan])[1]


def test_labels_are_for_people(results):
    texts = {name: labels.label(labels.flat(settings)) for name, settings in results[1]["experiments"]["toy"].items()}
    assert texts["gated-l1.2-combined-c10-a1"] == "gated, layers 1+2, activation × gradient"
    assert texts["gated-l2-combined-c10-a1-shuffled"] == "control, layer 2, shuffled decoder"
    assert texts["gradcam"] == "Grad-CAM"
    assert len(set(texts.values())) == len(texts)


def test_the_improvement_is_drawn_in_the_good_direction(compared):
    frame = read_table(compared / "comparison.parquet").to_pandas()
    for _, row in frame.dropna(subset=["ci_low"]).iterrows():
        low, high = figures._improvement_interval(row, METRICS[row["metric"]])
        assert low <= row["improvement"] <= high
