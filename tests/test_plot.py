"""Pictures: what is drawn where, in which colour, and what is refused."""

import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

import fgg
from fgg import plot
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.plot.image_arrays import seen_box

RANDOM = np.random.default_rng(0)
MAP = RANDOM.random(16)
# A grey ramp, bright to the right, of another shape than the model's input.
RAMP = Image.fromarray(np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1)))


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def pixels(figure):
    """What is drawn, (H, W, 3) from 0 to 1."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255


# ---- the grid


def test_relevance_lies_row_by_row():
    assert np.array_equal(plot.relevance_grid(torch.arange(6.0), (2, 3)), [[0, 1, 2], [3, 4, 5]])
    assert np.array_equal(plot.relevance_grid(np.arange(4.0)[None]), [[0, 1], [2, 3]]), "a batch of one"
    assert np.array_equal(plot.relevance_grid(np.arange(6.0).reshape(2, 3), (2, 3)), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("patches", "size", "grid"),
    [(100, None, (10, 10)), (15, (24, 40), (3, 5)), (36, (16, 36), (4, 9)), (36, (80, 80), (6, 6)), (16, (30, 40), (4, 4))],
)  # fmt: skip
def test_the_grid_is_found(patches, size, grid):
    assert plot.relevance_grid(np.zeros(patches), size=size).shape == grid


@pytest.mark.parametrize(
    ("relevance", "grid", "says"),
    [
        (np.zeros(99), None, "99 patches, which make no square; give grid"),
        (np.zeros(99), (10, 10), "99 patches, but a grid of 10 x 10 has 100"),
        (np.zeros((8, 100)), None, r"\(8, 100\), expected that of one image.*relevance\[0\]"),
        (np.zeros((8, 100)), (10, 10), r"\(8, 100\), expected"),
        ([0.0, np.nan, 1.0, np.inf], None, "2 NaN or infinite"),
        ([], None, "expected that of one image"),
    ],
)
def test_relevance_that_does_not_fit(relevance, grid, says):
    with pytest.raises(FggError, match=says):
        plot.overlay(RAMP, relevance, grid=grid)


# ---- the image


def test_a_picture_is_cropped_to_what_the_model_saw():
    for preprocess in (
        Preprocess((40, 48), crop=32),
        Preprocess({"shorter": 36}, crop=32),
        Preprocess(32),
        Preprocess((20, 30)),
    ):
        box = seen_box(RAMP.size, preprocess)
        shown = np.asarray(RAMP.crop(box).resize(preprocess.output_size[::-1], Image.Resampling.BILINEAR)) / 255
        assert np.abs(preprocess.pixels(RAMP)[0].numpy() - shown).max() < 0.03, preprocess
        assert plot.picture(RAMP, preprocess).shape == (box[3] - box[1], box[2] - box[0])


def test_a_tensor_is_taken_back_from_its_standardised_values():
    preprocess = Preprocess(32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    colours = Image.fromarray(RANDOM.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    back = plot.picture(preprocess(colours), preprocess, grey=False)
    assert np.allclose(back, np.asarray(colours) / 255, atol=1e-6)
    extremes = Preprocess(32, channels="extremes", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert np.allclose(plot.picture(extremes(RAMP), extremes), plot.picture(extremes.pixels(RAMP)[:1]), atol=1e-6)


def test_standardised_values_without_preprocessing_are_shown_grey():
    shown = plot.picture(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)), grey=False)
    assert shown.shape == (8, 8) and shown.min() == 0 and shown.max() == 1


def test_dark_images_are_stretched_but_not_without_end():
    dark = plot.picture(np.tile(np.linspace(0, 0.3, 50), (50, 1)))
    assert dark.min() == 0 and dark.max() == 1 and (np.diff(dark[0]) >= 0).all()
    flat = plot.picture(np.full((5, 5), 0.4))
    assert np.ptp(flat) == 0 and 0.2 < flat[0, 0] < 0.8
    assert np.ptp(plot.picture(np.tile([0.4, 0.41], (5, 5)))) == pytest.approx(0.04)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (8, 8, 1), (3, 8, 8), (1, 8, 8), (1, 3, 8, 8)])
def test_images_of_every_layout(shape):
    assert plot.picture(RANDOM.random(shape)).shape == (8, 8)
    assert plot.overlay(RANDOM.random(shape), MAP).images[-1].get_array().shape == (4, 4)


@pytest.mark.parametrize("image", [np.zeros(8), np.zeros((4, 8, 8)), np.zeros((2, 3, 8, 8)), np.full((4, 4), np.nan)])
def test_what_is_no_image(image):
    with pytest.raises(FggError, match="image"):
        plot.overlay(image, MAP)


# ---- the maps


def test_an_overlay_lies_over_the_whole_image():
    axis = plot.overlay(RAMP, MAP, title="gated")
    image, drawn = axis.images
    assert isinstance(axis, Axes) and axis.get_title() == "gated"
    assert drawn.get_extent() == image.get_extent() and list(drawn.get_extent()) == [-0.5, 59.5, 39.5, -0.5]
    assert np.array_equal(drawn.get_array(), MAP.reshape(4, 4))
    assert drawn.get_clim() == (0, MAP.max()), "no relevance is the darkest colour"
    assert [bar.get_ylabel() for bar in axis.figure.axes if bar is not axis] == ["relevance"]


def test_more_relevance_is_brighter_on_the_screen():
    axis = plot.overlay(np.full((40, 40), 0.5), np.arange(16.0), colorbar=False)
    seen = pixels(axis.figure)
    box = axis.get_window_extent()
    height = seen.shape[0]
    patches = [
        seen[
            int(height - box.y1 + (row + 0.5) * box.height / 4), int(box.x0 + (column + 0.5) * box.width / 4)
        ] @ [0.2126, 0.7152, 0.0722]
        for row in range(4)
        for column in range(4)
    ]  # fmt: skip
    steps = np.diff(patches)
    assert steps.min() > 0.2 * steps.mean(), "and about evenly so"


def test_negative_relevance_and_given_limits():
    assert plot.overlay(RAMP, MAP - 0.5).images[-1].get_clim() == pytest.approx((MAP.min() - 0.5, MAP.max() - 0.5))
    assert plot.overlay(RAMP, MAP, vmin=-1, vmax=3).images[-1].get_clim() == (-1, 3)
    low, high = plot.overlay(RAMP, np.zeros(16)).images[-1].get_clim()
    assert low == 0 < high


def test_a_difference_is_symmetric_red_for_gain():
    after = MAP.copy()
    after[3] += 2
    after[5] -= 1
    drawn = plot.difference(RAMP, MAP, after).images[-1]
    assert drawn.get_clim() == pytest.approx((-2, 2))
    colours = drawn.to_rgba(drawn.get_array()).reshape(16, 4)
    assert colours[3][0] > 0.5 > colours[3][2], "red"
    assert colours[5][2] > colours[5][0], "blue"
    assert colours[0][3] < 0.1, "no change is transparent"
    assert plot.difference(RAMP, MAP, MAP).images[-1].get_clim() == (-1, 1)


def test_small_numbers_have_their_power_in_the_label():
    axis = plot.overlay(RAMP, MAP / MAP.max() * 3e-6)
    axis.figure.canvas.draw()
    (bar,) = [each for each in axis.figure.axes if each is not axis]
    assert bar.get_ylabel() == "relevance (×10⁻⁶)"
    assert bar.get_yticklabels()[0].get_text() == "0"
    assert max(float(text.get_text()) for text in bar.get_yticklabels()) <= 3.5


def test_a_mark_outlines_its_patch():
    axis = plot.overlay(RAMP, np.arange(24.0), grid=(4, 6))
    assert plot.mark(axis, [0, 23], text="feature 7") is axis
    first, last = axis.patches
    assert (first.get_x(), first.get_y(), first.get_width(), first.get_height()) == (-0.5, -0.5, 10, 10)
    assert (last.get_x(), last.get_y()) == (49.5, 29.5)
    assert [text.get_text() for text in axis.texts] == ["feature 7"]
    with pytest.raises(FggError, match="patch 24 is beyond the grid of 4 x 6; patches are 0 to 23"):
        plot.mark(axis, 24)
    with pytest.raises(FggError, match="show no image"):
        plot.mark(plt.figure().add_subplot(), 0)


def test_compare_draws_four():
    axes = plot.compare(RAMP, MAP, 10 * MAP, patch=2)
    assert [axis.get_title() for axis in axes] == ["image", "TransMM", "gated", "gated minus TransMM"]
    assert [axis.images[-1].get_clim()[1] for axis in axes[1:3]] == [MAP.max(), 10 * MAP.max()]
    assert [len(axis.patches) for axis in axes] == [1] * 4 and axes[0].patches[0].get_width() == 15
    shared = plot.compare(RAMP, MAP, 10 * MAP, one_scale=True)
    assert [axis.images[-1].get_clim()[1] for axis in shared[1:3]] == [10 * MAP.max()] * 2


# ---- charts


def test_curves_are_means_over_images():
    curves = RANDOM.random((5, 11))
    axis = plot.curve({"a": torch.from_numpy(curves), "b": curves[0]})
    assert np.allclose(axis.lines[0].get_ydata(), curves.mean(0)) and np.array_equal(
        axis.lines[1].get_ydata(), curves[0]
    )
    assert list(axis.lines[0].get_xdata()) == list(range(0, 101, 10))
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert axis.lines[0].get_linestyle() != axis.lines[1].get_linestyle(), "also told apart in greyscale"
    assert plot.curve(curves[0]).get_legend() is None


def test_gates_are_counted_in_percent():
    axis = plot.gates({1: torch.full((2, 8), 10.0), 2: torch.full((2, 8), 0.1)})
    assert axis.get_xscale() == "log" and axis.get_xlim() == pytest.approx((0.1, 10))
    assert axis.dataLim.y1 == pytest.approx(100)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["layer 1", "layer 2"]


# ---- manners


def test_nothing_global_is_changed_and_given_axes_are_used():
    before = dict(matplotlib.rcParams)
    figure, axes = plt.subplots(1, 2)
    count = len(plt.get_fignums())
    assert plot.overlay(RAMP, MAP, axes[0], colorbar=False) is axes[0]
    assert plot.difference(RAMP, MAP, MAP, axes[1], colorbar=False) is axes[1]
    assert len(plt.get_fignums()) == count and len(figure.axes) == 2
    assert dict(matplotlib.rcParams) == before


def test_the_module_is_there_when_asked_for():
    assert fgg.plot is plot
    code = (
        "import sys, fgg; assert 'matplotlib' not in sys.modules; fgg.plot.overlay; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
