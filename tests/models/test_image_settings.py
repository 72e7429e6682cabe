"""The preprocessing of a model whose user leaves it out, or a part of it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from timm import create_model

from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.models.hugging_face import described
from fgg.models.image_records import ASSUMED, TIMM, said_by_weights
from fgg.models.image_settings import GIVEN, MODEL, USUAL, derive

NAME = "vit_tiny_patch16_224"
VIT = {
    "model_type": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8, "num_labels": 2,
}  # fmt: skip
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
USUAL_PROCESSOR = {"image_processor_type": "ViTImageProcessor", "image_mean": MEAN, "image_std": STD, "resample": 3}
SHORTER = {"shortest_edge": 36}


def shape(size=32, channels=3, name=NAME, **config):
    model = create_model(name, img_size=size, patch_size=8, embed_dim=24, depth=1, num_heads=2, in_chans=channels)
    model.pretrained_cfg = {**model.pretrained_cfg, **config}
    return model


def derived(given, weights="train", model=None, known=None, **options):
    model = model or shape()
    return derive(given, model, said_by_weights({"weights": weights, **options}, model, known))


@pytest.mark.parametrize("channels", [3, 1])
def test_trained_here(channels):
    found = derived({}, model=shape(channels=channels))
    assert found.preprocess == Preprocess((32, 32), channels="rgb" if channels == 3 else "grey")
    assert found.origins == {"size": MODEL, "channels": f"the model takes {channels}", "interpolation": USUAL}
    full = found.measured(lambda: (np.full(channels, 0.5), np.full(channels, 0.25)), "these")
    assert full.preprocess.mean == (0.5,) * channels and full.origins["std"] == "these"
    assert list(full.origins) == ["size", "channels", "interpolation", "mean", "std"]


GIVEN_ALONE = {
    "resize": (32, {"size": (32, 32)}),
    "crop": (32, {"crop": 32}),
    "channels": ("dark_lines", {"channels": "dark_lines"}),
    "interpolation": ("nearest", {"interpolation": "nearest"}),
    "mean": ([0.7, 0.8, 0.9], {"mean": (0.7, 0.8, 0.9)}),
    "std": ([0.7, 0.8, 0.9], {"std": (0.7, 0.8, 0.9)}),
}


@pytest.mark.parametrize("key", GIVEN_ALONE)
@pytest.mark.parametrize("weights", ["train", "pretrained", "other.pth"])
def test_a_key_that_is_given_wins(weights, key):
    value, expected = GIVEN_ALONE[key]
    found = derived({key: value, "std" if key == "mean" else "mean": None}, weights)
    assert {name: getattr(found.preprocess, name) for name in expected} == expected
    named = "size" if key == "resize" else key
    assert found.origins[named] == GIVEN and [*found.origins.values()].count(GIVEN) == 1
    assert found.preprocess.output_size == (32, 32)


def test_a_shorter_side_alone_is_cropped_to_the_models_size():
    found = derived({"resize": {"shorter": 40}})
    assert found.preprocess.crop == 32 and found.origins["crop"] == MODEL


@pytest.mark.parametrize(
    ("share", "mode", "size", "crop"),
    [
        (0.9, "center", {"shorter": 35}, 32),
        (1.0, "center", {"shorter": 32}, 32),
        (None, None, {"shorter": 32}, 32),
        (0.875, "squash", (36, 36), 32),
        (0.9, "border", (32, 32), None),
        (2.0, "center", (32, 32), None),
    ],
)
def test_pretrained_as_timm_evaluates(share, mode, size, crop, capsys):
    model = shape(crop_pct=share, crop_mode=mode, mean=tuple(MEAN), std=tuple(STD), interpolation="bicubic")
    found = derived({}, "pretrained", model)
    assert found.preprocess == Preprocess(size, crop, interpolation="bicubic", mean=tuple(MEAN), std=tuple(STD))
    assert (crop is None) == ("note: preprocess" in capsys.readouterr().err)
    assert found.origins["mean"] == found.origins["interpolation"] == TIMM


def test_the_pixels_are_those_of_timms_own_transform():
    from timm.data import create_transform, resolve_data_config

    model = shape(crop_pct=0.9, crop_mode="center", interpolation="bicubic", mean=tuple(MEAN), std=tuple(STD))
    settings = resolve_data_config({"input_size": (3, 32, 32)}, pretrained_cfg=model.pretrained_cfg)
    values = np.random.default_rng(0).integers(0, 256, (61, 48, 3)).astype(np.uint8)
    image = Image.fromarray(values).resize((96, 122), Image.Resampling.BICUBIC)
    found = derived({}, "pretrained", model).preprocess(image)
    assert torch.allclose(found, create_transform(**settings)(image), atol=1e-5)


def test_a_checkpoint_that_says_nothing_is_said_to_say_nothing():
    found = derived({}, "other.pth", shape(mean=(0.5, 0.6, 0.7), std=(0.1, 0.2, 0.3)))
    assert found.preprocess == Preprocess((32, 32), mean=(0.5, 0.6, 0.7), std=(0.1, 0.2, 0.3))
    assert found.origins["mean"] == found.origins["std"] == ASSUMED
    grey = derived({}, "other.pth", shape(channels=1, mean=(0.5, 0.6, 0.7)))
    assert grey.preprocess.mean == pytest.approx((0.6,))
    lines = derived({"channels": "dark_lines"}, "other.pth")
    assert lines.preprocess.mean is None and "mean" not in lines.origins, "timm's are those of colours"


@pytest.mark.parametrize(
    ("changes", "size", "crop", "noted"),
    [
        ({"size": 32}, (32, 32), None, ""),
        ({"size": {"height": 32, "width": 32}}, (32, 32), None, ""),
        ({"size": {"height": 32, "width": 32, "longest_edge": None}}, (32, 32), None, ""),
        ({"size": SHORTER, "crop_size": 32, "do_center_crop": True}, {"shorter": 36}, 32, ""),
        ({"size": SHORTER, "crop_size": {"height": 32, "width": 32}}, {"shorter": 36}, 32, ""),
        ({"size": 36, "crop_size": 32, "image_processor_type": "BitImageProcessor"}, {"shorter": 36}, 32, ""),
        ({"size": 36, "crop_size": 32, "image_processor_type": "DeiTImageProcessorFast"}, (36, 36), 32, ""),
        ({"size": {"height": 36, "width": 40}, "crop_size": 32}, (36, 40), 32, ""),
        ({"size": 36, "crop_size": 32, "do_center_crop": False}, (32, 32), None, "scaled in proportion"),
        ({"size": 64}, (32, 32), None, "gives images of 64 x 64, the model takes 32 x 32: scaled"),
        ({"size": {"shortest_edge": 256}, "crop_size": 224}, {"shorter": 37}, 32, "scaled in proportion"),
        ({"size": 32, "do_resize": False}, (32, 32), None, ""),
        ({}, (32, 32), None, ""),
        ({"size": SHORTER}, (32, 32), None, "crops nothing"),
        ({"size": SHORTER | {"longest_edge": 48}, "crop_size": 32}, (32, 32), None, "fgg has no resizing"),
        ({"size": SHORTER, "crop_size": {"height": 32, "width": 24}}, (32, 32), None, "with a crop of"),
        ({"size": 32, "crop_size": 40}, (32, 32), None, "larger than the resized image"),
        ({"size": -5}, (32, 32), None, "fgg has no resizing"),
        ({"size": {"height": 1e9, "width": "x"}}, (32, 32), None, "fgg has no resizing"),
        ({"size": True}, (32, 32), None, "fgg has no resizing"),
    ],
)
def test_a_folder_of_transformers(tmp_path, changes, size, crop, noted, capsys):
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(USUAL_PROCESSOR | changes))
    found = derived({}, str(tmp_path), known=described(tmp_path))
    assert found.preprocess == Preprocess(size, crop, interpolation="bicubic", mean=tuple(MEAN), std=tuple(STD))
    told = capsys.readouterr().err
    assert noted in told and bool(noted) == bool(told)
    assert found.origins["mean"] == found.origins["interpolation"] == str(path)


ODD = [None, [], {}, "x", -1, 1e400, True, [[1]], {"a": 1}, 0]


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize(
    "key",
    [
        "size",
        "crop_size",
        "do_resize",
        "do_center_crop",
        "image_processor_type",
        "image_mean",
        "image_std",
        "resample",
        "rescale_factor",
    ],
)
def test_odd_values_in_a_folder_of_transformers(tmp_path, key, odd):
    """What cannot be understood is as if it were not there, or ends in one message."""
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    told = {"size": {"height": 32, "width": 32}} | USUAL_PROCESSOR
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | {key: odd}))
    try:
        found = derived({}, str(tmp_path), known=described(tmp_path))
    except FggError:
        return
    assert found.preprocess.output_size == (32, 32) and np.isfinite(found.preprocess.mean).all()


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("key", ["crop_pct", "crop_mode", "interpolation", "mean", "std", "resize_mode"])
def test_odd_values_of_timm_and_open_clip(tmp_path, key, odd):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": NAME, "pretrained_cfg": {key: odd}}))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": {key: odd}}))
    for options in ({"known": described(tmp_path)}, {"zero_shot": {"open_clip": str(tmp_path)}}):
        try:
            found = derived({}, str(tmp_path), **options)
        except FggError:
            continue
        assert found.preprocess.output_size == (32, 32) and np.isfinite(found.preprocess.mean).all()


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "DeiTImageProcessor", "BitImageProcessor"])
def test_the_pixels_are_those_of_transformers(tmp_path, kind):
    import transformers

    sizes = {"ViTImageProcessor": {"size": {"height": 32, "width": 32}}}.get(
        kind, {"size": SHORTER if kind.startswith("Bit") else {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}
    )  # fmt: skip
    processor = getattr(transformers, kind)(**sizes, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    values = np.random.default_rng(0).integers(0, 256, (61, 48, 3)).astype(np.uint8)
    image = Image.fromarray(values).resize((96, 122), Image.Resampling.BICUBIC)
    found = derived({}, str(tmp_path), known=described(tmp_path)).preprocess(image)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert (found - expected).abs().max() < 0.02, "a level of grey, by which the resizing of torch and PIL may differ"


def test_a_folder_of_timm(tmp_path):
    config = {"crop_pct": 0.8, "crop_mode": "center", "interpolation": "lanczos", "mean": MEAN, "std": STD}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": NAME, "num_classes": 2, "pretrained_cfg": config})
    )
    found = derived({}, str(tmp_path), known=described(tmp_path))
    expected = Preprocess({"shorter": 40}, 32, interpolation="lanczos", mean=tuple(MEAN), std=tuple(STD))
    assert found.preprocess == expected and set(found.origins.values()) == {
        str(tmp_path / "config.json"), "the model takes 3"
    }  # fmt: skip


def test_a_tower_of_open_clip(tmp_path):
    told = {"preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "lanczos", "resize_mode": "squash"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    model = shape(crop_pct=1.0, crop_mode="center", interpolation="bicubic")
    options = {"weights": "tower.bin", "model": model}
    found = derived({}, **options, zero_shot={"open_clip": str(tmp_path)})
    assert found.preprocess == Preprocess((32, 32), None, interpolation="lanczos", mean=tuple(MEAN), std=tuple(STD))
    timm = derived({}, **options, zero_shot={"open_clip": "ViT-B-32/openai"})
    assert timm.preprocess.size == {"shorter": 32} and timm.preprocess.interpolation == "bicubic"


@pytest.mark.parametrize(
    ("given", "model", "message"),
    [
        ({}, shape(channels=4), "the model takes 4 channels, but images have 1 or 3"),
        ({"channels": "grey"}, shape(), "'grey' gives 1 channels, but the model takes 3"),
        ({"channels": "cmyk"}, shape(), "'cmyk' is unknown"),
        ({"crop": 40}, shape(), "crop: 40 is larger"),
        ({"resize": {"shorter": 40}}, shape((32, 40)), "crop: required"),
        ({"mean": [0.5]}, shape(), "mean: 1 values, but channels 'rgb' have 3"),
    ],
)
def test_what_fits_in_no_way(given, model, message):
    with pytest.raises(FggError, match=message):
        derived(given, model=model)


def test_an_input_that_is_not_square(capsys):
    found = derived({}, "pretrained", shape((32, 40)))
    assert found.preprocess.size == (32, 40) and found.preprocess.crop is None
    found = derived({"channels": "extremes"}, "pretrained")
    assert found.preprocess.size == (32, 32) and "channels 'extremes' need it" in capsys.readouterr().err
