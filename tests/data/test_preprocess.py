"""Preprocessing against slow definitions."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from fgg.data.grey_channels import closing
from fgg.data.preprocess import Preprocess, statistics
from fgg.errors import FggError


def slow_extremes(grey, height, width):
    """Cells as adaptive pooling defines them: from floor(i h / H) to ceil((i + 1) h / H)."""
    out = np.empty((3, height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * grey.shape[0] // height, -(-(i + 1) * grey.shape[0] // height))
            columns = slice(j * grey.shape[1] // width, -(-(j + 1) * grey.shape[1] // width))
            cell = grey[rows, columns]
            out[:, i, j] = cell.mean(), cell.mean() - cell.min(), cell.max() - cell.mean()
    return out


@pytest.mark.parametrize("size", [(5, 7), (12, 16), (3, 16), (1, 1)])
def test_extremes_against_a_loop(picture, size):
    grey = np.asarray(picture().convert("L")) / 255
    pixels = Preprocess(size, channels="extremes").pixels(picture())
    assert pixels.dtype == torch.float32
    assert np.allclose(pixels, slow_extremes(grey, *size), atol=1e-6)


@pytest.mark.parametrize("size", [(20, 30), (20, 4), (6, 30)])
def test_extremes_enlarge_bilinearly_where_the_image_is_smaller(picture, size):
    grey = torch.from_numpy(np.asarray(picture().convert("L")) / 255)
    enlarged = torch.nn.functional.interpolate(
        grey[None, None], (max(12, size[0]), max(16, size[1])), mode="bilinear", align_corners=False
    )[0, 0]
    pixels = Preprocess(size, channels="extremes").pixels(picture())
    assert np.allclose(pixels, slow_extremes(enlarged.numpy(), *size), atol=1e-6)
    assert pixels.min() >= 0 and pixels.max() <= 1


def slow_dark_lines(grey, height, width):
    """Black top-hats of two widths over the mean around, window by window with mirrored edges."""

    def windows(values, size, what):
        padded = np.pad(values, size // 2, mode="symmetric")
        rows, columns = values.shape
        return np.array(
            [[what(padded[r : r + size, c : c + size]) for c in range(columns)] for r in range(rows)], dtype=np.float64
        )

    side = min(grey.shape)
    around = windows(grey, 2 * max(1, int(0.1 * side / 2)) + 1, np.mean) + 0.05
    channels = [grey]
    for share in (0.03, 0.07):
        size = 2 * max(1, int(share * side / 2)) + 1
        channels.append((windows(windows(grey, size, np.max), size, np.min) - grey) / around)
    cells = [
        [[cell.mean() for cell in np.split(band, width, axis=1)] for band in np.split(channel, height)]
        for channel in channels
    ]
    return np.clip(cells, 0, 1)


@pytest.mark.parametrize("shape", [(40, 31), (5, 9), (1, 3), (64, 1)])
@pytest.mark.parametrize("width", [3, 5, 7, 9, 21])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_closing_equals_that_of_scipy(shape, width, kind):
    values = (np.random.default_rng(width).random(shape) * 255).astype(kind)
    found = closing(values, width)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, ndimage.grey_closing(values, (width, width)))


def test_dark_lines_against_a_loop():
    grey = np.random.default_rng(0).random((60, 60))
    image = Image.fromarray((grey * 255).astype(np.uint8))
    pixels = Preprocess((6, 12), channels="dark_lines").pixels(image)
    assert np.allclose(pixels, slow_dark_lines(np.asarray(image) / 255, 6, 12), atol=1e-5)


def test_a_dark_line_shows_in_dark_and_bright_surroundings():
    found = {}
    for brightness in (80, 240):
        values = np.full((120, 120), brightness, dtype=np.uint8)
        values[:, 60:62] = brightness // 2
        pixels = Preprocess(12, channels="dark_lines").pixels(Image.fromarray(values))
        found[brightness] = float(pixels[1].amax())
        assert pixels[1].argmax() % 12 in (5, 6) and float(pixels[1][:, :4].amax()) < 1e-6
    assert found[80] == pytest.approx(found[240], rel=0.2) and found[80] > 0.05


def test_extremes_keep_a_thin_line_that_averaging_dilutes():
    values = np.full((40, 40), 200, dtype=np.uint8)
    values[:, 17] = 20
    image = Image.fromarray(values)
    contrast = {}
    for channels in ("grey", "extremes"):
        pixels = Preprocess(10, channels=channels).pixels(image)
        contrast[channels] = (pixels.amax((1, 2)) - pixels.amin((1, 2))).max().item()
    assert contrast["extremes"] > 0.5 > contrast["grey"]


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_rgb_and_grey_are_pils_resize(picture, name):
    resample = Image.Resampling[name.upper()]
    rgb = Preprocess((6, 10), interpolation=name).pixels(picture())
    expected = np.asarray(picture().resize((10, 6), resample)) / 255
    assert rgb.shape == (3, 6, 10)
    assert np.allclose(rgb, expected.transpose(2, 0, 1))
    grey = Preprocess((6, 10), channels="grey", interpolation=name).pixels(picture())
    assert grey.shape == (1, 6, 10)
    assert np.allclose(grey[0], np.asarray(picture().convert("L").resize((10, 6), resample)) / 255)


def test_sixteen_bits_stay_finer_than_eight():
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 16
    for channels, n in (("rgb", 3), ("grey", 1), ("extremes", 3)):
        pixels = Preprocess(8, channels=channels).pixels(Image.fromarray(values))
        assert pixels.shape == (n, 8, 8)
        assert np.allclose(pixels[0], values / 65535, atol=1e-7)
    overshoot = Preprocess(32, channels="grey", interpolation="lanczos").pixels(
        Image.fromarray(((np.indices((8, 8)).sum(0) % 2) * 65535).astype(np.uint16))
    )
    assert overshoot.min() >= 0 and overshoot.max() <= 1


def test_one_number_is_a_square_and_the_crop_is_central(picture):
    whole = Preprocess(9).pixels(picture())
    preprocess = Preprocess(9, crop=5)
    assert preprocess.size == (9, 9) and preprocess.output_size == (5, 5)
    assert torch.equal(preprocess.pixels(picture()), whole[:, 2:7, 2:7])


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 33), (97, 31)])
@pytest.mark.parametrize(("short", "crop"), [(24, 24), (25, 20), (16, 15)])
def test_the_shorter_side_is_resized_as_torchvision_does(picture, size, short, crop):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

    image = picture(height=size[0], width=size[1])
    theirs = Compose([Resize(short, InterpolationMode.BICUBIC), CenterCrop(crop), ToTensor()])(image)
    preprocess = Preprocess({"shorter": short}, crop=crop, interpolation="bicubic")
    assert preprocess.output_size == (crop, crop)
    assert torch.allclose(preprocess.pixels(image), theirs, atol=1e-6)


def test_standardised(picture):
    preprocess = Preprocess(4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels, out = preprocess.pixels(picture()), preprocess(picture())
    for c in range(3):
        assert torch.allclose(out[c], (pixels[c] - preprocess.mean[c]) / preprocess.std[c])
    with pytest.raises(FggError, match="statistics"):
        Preprocess(4)(picture())


def test_exif_rotation(encode, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    (tmp_path / "x.png").write_bytes(encode(upright.rotate(90, expand=True), exif=exif))
    with Image.open(tmp_path / "x.png") as image:
        assert np.allclose(Preprocess((2, 3), channels="grey").pixels(image)[0] * 255, np.asarray(upright))


def test_settings_survive_json():
    for preprocess in (
        Preprocess(8),
        Preprocess({"shorter": 8}, 6),
        Preprocess((8, 9), 4, "grey", "lanczos", (0.5,), (0.25,)),
    ):
        assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    with pytest.raises(FggError, match="unknown colour"):
        Preprocess.from_dict({"size": 3, "colour": 1})
    with pytest.raises(FggError, match="`size` is missing"):
        Preprocess.from_dict({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (4, 0)}, "preprocess.resize"),
        ({"size": 4, "crop": 5}, "preprocess.crop: 5 .*lower"),
        ({"size": {"shorter": 8}}, "preprocess.crop: required if resize keeps the aspect ratio"),
        ({"size": {"shorter": 8}, "crop": 9}, "preprocess.crop: 9 .*lower"),
        ({"size": {"longer": 8}, "crop": 4}, "preprocess.resize: .*is not .shorter: PIXELS"),
        ({"size": {"shorter": 8}, "crop": 4, "channels": "extremes"}, "preprocess.channels: 'extremes'"),
        ({"size": 4, "channels": "gray"}, "preprocess.channels: 'gray' is unknown; choose from: rgb, grey"),
        ({"size": 4, "interpolation": "cubic"}, "preprocess.interpolation: 'cubic'.*choose from: nearest"),
        ({"size": 4, "channels": "grey", "mean": (1, 1, 1)}, "preprocess.mean: 3 values.*one value per channel"),
        ({"size": 4, "std": (1, 0, 1)}, "preprocess.std"),
    ],
)
def test_faulty_settings(settings, message):
    with pytest.raises(FggError, match=message):
        Preprocess(**settings)


def test_statistics_over_images_of_unequal_size():
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.random((2, h, 5), dtype=np.float32)) for h in (1, 4, 9)]
    mean, std = statistics(iter(images))
    every = np.concatenate([image.numpy().reshape(2, -1) for image in images], axis=1).astype(np.float64)
    assert np.allclose(mean, every.mean(1), rtol=1e-12)
    assert np.allclose(std, every.std(1), rtol=1e-12)


def test_statistics_of_constant_channels_and_of_nothing():
    mean, std = statistics([torch.full((1, 7, 7), 0.3)] * 5)
    assert math.isclose(mean[0], 0.3, rel_tol=1e-6) and std == (1.0,)
    with pytest.raises(ValueError, match="no images"):
        statistics([])
