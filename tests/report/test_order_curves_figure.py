"""MIF and LIF curves: means and bands over the measurable images, a row of panels per fill."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_figures import GATES, comparison, drawn, title
from scipy import stats

from fgg.faithfulness.measures import measures
from fgg.report.figures import order_curves
from fgg.tables import write_table

__all__ = ["drawn"]

IMAGES, STEPS = 12, 5
MEASURABLE = IMAGES - 2


def values(name, fill, curve):
    """Probabilities (images, steps) of an experiment."""
    rng = np.random.default_rng([len(name), len(fill), len(curve) + (curve == "lif")])
    return rng.random((IMAGES, STEPS)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """A results folder with the curves of the toy comparison; the last two images are not measurable."""
    ids = [f"image{number:02d}" for number in range(IMAGES)]
    frame = comparison()
    for name in frame["experiment"].unique():
        columns = {key: [] for key in ("image_id", "fill", "curve", "patches_per_step", "probability")}
        for fill in ("mean", "removal"):
            for curve in ("mif", "lif"):
                columns["image_id"] += ids
                columns["fill"] += [fill] * IMAGES
                columns["curve"] += [curve] * IMAGES
                columns["patches_per_step"] += [1] * IMAGES
                columns["probability"] += list(values(name, fill, curve))
        columns["probability"] = np.stack(columns["probability"])
        write_table(tmp_path / f"toy/curves/{name}.parquet", columns, {})
    measurable = {
        "image_id": ids * 2, "fill": ["mean"] * IMAGES + ["removal"] * IMAGES,
        "measurable": [number < MEASURABLE for number in range(IMAGES)] * 2,
    }  # fmt: skip
    write_table(tmp_path / "toy/images.parquet", measurable, {})
    return tmp_path


def figure(drawn, folder, changes=None, fills=("mean", "removal")):
    frame = comparison(changes=changes, fills=fills)
    frame = frame[frame["metric"] == "saco"].assign(metric="srg")
    return drawn(order_curves.order_curves_figure, frame, "srg", measures({"srg": list(fills)}), folder, folder)


def line(axis, text):
    (found,) = [each for each in axis.lines if each.get_label() == text]
    return found.get_ydata()


def test_curves_are_means_over_the_measurable_images_of_each_fill(drawn, folder):
    fig = figure(drawn, folder)
    assert len(fig.axes) == 6
    for row, fill in enumerate(("mean", "removal")):
        left, middle, right = fig.axes[3 * row : 3 * row + 3]
        for axis, curve in ((left, "mif"), (middle, "lif")):
            for name, text in (("transmm", "TransMM"), (GATES[0], "gated, layer 2"), ("rollout", "Rollout")):
                expected = values(name, fill, curve)[:MEASURABLE].mean(axis=0)
                np.testing.assert_allclose(line(axis, text), expected, rtol=1e-5)
        assert left.get_ylabel() == f"fill {fill}, n = {MEASURABLE}\nmean p(class)"
        gain = [values(name, fill, "lif") - values(name, fill, "mif") for name in (GATES[0], "transmm")]
        expected = (gain[0] - gain[1])[:MEASURABLE].mean(axis=0)
        assert any(
            np.allclose(each.get_ydata(), expected, rtol=1e-4) for each in right.lines if len(each.get_ydata()) == STEPS
        )


def test_bands_are_intervals_over_the_images(drawn, folder):
    left, middle, right = figure(drawn, folder).axes[:3]
    assert [len(axis.collections) for axis in (left, middle, right)] == [2, 2, 1], "the baseline and the gate; the gate"
    own = values(GATES[0], "mean", "mif")[:MEASURABLE].astype(float)
    half = stats.t.ppf(0.975, MEASURABLE - 1) * own.std(axis=0, ddof=1) / np.sqrt(MEASURABLE)
    ends = [{round(y, 5) for y in band.get_paths()[0].vertices[:, 1]} for band in left.collections]
    assert any(
        {*np.round(own.mean(axis=0) + half, 5), *np.round(own.mean(axis=0) - half, 5)} <= found for found in ends
    )


@pytest.mark.parametrize(
    ("verdict", "gain", "said", "number"),
    [
        ("better", 0.02, "2 are better and none is worse", "+0.02 [+0.005, +0.035]"),
        ("worse", -0.02, "none is better and 2 are worse", "−0.02 [−0.035, −0.005]"),
    ],
)
def test_the_titles_follow_the_table(drawn, folder, verdict, gain, said, number):
    cells = {"verdict": verdict, "improvement": gain, "ci_low": gain - 0.015, "ci_high": gain + 0.015}
    fig = figure(drawn, folder, {GATES[0]: cells})
    assert title(fig) == f"toy: SRG of 1 gate against TransMM, with 2 fills: of 2 comparisons, {said}"
    assert fig.axes[2].get_title().endswith(f"best gate in SRG:\n{number}")


def test_a_single_fill_has_one_row(drawn, folder):
    fig = figure(drawn, folder, fills=("mean",))
    assert len(fig.axes) == 3 and title(fig).startswith("toy: SRG of 1 gate against TransMM: of 1 comparison,")


def test_curves_are_those_of_the_wanted_fill_at_their_finest_common_step(tmp_path):
    columns = {"image_id": [], "fill": [], "curve": [], "patches_per_step": [], "probability": []}
    for step, steps in ((1, 5), (2, 3)):
        for fill in ("mean", "removal"):
            for curve in ("mif", "lif"):
                for image in ("b", "a"):
                    values = (
                        image,
                        fill,
                        curve,
                        step,
                        np.full(steps, 1.0 if fill == "mean" else 0.5, dtype=np.float32),
                    )
                    for column, value in zip(columns.values(), values, strict=True):
                        column.append(value)
    path = tmp_path / "curves.parquet"
    pq.write_table(pa.table(columns | {"probability": [row.tolist() for row in columns["probability"]]}), path)
    found = order_curves.read_curves(path, "removal")
    assert list(found["mif"].index) == ["a", "b"]
    assert found["lif"].shape == (2, 5)
    assert (found["mif"] == 0.5).all(axis=None)
