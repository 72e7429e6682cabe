"""Images beyond the bound of pixels: the same numbers where they can be, and bounded work everywhere."""

import numpy as np
import pytest
import torch
from PIL import Image

from fgg.data import grey_channels, preprocess
from fgg.data.preprocess import Preprocess

MOST = 2**12
SMOOTH = np.add.outer(np.sin(np.arange(450) / 27), np.cos(np.arange(600) / 21)) / 8 + 0.5


@pytest.fixture
def small_bound(monkeypatch):
    """A bound that an image of 150 x 200 exceeds."""
    monkeypatch.setattr(grey_channels, "MOST_PIXELS", MOST)
    monkeypatch.setattr(preprocess, "MOST_PIXELS", MOST)


def picture(mode="L", height=150, width=200, seed=0):
    values = np.random.default_rng(seed).random((height, width))
    if mode == "F":
        return Image.fromarray(values.astype(np.float32))
    return Image.fromarray((255 * values).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "F", "RGB"])
@pytest.mark.parametrize("size", [(5, 7), (12, 16), (1, 1), (150, 200), (149, 3)])
def test_extremes_in_bands_are_the_same(mode, size, request):
    image = picture(mode)
    whole = Preprocess(size, channels="extremes").pixels(image)
    request.getfixturevalue("small_bound")
    assert torch.equal(Preprocess(size, channels="extremes").pixels(image), whole)


def test_extremes_read_a_band_at_a_time(small_bound, monkeypatch):
    seen = []
    monkeypatch.setattr(
        grey_channels, "tensor_of", lambda image: seen.append(image.size) or preprocess.tensor_of(image)
    )
    Preprocess((10, 10), channels="extremes").pixels(picture())
    assert seen == [(200, 15)] * 10


@pytest.mark.parametrize("channels", ["rgb", "grey"])
def test_resized_channels_do_not_change(channels, request):
    image, own = picture("RGB"), Preprocess(20, channels=channels)
    whole = own.pixels(image)
    request.getfixturevalue("small_bound")
    assert torch.equal(own.pixels(image), whole)


def test_dark_lines_are_about_the_same(monkeypatch):
    values = SMOOTH.copy()
    values[:, 298:304] *= 0.5  # a line as wide as a hundredth of the image
    image, own = Image.fromarray(values.astype(np.float32)), Preprocess((10, 10), channels="dark_lines")
    whole = own.pixels(image)
    monkeypatch.setattr(grey_channels, "MOST_PIXELS", 2**17)
    found = own.pixels(image)
    assert not torch.equal(found, whole) and (found - whole).abs().max() < 0.01
    assert found[1].amax(0).argmax() == whole[1].amax(0).argmax()


SIZES = [(64, 64), (65, 64), (1000, 1000), (1, 4096), (4097, 1), (1, 100_000), (100_000, 3), (7, 9), (63, 70)]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_filtered_is_bounded(size, small_bound, monkeypatch):
    """Also of strips, which are enlarged across."""
    seen = []
    pool = grey_channels.functional.adaptive_avg_pool2d
    monkeypatch.setattr(
        grey_channels.functional,
        "adaptive_avg_pool2d",
        lambda values, cells: seen.append(values.shape) or pool(values, cells),
    )
    width, height = size
    for channels in ("dark_lines", "extremes") if min(size) < 8 else ("dark_lines",):
        found = Preprocess((8, 8), channels=channels).pixels(Image.new("L", (width, height), 100))
        assert found.shape == (3, 8, 8) and torch.allclose(found[0], torch.tensor(100 / 255), atol=1e-3)
    assert all(rows * columns <= MOST for _, rows, columns in seen)


def test_the_bound_is_above_ordinary_images():
    assert grey_channels.MOST_PIXELS >= 4000 * 4000
    image = Image.new("L", (4000, 4000))
    assert grey_channels._bounded(image, (80, 80)) is image


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000)])
@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
def test_a_strip_is_cropped_before_it_is_resized(size, interpolation, request, monkeypatch):
    width, height = size
    line = np.linspace(0, 255, max(size)).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(line if width > height else line[:, None], (height, width)).copy())
    own = Preprocess({"shorter": 20}, crop=16, interpolation=interpolation)
    whole, area = own.pixels(image), own.area(image)
    request.getfixturevalue("small_bound")
    shown, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *more: shown.append(size) or resize(self, size, *more)
    )
    assert (own.pixels(image) - whole).abs().max() <= 1 / 255 + 1e-6 and torch.allclose(own.area(image), area)
    assert shown[-1] in ((60, 20), (20, 60)), "not 2000 x 20"


@pytest.mark.parametrize(("height", "width"), [(150, 200), (3, 5000), (5000, 3), (80, 64)])
def test_masks_row_by_row(height, width, request):
    inside = Image.fromarray((np.random.default_rng(0).random((height, width)) > 0.6).astype(np.uint8))
    own = Preprocess((7, 13))
    whole = own.area(inside)
    request.getfixturevalue("small_bound")
    assert torch.allclose(own.area(inside), whole, atol=1e-6) and 0 < whole.mean() < 1


def test_an_enormous_image():
    """25 million pixels, of which a quarter are filtered; the time for a hundred million is as bounded."""
    values = np.full((5000, 5000), 200, np.uint8)
    values[:, 2500:2600] = 50
    found = Preprocess(50, channels="dark_lines").pixels(Image.fromarray(values))
    assert found[1, 25, 25] > 0.1 and found[1, 25, 5] < 1e-6 and found[0, 0, 0] == pytest.approx(200 / 255, abs=1e-3)
