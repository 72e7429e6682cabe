"""The examples run, and what they draw and print holds."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tiny_dataset
from matplotlib import pyplot as plt
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dataset.make(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """A function: example, arguments -> its names; it runs where data/ and results/ are."""
    for name in ("data", "results"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("Agg")

    def call(name, *arguments):
        monkeypatch.setattr("sys.argv", [name, *arguments])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    yield call
    plt.close("all")


def test_maps_of_cropped_pictures(run, tmp_path):
    run(
        "maps.py",
        "--dataset",
        "tiny",
        "--experiments",
        "transmm",
        tiny_dataset.GATED,
        "--count",
        "4",
        "--output",
        "m.png",
    )
    size = Image.open(tmp_path / "m.png").size
    assert size[1] > size[0], "four rows of three pictures"


def test_maps_takes_classes_in_turn():
    spread = runpy.run_path(str(EXAMPLES / "maps.py"))["spread"]
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 0, 2, 2])
    confidence = np.array([0.5, 0.9, 1.0, 0.4, 0.6, 0.7])
    assert spread(predicted, confidence, labels, 3) == [1, 3, 5]
    assert spread(predicted, confidence, labels, 99) == [1, 3, 5, 0, 4, 2]


def test_maps_of_other_images_than_the_results(run, folder, capsys):
    with pytest.raises(SystemExit, match=r"val\.parquet does not hold the images"):
        run("maps.py", "--dataset", "tiny", "--experiments", "transmm", "--images", "data/prepared/tiny/val.parquet")


def test_sampling_error_falls_with_the_runs(run, tmp_path, capsys):
    run("sampling_error.py", "--dataset", "tiny", "--images", "4", "--subsets", "480", "--subset-size", "5")
    errors = [float(each) for each in re.findall(r"one trial (\d\.\d+)", capsys.readouterr().out)]
    assert len(errors) == 5 and errors[0] > 1.5 * errors[-1]
    assert (tmp_path / "sampling-error.png").stat().st_size > 10_000
