"""What replaces a patch, against slow definitions that fill the pixels one by one or take tokens out."""

from __future__ import annotations

import definitions as slow
import numpy as np
import pytest
import torch
from PIL import Image

import fgg
from fgg.catalogue import FILLS
from fgg.data.preprocess import Preprocess
from fgg.errors import FggError
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import blurred, channel_values, fill_name, impute, make_fill

IDS = list("abcd")
TRAINING_MEAN = (0.3, -0.2, 0.1)


def preprocess_of(model) -> Preprocess:
    size, channels = model.patch_embed.img_size, model.patch_embed.proj.in_channels
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    return Preprocess(size, channels="rgb" if channels == 3 else "grey", mean=mean, std=std)


def masks_of(model, versions=5):
    draw = torch.Generator().manual_seed(9)
    masks = torch.rand(4, versions, model.patch_embed.num_patches, generator=draw) > 0.5
    masks[:, 0], masks[:, 1] = False, True
    masks[:, 1, 0] = False  # all but one
    return masks


def engines(model, images, fill, patch):
    channels = channel_values(preprocess_of(model), TRAINING_MEAN[: images.shape[1]])
    own = make_fill(fill, images, patch, channels, IDS, seed=3)
    return own, {path: Perturber(model, images, path=path).using(own) for path in ("tokens", "pixels")}


def picture_of(fill, image, model, patch, noise):
    """The picture (C, H, W) that the patches are exchanged for, by the words of the definition."""
    pixels, channels = image.double().numpy(), image.shape[0]
    preprocess = preprocess_of(model)
    mean, std = (np.array(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    if fill == "mean":
        return np.full_like(pixels, pixels.mean())
    if fill == "zero_normalised":
        return np.zeros_like(pixels)
    if fill in ("zero", "black"):
        return np.broadcast_to((0 - mean) / std, pixels.shape)
    if fill == "white":
        return np.broadcast_to((1 - mean) / std, pixels.shape)
    if fill == "training_mean":
        return np.broadcast_to(np.array(TRAINING_MEAN[:channels])[:, None, None], pixels.shape)
    if fill == "noise":
        return pixels.mean((1, 2), keepdims=True) + pixels.std((1, 2), keepdims=True) * noise
    return np.full_like(pixels, float(fill))


@pytest.mark.parametrize("fill", ["mean", "zero", "zero_normalised", "black", "white", "training_mean", "noise", 0.7])
def test_exchanged_patches(fill, model, exact, images, patch):
    masks = masks_of(model)
    own, both = engines(model, images, fill, patch)
    noise = None
    if fill == "noise":
        noise = (own.values - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True, correction=0)
        assert abs(float(noise.mean())) < 0.1
        assert float(noise.std()) == pytest.approx(1, abs=0.1)
    for index in (0, 3):
        other = picture_of(fill, images[index], model, patch, None if noise is None else noise[index].numpy())
        for version in range(masks.shape[1]):
            filled = images[index].double().numpy().copy()
            inside = slow.fill(np.zeros_like(filled), masks[index, version].nonzero()[:, 0].tolist(), patch, 1.0) == 1
            filled[inside] = other[inside]
            expected = slow.clean_logits(exact, filled)
            for path, engine in both.items():
                measured = engine.logits(masks)[index, version]
                np.testing.assert_allclose(measured, expected, atol=5e-5, err_msg=f"{path}, version {version}")


def test_black_and_white_are_what_such_pictures_become():
    """With channels that are made to measure too."""
    for channels in ("rgb", "grey", "extremes", "dark_lines"):
        n = 1 if channels == "grey" else 3
        preprocess = Preprocess(24, channels=channels, mean=(0.3,) * n, std=(0.2,) * n)
        found = channel_values(preprocess)
        for name, shade in (("black", 0), ("white", 255)):
            whole = preprocess(Image.new("RGB", (50, 31), (shade,) * 3))
            np.testing.assert_allclose(found[name], whole.mean((1, 2)), atol=1e-6)
            assert float(whole.std((1, 2)).max()) < 1e-6
        assert found["zero"] == pytest.approx([-1.5] * n)


def without_patches(model, image, mask):
    """Logits when the masked patches' tokens are taken out after the position is added; the model in float64."""
    with torch.no_grad():
        x = model.patch_embed(image.double()[None])
        x = model._pos_embed(x)
        keep = [*range(model.num_prefix_tokens)]
        keep += [model.num_prefix_tokens + n for n, gone in enumerate(mask.tolist()) if not gone]
        x = model.norm_pre(x[:, keep])
        for block in model.blocks:
            x = block(x)
        return model.forward_head(model.norm(x))[0].numpy()


def test_removal_takes_tokens_out(model, exact, images, patch):
    masks = masks_of(model)
    _, both = engines(model, images, "removal", patch)
    for engine in both.values():
        measured = engine.logits(masks)
        for index in range(4):
            for version in range(masks.shape[1]):
                expected = without_patches(exact, images[index], masks[index, version])
                np.testing.assert_allclose(measured[index, version], expected, atol=5e-5)


def test_nothing_is_left_to_read(make_model, make_images):
    """A model that reads the mean of its patches says nothing when all are removed; one with a class token does."""
    for settings, defined in (({}, True), ({"global_pool": "avg", "class_token": False}, False)):
        model = make_model(**settings)
        images = make_images(model)
        engine = Perturber(model, images).using(make_fill("removal", images, (8, 8)))
        logits = engine.logits(torch.ones(4, 1, 16, dtype=torch.bool))
        assert bool(logits.isfinite().all()) is defined
        srg = fgg.srg(model, images, torch.rand(4, 16), fill="removal")
        assert bool(srg.isfinite().all()) is True


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_rows_per_pass_do_not_matter(rows, plain, pictures):
    masks = masks_of(plain)
    for fill in ("removal", "noise", "blur", "road"):
        own = make_fill(fill, pictures, (8, 8), None, IDS)
        few, many = (Perturber(plain, pictures, rows=size).using(own).logits(masks) for size in (rows, None))
        torch.testing.assert_close(few, many, atol=1e-5, rtol=0)


def gaussian(image, sigma, reach):
    """A Gaussian blur by its sum, the image reflected at its edges."""
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    out = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    for axis in (1, 2):
        out = np.apply_along_axis(lambda line: np.convolve(line, taps, mode="valid"), axis, out)
    return out


def test_blur(pictures, plain):
    expected = [gaussian(image.double().numpy(), 8, 16) for image in pictures]
    np.testing.assert_allclose(blurred(pictures, 8), expected, atol=1e-5)
    own = make_fill("blur", pictures, (8, 8))
    assert torch.equal(own.values, blurred(pictures, 8))
    assert float(own.values.std()) < float(pictures.std())


def imputed(image, mask):
    """ROAD by a dense system: each masked pixel is the weighted mean of its neighbours inside the image."""
    unknown = [tuple(place) for place in np.argwhere(mask)]
    number = {place: n for n, place in enumerate(unknown)}
    matrix, right = np.zeros((len(unknown),) * 2), np.zeros((len(unknown), len(image)))
    for (y, x), n in number.items():
        neighbours = {}
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                inside = 0 <= y + dy < mask.shape[0] and 0 <= x + dx < mask.shape[1]
                if (dy or dx) and inside:
                    neighbours[y + dy, x + dx] = 1 / 12 if dy and dx else 1 / 6
        whole = sum(neighbours.values())
        matrix[n, n] = 1
        for place, weight in neighbours.items():
            if place in number:
                matrix[n, number[place]] -= weight / whole
            else:
                right[n] += weight / whole * image[:, place[0], place[1]]
    out = image.copy()
    for place, values in zip(unknown, np.linalg.solve(matrix, right), strict=True):
        out[:, place[0], place[1]] = values
    return out


def test_road_is_the_solution_of_its_equations():
    draw = np.random.default_rng(3)
    images = draw.normal(size=(2, 3, 9, 12))
    masks = draw.random((2, 4, 9, 12)) > 0.6
    masks[:, 0], masks[:, 1] = False, True
    masks[:, 2, :3, :4] = True
    found = impute(torch.from_numpy(images), torch.from_numpy(masks))
    for index in range(2):
        assert np.array_equal(found[index, 0], images[index])
        everything = np.broadcast_to(images[index].mean((1, 2), keepdims=True), images[index].shape)
        np.testing.assert_allclose(found[index, 1], everything)
        for version in (2, 3):
            np.testing.assert_allclose(found[index, version], imputed(images[index], masks[index, version]), atol=1e-9)


def test_road_is_seen_by_the_model(plain, exact_plain, pictures):
    """With its noise, through the pixels, whatever path the model allows."""
    masks = masks_of(plain)[:, 2:4]
    own = make_fill("road", pictures, (8, 8), None, IDS, seed=1)
    assert float(own.noise.std()) == pytest.approx(0.01, rel=0.05)
    measured = Perturber(plain, pictures).using(own).logits(masks)
    for index in (0, 3):
        for version in range(2):
            inside = (
                slow.fill(np.zeros((3, 32, 32)), masks[index, version].nonzero()[:, 0].tolist(), (8, 8), 1.0)[0] == 1
            )
            filled = imputed(pictures[index].double().numpy(), inside)
            filled[:, inside] += own.noise[index].numpy()[:, inside]
            np.testing.assert_allclose(measured[index, version], slow.clean_logits(exact_plain, filled), atol=5e-5)


def test_drawn_fills_are_keyed(pictures):
    """By seed and image id: neither the batch nor the order matters."""
    for name in ("noise", "road"):
        whole = make_fill(name, pictures, (8, 8), None, IDS, 5)
        part = make_fill(name, pictures[[2, 0]], (8, 8), None, ["c", "a"], 5)
        other = make_fill(name, pictures, (8, 8), None, IDS, 6)
        values = [each.values if name == "noise" else each.noise for each in (whole, part, other)]
        assert torch.equal(values[0][[2, 0]], values[1])
        assert not torch.equal(values[0], values[2])


def test_one_engine_with_several_fills(plain, pictures):
    """A fill that was used before does not linger, and a question asked again has the same answer."""
    masks = masks_of(plain)
    engine = Perturber(plain, pictures)
    first = {
        name: engine.using(make_fill(name, pictures, (8, 8), None, IDS)) for name in ("mean", "blur", "removal", "1.5")
    }
    answers = {name: own.logits(masks) for name, own in first.items()}
    for name in reversed(list(first)):
        alone = Perturber(plain, pictures).using(make_fill(name, pictures, (8, 8), None, IDS)).logits(masks)
        torch.testing.assert_close(answers[name], alone, atol=1e-6, rtol=0)
        assert torch.equal(first[name].logits(masks), answers[name])
    torch.testing.assert_close(answers["mean"], engine.logits(masks), atol=0, rtol=0)


@pytest.mark.parametrize("fill", ["gray", True, float("inf"), None, "1e999"])
def test_unknown_fills(fill):
    with pytest.raises(FggError, match="is unknown; choose from mean"):
        fill_name(fill)


def test_names_of_numbers():
    assert [fill_name(fill) for fill in (0, 0.5, "0.50", *FILLS)] == ["0", "0.5", "0.5", *FILLS]


def test_what_a_fill_needs(pictures):
    with pytest.raises(FggError, match=r"'black' needs to know how the images were standardised"):
        make_fill("black", pictures, (8, 8))
    with pytest.raises(FggError, match="0 image_ids for 4 images"):
        make_fill("noise", pictures, (8, 8))
