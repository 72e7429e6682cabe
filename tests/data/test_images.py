"""Decoding: every kind of file becomes an upright L, RGB or F image, or an error that names it."""

import numpy as np
import pytest
from PIL import Image

from fgg.data.images import decode, eight_bit, standard
from fgg.errors import FggError

SIXTEEN = np.array([[0, 1, 1000], [30000, 65534, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_colour(picture, encode, kind):
    image = decode(encode(picture(), kind), "x")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(picture()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "MPO"])
def test_lossy_kinds_open(picture, encode, kind):
    assert decode(encode(picture(), kind), "x").size == (16, 12)


def test_grey_one_bit_palette_and_cmyk(picture, encode):
    for mode, expected in (("L", "L"), ("1", "L"), ("P", "RGB")):
        source = picture().convert(mode)
        image = decode(encode(source), "x")
        assert image.mode == expected
        assert np.array_equal(np.asarray(image), np.asarray(source.convert(expected)))
    cmyk = Image.new("CMYK", (3, 2), (0, 255, 255, 0))
    assert decode(encode(cmyk, "TIFF"), "x").getpixel((0, 0)) == (255, 0, 0)
    assert decode(encode(cmyk, "JPEG"), "x").mode == "RGB"


def test_alpha_lies_on_black(encode):
    half = Image.new("RGBA", (2, 2), (200, 100, 50, 128))
    assert decode(encode(half), "x").getpixel((0, 0)) == pytest.approx((100, 50, 25), abs=1)
    assert decode(encode(Image.new("LA", (2, 2), (200, 0))), "x").getpixel((0, 0)) == (0, 0, 0)
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    image = decode(encode(palette, transparency=0), "x")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (0, 255, 0)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_precision(encode, kind):
    image = decode(encode(Image.fromarray(SIXTEEN), kind), "x")
    assert image.mode == "F"
    assert np.allclose(np.asarray(image), SIXTEEN / 65535, atol=1e-7)
    assert np.asarray(eight_bit(image)).tolist() == np.rint(SIXTEEN / 257).tolist()


def test_32_bit_integers_and_floats_must_be_in_range(encode):
    integers = Image.fromarray(SIXTEEN.astype(np.int32))
    assert np.allclose(np.asarray(decode(encode(integers, "TIFF"), "x")), SIXTEEN / 65535)
    floats = np.array([[0, 0.25], [0.5, 1]], dtype=np.float32)
    assert np.array_equal(np.asarray(decode(encode(Image.fromarray(floats), "TIFF"), "x")), floats)
    for bad in (floats * 2, floats - 0.1, floats * np.nan, SIXTEEN.astype(np.int32) * 2):
        with pytest.raises(FggError, match=r"image x\.tif cannot be used.*allowed are"):
            decode(encode(Image.fromarray(bad), "TIFF"), "x.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(encode, orientation):
    stored = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encode(stored, "PNG", exif=exif), "x")
    assert image.size == ((4, 8) if orientation >= 5 else (8, 4))
    assert standard(image).size == image.size


def test_animated_gif_under_another_name_gives_its_first_frame(encode):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    image = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "renamed.png")
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated_files_fail(picture, encode, kind, share):
    data = encode(picture(height=64, width=64), kind)
    with pytest.raises(FggError, match=r"image a/b\.png cannot be used: .+; fix, replace or remove it"):
        decode(data[: int(len(data) * share)], "a/b.png")


def test_no_images(encode, picture):
    with pytest.raises(FggError, match=r"empty\.png.*the file is empty"):
        decode(b"", "empty.png")
    for data in (b"just text\n", b"\x89PNG\r\n\x1a\n", encode(picture(), "EPS")):
        with pytest.raises(FggError, match=r"text\.png"):
            decode(data, "text.png")


def test_decompression_bomb_is_an_error_of_the_image(encode, monkeypatch):
    data = encode(Image.new("L", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(FggError, match=r"bomb\.png.*DecompressionBombError"):
        decode(data, "bomb.png")
