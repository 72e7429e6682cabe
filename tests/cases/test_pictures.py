"""What is drawn lies where it should; odd names, shapes and gaps are drawn too."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fgg.cases import pictures
from fgg.cases.layout import Patch, end_of, start_of, tile
from fgg.cases.pictures import Case, Change, Names

SHORT = {"saco": "SaCo", "faithfulness_correlation": "Faithf. Corr.", "pixel_flipping": "Pixel Flipping"}
NAMES = Names("gated, layer 0, activation × gradient", "TransMM", "val", SHORT)
ROW = {
    "image_id": "a/very/long/path/" * 6 + "price_$5_and_$6", "category": "random", "rank": 1, "layer": 0,
    "true_class": "great white shark, white shark, man-eater, Carcharodon carcharias", "predicted_class": "$\\frac$",
    "explained_class": "$\\frac$",
    "confidence": 0.5, "composite": math.nan, "gain_saco": math.nan, "gain_faithfulness_correlation": -0.1,
    "gain_pixel_flipping": 0.2, "vanilla_map": 0.1, "gated_map": 0.5, "gate": 2.0, "activation": 1.25,
    "feature_gradient": -1e-6, "contribution": -1.25e-6, "share": 0.325,
}  # fmt: skip


@pytest.mark.parametrize("patch", range(28))
def test_a_tile_outlines_the_patch(patch):
    """In a picture whose pixels tell their own patch; 4 x 7 patches of 6 x 9 pixels, 5 of which are shown across."""
    grid = (4, 7)
    numbers = np.repeat(np.repeat(np.arange(28).reshape(grid), 6, axis=0), 9, axis=1) / 100
    axis = Figure().add_axes((0, 0, 1, 1))
    tile(axis, Patch(numbers, patch, grid, ("one", "two")), "red")
    shown = axis.images[0].get_array()
    assert shown.shape == (24, 45)
    (outline,) = axis.patches
    left, top = round(outline.get_x() + 0.5), round(outline.get_y() + 0.5)
    inside = shown[top : top + round(outline.get_height()), left : left + round(outline.get_width())]
    assert inside.shape == (6, 9) and (inside == patch / 100).all()
    assert axis.get_xlabel() == "one\ntwo"


def picture_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_case_without_a_feature_and_with_odd_names(tmp_path):
    rng = np.random.default_rng(0)
    colour, grid = rng.random((24, 60, 3)), (2, 5)
    own = {"patch": 7, "row": 1, "column": 2}
    changes = [
        Change({**ROW, **own, "feature": None, "direction": ""}),
        Change({**ROW, **own, "feature": 12, "direction": "SUPPRESS"}),
        Change({**ROW, **own, "patch": 0, "row": 0, "column": 0, "feature": 3, "direction": "BOOST"},
               [Patch(colour, 9, grid, ("$1", "a_$b"))]),
    ]  # fmt: skip
    case = Case(colour, rng.random(10), np.zeros(10), grid, changes)
    pictures.case_picture(case, NAMES, 1, tmp_path / "case.png")
    drawn = picture_of(tmp_path / "case.png")
    assert drawn.shape[1] == 1050
    assert (drawn[:, -4:] == 255).all() and (drawn[:, :4] == 255).all()  # nothing is cut off at the sides
    assert (drawn[-1] == 255).all() and (drawn[0] == 255).all()


def test_a_page_without_prototypes(tmp_path):
    feature = {"feature": 7, "layer": 0, "boosts": 2, "suppresses": 1, "images": 2, "mean_contribution": 0.25}
    own = Patch(np.zeros((8, 8)), 3, (2, 2), ("BOOST +0.50", "x", "a class whose name is long"))
    counts = {"BOOST": {"a class whose name is long": 2}, "SUPPRESS": {"b": 1}}
    pictures.feature_page(feature, NAMES, counts, [], [own] * 8, tmp_path / "page.png")
    drawn = picture_of(tmp_path / "page.png")
    assert drawn.shape[1] == 1050
    assert (drawn[:, -4:] == 255).all() and (drawn[-1] == 255).all()


def test_texts_are_cut_at_the_wanted_end():
    assert (start_of("abcdef", 4), start_of("abcd", 4)) == ("abc…", "abcd")
    assert (end_of("abcdef", 4), end_of("abcd", 4)) == ("…def", "abcd")
