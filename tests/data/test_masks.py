"""Masks: how they are read, found, counted, stored and turned into the coverage of patches."""

import io
import json
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fgg import tables
from fgg.data.load import load_split
from fgg.data.masks import decode_mask
from fgg.data.prepare import prepare
from fgg.data.preprocess import Preprocess
from fgg.data.sources.registry import open_source
from fgg.errors import FggError

STANDARD = {"mean": (0.4,) * 3, "std": (0.2,) * 3}
INSIDE = np.array([[0, 0, 9], [0, 255, 1]], dtype=np.uint8)


def draw_mask(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(file)


def colours(values):
    found = np.zeros((*values.shape, 3), dtype=np.uint8)
    found[..., 2] = values
    return Image.fromarray(found)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(INSIDE),
        colours(INSIDE),
        colours(INSIDE).convert("P", palette=Image.Palette.ADAPTIVE),
        Image.fromarray(INSIDE > 0),
        Image.fromarray(INSIDE.astype(np.uint16)),
        Image.merge("LA", (Image.new("L", (3, 2), 200), Image.fromarray(INSIDE))),
    ],
    ids=["grey", "colour", "palette", "two levels", "deep", "transparent outside"],
)
def test_what_is_not_black_is_inside(image, encode):
    found = np.asarray(decode_mask(encode(image)))
    assert found.dtype == np.uint8 and np.array_equal(found, 255 * (INSIDE > 0))


def test_the_noise_of_a_jpeg_is_outside(encode):
    square = np.zeros((32, 32), dtype=np.uint8)
    square[5:20, 9:27] = 255
    data = encode(Image.fromarray(square), "JPEG", quality=60)
    assert (np.asarray(Image.open(io.BytesIO(data)))[square == 0] > 0).any(), "there must be noise"
    assert np.array_equal(np.asarray(decode_mask(data)), square)


@pytest.fixture
def masked(folder, tmp_path):
    """Images of 16 x 12 in two classes, of which all but a/000 have a mask, the others of several kinds and sizes."""
    root, masks = folder({"a": 8, "b": 8}), tmp_path / "masks"
    random = np.random.default_rng(0)
    for label in "ab":
        for number in range(8):
            size = (12, 16) if number % 2 else (6, 8)
            draw_mask(masks / label / f"{number:03}.{'tif' if label == 'b' else 'png'}", random.random(size) < 0.4)
    (masks / "a/000.png").unlink()
    draw_mask(masks / "a/001.png", np.zeros((12, 16)))
    draw_mask(masks / "c/other.png", np.ones((12, 16)))
    (masks / "notes.txt").write_text("x")
    return root, masks


def test_masks_are_stored_with_their_images_and_counted(masked, settings, tmp_path):
    root, masks = masked
    record = prepare("toy", settings(root, masks=str(masks)), tmp_path / "out")
    own = record["masks"]
    assert (own["n_masks"], own["n_without"], own["n_empty"], own["n_unused"]) == (15, 1, 1, 2)
    assert own["unused"] == sorted([str(masks / "c/other.png"), "notes.txt"]) and len(own["checksum"]) == 64
    assert tables.read_json(tmp_path / "out/dataset.json")["masks"] == own
    for split in ("train", "val", "test"):
        table = pq.read_table(tmp_path / "out" / f"{split}.parquet")
        assert table.schema.field("mask").type == "binary"
        for row in table.to_pylist():
            if row["image_id"] == "a/000":
                assert row["mask"] is None
                continue
            found = decode_mask(row["mask"])
            (file,) = masks.glob(f"{row['image_id']}.*")
            expected = np.asarray(Image.open(file)) > 0
            if expected.shape == (6, 8):
                expected = expected.repeat(2, 0).repeat(2, 1)
            assert found.size == (16, 12) and np.array_equal(np.asarray(found) > 0, expected)
    prepare("toy", settings(root, masks=str(masks)), tmp_path / "again")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_without_masks_nothing_changes(masked, settings, tmp_path):
    root, _ = masked
    record = prepare("toy", settings(root), tmp_path / "out")
    assert "masks" not in record
    split = load_split(tmp_path / "out/train.parquet")
    assert pq.read_schema(split.path).names == ["image_id", "image", "label", "label_name"]
    assert not split.has("mask") and split.has("image")
    with pytest.raises(FggError, match=r"train\.parquet has no column mask"):
        split.coverage(Preprocess(12, **STANDARD), (4, 4))
    with pytest.raises(FggError, match="no column without_cue"):
        split.tensors(Preprocess(12, **STANDARD), column="without_cue")


def test_masks_that_fit_nothing_twice_or_badly(masked, settings, tmp_path):
    root, masks = masked
    with pytest.raises(FggError, match=r"no file in .*names are like a/000\.png, a/001\.png.*the folder has x/one"):
        draw_mask(tmp_path / "wrong/x/one.png", INSIDE)
        prepare("toy", settings(root, masks=str(tmp_path / "wrong")), tmp_path / "out")
    with pytest.raises(FggError, match="nowhere does not exist"):
        prepare("toy", settings(root, masks=str(tmp_path / "nowhere")), tmp_path / "out")
    (masks / "b/003.tif").write_bytes(b"no image")
    (masks / "b/004.tif").write_bytes(b"")
    with pytest.raises(FggError, match=r"2 of 15 masks are unreadable") as error:
        prepare("toy", settings(root, masks=str(masks)), tmp_path / "out")
    assert "b/003.tif: not an image" in str(error.value) and "b/004.tif: the file is empty" in str(error.value)
    draw_mask(masks / "b/003.png", INSIDE)
    with pytest.raises(FggError, match=r"b/003\.png and .*b/003\.tif are masks of one image"):
        prepare("toy", settings(root, masks=str(masks)), tmp_path / "out")


def test_a_mask_for_two_images_is_refused(folder, picture, settings, tmp_path):
    root = folder({"a": 3, "b": 3})
    picture().save(root / "a/000.jpg")
    draw_mask(tmp_path / "masks/a/000.png", INSIDE)
    with pytest.raises(FggError, match=r"fits two images, a/000\.jpg and a/000\.png"):
        prepare("toy", settings(root, masks=str(tmp_path / "masks")), tmp_path / "out")


# ---- coverage of patches


def share(line, new, cell):
    """How much of a cell of a line of ``new`` cells lies inside, if the line has the pixels ``line``: exact."""
    low, high = (Fraction((cell + each) * len(line), new) for each in (0, 1))
    overlaps = [max(0, min(high, pixel + 1) - max(low, pixel)) for pixel in range(len(line))]
    return [overlap * new / len(line) for overlap in overlaps]


def slow_coverage(mask, preprocess, patch):
    """Area of each patch inside, by exact fractions: resize, crop, mean."""
    height, width = preprocess.resized(mask.shape[1], mask.shape[0])
    down = [share(mask[:, 0], height, y) for y in range(height)]
    across = [share(mask[0], width, x) for x in range(width)]
    area = [
        [
            sum(a * b for (j, a) in enumerate(row) if a for (i, b) in enumerate(column) if b and mask[j, i])
            for column in across
        ]
        for row in down
    ]
    rows, columns = preprocess.output_size
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return [
        float(sum(area[top + y + j][left + x + i] for j in range(patch[0]) for i in range(patch[1])))
        / (patch[0] * patch[1])
        for y in range(0, rows, patch[0])
        for x in range(0, columns, patch[1])
    ]


@pytest.mark.parametrize(
    ("preprocess", "patch"),
    [
        (Preprocess((8, 12), **STANDARD), (4, 3)),
        (Preprocess((18, 20), crop=16, **STANDARD), (8, 8)),
        (Preprocess({"shorter": 9}, crop=8, **STANDARD), (4, 4)),
        (Preprocess(6, channels="extremes", **STANDARD), (3, 3)),
    ],
    ids=["out of proportion", "cropped", "shorter side", "extremes"],
)
def test_coverage_is_the_area_of_each_patch(preprocess, patch, masked, settings, tmp_path):
    root, masks = masked
    prepare("toy", settings(root, masks=str(masks)), tmp_path / "out")
    split = load_split(tmp_path / "out/train.parquet")
    assert split.has("mask")
    found = split.coverage(preprocess, patch)
    height, width = preprocess.output_size
    assert found.dtype == torch.float32 and found.shape == (len(split), height * width // (patch[0] * patch[1]))
    bytes_of = {row["image_id"]: row["mask"] for row in pq.read_table(split.path).to_pylist()}
    for place, image_id in enumerate(split.image_ids):
        if bytes_of[image_id] is None:
            assert found[place].isnan().all()
        else:
            mask = np.asarray(decode_mask(bytes_of[image_id])) > 0
            np.testing.assert_allclose(found[place], slow_coverage(mask, preprocess, patch), atol=1e-6)
    assert torch.equal(split.coverage(preprocess, patch, [5, 2]), found[[5, 2]])
    assert torch.equal(split.part(slice(1, 4)).coverage(preprocess, patch), found[1:4])


def test_a_mask_lies_where_its_image_does(folder, settings, tmp_path):
    """A white square as image and as mask: the coverage is the mean of the image's patches."""
    root, random = folder({"a": 3, "b": 3}), np.random.default_rng(1)
    for file in root.glob("*/*.png"):
        square = np.zeros((30, 40), dtype=np.uint8)
        top, left = random.integers(0, 20, 2)
        square[top : top + 12, left : left + 15] = 255
        for place in (file, tmp_path / "masks" / file.relative_to(root)):
            draw_mask(place, square)
    prepare("toy", settings(root, masks=str(tmp_path / "masks")), tmp_path / "out")
    split = load_split(tmp_path / "out/train.parquet")
    for preprocess in (Preprocess({"shorter": 15}, crop=12, **STANDARD), Preprocess((15, 20), crop=12, **STANDARD)):
        means = torch.nn.functional.avg_pool2d(split.pixels(preprocess)[:, :1], 4).flatten(1)
        assert (split.coverage(preprocess, (4, 4)) - means).abs().max() < 0.05
        assert (means > 0.9).any() and (means < 0.1).any()


def test_patches_that_do_not_fit(masked, settings, tmp_path):
    root, masks = masked
    prepare("toy", settings(root, masks=str(masks)), tmp_path / "out")
    with pytest.raises(FggError, match=r"\(5, 4\) pixels do not divide the input of 12 x 12"):
        load_split(tmp_path / "out/train.parquet").coverage(Preprocess(12, **STANDARD), (5, 4))


# ---- the masks of a downloaded source


def lungs(root, picture, kinds=("lung masks", "infection masks")):
    for split in ("Train", "Val", "Test"):
        for label in ("COVID-19", "Non-COVID", "Normal"):
            base = root / "Infection Segmentation Data" / split / label
            (base / "images").mkdir(parents=True)
            picture().save(base / "images" / f"{label}-{split}.png")
            for kind in kinds:
                if kind == "lung masks" or label == "COVID-19":
                    draw_mask(base / kind / f"{label}-{split}.png", np.full((12, 16), len(kind)))


def test_the_masks_of_covidquex(tmp_path, picture):
    lungs(tmp_path, picture)
    base = {"source": "covidquex", "path": str(tmp_path)}
    assert open_source(base).columns == ()
    for word, count in (("lung", 9), ("infection", 3)):
        own = open_source({**base, "masks": word})
        with_mask = [record for record in own.records if record.mask_file]
        assert own.columns == ("mask",) and len(own.records) == 9 and len(with_mask) == count and not own.unused_masks
        for record in with_mask:
            assert record.mask_file.parent.name == f"{word} masks" and record.mask_file.name == record.file.name
            assert record.extras["mask"] == record.mask_file.read_bytes()


def test_a_part_of_covidquex_without_such_masks(tmp_path, picture):
    lungs(tmp_path, picture, ("lung masks",))
    with pytest.raises(FggError, match=r"has no folder 'infection masks'.*set `path`"):
        open_source({"source": "covidquex", "path": str(tmp_path), "masks": "infection"})


def test_the_embedded_sets_take_masks_by_image_id(tmp_path):
    draw_mask(tmp_path / "masks/digit0003.png", np.ones((8, 8)))
    own = {"source": "digits", "path": None, "max_skipped": 0.0, "seed": 0, "masks": str(tmp_path / "masks")}
    fractions = {"train": 0.7, "val": 0.15, "test": 0.15}
    record = prepare("digits", {**own, "fractions": fractions}, tmp_path / "out")
    assert (record["masks"]["n_masks"], record["masks"]["n_without"]) == (1, 1796)
    note = json.loads(pq.read_schema(tmp_path / "out/val.parquet").metadata[b"fgg"])
    assert note["settings"]["masks"] == str(tmp_path / "masks")
