"""Planted images: what they hold, what is drawn for them, and what does not depend on what."""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from fgg.data.load import load_split
from fgg.data.prepare import prepare
from fgg.data.preprocess import Preprocess
from fgg.data.sources.planted import Design, draw, form
from fgg.data.sources.registry import open_source
from fgg.errors import FggError

SPLITS = ("train", "val", "test")
BLOCK = {
    "images": "digits",
    "backgrounds": 40,
    "cue": "stripes",
    "size": 8,
    "placement": "free",
    "share": 0.8,
    "size_of_image": 32,
    "cell": 4,
    "contrast": 0.25,
    "copies": 2,
}
STEP = 64  # of 255


def own_settings(**changes):
    block = BLOCK | {key: value for key, value in changes.items() if key in BLOCK}
    more = {key: value for key, value in changes.items() if key not in BLOCK}
    fractions = {"train": 0.5, "val": 0.25, "test": 0.25}
    return {"source": "planted", "path": None, "fractions": fractions, "max_skipped": 0.0, "seed": 0, **more} | {
        "planted": block
    }


def design(**changes):
    return Design(**{key: (BLOCK | changes)[key] for key in Design.__dataclass_fields__})


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def records(**changes):
    return open_source(own_settings(**changes)).records


@pytest.mark.parametrize("cue", ["stripes", "tone", "colour"])
@pytest.mark.parametrize("images", ["digits", "elpv"])
def test_an_image_and_its_variants(cue, images):
    """Everything outside a square stays byte for byte; inside it the form of the class, or of the decoy, is added."""
    seen = Counter()
    for record in records(cue=cue, images=images, backgrounds=12, share=0.7):
        image, extras = pixels(record.data), record.extras
        decoy, bare = pixels(extras["decoy"]) == 255, pixels(extras["without_decoy"])
        assert image.shape == ((32, 32, 3) if cue == "colour" else (32, 32)) and decoy.sum() == 64
        assert np.array_equal(image[~decoy], bare[~decoy])
        signs = (image - bare)[decoy].reshape(8, 8, -1)
        tint = {"colour": (1, 0, -1)}.get(cue, (1,))
        assert set(signs.flatten().tolist()) == {each * STEP * sign for each in (1, -1) for sign in tint}
        assert not signs.sum(), "the decoy is neither lighter nor darker than its place"
        seen[record.label_name, record.drawn.present] += 1
        if not record.drawn.present:
            assert extras["mask"] is None and extras["without_cue"] is None
            continue
        mask, without = pixels(extras["mask"]) == 255, pixels(extras["without_cue"])
        assert mask.sum() == 64 and not (mask & decoy).any()
        assert np.array_equal(image[~mask], without[~mask])
        added = (image - without)[mask].reshape(8, 8, -1)[..., 0] // STEP
        assert np.abs(added).min() == 1
        expected = {"horizontal": added[:, :1], "vertical": added[:1], "darker": -1, "lighter": 1, "blue": -1, "red": 1}
        assert np.array_equal(added, np.broadcast_to(expected[record.label_name], (8, 8)))
        if cue == "stripes":
            assert not added.sum()
        background = without.copy()
        background[decoy] = bare[decoy]
        assert background.min() >= STEP and background.max() <= 255 - STEP
    assert {label for label, _ in seen} == set(open_source(own_settings(cue=cue)).classes) and len(seen) > 2


def test_the_decoy_does_not_depend_on_the_class():
    own = design()
    assert np.array_equal(form(own, None), np.tile([[1, -1], [-1, 1]], (4, 4)))
    assert np.abs(form(own, None)).min() == np.abs(form(own, 0)).min() == np.abs(form(own, 1)).max() == 1


@pytest.mark.parametrize("cell", [4, 8, 16])
def test_every_patch_inside_a_square_shows_its_form(cell):
    own = design(cell=cell, size=3 * cell, size_of_image=8 * cell)
    for label in (None, 0, 1):
        signs = form(own, label)
        for top in range(2 * cell + 1):
            for left in range(2 * cell + 1):
                patch = signs[top : top + cell, left : left + cell]
                assert patch.sum() == 0 and set(np.unique(patch)) == {-1, 1}


@pytest.mark.parametrize(("placement", "side"), [("grid", 40), ("free", 24), ("beside", 24)])
def test_places(placement, side):
    """All allowed pairs of places are equally likely: by chi-squared tests on the places of the cue and of the decoy."""
    own = design(placement=placement, size_of_image=side)
    step = 4 if placement == "grid" else 1
    places = [(y, x) for y in range(0, side - 7, step) for x in range(0, side - 7, step)]
    chances = Counter()
    for a in places:
        for b in places:
            far = [abs(a[0] - b[0]), abs(a[1] - b[1])]
            if sorted(far) == [0, 8] if placement == "beside" else max(far) >= 8:
                chances[a] += 1
    drawn = [draw(own, 3, str(number)) for number in range(6000)]
    total = sum(chances.values())
    for found in (Counter(each.cue for each in drawn), Counter(each.decoy for each in drawn)):
        assert set(found) <= set(chances)
        expected = [len(drawn) * chances[place] / total for place in chances]
        assert stats.chisquare([found[place] for place in chances], expected).pvalue > 0.001
    far = [(abs(one.cue[0] - one.decoy[0]), abs(one.cue[1] - one.decoy[1])) for one in drawn]
    assert all(sorted(each) == [0, 8] if placement == "beside" else max(each) >= 8 for each in far)


def test_classes_and_share_and_their_independence_of_places():
    drawn = [draw(design(share=0.7), 5, str(number)) for number in range(4000)]
    labels, present = (np.array([getattr(each, name) for each in drawn]) for name in ("label", "present"))
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / 4000**0.5
    assert abs(present.mean() - 0.7) < 4 * (0.7 * 0.3 / 4000) ** 0.5
    assert abs(labels[~present].mean() - 0.5) < 4 * 0.5 / (~present).sum() ** 0.5, "a coin flip without a cue"
    for name in ("cue", "decoy"):
        for axis in (0, 1):
            assert stats.pearsonr(labels, [getattr(each, name)[axis] for each in drawn]).pvalue > 0.001
    for share in (0, 1):
        assert {draw(design(share=share), 0, str(number)).present for number in range(50)} == {bool(share)}


def test_a_drawing_depends_on_seed_and_image_alone():
    first, fewer = (
        {each.image_id: each for each in records(backgrounds=count, copies=copies)}
        for count, copies in ((40, 2), (20, 1))
    )
    assert set(fewer) < set(first) and all(first[name].drawn == own.drawn for name, own in fewer.items())
    other = {each.image_id: each for each in records(seed=1)}
    shared = set(first) & set(other)
    assert shared and any(first[name].drawn != other[name].drawn for name in shared)


def test_copies_are_for_training_alone_and_stay_in_one_split():
    found = records(copies=3)
    assert Counter(each.split for each in found) == {"train": 60, "val": 10, "test": 10}
    splits = {}
    for each in found:
        splits.setdefault(each.image_id.split("-copy")[0], set()).add(each.split)
    assert len(splits) == 40 and all(len(own) == 1 for own in splits.values())
    own = {each.image_id: each for each in found if each.split == "train"}
    moved = [own[name].drawn.cue != own[f"{name}-copy2"].drawn.cue for name in own if "copy" not in name]
    assert sum(moved) > 15, "copies have places of their own"


def test_a_prepared_set(tmp_path):
    settings = own_settings(share=0.6)
    record = prepare("planted", settings, tmp_path / "one")
    prepare("planted", settings, tmp_path / "two")
    prepare("planted", own_settings(share=0.6, seed=1), tmp_path / "three")
    for name in (*(f"{split}.parquet" for split in SPLITS), "dataset.json"):
        one, two, three = ((tmp_path / each / name).read_bytes() for each in ("one", "two", "three"))
        assert one == two != three
    assert record["classes"] == ["horizontal", "vertical"] and record["n_read"] == 60
    assert "cues planted by fgg" in record["citation"] and record["licence"] == "CC BY 4.0"
    assert record["masks"]["n_masks"] + record["masks"]["n_without"] == 60 and record["masks"]["n_masks"] < 50
    split = load_split(tmp_path / "one/train.parquet")
    assert all(split.has(name) for name in ("mask", "decoy", "without_cue", "without_decoy")) and not split.has("cue")
    drawn = {each.image_id: each.drawn for each in open_source(settings).records}
    preprocess = Preprocess(32, mean=(0.5,) * 3, std=(0.2,) * 3)
    images, without, bare = (
        split.tensors(preprocess, column=name) for name in ("image", "without_cue", "without_decoy")
    )
    cues, decoys = (split.coverage(preprocess, (4, 4), kind=kind) for kind in ("mask", "decoy"))
    for place, image_id in enumerate(split.image_ids):
        own = drawn[image_id]
        assert split.label_names[place] == record["classes"][own.label]
        assert without[place].isnan().all() == cues[place].isnan().all() == (not own.present)
        assert decoys[place].sum().item() * 16 == pytest.approx(64)
        boxes = [slice(own.cue[0], own.cue[0] + 8), slice(own.cue[1], own.cue[1] + 8)]
        if own.present:
            changed = (images[place] != without[place]).any(0)
            assert changed[boxes[0], boxes[1]].all() and changed.sum() == 64
            fine = split.coverage(preprocess, (1, 1), [place])[0].view(32, 32)
            assert torch.equal(fine == 1, changed)
        assert (images[place] != bare[place]).any(0).sum() == 64


def test_patches_of_the_grid_are_covered_entirely_or_not_at_all(tmp_path):
    prepare("planted", own_settings(placement="grid", copies=1, share=1), tmp_path)
    split = load_split(tmp_path / "train.parquet")
    for kind in ("mask", "decoy"):
        found = split.coverage(Preprocess(32), (4, 4), kind=kind)
        assert set(found.unique().tolist()) == {0, 1} and (found.sum(1) == 4).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 20}, r"planted\.size: .* do not fit beside each other into 32"),
        ({"size": 6, "placement": "grid"}, r"planted\.size: 6 is no multiple of the patches' 4"),
        ({"size_of_image": 34, "placement": "grid"}, r"planted\.size_of_image: 34 is no multiple"),
        ({"cell": 40}, r"planted\.cell: a patch of 40 pixels is larger than the image"),
    ],
)
def test_settings_that_do_not_fit_together(changes, message):
    with pytest.raises(FggError, match=message):
        open_source(own_settings(**changes))


def test_keys_that_are_missing():
    settings = own_settings()
    del settings["planted"]["copies"]
    with pytest.raises(FggError, match=r"planted: the keys must be .*copies; found"):
        open_source(settings)
    with pytest.raises(FggError, match="found none"):
        open_source({**settings, "planted": None})
