"""Folders of images as people bring them: odd files, odd names, odd numbers of them."""

import io
import os
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.preprocess import CHANNELS, Preprocess
from fgg.errors import FggError

VALUES = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(height=12, width=16):
    return Image.fromarray(np.resize(VALUES, (height, width, 3)))


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(rgb(), "JPEG", exif=exif)


def palette_with_transparency():
    image = rgb().quantize(16)
    return encoded(image, transparency=3)


def animated(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


READABLE = {
    "16 bits": ("a.png", lambda: encoded(Image.fromarray(VALUES[..., 0].astype(np.uint16) * 257))),
    "16 bits, TIFF": ("a.tif", lambda: encoded(Image.fromarray(VALUES[..., 0].astype(np.uint16) * 257), "TIFF")),
    "1 bit": ("a.png", lambda: encoded(rgb().convert("1"))),
    "1 bit, TIFF, faxed": ("a.tiff", lambda: encoded(rgb().convert("1"), "TIFF", compression="group4")),
    "CMYK": ("a.jpg", lambda: encoded(rgb().convert("CMYK"), "JPEG")),
    "a palette": ("a.gif", lambda: encoded(rgb().quantize(7), "GIF")),
    "a palette with a transparent colour": ("a.png", palette_with_transparency),
    "transparency": ("a.png", lambda: encoded(rgb().convert("RGBA"))),
    "grey with transparency": ("a.png", lambda: encoded(rgb().convert("LA"))),
    "transparency, WebP": ("a.webp", lambda: encoded(rgb().convert("RGBA"), "WEBP", lossless=True)),
    "YCbCr": ("a.jpg", lambda: encoded(rgb().convert("YCbCr"), "JPEG")),
    "Lab": ("a.tif", lambda: encoded(rgb().convert("LAB"), "TIFF")),
    "rotated by EXIF": ("a.jpg", rotated),
    "1 x 1": ("a.png", lambda: encoded(rgb(1, 1))),
    "1 x 3000": ("a.png", lambda: encoded(rgb(1, 3000))),
    "3000 x 1": ("a.png", lambda: encoded(rgb(3000, 1))),
    "floats": ("a.tif", lambda: encoded(Image.fromarray(VALUES[..., 0].astype(np.float32) / 255), "TIFF")),
    "an animation": ("a.gif", lambda: animated("GIF")),
    "an animation, PNG": ("a.png", lambda: animated("PNG")),
    "an animation, WebP": ("a.webp", lambda: animated("WEBP")),
    "several pages": ("a.tif", lambda: animated("TIFF")),
    "a JPEG named PNG": ("a.png", lambda: encoded(rgb(), "JPEG")),
    "bytes after the end": ("a.png", lambda: encoded(rgb()) + b"PK\x03\x04 and more"),
    "progressive": ("a.jpeg", lambda: encoded(rgb(), "JPEG", progressive=True)),
    "upside down": ("a.bmp", lambda: encoded(rgb(), "BMP")),
    "one colour": ("a.png", lambda: encoded(Image.new("RGB", (9, 9), "teal"))),
}
AVIF = struct.pack(">I", 28) + b"ftypavif" + bytes(16) + b"avif"
UNREADABLE = {
    "no bytes": ("a.png", lambda: b"", "the file is empty"),
    "a text": ("a.png", lambda: b"no image\n", "not an image"),
    "a page": ("a.jpg", lambda: b"<html><body>404</body></html>", "not an image"),
    "HEIC": ("a.jpg", lambda: AVIF.replace(b"avif", b"heic"), "not an image, or in a format that cannot be read"),
    "AVIF": ("a.png", lambda: AVIF, "not an image, or in a format that cannot be read"),
    "SVG": ("a.png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "half a PNG": ("a.png", lambda: encoded(rgb())[:200], ""),
    "half a JPEG": ("a.jpg", lambda: encoded(rgb(), "JPEG")[:300], ""),
    "floats beyond 1": ("a.tif", lambda: encoded(Image.fromarray(VALUES[..., 0].astype(np.float32)), "TIFF"), "out of range"),
    "NaN": ("a.tif", lambda: encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "out of range"),
    "32-bit integers": ("a.tif", lambda: encoded(Image.fromarray(VALUES[..., 0].astype(np.int32) * 2**16), "TIFF"), "out of range"),
}  # fmt: skip


def with_file(folder, name, data):
    root = folder({"u": 4, "v": 4})
    (root / "u" / name).write_bytes(data)
    return root


@pytest.mark.parametrize("kind", READABLE)
def test_images_that_are_read(kind, folder, settings, tmp_path):
    name, data = READABLE[kind]
    root = with_file(folder, name, data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = prepare("x", settings(root), tmp_path / "out")
    assert record["n_read"] == 9 and record["n_unreadable"] == 0
    for split in ("train", "val", "test"):
        own = load_split(tmp_path / "out" / f"{split}.parquet")
        for channels, count in CHANNELS.items():
            tensors = own.pixels(Preprocess(8, channels=channels))
            assert tensors.shape[1:] == (count, 8, 8) and tensors.min() >= 0 and tensors.max() <= 1


@pytest.mark.parametrize("kind", UNREADABLE)
def test_images_that_are_not(kind, folder, settings, tmp_path):
    name, data, reason = UNREADABLE[kind]
    root = with_file(folder, name, data())
    with pytest.raises(FggError, match=f"1 of 9 images of x .* are unreadable(.|\n)*u/{name}: .*{reason}"):
        prepare("x", settings(root), tmp_path / "out")
    record = prepare("x", settings(root, max_skipped=0.2), tmp_path / "out")
    assert record["n_unreadable"] == 1 and [entry["path"] for entry in record["skipped"]] == [f"u/{name}"]


def test_the_first_frame_and_the_upright_image(folder, settings, tmp_path):
    root = folder({"u": 3, "v": 3})
    (root / "u" / "moves.gif").write_bytes(animated("GIF"))
    (root / "u" / "turned.jpg").write_bytes(rotated())
    prepare("x", settings(root), tmp_path / "out")
    found = {}
    for split in ("train", "val", "test"):
        own = load_split(tmp_path / "out" / f"{split}.parquet")
        found |= {name: own.picture(place) for place, name in enumerate(own.image_ids)}
    assert found["u/moves"].getpixel((0, 0)) == (255, 0, 0)
    assert found["u/turned"].size == (12, 16), "as wide as it was high"


NAMES = ["a b", " lead", "trail ", "Größe", "猫", "a'b\"c", "$x$", "a_b^{c", "<b>", "=1+2", "-n", "#1", "100%", "a\\b", "x" * 60, "CON",
         "{layer}", "~", "a,b", "e\u0301", "\u00e9", "🦊"]  # fmt: skip


def test_names_of_all_kinds(folder, settings, picture, tmp_path):
    root = tmp_path / "images"
    for label in ("u v", "Ü"):
        for name in NAMES:
            (root / label).mkdir(parents=True, exist_ok=True)
            picture(label + name).save(root / label / f"{name}.png")
    record = prepare("x", settings(root), tmp_path / "out")
    assert record["n_read"] == 2 * len(NAMES) and record["classes"] == ["u v", "Ü"]
    ids = {
        name
        for split in ("train", "val", "test")
        for name in load_split(tmp_path / "out" / f"{split}.parquet").image_ids
    }
    assert ids == {f"{label}/{name}" for label in ("u v", "Ü") for name in NAMES}


def test_names_that_differ_only_in_case(folder, settings, picture, tmp_path):
    root = folder({"Cat": 3, "cat": 3, "dog": 3})
    picture("other").save(root / "dog" / "A.png")
    picture("another").save(root / "dog" / "a.PNG")
    if len(list(root.iterdir())) < 3 or len(list((root / "dog").iterdir())) < 5:
        pytest.skip("this file system does not tell them apart")
    record = prepare("x", settings(root), tmp_path / "out")
    assert record["classes"] == ["Cat", "cat", "dog"] and record["n_read"] == 11


def test_links_loops_and_devices(folder, settings, tmp_path):
    root = folder({"u": 3, "v": 3})
    (root / "u" / "again.png").symlink_to(root / "u" / "000.png")
    (root / "w").symlink_to(root / "v", target_is_directory=True)
    (root / "v" / "loop").symlink_to(root)
    (root / "v" / "self.png").symlink_to(root / "v" / "self.png")
    os.mkfifo(root / "v" / "pipe.png")
    record = prepare("x", settings(root, max_skipped=0.2), tmp_path / "out")
    assert record["classes"] == ["u", "v", "w"], "a linked folder is a class"
    reasons = {entry["path"]: entry["reason"] for entry in record["skipped"]}
    assert reasons["v/loop"] == reasons["w/loop"] == "a folder inside a class folder"
    assert reasons["v/pipe.png"] == "not a regular file" and "cannot be read" in reasons["v/self.png"]
    assert record["n_read"] == 10


# ---- how many


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"u": 3, "v": 1}, "split val of .* has no readable image of class v; every class needs at least one"),
        ({"u": 3, "v": 2}, "has no readable image of class v"),
        ({"u": 5}, "has images of one class only .u.; add a second"),
        ({"u": 3, "v": 0}, "the class folder .*v has no images"),
        ({}, "has no class folders"),
    ],
)
def test_too_few(counts, message, folder, settings, tmp_path):
    root = folder(counts)
    root.mkdir(exist_ok=True)
    with pytest.raises(FggError, match=message):
        prepare("x", settings(root), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_one_image_of_a_class_with_splits_of_its_own(folder, settings, tmp_path):
    root = folder({f"{split}/{label}": 1 for split in ("train", "val", "test") for label in "uv"})
    assert prepare("x", settings(root), tmp_path / "out")["counts"]["test"] == {"u": 1, "v": 1}


def test_a_class_whose_images_are_all_unreadable(folder, settings, tmp_path):
    root = folder({"u": 6, "v": 3})
    for file in (root / "v").iterdir():
        file.write_bytes(b"")
    with pytest.raises(FggError, match="has no readable image of class v"):
        prepare("x", settings(root, max_skipped=0.9), tmp_path / "out")


def test_equal_images_are_kept_and_told_where_splits_share_them(folder, settings, tmp_path, capsys):
    root = folder({"u": 8, "v": 8})
    first = (root / "u" / "000.png").read_bytes()
    for file in root.glob("*/*"):
        file.write_bytes(first)
    record = prepare("x", settings(root), tmp_path / "out")
    assert record["n_read"] == 16
    told = capsys.readouterr().err
    assert "note: 2 images of val and 2 of test are, byte for byte, images of train" in told
    own = load_split(tmp_path / "out" / "train.parquet")
    assert torch.equal(*own.pixels(Preprocess(8), [0, 1]))
    prepare("y", settings(folder({"u": 8, "v": 8}, "others")), tmp_path / "other")
    assert "byte for byte" not in capsys.readouterr().err
